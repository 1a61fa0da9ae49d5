"""What is a result? One JSON file for each run, written whole or not at all. (imports no torch)"""

import contextlib
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from cnnbench.schema import Config, ConfigError, Search

SCHEMA_VERSION = 1
"""Raised when a field changes its meaning."""

ARITHMETIC = 2
"""Raised when the same config would give other numbers, a default's new value included: part of every identity."""

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


class RecordError(Exception):
    """A file that is no record of ours; the message names it in one line."""


def experiment(config: dict[str, Any], fingerprint: str) -> dict[str, Any]:
    """Everything in a config that decides the numbers, and nothing else: not where it runs or where it is written."""
    elsewhere = {"lr", "name", "runs_dir", "force", "retry", "workers", "checkpoint", "hardware", "logger"}
    elsewhere |= {"size", "small", "claims", "ladder"}  # what size=small leaves is in data.limit and epochs
    kept = {k: v for k, v in config.items() if k not in elsewhere}
    places = ("_target_", "root", "md5", "in_memory")
    kept["data"] = {k: v for k, v in config["data"].items() if k not in places} | {"fingerprint": fingerprint}
    kept["model"] = {k: v for k, v in config["model"].items() if k != "init_from"}  # init_digest is in its place
    if kept.get("search", {}).get("method", "none") == "none":  # whatever else is said of a search, there is none
        kept["search"] = asdict(Search())
    kept["precision"] = config["hardware"]["precision"]
    kept["arithmetic"] = ARITHMETIC
    return kept


_DEFAULTS = experiment(asdict(Config()), "")


def run_id(config: Config, optimizer: str, fingerprint: str) -> str:
    """The run's folder: readable, and ending in a hash of the experiment, such as `adam-lr0.001-seed0-1a2b3c4d5e`."""
    digest = hashlib.sha256(canonical(experiment(asdict(config), fingerprint)).encode()).hexdigest()[:10]
    lr = "" if config.lr is None else f"-lr{config.lr:g}"
    return f"{optimizer}{lr}-seed{config.seed}-{digest}"


def canonical(experiment_: dict[str, Any]) -> str:
    """An experiment as text, the same for the same numbers.

    Keys at their default are left out, so that results outlive a version that has one key more.
    """
    return json.dumps(_plain(_without(experiment_, _DEFAULTS)), sort_keys=True)


def _without(config: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """What differs from `defaults`, in all depths; `arithmetic` stays."""
    said: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and isinstance(defaults.get(key), dict):
            if different := _without(value, defaults[key]):
                said[key] = different
        elif key not in defaults or key == "arithmetic" or _plain(value) != _plain(defaults[key]):
            said[key] = value
    return said


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values by their full names, such as `optimizer.lr`."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        inner = isinstance(value, dict) and value
        found |= flat(value, f"{prefix}{key}.") if inner else {prefix + key: value}
    return found


def _plain(value: Any) -> Any:
    """The same value with all numbers as floats: 1 and 1.0 are one experiment."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def best(history: list[dict[str, float]]) -> dict[str, float]:
    """The selected epoch: the highest validation accuracy, the first of equals."""
    row = max(history, key=lambda row: row["val_acc"])  # max takes the first of equals
    return {key: row[key] for key in ("epoch", "val_acc", "val_loss")}


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Lets `write` fill a temporary file, brings it to the disk, and only then gives it the name `path`."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise


def write(path: Path, record: Record) -> None:
    """Writes a record. Fields that are missing are a mistake of ours."""
    assert tuple(record) == FIELDS, record.keys()
    text = json.dumps(record, indent=1, allow_nan=False)
    write_whole(path, lambda file: file.write(text.encode()))


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
