"""What is a result? One JSON file for each run, written whole or not at all. (imports no torch)"""

import json
import math
from pathlib import Path
from typing import Any

from cnnbench.errors import ConfigError, RecordError
from cnnbench.results.identity import experiment, flat
from cnnbench.runtime import files

SCHEMA_VERSION = 1
"""Raised when a field changes its meaning."""

HISTORY = (
    "epoch", "train_loss", "train_acc", "penalty", "val_loss", "val_acc", "lr", "images_seen", "seconds",
    "images_per_second",
)  # fmt: skip
"""What is known of an epoch. `epoch` counts from 1; losses are means over images; `train_*` are taken while the weights
move; `lr` is that of the epoch's first step; `seconds` are those of training alone."""

FIELDS = (
    "schema_version", "run_id", "status", "config", "choices", "protocol", "data", "parameters", "search", "history",
    "best", "test", "environment", "error",
)  # fmt: skip

STATUSES = ("done", "diverged", "failed", "interrupted")

Record = dict[str, Any]


def best(history: list[dict[str, float]]) -> dict[str, float]:
    """The selected epoch: the highest validation accuracy, the first of equals."""
    row = max(history, key=lambda row: row["val_acc"])  # max takes the first of equals
    return {key: row[key] for key in ("epoch", "val_acc", "val_loss")}


def write(path: Path, record: Record) -> None:
    """Writes a record. Fields that are missing are a mistake of ours."""
    assert tuple(record) == FIELDS, record.keys()
    text = json.dumps(record, indent=1, allow_nan=False)
    files.write_whole(path, lambda file: file.write(text.encode()))


def read(path: Path) -> Record:
    """Reads a record.

    Raises:
        RecordError: it is damaged, or was written by another version.
    """
    try:
        record = json.loads(path.read_bytes())
    except OSError as error:
        raise RecordError(f"{path}: can't be read ({error.strerror}).") from None
    except ValueError as error:
        raise RecordError(f"{path}: not a whole JSON file ({error}).") from None
    version = record.get("schema_version") if isinstance(record, dict) else None
    if version != SCHEMA_VERSION:
        raise RecordError(f"{path}: schema_version {version}; this cnnbench reads {SCHEMA_VERSION}.")
    record.setdefault("search", None)  # records of before there were searches
    missing = [field for field in FIELDS if field not in record]
    if missing:
        raise RecordError(f"{path}: without {', '.join(missing)}.")
    if record["status"] not in STATUSES:
        raise RecordError(f"{path}: status {record['status']!r}; must be one of {', '.join(STATUSES)}.")
    try:
        _check(record)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RecordError(f"{path}: edited or damaged ({type(error).__name__}: {error}).") from None
    return dict(record)


def of_run(folder: Path) -> Record:
    """The record of the run in `folder`.

    Raises:
        ConfigError: the folder holds no run, or a damaged record.
    """
    path = folder / "record.json"
    if not path.exists():
        raise ConfigError(f"{folder}: holds no run (no record.json).")
    try:
        return read(path)
    except RecordError as error:
        raise ConfigError(str(error)) from None


def _check(record: Record) -> None:
    """Touches all that a comparison reads."""
    config, data, best, test = record["config"], record["data"], record["best"], record["test"]
    experiment(config, data["fingerprint"])
    numbers = [row[key] for row in record["history"] for key in HISTORY]
    numbers += [config["seed"], *(data["sizes"][part] for part in ("train", "val", "test")), *data["shape"]]
    numbers += [] if best is None else [best[key] for key in ("epoch", "val_acc", "val_loss")]
    numbers += [] if test is None else [test[key] for key in ("acc", "loss")]
    numbers += [] if test is None else [cell for row in test["confusion"] for cell in row]
    texts = [record["run_id"], data["name"], data["fingerprint"], *data["classes"], record["protocol"]["validation"]]
    texts += [text for choice in record["choices"].items() for text in choice]
    texts += list(record["environment"].keys())
    texts += [record["choices"]["optimizer"], *([] if record["error"] is None else [record["error"]])]
    for claim in config.get("claims", []):
        numbers.append(claim["value"])
        texts += [claim["source"], claim["metric"], *(text for pair in claim["match"].items() for text in pair)]
    if (search := record["search"]) is not None:
        numbers += [search["image_passes"], search["seconds"]]
        numbers += [value for row in search["history"] for value in flat(row.get("probabilities", {})).values()]
        texts += [search["method"], search["architecture"]]
    for number in numbers:
        if not isinstance(number, int | float) or not math.isfinite(number):
            raise ValueError(f"{number!r} is no number")
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"{text!r} is no text")
    if record["status"] == "done" and not (best and record["history"] and (test or not config.get("test", True))):
        raise ValueError("done without a result")
    if best is not None and not (isinstance(best["epoch"], int) and 1 <= best["epoch"] <= len(record["history"])):
        raise ValueError(f"best epoch {best['epoch']} is not in the history")
    if test is not None:
        classes = len(data["classes"])
        shares, counts = test["per_class"], [count for row in test["confusion"] for count in row]
        if [len(shares), len(test["confusion"]), len(counts)] != [classes, classes, classes**2]:
            raise ValueError("test results are not of the classes")
        if not all(isinstance(v, int | float | None) for v in shares) or not all(isinstance(v, int) for v in counts):
            raise ValueError("test results are no numbers")
    for claim in config.get("claims", []):
        if (
            not isinstance(claim["value"], int | float)
            or not {"source", "metric"} <= set(claim)
            or dict(claim["match"]) is None
        ):
            raise ValueError("claims are incomplete")
    if not isinstance(config["data"]["root"], str | None) or not isinstance(config["data"]["limit"], int | None):
        raise ValueError("data.root or data.limit is of the wrong type")


def reason(record: Record) -> str:
    """The last line of its error, which says what it was; nothing where there was none."""
    return (record["error"] or "").strip().rpartition("\n")[2]


def find(folder: Path) -> list[Path]:
    """The records of a run, of a folder of runs, or of a tree of them; what is kept aside (`.old`) is left out."""
    return sorted(
        path
        for path in folder.rglob("record.json")
        if not any(p.startswith(".") for p in path.relative_to(folder).parts)
    )
