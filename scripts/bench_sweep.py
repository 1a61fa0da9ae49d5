"""Measures what a start, a run and a sweep cost besides the training itself, with whole commands as a user types them.

    python scripts/bench_sweep.py --root DIR [--repeats 3] [--precision fp32 bf16]

Three parts:

    start      CPU seconds of --help, of a bad config and of --cfg job; seconds from the end of the imports to the first
               training step of a run on the digits
    tiny       seconds that one more tiny run (digits, one epoch) adds to a sweep of one process, without its training
    workers    images/s of a sweep of eight runs, workers=2 against workers=1: of the whole command, and of the training
               alone
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

CNNBENCH = [sys.executable, "-m", "cnnbench"]

FIRST_STEP = """
import time
import cnnbench.sweeps.sweep
from cnnbench.cli import main
from cnnbench.training.module import Classifier
step, first = Classifier.training_step, []
Classifier.training_step = lambda self, batch: (first.append(time.perf_counter()), step(self, batch))[1]
started = time.perf_counter()
main(["data=digits", "epochs=1", "runs_dir={folder}"])
print("first step", first[0] - started)
"""


def timed(command: list[str]) -> tuple[float, float, str]:
    """Runs a command; returns its seconds, its CPU seconds, and its output."""
    first, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds, last = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode in (0, 2), done.stderr
    return seconds, last.ru_utime + last.ru_stime - first.ru_utime - first.ru_stime, done.stdout


def histories(folder: str) -> list[list[dict[str, float]]]:
    """The histories of all runs in a folder."""
    return [json.loads(path.read_text())["history"] for path in Path(folder).rglob("record.json")]


def start() -> dict[str, float]:
    """CPU seconds of commands that need no torch, and seconds to the first step of a run."""
    commands = (["--help"], ["lr=abc"], ["--cfg", "job"])
    seconds = {" ".join(arguments): timed([*CNNBENCH, *arguments])[1] for arguments in commands}
    with tempfile.TemporaryDirectory() as folder:
        printed = timed([sys.executable, "-c", FIRST_STEP.format(folder=folder)])[2]
    return seconds | {"first step after": float(printed.split()[-1])}


def tiny() -> dict[str, float]:
    """Seconds that one more run adds to a sweep, without its training."""
    took, trained = {}, {}
    for runs in (2, 22):
        with tempfile.TemporaryDirectory() as folder:
            seeds = ",".join(map(str, range(runs)))
            took[runs] = timed([*CNNBENCH, "-m", "data=digits", "epochs=1", f"seed={seeds}", f"runs_dir={folder}"])[0]
            trained[runs] = sum(row["seconds"] for history in histories(folder) for row in history)
    return {"one more run": (took[22] - took[2] - trained[22] + trained[2]) / 20}


def workers(root: str, precision: str) -> dict[str, float]:
    """Images/s of the same sweep in one process and in two."""
    speeds: dict[str, float] = {}
    for n in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            overrides = ["data=folder", f"data.root={root}", "data.limit=10000", "epochs=2", "seed=0,1"]
            overrides += ["optimizer=sgd,momentum,adagrad,adam", f"runs_dir={folder}", f"workers={n}"]
            overrides += [f"hardware.precision={'32-true' if precision == 'fp32' else 'bf16-mixed'}"]
            seconds = timed([*CNNBENCH, "-m", *overrides])[0]
            runs = histories(folder)
        images = sum(history[-1]["images_seen"] for history in runs)
        training = sum(row["seconds"] for history in runs for row in history) / n
        speeds |= {f"workers={n}, command": images / seconds, f"workers={n}, training": images / training}
    for what in ("command", "training"):
        speeds[f"ratio, {what}"] = speeds[f"workers=2, {what}"] / speeds[f"workers=1, {what}"]
    return speeds


def report(title: str, repeats: int, measure: Callable[[], dict[str, float]]) -> None:
    """Repeats a measurement, and prints medians with their range."""
    measured = [measure() for _ in range(repeats)]
    print(title)
    for name in measured[0]:
        values = [each[name] for each in measured]
        print(f"  {name:<20} median {statistics.median(values):,.4g} ({min(values):,.4g} to {max(values):,.4g})")
    sys.stdout.flush()


def main() -> None:
    """Measures all three parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="a folder of images as data=folder takes it")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precision", nargs="+", default=["fp32"], choices=["fp32", "bf16"])
    options = parser.parse_args()
    report("start, seconds", options.repeats, start)
    report("tiny, seconds", options.repeats, tiny)
    for precision in options.precision:
        report(f"workers, {precision}, images/s", options.repeats, partial(workers, options.root, precision))


if __name__ == "__main__":
    main()
