"""Records: one JSON file for each run, with its config, its epochs and its test result."""

import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from cnnbench.config.schema import Claim, Regularizer
from cnnbench.errors import ConfigError, RecordError, nearest
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
    """`split`, `folder` where the data set itself has validation images, or `test` where these are the test images."""
    selection: str
    """How the selected epoch was chosen, in words."""
    test: str
    """When the test set was opened, in words."""
    regularized: dict[str, list[str]] = field(default_factory=dict)
    """Names of the parameters with penalties, and of the layers with dropout and batch normalization."""
    tta: str = "none"
    """`evaluation.tta`: the test-time augmentation of validation and test."""


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
    note: str = ""
    """What the reader of the images found by itself, such as a folder of validation images, in words."""


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
    val_balanced_acc: float | None = None
    """Mean over classes of the accuracy on a class's validation images; None in older records."""
    val_macro_f1: float | None = None
    """Mean over classes of F1 on the validation images; None in older records."""


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
    balanced_acc: float | None = None
    """Mean over classes of `per_class`. The file of an older record lacks it; it is then computed from `confusion`."""
    macro_f1: float | None = None
    """Mean over classes of F1, computed likewise."""


@dataclass
class Layer:
    """A part of a network whose parameters all start alike, and are all trained or all frozen."""

    name: str
    """Beginning of the parameters' names, such as `layer1` or `classifier.3`."""
    parameters: int
    loaded: bool
    """Whether they start with the weights of `model.init_from` or `model.weights`, not with new ones."""
    frozen: bool


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
    """The values of a config that reports and `predict` read, besides the experiment."""

    @dataclass
    class Data:
        root: str | None
        limit: int | None

    seed: int
    epochs: int
    data: Data
    claims: list[Claim] = field(default_factory=list)
    regularizer: Regularizer = field(default_factory=Regularizer)


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
    python_path: str | None = None
    """PYTHONPATH, if the config names classes that are only found through it."""
    config: dict[str, Any]
    """All keys, as in `config.yaml`. A record of an older version may have fewer of them."""
    choices: dict[str, str]
    """The option of each group."""
    protocol: Protocol
    data: Data
    parameters: int | None = None
    """Number of trained parameters."""
    flops: int | None = None
    """Operations of the network's forward pass for one image; None in records of earlier versions."""
    layers: list[Layer] | None = None
    """What was loaded and frozen; None where all layers start anew and are trained."""
    search: Search | None = None
    history: list[Epoch] = field(default_factory=list)
    best: Best | None = None
    test: Test | None = None
    environment: dict[str, Any] = field(default_factory=dict)
    """Versions, platform, device and git commit."""
    error: str | None = None
    """Why the run diverged or failed, with the traceback of a failure; or why its process was killed."""
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
            tested = self.test or self.untested
            _require(bool(self.best and self.history and tested), "done without a result")
        if self.best:
            _require(1 <= self.best.epoch <= len(self.history), f"best.epoch: {self.best.epoch} is not in the history")
        if self.test:
            lengths = {len(self.test.per_class), len(self.test.confusion), *map(len, self.test.confusion)}
            _require(lengths == {len(self.data.classes)}, "test: its results are not those of the classes")
            if self.test.balanced_acc is None or self.test.macro_f1 is None:
                self.test.balanced_acc, self.test.macro_f1 = class_means(self.test.confusion)

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
    def regularizer(self) -> Regularizer:
        """The penalties and layers that the network was trained with."""
        return self._reported.regularizer

    @property
    def untested(self) -> str:
        """Why the run has no test accuracy and will have none, in words; empty for a run with a test."""
        if not self.data.sizes.test:
            return "there are no test images"
        return "" if self.config.get("test", True) else "test=false"

    @property
    def test_accuracy(self) -> str:
        """The test accuracy as tables show it: a percentage, `not tested`, or `-` before the test."""
        return f"{self.test.acc:.2%}" if self.test else "not tested" if self.untested else "-"

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


def class_means(confusion: list[list[int]]) -> tuple[float, float]:
    """Balanced accuracy and macro F1, in which each class counts the same, however many images it has.

    Balanced accuracy (Brodersen et al. 2010) is the mean over classes with images of hits / images. Macro F1 is the
    mean over classes of F1 = 2 hits / (images + predictions); a class that has neither is left out.

    Args:
        confusion: numbers of images by true class (rows) and predicted class (columns).

    Returns:
        Both from 0 to 1; 0 without images.
    """
    columns = zip(*confusion, strict=True)
    pairs = enumerate(zip(confusion, columns, strict=True))
    classes = [(row[i], sum(row), sum(column)) for i, (row, column) in pairs]
    shares = [hits / images for hits, images, _ in classes if images > 0]
    f1 = [2 * hits / (images + predicted) for hits, images, predicted in classes if images + predicted > 0]
    return sum(shares) / max(len(shares), 1), sum(f1) / max(len(f1), 1)


SELECTED = {
    "val_acc": "validation accuracy",
    "val_balanced_acc": "balanced validation accuracy",
    "val_macro_f1": "macro F1 of the validation images",
}
"""What an epoch can be selected by (`select=`), and its name."""


def best(history: list[Epoch], select: str = "val_acc") -> Best | None:
    """The selected epoch: the first one with the highest value of `select`, one of `SELECTED`; None without epochs."""
    if not history:
        return None
    row = max(history, key=lambda row: float(getattr(row, select)))  # max takes the first of equals
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


def run_folder(path: Path) -> Path:
    """The folder of the run that somebody means by `path`.

    That is the run's folder itself, a folder that holds no other run, or the beginning of either's name.

    Raises:
        ConfigError: there is no such run, or there are several.
    """
    path = path.expanduser()
    if (path / "record.json").exists():
        return path
    if path.exists():
        places, problem = [path], "holds no run (no record.json)."
    else:
        beside = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
        names = [place.name for place in beside if place.is_dir() and place.name[0] != "."]
        places = [path.with_name(name) for name in names if name.startswith(path.name)]
        problem = f"there is no such run.{nearest(path.name, names[:MOST_NAMED]) if names else ''}"
    runs = [found.parent for place in places for found in find(place)]
    if not runs:
        raise ConfigError(f"{path}: {problem}")
    if len(runs) > 1:
        more = ", ..." if len(runs) > MOST_NAMED else ""
        raise ConfigError(f"{path}: {len(runs)} runs. Name one of {', '.join(map(str, runs[:MOST_NAMED]))}{more}")
    return runs[0]


MOST_NAMED = 5
"""Runs that an error message names."""


def of_run(folder: Path) -> Record:
    """The record of a run.

    Args:
        folder: the run's folder, as `run_folder` gives it.

    Raises:
        ConfigError: its record is damaged.
    """
    try:
        return read(folder / "record.json")
    except RecordError as error:
        raise ConfigError(str(error)) from None


def find(folder: Path) -> list[Path]:
    """The records of a run, of a folder of runs, or of a tree of folders; earlier results in `.old/` are left out."""
    return sorted(
        path
        for path in folder.rglob("record.json")
        if not any(p.startswith(".") for p in path.relative_to(folder).parts)
    )
