"""Measures how much memory a run takes, and whether it grows.

    python scripts/bench_memory.py --root DIR

Two runs, each in a process of its own. The first is an epoch of document 3's CNN on the images in DIR: its peak is
compared with the memory of the images (as bytes) and the imports. The second is 100 epochs on the digits: its memory
after the last epoch is compared with that after the tenth.
"""

import argparse
import subprocess
import sys

WATCHED = """
import sys
from pathlib import Path
import cnnbench.sweeps.sweep
from cnnbench.cli import main
from cnnbench.sweeps.run import _Run

def megabytes(what):
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(lines[what].split()[0]) / 1024

def epoch_ended(self, state):
    print("images", (self.images.train.nbytes + self.images.test.nbytes) / 2**20)
    print("epoch", megabytes("VmRSS"))
    original(self, state)

original, _Run._epoch_ended = _Run._epoch_ended, epoch_ended
print("imports", megabytes("VmRSS"))
code = main([*sys.argv[1:], "force=true"])
print("peak", megabytes("VmHWM"))
sys.exit(code)
"""


def watched(overrides: list[str]) -> dict[str, list[float]]:
    """Carries out a run in a new process; returns its memory in MB by moment."""
    command = [sys.executable, "-c", WATCHED, *overrides, "runs_dir=runs", "name=bench_memory"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    moments: dict[str, list[float]] = {"imports": [], "images": [], "epoch": [], "peak": []}
    for line in done.stdout.splitlines():
        name, _, value = line.partition(" ")
        if name in moments:
            moments[name].append(float(value))
    return moments


def main() -> None:
    """Measures both runs, on Linux."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="a folder of images as data=folder takes it")
    root = parser.parse_args().root
    run = watched(["data=folder", f"data.root={root}", "epochs=1"])
    (imports,), (images,), (peak,) = run["imports"], run["images"], run["peak"]
    print(f"imports {imports:,.0f} MB, images {images:,.0f} MB, peak {peak:,.0f} MB", end="")
    print(f": {peak / (imports + images):.2f} times")
    epochs = watched(["data=digits", "epochs=100"])["epoch"]
    tenth, last = epochs[9], epochs[99]
    print(f"100 epochs: {tenth:,.1f} MB after 10, {last:,.1f} MB after 100: {last / tenth - 1:+.2%}")


if __name__ == "__main__":
    main()
