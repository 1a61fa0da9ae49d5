"""Compares the numbers of two checkouts: the same commands must give the same histories and tests, to the last digit.

    git worktree add ../before COMMIT
    python scripts/same_numbers.py ../before .

A change that only moves code, or makes it faster without changing the arithmetic, passes. Seconds and images/s are left
out, as they differ each time, and so is what only the later checkout's records have. Each command runs on
scikit-learn's digits with one thread. Exit code 1 if any differ.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

COMMANDS = {
    "every optimizer": "-m optimizer=sgd,momentum,nesterov,adagrad,rmsprop,adam,adamw,nadam,lion,muon epochs=2",
    "cag": "update=cag batch_size=32 epochs=2",
    "full_batch": "update=full_batch epochs=3",
    "mixup and augmentation": "augment=[flip_crop,mixup,cutout] augment.cutout=3 epochs=2",
    "ensemble": "model=ensemble model.members=[document_cnn,plain_cnn] epochs=2",
    "batch norm and dropout": "regularizer=[batch_norm,dropout,l2] epochs=2",
    "early stopping": "stop=early stop.patience=1 lr=0.03 epochs=12",
    "plateau": "scheduler=plateau scheduler.patience=0 epochs=4",
    "one_cycle": "scheduler=one_cycle scheduler.warmup=1 epochs=3 clip=1.0",
    "schedule_free": "optimizer=schedule_free regularizer=batch_norm epochs=2",
    "search=joint": "search=joint model=plain_cnn search.lr=0.1 epochs=2",
    "search=random": "search=random model=plain_cnn search.trial_epochs=1 epochs=2",
    "workers=2": "-m seed=0,1,2 workers=2 epochs=2",
    "data on disk": "data.in_memory=false data.limit=600 epochs=2",
}


def main() -> int:
    """Prints a row for each command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="a checkout")
    parser.add_argument("now", type=Path, help="another one")
    parser.add_argument("--only", help="one of the commands, by its name")
    options = parser.parse_args()
    print("| training | command | runs | epochs | last training loss | test accuracy | same |")
    print("|---|---|---:|---:|---:|---:|---|")
    different = 0
    for name, words in COMMANDS.items():
        if options.only not in (None, name):
            continue
        before, now = (_numbers(checkout.resolve(), words) for checkout in (options.before, options.now))
        same = before == _shared(now, before)
        different += not same
        loss, test = (", ".join(f"{run[key]:.4g}" for run in now.values()) for key in ("loss", "acc"))
        epochs = sum(len(run["history"]) for run in now.values())
        verdict = "to the last digit" if same else "DIFFERENT"
        print(f"| {name} | `{words}` | {len(now)} | {epochs} | {loss} | {test} | {verdict} |", flush=True)
    return 1 if different else 0


def _shared(now: Any, before: Any) -> Any:
    """The part of `now` whose keys stand in `before` too."""
    if isinstance(now, dict) and isinstance(before, dict):
        return {key: _shared(value, before[key]) for key, value in now.items() if key in before}
    if isinstance(now, list) and isinstance(before, list) and len(now) == len(before):
        return [_shared(*pair) for pair in zip(now, before, strict=True)]
    return now


def _numbers(checkout: Path, words: str) -> dict[str, dict[str, Any]]:
    """By run id what the command of a checkout computes."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "cnnbench", *shlex.split(f"data=digits logger=none {words}")]
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
        found = {}
        for path in sorted(Path(folder).glob("runs/*/*/record.json")):
            record = json.loads(path.read_text())
            rows = [
                {key: value for key, value in row.items() if key not in ("seconds", "images_per_second")}
                for row in record["history"]
            ]
            search = record["search"] and {key: record["search"][key] for key in ("architecture", "entropy", "model")}
            found[record["run_id"]] = {
                "history": rows,
                "test": {key: value for key, value in record["test"].items() if value is not None},
                "best": record["best"],
                "search": search,
                "loss": rows[-1]["train_loss"],
                "acc": record["test"]["acc"],
            }
        return found


if __name__ == "__main__":
    sys.exit(main())
