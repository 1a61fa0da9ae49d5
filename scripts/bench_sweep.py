"""What a sweep, a run and a start cost beside the training itself; whole commands, in turn, as one would type them.

    python scripts/bench_sweep.py --root DIR [--repeats 3] [--precision fp32 bf16]

Three parts:

    start      processor seconds of --help, of a bad config and of --cfg job; seconds from the imports' end to the first
               training step of a run on the digits
    tiny       seconds of one more tiny run (digits, one epoch) in a sweep of one process, beside its training
    workers    images/s of a sweep of eight runs, workers=2 against workers=1: of the command whole, and of the training
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
import cnnbench.sweep
from cnnbench.cli import main
from cnnbench.training.module import Classifier
step, first = Classifier.training_step, []
Classifier.training_step = lambda self, batch: (first.append(time.perf_counter()), step(self, batch))[1]
started = time.perf_counter()
main(["data=digits", "epochs=1", "runs_dir={folder}"])
print("first step", first[0] - started)
"""


def timed(command: list[str]) -> tuple[float, float, str]:
    """Runs a command; returns seconds, processor seconds, and what it printed."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode in (0, 2), done.stderr
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def histories(folder: str) -> list[list[dict[str, float]]]:
    """Of all runs in a folder."""
    return [json.loads(path.read_text())["history"] for path in Path(folder).rglob("record.json")]


def start() -> dict[str, float]:
    """Processor seconds of what needs no torch, and seconds to the first step."""
    found = {" ".join(words): timed([*CNNBENCH, *words])[1] for words in (["--help"], ["lr=abc"], ["--cfg", "job"])}
    with tempfile.TemporaryDirectory() as folder:
        printed = timed([sys.executable, "-c", FIRST_STEP.format(folder=folder)])[2]
    return found | {"first step after": float(printed.split()[-1])}


def tiny() -> dict[str, float]:
    """Seconds of one more run, its training left out."""
    took, trained = {}, {}
    for runs in (2, 22):
        with tempfile.TemporaryDirectory() as folder:
            seeds = ",".join(map(str, range(runs)))
            took[runs] = timed([*CNNBENCH, "-m", "data=digits", "epochs=1", f"seed={seeds}", f"runs_dir={folder}"])[0]
            trained[runs] = sum(row["seconds"] for history in histories(folder) for row in history)
    return {"one more run": (took[22] - took[2] - trained[22] + trained[2]) / 20}


def workers(root: str, precision: str) -> dict[str, float]:
    """Images/s of the same sweep in one process and in two."""
    found: dict[str, float] = {}
    for n in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            words = ["data=folder", f"data.root={root}", "data.limit=10000", "epochs=2", "seed=0,1"]
            words += ["optimizer=sgd,momentum,adagrad,adam", f"runs_dir={folder}", f"workers={n}"]
            words += [f"hardware.precision={'32-true' if precision == 'fp32' else 'bf16-mixed'}"]
            seconds = timed([*CNNBENCH, "-m", *words])[0]
            runs = histories(folder)
        images = sum(history[-1]["images_seen"] for history in runs)
        training = sum(row["seconds"] for history in runs for row in history) / n
        found |= {f"workers={n}, command": images / seconds, f"workers={n}, training": images / training}
    for what in ("command", "training"):
        found[f"ratio, {what}"] = found[f"workers=2, {what}"] / found[f"workers=1, {what}"]
    return found


def report(title: str, repeats: int, measure: Callable[[], dict[str, float]]) -> None:
    """Measures, and prints medians with their range."""
    measured = [measure() for _ in range(repeats)]
    print(title)
    for name in measured[0]:
        values = [each[name] for each in measured]
        print(f"  {name:<20} median {statistics.median(values):,.4g} ({min(values):,.4g} to {max(values):,.4g})")
    sys.stdout.flush()


def main() -> None:
    """Measures all three."""
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
