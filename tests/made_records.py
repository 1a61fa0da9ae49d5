"""Records written by hand."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cnnbench.config.composition import config_source
from cnnbench.results import identity, records


def made(
    words: str = "", accuracies: tuple[float, ...] = (0.5, 0.6), test: float = 0.55, status: str = "done"
) -> dict[str, Any]:
    """A record as `cnnbench data=digits WORDS` would write it, with these validation accuracies; as plain values, so
    that a test can break it."""
    with config_source(None) as composer:
        (job,) = composer.jobs(["data=digits", *words.split()], multirun=False)
    history = [
        records.Epoch(
            epoch=i + 1, train_loss=2.0 / (i + 1), train_acc=0.0, penalty=0.0, val_loss=1 - accuracy, val_acc=accuracy,
            lr=0.0, images_seen=0, seconds=1.5, images_per_second=0.0,
        )
        for i, accuracy in enumerate(accuracies)
    ]  # fmt: skip
    done = status == "done"
    record = records.Record(
        run_id=identity.run_id(job.config, job.choices["optimizer"], "ab" * 8),
        status=status,
        overrides=list(job.typed),
        config=asdict(job.config),
        choices=job.choices,
        protocol=records.Protocol(job.config.data.val or "split", "", ""),
        data=records.Data("digits", "ab" * 8, records.Sizes(90, 10, 20), (1, 8, 8), ["0", "1"]),
        parameters=10,
        history=history,
        best=records.best(history),
        test=records.Test(test, 1.0, [test, test], [[5, 5], [5, 5]]) if done else None,
        error=None if done else "broken",
    )
    values: dict[str, Any] = json.loads(record.as_json())
    return values


def write(root: Path, *runs: dict[str, Any]) -> Path:
    for run in runs:
        folder = root / run["run_id"]
        folder.mkdir(parents=True)
        (folder / "record.json").write_text(json.dumps(run))
    return root
