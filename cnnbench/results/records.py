"""Records: one JSON file for each run, with its config, its epochs and its test result."""

import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from cnnbench.config.schema import Claim
from cnnbench.errors import ConfigError, RecordError
from cnnbench.results import decoding
from cnnbench.results.decoding import decode
from cnnbench.results.identity import experiment
from cnnbench.runtime import files

SCHEMA_VERSION = 2
"""Raised when a field changes its meaning or becomes required. 2 added `overrides` and `config_dir`."""

STATUSES = ("done", "diverged", "failed", "interrupted")


@dataclass
class Protocol:
    """How a run was selected and tested."""

    validation: str
    """`data.val`: `split`, or `test` where the validation images are the test images."""
    selection: str
    """How the selected epoch was chosen, in words."""
    test: str
    """When the test set was opened, in words."""
    regularized: dict[str, list[str]] = field(default_factory=dict)
    """Names of the parameters with penalties, and of the layers with dropout and batch normalization."""


@dataclass
class Sizes:
    """Numbers of images of a run."""

    train: int
    val: int
    test: int


@dataclass
class Data:
    """The images of a run."""

    name: str
    """The option of the group `data`."""
    fingerprint: str
    """A hash of all images and labels."""
    sizes: Sizes
    shape: tuple[int, int, int]
    """Channels, height, width."""
    classes: list[str]
    mean: list[float] | None = None
    """Mean of each channel, 0 to 255, which is subtracted; None until the run has begun."""
    deviation: list[float] | None = None
    """Standard deviation of each channel, by which it is then divided."""


@dataclass
class Epoch:
    """An epoch of training. `train_loss`, `train_acc` and `penalty` are measured while the weights change."""

    epoch: int
    """Number of the epoch, from 1."""
    train_loss: float
    """Mean over the training images."""
    train_acc: float
    penalty: float
    """The part of the loss that comes from `regularizer.l1` and `l2`."""
    val_loss: float
    """Mean over the validation images."""
    val_acc: float
    lr: float
    """Learning rate of the epoch's first step."""
    images_seen: int
    """Training images so far, in all epochs."""
    seconds: float
    """Seconds of training, without validation."""
    images_per_second: float


@dataclass
class Best:
    """The selected epoch."""

    epoch: int
    val_acc: float
    val_loss: float


@dataclass
class Test:
    """The result on the test set, with the weights of the selected epoch."""

    acc: float
    loss: float
    per_class: list[float | None]
    """Accuracy on the images of each class; None for a class without images."""
    confusion: list[list[int]]
    """Numbers of images by true class (rows) and predicted class (columns)."""
    members: list[float] | None = None
    """Accuracy of each member of an ensemble."""


@dataclass
class SearchEpoch:
    """An epoch of a joint search."""

    epoch: int
    train_loss: float
    train_acc: float
    val_loss: float
    val_acc: float
    seconds: float
    image_passes: int
    """Images through a network, forward and backward, in this epoch."""
    entropy: float
    """Entropy of the architecture: 1 is undecided, 0 decided."""
    parameters: float
    """Expected number of parameters."""
    probabilities: dict[str, dict[str, dict[str, float]]]
    """Probabilities by layer, property and candidate, such as `conv1`, `kernel_size` and `5`."""


@dataclass
class SearchTrial:
    """An architecture that a random search has trained."""

    trial: int
    """Number of the trial, from 1."""
    architecture: str
    parameters: float
    val_loss: float | None
    """Lowest validation loss; None if no epoch ended."""
    val_acc: float | None
    """Highest validation accuracy."""
    score: float | None
    """Validation loss plus weighted cost: the lowest wins. None if the trial diverged."""
    image_passes: int
    seconds: float


@dataclass
class Search:
    """What a search before the training has found so far, and its cost."""

    method: str
    history: list[SearchEpoch | SearchTrial]
    image_passes: int
    """Images through a network, forward and backward; forward passes of validation are not counted."""
    seconds: float
    """Seconds of training."""
    entropy: float | None
    """Entropy of the architecture: 1 is undecided, 0 decided; None in a random search."""
    start: str
    """The config's own architecture, in words."""
    architecture: str
    """The best architecture so far, in words."""
    model: dict[str, Any] | None
    """The config of the model that the run then trains; None during the search."""


@dataclass
class _Reported:
    """The values of a config that reports read, besides the experiment."""

    @dataclass
    class Data:
        root: str | None
        limit: int | None

    seed: int
    epochs: int
    data: Data
    claims: list[Claim] = field(default_factory=list)


