"""Measures how long `cnnbench list` and `cnnbench compare` take for different numbers of records.

    python scripts/bench_compare.py [--records 1000 10000]

Each number of invented records is compared twice: as many contestants with 5 seeds each, and as 5 contestants with
many seeds each.
"""

import argparse
import random
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cnnbench.config.composition import config_source
from cnnbench.results import records

EPOCHS, CLASSES = 20, 10


def made(config: dict[str, Any], choices: dict[str, str], contestant: int, seed: int) -> records.Record:
    """An invented record, as long as that of a run with CIFAR-10."""
    chance = random.Random(1000 * contestant + seed)
    lr = 1e-4 * 1.05**contestant
    config = config | {"lr": lr, "seed": seed, "optimizer": config["optimizer"] | {"lr": lr}}
    top = 0.5 + 0.3 / (1 + contestant % 7) + chance.gauss(0, 0.01)
    history = [
        records.Epoch(
            epoch=i + 1, train_loss=2.0 * 0.9**i, train_acc=0.5, penalty=0.5, val_loss=0.5, val_acc=top * (1 - 0.8**i),
            lr=0.5, images_seen=1, seconds=chance.uniform(4, 5), images_per_second=0.5,
        )
        for i in range(EPOCHS)
    ]  # fmt: skip
    confusion = [[900 if i == j else 10 for j in range(CLASSES)] for i in range(CLASSES)]
    sizes, classes = records.Sizes(train=45000, val=5000, test=10000), [f"class {i}" for i in range(CLASSES)]
    return records.Record(
        run_id=f"adam-lr{lr:g}-seed{seed}", status="done", overrides=["optimizer=adam", f"lr={lr}", f"seed={seed}"],
        config=config, choices=choices, protocol=records.Protocol("split", "", ""),
        data=records.Data("cifar10", "ab" * 8, sizes, (3, 32, 32), classes), parameters=545098, history=history,
        best=records.best(history), test=records.Test(top, 1.0, [top] * CLASSES, confusion),
        environment={"python": "3.11"},
    )  # fmt: skip


def seconds(contestants: int, seeds: int) -> float:
    """Measures and prints the CPU time of a list and of a comparison, in seconds, and returns that of the latter."""
    with config_source(None) as composer:
        (job,) = composer.jobs(["optimizer=adam"], multirun=False)
    with tempfile.TemporaryDirectory() as folder:
        for contestant in range(contestants):
            for seed in range(seeds):
                run = made(asdict(job.config), job.choices, contestant, seed)
                path = Path(folder, run.run_id, "record.json")
                path.parent.mkdir()
                path.write_text(run.as_json())
        listed, _ = _timed("list", folder)
        took, wall = _timed("compare", folder)
        page = Path(folder, "report.html").stat().st_size / 1e6
    what = f"{contestants:>6,} contestants x {seeds:>5,} seeds"
    print(f"{what}: list {listed:6.1f} s of CPU time, compare {took:6.1f} s, {wall:6.1f} s in all, ", end="")
    print(f"a page of {page:.1f} MB", flush=True)
    return took


def _timed(*words: str) -> tuple[float, float]:
    """Seconds of CPU time of a command, and seconds in all."""
    cpu_start, start = _cpu_time(), time.perf_counter()
    subprocess.run([sys.executable, "-m", "cnnbench", *words], check=True, stdout=subprocess.DEVNULL)
    return _cpu_time() - cpu_start, time.perf_counter() - start


def _cpu_time() -> float:
    """Seconds of CPU time of all commands that have ended; other load on the machine hardly changes them."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Measures all numbers of records, and prints the growth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, nargs="+", default=[1000, 10_000], help="at least five")
    counts = parser.parse_args().records
    for few_seeds in (True, False):
        took = [seconds(*((count // 5, 5) if few_seeds else (5, count // 5))) for count in counts]
        print(f"{counts[-1]:,} records take {took[-1] / took[0]:.1f} times as long as {counts[0]:,}")


if __name__ == "__main__":
    main()
