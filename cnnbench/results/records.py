"""Records: what a run was and what came out, a JSON file for each, written whole or not at all. (imports no torch)"""

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
"""Raised when a field changes its meaning, or comes to be needed. 2: `overrides` and `config_dir`."""

STATUSES = ("done", "diverged", "failed", "interrupted")


@dataclass
class Protocol:
    """How a run was judged."""

    validation: str
    """`data.val`: `split`, or `test` where the validation images are the test images."""
    selection: str
    """How the selected epoch was chosen, in words."""
    test: str
    """When the test set was opened, in words."""
    regularized: dict[str, list[str]] = field(default_factory=dict)
    """Where penalties, dropout and batch normalization went: names of parameters and layers."""


@dataclass
class Sizes:
    """How many images a run had."""

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
    """What is subtracted from each channel, in bytes; None until the run has begun."""
    deviation: list[float] | None = None
    """What each channel is divided by then, in bytes."""


@dataclass
class Epoch:
    """An epoch of training. `train_loss`, `train_acc` and `penalty` are taken while the weights move."""

    epoch: int
    """From 1."""
    train_loss: float
    """Mean over the images; so is `val_loss`."""
    train_acc: float
    penalty: float
    """What of the loss comes from `regularizer.l1` and `l2`."""
    val_loss: float
    val_acc: float
    lr: float
    """Of the epoch's first step."""
    images_seen: int
    """In all epochs so far."""
    seconds: float
    """Of training alone."""
    images_per_second: float


@dataclass
class Best:
    """The selected epoch."""

    epoch: int
    val_acc: float
    val_loss: float


@dataclass
class Test:
    """What the test set gave, with the selected epoch's weights."""

    acc: float
    loss: float
    per_class: list[float | None]
    """Accuracy on the images of each class; None where there are none."""
    confusion: list[list[int]]
    """Images by true class (rows) and predicted class (columns)."""
    members: list[float] | None = None
    """Of an ensemble: each member's own accuracy."""


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
    """Of the architecture: 1 is undecided, 0 decided."""
    parameters: float
    """Expected number."""
    probabilities: dict[str, dict[str, dict[str, float]]]
    """By layer, property and candidate, such as `conv1`, `kernel_size` and `5`."""


@dataclass
class SearchTrial:
    """An architecture of a random search."""

    trial: int
    """From 1."""
    architecture: str
    parameters: float
    val_loss: float | None
    """Lowest; None where not even one epoch ended."""
    val_acc: float | None
    """Highest."""
    score: float | None
    """What is compared: the loss and the weighted cost; None where the trial diverged."""
    image_passes: int
    seconds: float


@dataclass
class Search:
    """What a search before the training has found so far, and what it took."""

    method: str
    history: list[SearchEpoch | SearchTrial]
    image_passes: int
    """Images through a network, forward and backward; validation's forward passes are not counted."""
    seconds: float
    """Of training."""
    entropy: float | None
    """Of the architecture, from 1 to 0; None in a random search."""
    start: str
    """The architecture of the config, in words."""
    architecture: str
    """The one found so far, in words."""
    model: dict[str, Any] | None
    """The config of the model that is trained then; None while the search goes on."""


@dataclass
class _Told:
    """What reports read of a config, besides the experiment."""

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
    """All that is kept of a run."""

    schema_version: int = field(default=SCHEMA_VERSION, init=False)
    run_id: str
    status: str = "interrupted"
    """One of `STATUSES`. It is `interrupted` until it is something else: so it is too where the process was killed."""
    overrides: list[str] | None = None
    """The words that give this run, as typed; None in records of version 1."""
    config_dir: str | None = None
    """The folder of the user's own configs, as typed behind `--config-dir`."""
    config: dict[str, Any]
    """All keys, as `config.yaml` has them. It stays as it was: an older version's has fewer keys."""
    choices: dict[str, str]
    """Which option of each group was taken."""
    protocol: Protocol
    data: Data
    parameters: int | None = None
    """How many are trained."""
    search: Search | None = None
    history: list[Epoch] = field(default_factory=list)
    best: Best | None = None
    test: Test | None = None
    environment: dict[str, Any] = field(default_factory=dict)
    """Versions, platform, device and git commit."""
    error: str | None = None
    """Why it diverged or failed."""
    folder: Path | None = field(default=None, init=False, compare=False)
    """Where it was read from; not in the file."""

    def __post_init__(self) -> None:
        """Checks what the types don't say.

        Raises:
            ValueError: the fields contradict each other, or the config lacks something.
        """
        _require(self.status in STATUSES, f"status: {self.status!r} must be one of {', '.join(STATUSES)}")
        _require("optimizer" in self.choices, "choices: without optimizer")
        try:
            _ = self._told
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
    def _told(self) -> _Told:
        told: _Told = decode(_Told, self.config, "config")
        return told

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self._told.seed

    @property
    def claims(self) -> list[Claim]:
        """What documents say of the experiment."""
        return self._told.claims

    @property
    def reason(self) -> str:
        """The last line of the error, which says what it was; nothing where there was none."""
        return (self.error or "").strip().rpartition("\n")[2]

    @property
    def seconds(self) -> float:
        """Of training, all epochs together."""
        return sum(row.seconds for row in self.history)

    def as_json(self) -> str:
        """The text of its file."""
        values = asdict(self)
        del values["folder"]
        return json.dumps(values, indent=1, allow_nan=False)


def _require(fits: bool, problem: str) -> None:
    if not fits:
        raise ValueError(problem)


def best(history: list[Epoch]) -> Best | None:
    """The selected epoch: the highest validation accuracy, the first of equals; None of no epochs."""
    if not history:
        return None
    row = max(history, key=lambda row: row.val_acc)  # max takes the first of equals
    return Best(row.epoch, row.val_acc, row.val_loss)


def write(path: Path, record: Record) -> None:
    """Writes a record."""
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
    """The records of a run, of a folder of runs, or of a tree of them; what is kept aside (`.old`) is left out."""
    return sorted(
        path
        for path in folder.rglob("record.json")
        if not any(p.startswith(".") for p in path.relative_to(folder).parts)
    )