@dataclass(kw_only=True)
class Record:
    """The record of a run."""

    schema_version: int = field(default=SCHEMA_VERSION, init=False)
    run_id: str
    status: str = "interrupted"
    """One of `STATUSES`. It is `interrupted` while the run goes on, and so stays if the process is killed."""
    overrides: list[str] | None = None
    """The words on the command line that give this run alone; None in records of version 1."""
    config_dir: str | None = None
    """The folder of the user's own configs, as typed after `--config-dir`."""
    config: dict[str, Any]
    """All keys, as in `config.yaml`. A record of an older version may have fewer of them."""
    choices: dict[str, str]
    """The option of each group."""
    protocol: Protocol
    data: Data
    parameters: int | None = None
    """Number of trained parameters."""
    search: Search | None = None
    history: list[Epoch] = field(default_factory=list)
    best: Best | None = None
    test: Test | None = None
    environment: dict[str, Any] = field(default_factory=dict)
    """Versions, platform, device and git commit."""
    error: str | None = None
    """Why the run diverged or failed, with the traceback of a failure."""
    folder: Path | None = field(default=None, init=False, compare=False)
    """The folder that it was read from; not in the file."""

    def __post_init__(self) -> None:
        """Checks what the types of the fields leave open.

        Raises:
            ValueError: the fields contradict each other, or the config lacks something.
        """
        _require(self.status in STATUSES, f"status: {self.status!r} must be one of {', '.join(STATUSES)}")
        _require("optimizer" in self.choices, "choices: without optimizer")
        try:
            _ = self._reported
            experiment(self.config, self.data.fingerprint)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"config: {type(error).__name__}: {error}") from None
        if self.status == "done":
            tested = self.test or not self.config.get("test", True)
            _require(bool(self.best and self.history and tested), "done without a result")
        if self.best:
            _require(1 <= self.best.epoch <= len(self.history), f"best.epoch: {self.best.epoch} is not in the history")
        if self.test:
            lengths = {len(self.test.per_class), len(self.test.confusion), *map(len, self.test.confusion)}
            _require(lengths == {len(self.data.classes)}, "test: its results are not those of the classes")

    @cached_property
    def _reported(self) -> _Reported:
        values: _Reported = decode(_Reported, self.config, "config")
        return values

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self._reported.seed

    @property
    def claims(self) -> list[Claim]:
        """The accuracies that documents claim for the experiment."""
        return self._reported.claims

    @property
    def limit(self) -> int | None:
        """`data.limit`: at most so many training images; None takes all."""
        return self._reported.data.limit

    @property
    def reason(self) -> str:
        """The last line of the error, which names the cause; empty without an error."""
        return (self.error or "").strip().rpartition("\n")[2]

    @property
    def seconds(self) -> float:
        """Seconds of training, all epochs together."""
        return sum(row.seconds for row in self.history)

    def as_json(self) -> str:
        """The text of the record's file."""
        values = asdict(self)
        del values["folder"]
        return json.dumps(values, indent=1, allow_nan=False)


def _require(fits: bool, problem: str) -> None:
    if not fits:
        raise ValueError(problem)


def best(history: list[Epoch]) -> Best | None:
    """The selected epoch: the first one with the highest validation accuracy; None without epochs."""
    if not history:
        return None
    row = max(history, key=lambda row: row.val_acc)  # max takes the first of equals
    return Best(row.epoch, row.val_acc, row.val_loss)


def write(path: Path, record: Record) -> None:
    """Writes a record, whole or not at all.

    Raises:
        OSError: it can't be written; the old file is untouched.
    """
    files.write_whole(path, lambda file: file.write(record.as_json().encode()))


def read(path: Path) -> Record:
    """Reads a record of this version or of version 1.

    Raises:
        RecordError: it is damaged, or was written by another version.
    """
    try:
        record: Record = decoding.read(path, Record, (1, SCHEMA_VERSION))
    except ValueError as error:
        raise RecordError(str(error)) from None
    record.folder = path.parent
    return record


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


def find(folder: Path) -> list[Path]:
    """The records of a run, of a folder of runs, or of a tree of folders; earlier results in `.old/` are left out."""
    return sorted(
        path
        for path in folder.rglob("record.json")
        if not any(p.startswith(".") for p in path.relative_to(folder).parts)
    )
