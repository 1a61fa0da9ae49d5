"""Our results for other programs: a table with a row for each run and epoch, or an MLflow store."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl

from cnnbench.analysis.grouping import shortest_labels
from cnnbench.config.schema import ROLES, Decides
from cnnbench.results import identity, importing
from cnnbench.results.records import Record

_METRICS = ("train_loss", "train_acc", "val_loss", "val_acc", "lr", "images_seen", "seconds")
"""Of each epoch."""


def as_frame(runs: list[Record]) -> pl.DataFrame:
    """A row for each epoch of each run.

    Returns:
        `run`, `contestant`, `seed`, `status`, each key of the config that differs between runs, `epoch`, the metrics of
        the epoch, and in the last row of a run `test_acc` and `test_loss`: NaN if it diverged or failed, null if it was
        not tested. A run without an epoch has one row, epoch 0.
    """
    settings = _varying(runs)
    rows = [
        {"run": run.run_id, "contestant": label, "seed": run.seed, "status": run.status, **own, **row}
        for run, label, own in zip(runs, shortest_labels(runs), settings, strict=True)
        for row in _epochs(run)
    ]
    columns = ["run", "contestant", "seed", "status", *settings[0], "epoch", *_METRICS, "test_acc", "test_loss"]
    return pl.DataFrame({c: pl.Series([row.get(c) for row in rows], strict=False) for c in columns})


def _epochs(run: Record) -> list[dict[str, Any]]:
    rows = [{"epoch": row.epoch} | {key: getattr(row, key) for key in _METRICS} for row in run.history]
    rows = rows or [{"epoch": 0}]
    if run.test is not None:
        rows[-1] |= {"test_acc": run.test.acc, "test_loss": run.test.loss}
    elif run.status in ("diverged", "failed"):
        rows[-1] |= {"test_acc": float("nan"), "test_loss": float("nan")}
    return rows


def _varying(runs: list[Record]) -> list[dict[str, Any]]:
    """For each run the options and values of its setting that another run has otherwise; a list as text."""
    told = {name for name, role in ROLES.items() if role.decides is Decides.SETTING}
    flat = [
        {group: option for group, option in run.choices.items() if group in told}
        | identity.flat(identity.experiment(run.config, "", without=[Decides.REPETITION]))
        for run in runs
    ]
    keys = dict.fromkeys(key for values in flat for key in values if not key.endswith("_target_"))
    varying = [key for key in keys if len({str(values.get(key)) for values in flat}) > 1]
    return [{key: _cell(values.get(key)) for key in varying} for values in flat]


def _cell(value: Any) -> Any:
    return value if isinstance(value, int | float | str | None) else str(value)


def to_mlflow(runs: list[Record], store: Path) -> None:
    """Writes runs into an MLflow store, each with its settings as parameters and its metrics by epoch.

    Args:
        runs: of one experiment, which is called as their `name`.
        store: an sqlite file; runs are added to what it holds.
    """
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{store.absolute()}")
    name = str(runs[0].config["name"])
    found = client.get_experiment_by_name(name)
    experiment = client.create_experiment(name) if found is None else found.experiment_id
    for run, label, own in zip(runs, shortest_labels(runs), _varying(runs), strict=True):
        written = client.create_run(experiment, run_name=f"{label}, seed {run.seed}")
        parameters = {"contestant": label, "seed": run.seed, **own}
        metrics = [
            Metric(key, float(value), 0, row["epoch"])
            for row in _epochs(run)
            for key, value in row.items()
            if value is not None
        ]
        tags = {"cnnbench.run": run.run_id, "cnnbench.status": run.status}
        client.log_batch(
            written.info.run_id,
            metrics=metrics[:1000],
            params=[Param(key, str(value)) for key, value in parameters.items()],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )
        for start in range(1000, len(metrics), 1000):  # MLflow takes no more at once
            client.log_batch(written.info.run_id, metrics=metrics[start : start + 1000])
        client.set_terminated(written.info.run_id, "FINISHED" if run.status == "done" else "FAILED")


def write(runs: Iterable[Record], path: Path) -> None:
    """Writes the table of `as_frame` as Parquet or CSV, or an MLflow store, by the suffix `.parquet`, `.csv`, `.db`."""
    ordered = sorted(runs, key=lambda run: run.run_id)
    if path.suffix == ".db":
        with importing.quiet_mlflow():
            to_mlflow(ordered, path)
    else:
        importing.write(as_frame(ordered), path)
