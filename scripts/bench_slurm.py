"""Measures what a run costs on Slurm besides its training, against two workers.

    python scripts/bench_slurm.py [--runs 200]

The same sweep of tiny runs (digits, one epoch) is carried out with `workers=2`, and by a Slurm of two nodes with a CPU
each, which the script starts on this machine (Debian: `slurm-wlm` and `munge`). A run's overhead is its share of the
command's time on two CPUs, without its training. On Slurm most of it is the start of Python and its imports.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import slurm


def measure(runs: int, *words: str) -> None:
    """Carries out the sweep, and prints its times."""
    with tempfile.TemporaryDirectory() as folder:
        seeds = f"seed=range({runs})"
        command = [sys.executable, "-m", "cnnbench", "-m", "data=digits", "data.limit=200", "epochs=1", seeds, *words]
        started = time.perf_counter()
        subprocess.run([*command, "hardware.threads=1", f"runs_dir={folder}"], check=True, capture_output=True)
        seconds = time.perf_counter() - started
        histories = [json.loads(path.read_text())["history"] for path in Path(folder).glob("*/*/record.json")]
    assert len(histories) == runs
    trained = sum(row["seconds"] for history in histories for row in history)
    overhead = (2 * seconds - trained) / runs
    print(
        f"{' '.join(words)}: {seconds:,.0f} s, {trained:,.1f} s of training, overhead {overhead:.2f} s a run",
        flush=True,
    )


def main() -> None:
    """Measures both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    runs = parser.parse_args().runs
    measure(runs, "workers=2")
    with tempfile.TemporaryDirectory() as folder, slurm.cluster(Path(folder)) as cluster:
        os.environ["SLURM_CONF"] = cluster.conf
        measure(runs, "hydra/launcher=submitit_slurm")


if __name__ == "__main__":
    main()
