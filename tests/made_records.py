"""Records written by hand."""

import copy
from pathlib import Path

from cnnbench.config.compose import config_source
from cnnbench.results import identity, records


def made(words: str = "", accuracies: tuple[float, ...] = (0.5, 0.6), test: float = 0.55, status: str = "done") -> dict:
    """A record as `cnnbench data=digits WORDS` would write it, with these validation accuracies."""
    from dataclasses import asdict

    with config_source(None) as composer:
        (job,) = composer.jobs(["data=digits", *words.split()], multirun=False)
    history = [
        dict.fromkeys(records.HISTORY, 0.0)
        | {"epoch": i + 1, "val_acc": a, "val_loss": 1 - a, "train_loss": 2.0 / (i + 1), "seconds": 1.5}
        for i, a in enumerate(accuracies)
    ]
    done = status == "done"
    values = {
        "schema_version": records.SCHEMA_VERSION,
        "run_id": identity.run_id(job.config, job.choices["optimizer"], "ab" * 8),
        "status": status,
        "config": asdict(job.config),
        "choices": job.choices,
        "protocol": {"validation": job.config.data.val, "selection": "", "test": ""},
        "data": {
            "name": "digits",
            "fingerprint": "ab" * 8,
            "sizes": {"train": 90, "val": 10, "test": 20},
            "shape": [1, 8, 8],
            "classes": ["0", "1"],
        },
        "parameters": 10,
        "search": None,
        "history": history,
        "best": records.best(history) if history else None,
        "test": {"acc": test, "loss": 1.0, "per_class": [test, test], "confusion": [[5, 5], [5, 5]]} if done else None,
        "environment": {},
        "error": None if done else "broken",
    }
    return copy.deepcopy(values)


def write(root: Path, *runs: dict) -> Path:
    for run in runs:
        folder = root / run["run_id"]
        folder.mkdir(parents=True)
        records.write(folder / "record.json", run)
    return root
