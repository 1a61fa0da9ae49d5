"""Kills a sweep with SIGKILL again and again, at random moments and amid checkpoint writes, and resumes it.

The sweep uses everything that has a state: accumulated gradients, dropout, random augmentation, a schedule, early
stopping. In the end each record must equal that of the same run without kills, except for times, and no finished run
may have been changed.

    python scripts/soak.py --kills 50
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SWEEP = (
    "-m data=digits data.limit=600 data.image_size=12 epochs=6 batch_size=40 model.dropout=0.3 model.batch_norm=true "
    "augment=document update=cag update.accumulate=3 scheduler=cosine stop=early stop.patience=3 checkpoint.every=4 "
    "optimizer=adam,momentum seed=0,1"
)


def start(runs: Path, name: str) -> subprocess.Popen[str]:
    """Starts the sweep in a process of its own."""
    command = [sys.executable, "-m", "cnnbench", *SWEEP.split(), f"runs_dir={runs}", f"name={name}"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def kill(process: subprocess.Popen[str], folder: Path, amid_write: bool, rng: random.Random) -> str | None:
    """Waits until the sweep writes something, then kills it; returns how, or None if it ended before."""
    first = snapshot(folder)
    while snapshot(folder) == first:
        if process.poll() is not None:
            return None
        time.sleep(0.01)
    until = time.monotonic() + rng.uniform(0, 2.5)
    how = "at random"
    while time.monotonic() < until:
        if process.poll() is not None:
            return None
        if amid_write and any(folder.glob("*/.*.ckpt.*")):
            how = "amid a checkpoint's writing"
            break
        if not amid_write:
            time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return how if process.returncode == -signal.SIGKILL else None


def snapshot(folder: Path) -> list[tuple[str, int]]:
    """The files that the sweep has written so far, with their times of change."""
    files = []
    for path in folder.glob("*/*"):
        try:
            files.append((str(path), path.stat().st_mtime_ns))
        except FileNotFoundError:  # renamed meanwhile
            continue
    return sorted(files)


def finished(folder: Path) -> dict[Path, bytes]:
    """The contents of all records with status `done`."""
    contents = {path: path.read_bytes() for path in folder.glob("*/record.json")}
    return {path: content for path, content in contents.items() if json.loads(content)["status"] == "done"}


def results(folder: Path) -> dict[str, Any]:
    """All records by run id, without what may differ: times, paths and the commit."""
    records = {}
    for path in folder.glob("*/record.json"):
        record = json.loads(path.read_bytes())
        for row in record["history"]:
            del row["seconds"], row["images_per_second"]
        record["environment"].pop("git_commit", None)  # somebody may commit meanwhile
        del record["config"]["name"], record["config"]["runs_dir"], record["overrides"]
        records[record["run_id"]] = record
    return records


def main() -> int:
    """Prints a summary; returns 1 if a result was lost, changed or different."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    kills: dict[str, int] = {}
    sweeps = compared = differences = touched = left = 0
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        whole = start(runs, "whole")
        print(whole.communicate()[0])
        assert whole.returncode == 0
        expected = results(runs / "whole")
        while sum(kills.values()) < options.kills:
            name = f"sweep{sweeps}"
            while True:
                done = finished(runs / name)
                process = start(runs, name)
                how = None
                if sum(kills.values()) < options.kills:
                    how = kill(process, runs / name, amid_write=rng.random() < 0.5, rng=rng)
                if how is None:
                    output = process.communicate()[0]
                touched += sum(path.read_bytes() != content for path, content in done.items())
                if how is None:
                    break
                kills[how] = kills.get(how, 0) + 1
                print(f"kill {sum(kills.values())}: {how}; {len(finished(runs / name))} of {len(expected)} runs done")
            sweeps += 1
            if process.returncode != 0:
                print(output)
                return 1
            records = results(runs / name)
            compared += len(records)
            differences += sum(records.get(key) != record for key, record in expected.items())
            left += len(list((runs / name).glob("*/.*.ckpt.*")))
    ways = ", ".join(f"{count} {how}" for how, count in sorted(kills.items()))
    print(f"{sum(kills.values())} kills survived ({ways}) in {sweeps} sweeps")
    print(f"{compared} records compared with those of the unkilled sweep, differences: {differences or 'none'}")
    print(f"finished runs touched again: {touched or 'none'}; torn files left over: {left or 'none'}")
    return 1 if differences or touched or left else 0


if __name__ == "__main__":
    sys.exit(main())
