"""Kills a sweep with SIGKILL again and again, at random moments and amid checkpoint writes, and resumes it.

The sweep uses everything that has a state: accumulated gradients, dropout, random augmentation, a schedule, early
stopping. `--kind` takes another one: two workers, a tuning, a search, averaged weights, or each option of a group. What
is killed is the process that was started, one of its workers, or all of them at once. In the end each record must equal
that of the same run without kills, except for times, no finished run may have been changed, and none may have failed.

    python scripts/soak.py --kills 50
    python scripts/soak.py --kills 20 --kind workers
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_RUN = "data=digits data.limit=600 data.image_size=12 batch_size=40 model.dropout=0.3 checkpoint.every=4"
KINDS = {
    "sweep": f"-m {_RUN} model.batch_norm=true epochs=6 augment=document update=cag update.accumulate=3 "
    "scheduler=cosine stop=early stop.patience=3 optimizer=adam,momentum seed=0,1",
    "workers": f"-m {_RUN} epochs=20 augment=flip_crop optimizer=adam,muon seed=0,1 workers=2",
    "tune": f"tune {_RUN} epochs=6 optimizer=adam,sgd trials=3 seeds=1 workers=2",
    "search": f"-m {_RUN} epochs=3 search=joint search.epochs=6 seed=0,1",
    "random": f"-m {_RUN} epochs=3 search=random search.epochs=6 search.trial_epochs=2 seed=0,1",
    "ladder": f"{_RUN} epochs=3 --config-dir {{mine}} experiment=rungs",
    "averages": f"-m {_RUN} epochs=8 average=ema,swa,lookahead data.in_memory=false seed=0",
}
GROUPS = ("optimizer", "scheduler", "augment", "regularizer", "loss", "average", "update", "stop")
KINDS |= {group: f"-m {_RUN} epochs=3 {group}=glob(*)" for group in GROUPS}
KINDS["regularizer"] = KINDS["regularizer"].replace("model.dropout=0.3 ", "")  # it is one of them
KINDS["hardware"] = f"-m {_RUN} epochs=3 hardware=auto,cpu,cpu_bf16,deterministic"
KINDS["model"] = KINDS["regularizer"].replace(
    "regularizer=glob(*)", "model=glob(*,exclude=[mnist_cnn,speed_cnn,timm,torchvision])"
)
"""The commands that are killed; those of a group run each of its options that fits images of 12 x 12 pixels."""
LADDER = """# @package _global_
ladder:
  batch norm: [model.batch_norm=true]
  faster: [lr=0.01]
  with a schedule: [scheduler=cosine]
hydra: {mode: MULTIRUN, sweeper: {params: {seed: "0,1"}}}
"""


def start(kind: str, runs: Path, name: str) -> subprocess.Popen[str]:
    """Starts the sweep in a group of processes of its own."""
    words = KINDS[kind].format(mine=runs / "mine").split()
    command = [sys.executable, "-m", "cnnbench", *words, f"runs_dir={runs}", f"name={name}"]
    log = (runs / "log").open("w")
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def children(process: int) -> list[int]:
    """All processes that a process has started, and theirs."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found = parents.get(process, [])
    return [*found, *(each for child in found for each in children(child))]


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
    workers = children(process.pid)
    victim = rng.choice(["process", "group", "worker"] if workers else ["process"])
    if victim == "worker":
        with contextlib.suppress(ProcessLookupError):
            os.kill(rng.choice(workers), signal.SIGKILL)
        process.wait()
    elif victim == "group":
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    else:
        process.kill()
        process.wait()
    if victim != "worker" and process.returncode != -signal.SIGKILL:
        return None
    while any(Path(f"/proc/{worker}").exists() for worker in workers):  # orphans end their batch and save their state
        time.sleep(0.05)
    return how if victim == "process" else f"{how}, {victim}"


def snapshot(folder: Path) -> list[tuple[str, int]]:
    """The files that the sweep has written so far, with their times of change."""
    files = []
    for path in folder.rglob("*"):
        try:
            files.append((str(path), path.stat().st_mtime_ns))
        except FileNotFoundError:  # renamed meanwhile
            continue
    return sorted(files)


def finished(folder: Path) -> dict[Path, bytes]:
    """The contents of all records with status `done`."""
    contents = {path: path.read_bytes() for path in folder.rglob("record.json")}
    return {path: content for path, content in contents.items() if json.loads(content)["status"] == "done"}


def results(folder: Path) -> dict[str, Any]:
    """All records by run id, without what may differ: times, paths and the commit."""
    records = {}
    for path in folder.rglob("record.json"):
        record = json.loads(path.read_bytes())
        for row in record["history"]:
            del row["seconds"], row["images_per_second"]
        for row in (record["search"] or {}).get("history", []):
            del row["seconds"]
        if record["search"]:
            del record["search"]["seconds"]
        record["environment"].pop("git_commit", None)  # somebody may commit meanwhile
        del record["config"]["name"], record["config"]["runs_dir"], record["overrides"]
        records[record["run_id"]] = record
    return records


def main() -> int:
    """Prints a summary; returns 1 if a result was lost, changed or different."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=KINDS, default="sweep")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    kills: dict[str, int] = {}
    sweeps = compared = differences = touched = left = 0
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        (runs / "mine" / "experiment").mkdir(parents=True)
        (runs / "mine" / "experiment" / "rungs.yaml").write_text(LADDER)
        kind = options.kind
        assert start(kind, runs, "whole").wait() == 0, (runs / "log").read_text()
        expected = results(runs / "whole")
        while sum(kills.values()) < options.kills:
            name = f"sweep{sweeps}"
            while True:
                done = finished(runs / name)
                process = start(kind, runs, name)
                how = None
                if sum(kills.values()) < options.kills:
                    how = kill(process, runs / name, amid_write=rng.random() < 0.5, rng=rng)
                process.wait()
                touched += sum(path.read_bytes() != content for path, content in done.items())
                if how is None:
                    break
                kills[how] = kills.get(how, 0) + 1
                print(f"kill {sum(kills.values())}: {how}; {len(finished(runs / name))} of {len(expected)} runs done")
            sweeps += 1
            if process.returncode != 0:
                print((runs / "log").read_text())
                return 1
            records = results(runs / name)
            compared += len(records)
            differences += sum(records.get(key) != record for key, record in expected.items())
            left += len(list((runs / name).rglob(".*.ckpt.*")))
    ways = ", ".join(f"{count} {how}" for how, count in sorted(kills.items()))
    print(f"{sum(kills.values())} kills survived ({ways}) in {sweeps} sweeps")
    print(f"{compared} records compared with those of the unkilled sweep, differences: {differences or 'none'}")
    print(f"finished runs touched again: {touched or 'none'}; torn files left over: {left or 'none'}")
    return 1 if differences or touched or left else 0


if __name__ == "__main__":
    sys.exit(main())
