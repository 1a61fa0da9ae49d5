"""Which configs are legal? The keys, their types, their ranges; `conf/` holds the values.

Groups whose arguments belong to somebody else's class (`optimizer`, `scheduler`, `model`, `logger`) stay open here and
are checked against that class's signature before a run starts; all others are closed.
"""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any

from hydra.core.config_store import ConfigStore

from cnnbench.errors import ConfigError


class Decides(Enum):
    """What a key of the config decides."""

    SETTING = "setting"
    """The numbers of the training. Runs that differ in it are different contestants."""
    REPETITION = "repetition"
    """Which of a contestant's runs it is."""
    MEASURE = "measure"
    """What is measured of a run, not how it is trained."""
    NOTHING = "nothing"
    """No number: where and how fast a run is computed, where it is written, what is said of it. Not in the run id."""


@dataclass(frozen=True)
class Role:
    """What a key of the config is to an experiment. It stands in the field's metadata, and all else derives from it.

    A group's role is that of its keys too, as far as they don't say otherwise.
    """

    decides: Decides = Decides.SETTING
    rung: bool = True
    """May a rung of a ladder change it?"""
    images: bool = False
    """Do the images themselves depend on it, before they are split and normalised?"""
    several: bool = False
    """May several options of the group be taken together, such as regularizer=[l2,dropout]?"""


FIRST_LOOK = 3
"""Seeds of each contestant at the first look of `seeds=auto`: the spread of fewer says next to nothing."""

_ASIDE = {"decides": Decides.NOTHING}
_HELD = {"rung": False}
_IMAGES = {"images": True}
_SEVERAL = {"several": True}


def _check(legal: bool, key: str, value: Any, allowed: str) -> None:
    if not legal:
        raise ConfigError(f"{key}={value}: must be {allowed}.")


def check_seeds(seeds: str | None) -> None:
    """Raises a `ConfigError` if this is no value of the key `seeds`."""
    legal = seeds is None or re.fullmatch(r"auto|[1-9]\d{0,3}", seeds) is not None
    _check(legal, "seeds", seeds, "auto or a whole number from 1 to 9999")


@dataclass
class Data:
    """Which images, and how they are split."""

    _target_: str = field(default="???", metadata=_ASIDE | _IMAGES)
    """The function that reads the images: `cnnbench.config.schema.Data -> cnnbench.data.images.ImageSet`."""
    root: str | None = field(default=None, metadata=_ASIDE | _IMAGES)
    """The folder of the images or of the archive; what is not read from disk has none."""
    md5: str | None = field(default=None, metadata=_ASIDE | _IMAGES)
    """The archive's md5 sum, checked before anything is unpacked; of several files theirs, in order, with spaces."""
    image_size: int | None = field(default=None, metadata=_IMAGES)
    """Height and width in pixels that all images are scaled to; null keeps them."""
    grayscale: bool = field(default=False, metadata=_IMAGES)
    """One channel (luma) instead of three."""
    normalize: str = field(default="standard", metadata={"rung": True})
    """`standard`: the training split's mean 0 and deviation 1 per channel. `unit`: 0 to 1. `none`: 0 to 255."""
    labels: str = field(default="class", metadata=_IMAGES)
    """`class`, or `rotation` (Gidaris et al. 2018, learning without labels): each image four times, turned by 0, 90,
    180 and 270 degrees, and which of them it is."""
    limit: int | None = None
    """At most this many training images (stratified, before the split), and at most as many test images."""
    val: str = "split"
    """`split`: validation images are taken from the training images. `test`: the documents' protocol, validation on the
    test set."""
    val_fraction: float = 0.1
    """The share of the training images that `val=split` sets aside, stratified, drawn by the run's seed."""
    in_memory: bool | None = field(default=None, metadata=_ASIDE)
    """Images as one tensor on the training device. null: if they fit; false: read from disk batch by batch."""

    def __post_init__(self) -> None:
        _check(self.image_size is None or self.image_size >= 1, "data.image_size", self.image_size, "at least 1")
        _check(
            self.normalize in ("standard", "unit", "none"), "data.normalize", self.normalize, "standard, unit or none"
        )
        _check(self.labels in ("class", "rotation"), "data.labels", self.labels, "class or rotation")
        _check(self.limit is None or self.limit >= 1, "data.limit", self.limit, "at least 1")
        _check(self.val in ("split", "test"), "data.val", self.val, "split or test")
        _check(0 < self.val_fraction < 1, "data.val_fraction", self.val_fraction, "between 0 and 1")


@dataclass
class Augment:
    """How training images are changed, each one differently each time. Options add up: augment=[flip_crop,cutout]."""

    flip: str = "none"
    """`random`: mirrored left to right with probability 1/2. `alternating`: every other epoch (Jordan 2024)."""
    crop: int = 0
    """Largest shift in whole pixels."""
    rotation: float = 0.0
    """Largest angle in degrees, to either side."""
    shift: float = 0.0
    """Largest shift as a share of width and height."""
    cutout: int = 0
    """Side in pixels of the square that is painted over."""
    mixup: float = 0.0
    """Images and labels are mixed in pairs, by a share from Beta(mixup, mixup); 0 doesn't."""

    def __post_init__(self) -> None:
        flips = ("none", "random", "alternating")
        _check(self.flip in flips, "augment.flip", self.flip, "none, random or alternating")
        _check(self.crop >= 0, "augment.crop", self.crop, "at least 0")
        _check(0 <= self.rotation <= 180, "augment.rotation", self.rotation, "from 0 to 180 degrees")
        _check(0 <= self.shift <= 1, "augment.shift", self.shift, "from 0 to 1")
        _check(self.cutout >= 0, "augment.cutout", self.cutout, "at least 0")
        _check(math.isfinite(self.mixup) and self.mixup >= 0, "augment.mixup", self.mixup, "at least 0")


@dataclass
class Small:
    """What `size=small` leaves of a run: at most so much."""

    limit: int = 5000
    """Training images, and test images."""
    epochs: int = 5
    """Passes over the training images."""


@dataclass
class Claim:
    """A number that a document claims, to be shown beside the measured one."""

    match: dict[str, str] = field(default_factory=dict)
    """The contestant: options by group, such as {optimizer: adam}."""
    metric: str = "best_val_acc"
    """`best_val_acc` or `test_acc`."""
    value: float = 0.0
    """The claimed accuracy."""
    source: str = ""
    """Document and section."""

    def __post_init__(self) -> None:
        _check(self.metric in ("best_val_acc", "test_acc"), "claims.metric", self.metric, "best_val_acc or test_acc")
        _check(0 <= self.value <= 1, "claims.value", self.value, "from 0 to 1")


@dataclass
class Regularizer:
    """What keeps the model from learning by heart. Options add up: regularizer=[l2,dropout]. Nothing by default.

    Penalties and decay are for the weights of convolutions and dense layers, not for biases and normalizations.
    """

    l1: float = 0.0
    """l1 * sum |w| is added to the loss."""
    l2: float = 0.0
    """l2 * sum w^2 is added to the loss (document 4's convention)."""
    l2_half: bool = False
    """l2/2 * sum w^2 instead (document 2's convention)."""
    weight_decay: float = 0.0
    """Before each step w <- w - lr * weight_decay * w."""
    dropout: float = 0.0
    """Given to the model as its `dropout`."""
    batch_norm: bool = False
    """Given to the model as its `batch_norm`."""
    label_smoothing: float = 0.0
    """The share of a label that is spread over all classes."""

    def __post_init__(self) -> None:
        for key in ("l1", "l2", "weight_decay"):
            value = getattr(self, key)
            _check(math.isfinite(value) and value >= 0, f"regularizer.{key}", value, "at least 0")
        for key in ("dropout", "label_smoothing"):
            value = getattr(self, key)
            _check(0 <= value < 1, f"regularizer.{key}", value, "at least 0 and below 1")


@dataclass
class Update:
    """How many images make a step, and what bounds it (document 3, 3.1, and document 1)."""

    accumulate: int | None = 1
    """Batches whose gradients make one step; null is all of an epoch."""
    reduction: str = "mean"
    """`mean`: the step of one large batch. `sum`: as many times that gradient as there are batches."""
    batch_size: int | None = None
    """Images in a batch; null takes the top-level `batch_size`."""
    max_step: float | None = None
    """Largest length of the change of all parameters in one step, whatever the optimizer made of the gradient."""

    def __post_init__(self) -> None:
        _check(self.accumulate is None or self.accumulate >= 1, "update.accumulate", self.accumulate, "at least 1")
        _check(self.reduction in ("mean", "sum"), "update.reduction", self.reduction, "mean or sum")
        _check(self.batch_size is None or self.batch_size >= 1, "update.batch_size", self.batch_size, "at least 1")
        _check(
            self.max_step is None or 0 < self.max_step < math.inf, "update.max_step", self.max_step, "a number above 0"
        )


@dataclass
class Stop:
    """When training ends before its last epoch."""

    metric: str = "val_loss"
    """`val_loss` (lower is better) or `val_acc` (higher is better)."""
    patience: int | None = None
    """Epochs in a row without improvement; null never stops early."""
    min_delta: float = 0.0
    """A smaller change is no improvement."""

    def __post_init__(self) -> None:
        _check(self.metric in ("val_loss", "val_acc"), "stop.metric", self.metric, "val_loss or val_acc")
        _check(self.patience is None or self.patience >= 1, "stop.patience", self.patience, "at least 1")
        _check(0 <= self.min_delta < math.inf, "stop.min_delta", self.min_delta, "at least 0")


@dataclass
class Search:
    """Which architecture the model's convolutions get, found before the run that trains it (document 0).

    Candidates are taken for each layer alone; the model's own layer, H_init, is one of them.
    """

    method: str = "none"
    """`none`; `joint`: weights and architecture together, by gradient descent; `random`: architectures drawn from the
    same candidates, at the cost of `joint`."""
    layers: list[int] | None = None
    """Positions in `model.convs`; null is all of them."""
    filters: list[int] = field(default_factory=list)
    """Candidates for the number of filters."""
    kernel_size: list[int] = field(default_factory=list)
    """Candidates for height and width of the filters."""
    stride: list[int] = field(default_factory=list)
    """Candidates for the stride."""
    padding: list[str] = field(default_factory=list)
    """Candidates for the padding: `same`, `valid`."""
    pooling: list[str] = field(default_factory=list)
    """Candidates for the pooling, `max` and `avg`; for layers that pool."""
    level: str = "bilevel"
    """`single`: both stepped on the training batch (document 0 as written). `bilevel`: the architecture on validation
    batches, the weights on training batches, in turn."""
    order: str = "first"
    """`first`: grad_H = dL/dH. `second`: + dL/dTheta dTheta/dH, with Theta one step of gradient descent ahead."""
    lr: float = 0.001
    """Learning rate of the architecture parameters; document 0's eta_H."""
    optimizer: dict[str, Any] = field(default_factory=dict)
    """The class that steps the architecture parameters, and its arguments."""
    margin: float = 0.1
    """By how much the logit of H_init's values is above that of the others at the start."""
    epochs: int | None = None
    """Epochs of the joint search; null is as many as the run's."""
    trial_epochs: int | None = None
    """Epochs with which `random` trains each architecture; null is a fifth of the joint search's, rounded up."""
    cost_weight: float = 0.0
    """cost_weight * ln(expected cost / cost of H_init) is added to the architecture's loss."""
    cost: str = "parameters"
    """`parameters`, or `flops`: multiplications and additions for one image, of convolutions and dense layers."""

    def __post_init__(self) -> None:
        for key, value, allowed in (
            ("method", self.method, ("none", "joint", "random")),
            ("level", self.level, ("single", "bilevel")),
            ("order", self.order, ("first", "second")),
            ("cost", self.cost, ("parameters", "flops")),
        ):
            _check(value in allowed, f"search.{key}", value, f"{', '.join(allowed[:-1])} or {allowed[-1]}")
        _check(math.isfinite(self.lr) and self.lr > 0, "search.lr", self.lr, "a number above 0")
        for key in ("margin", "cost_weight"):
            value = getattr(self, key)
            _check(math.isfinite(value) and value >= 0, f"search.{key}", value, "at least 0")
        for key in ("epochs", "trial_epochs"):
            value = getattr(self, key)
            _check(value is None or value >= 1, f"search.{key}", value, "at least 1")
        if self.method == "none":
            return
        for key in ("layers", "filters", "kernel_size", "stride", "padding", "pooling"):
            value = getattr(self, key)
            told = "a list of at least one" if key == "layers" else "a list of at least one candidate"
            _check(value is None or len(value) > 0, f"search.{key}", value, told)
            _check(value is None or len(set(value)) == len(value), f"search.{key}", value, "a list without repetition")
        for key in ("filters", "kernel_size", "stride"):
            _check(min(getattr(self, key)) >= 1, f"search.{key}", getattr(self, key), "whole numbers of at least 1")
        for key, names in (("padding", {"same", "valid"}), ("pooling", {"max", "avg"})):
            value = getattr(self, key)
            _check(set(value) <= names, f"search.{key}", value, f"a list of {' and '.join(sorted(names))}")

    @property
    def passes(self) -> int:
        """What the joint search costs for each training image, in images through the network, forward and backward.

        The weights' own 1. The architecture's step another 1, unless it shares the weights' (`single`, `first`). With
        the second term 4: the step ahead, the loss behind it, and 2 for the product of the two derivatives.
        """
        if self.order == "second":
            return 5
        return 1 if self.level == "single" else 2


@dataclass
class Hardware:
    """Where and in what precision the arithmetic is done. Only `precision` is part of an experiment's identity."""

    accelerator: str = "auto"
    """`auto`, `cpu` or `gpu`."""
    precision: str = field(default="32-true", metadata={"decides": Decides.SETTING})
    """`32-true` or `bf16-mixed` (convolutions and matrix products in bfloat16)."""
    channels_last: bool = True
    """Memory layout of images and weights: faster on most machines, the same numbers but for rounding."""
    fused: bool = True
    """Optimizers of torch's take their step in one pass over the parameters where they can: the same numbers but for
    rounding."""
    compile: bool = False
    """The network is compiled by `torch.compile`, which takes a while and needs a C++ compiler."""
    deterministic: bool = False
    """Only algorithms that give the same numbers each time on the same machine; an operation without one ends the run.
    On the processor all have one."""
    threads: int | None = None
    """Processor threads; null takes what PyTorch finds."""
    devices: int = 1
    """Processes of the run on each machine, each with a GPU of its own, or with a share of the processor. They take the
    steps of a single process to rounding, on the same batches. Two things are each process's own: what is random beyond
    the order of the images (augmentation, dropout), and batch norm's statistics, taken over its share of the batch."""
    nodes: int = 1
    """Machines that train the run together."""

    @property
    def processes(self) -> int:
        """Of one run."""
        return self.devices * self.nodes

    def __post_init__(self) -> None:
        _check(self.accelerator in ("auto", "cpu", "gpu"), "hardware.accelerator", self.accelerator, "auto, cpu or gpu")
        _check(
            self.precision in ("32-true", "bf16-mixed"), "hardware.precision", self.precision, "32-true or bf16-mixed"
        )
        _check(self.threads is None or 1 <= self.threads <= 1024, "hardware.threads", self.threads, "from 1 to 1024")
        _check(self.devices >= 1, "hardware.devices", self.devices, "at least 1")
        _check(self.nodes >= 1, "hardware.nodes", self.nodes, "at least 1")


@dataclass
class Checkpoint:
    """When the state of a run is saved besides the end of each epoch and Ctrl-C."""

    every: str | None = None
    """`500`: each 500 batches. `10min`: each ten minutes. For epochs that take long."""

    def __post_init__(self) -> None:
        legal = self.every is None or re.fullmatch(r"[1-9]\d*(min)?", self.every) is not None
        _check(legal, "checkpoint.every", self.every, "a number of batches such as 500, or of minutes such as 10min")


@dataclass
class Config:
    """One run."""

    data: Data = field(default_factory=Data, metadata=_HELD)
    augment: Augment = field(default_factory=Augment, metadata=_SEVERAL)
    model: dict[str, Any] = field(default_factory=dict)
    """The network. Two keys are for all of them: `init_from` names a finished run, or a checkpoint, whose weights are
    taken where name and shape are the same; `freeze` lists beginnings of names of parameters that stay as they are."""
    optimizer: dict[str, Any] = field(default_factory=dict)
    """What makes steps of gradients. Its learning rate is typed as `lr=` or as `optimizer.lr=`."""
    regularizer: Regularizer = field(default_factory=Regularizer, metadata=_SEVERAL)
    scheduler: dict[str, Any] = field(default_factory=dict)
    """How the learning rate moves. Two keys are for all of them: `interval` is `epoch` (the default) or `step`, how
    often it moves; `warmup` is a number of epochs of linear rise before it, 0 by default."""
    update: Update = field(default_factory=Update)
    stop: Stop = field(default_factory=Stop)
    search: Search = field(default_factory=Search)
    hardware: Hardware = field(default_factory=Hardware, metadata=_ASIDE)
    logger: dict[str, Any] = field(default_factory=dict, metadata=_ASIDE | _SEVERAL)
    """Where an epoch's numbers go besides the record: a class of Lightning's under each name. Options add up:
    logger=[tensorboard,csv]. In their values {folder}, {run} and {name} stand for the run's folder, id and name."""
    callbacks: dict[str, Any] = field(default_factory=dict, metadata=_SEVERAL)
    """Callbacks of Lightning's, each under its name. Options add up: callbacks=[ema,lr_monitor]."""
    lr: float | None = None
    """Learning rate; null takes the optimizer's own default."""
    loss: str = "cross_entropy"
    """`cross_entropy`, or `squared_error` (document 2, 3.1) between one-hot labels and the softmax."""
    epochs: int = 50
    """Passes over the training images."""
    batch_size: int = 128
    """Images in a training step."""
    clip: float | None = None
    """Largest norm of the whole gradient; null leaves it alone."""
    seed: int = field(default=0, metadata={"decides": Decides.REPETITION} | _HELD)
    """Moves everything random: split, initial weights, order, augmentation, dropout."""
    test: bool = field(default=True, metadata={"decides": Decides.MEASURE})
    """Test once, with the selected epoch's weights; false leaves the test set closed, as in the trials of `tune`."""
    seeds: str | None = field(default=None, metadata=_ASIDE | _HELD)
    """How many seeds a sweep gives each contestant, in place of `seed`: `5` is seed=0,1,2,3,4. `auto` starts with three
    and adds seeds until all pairs of contestants are settled: one is better, or both are equivalent within `margin`."""
    max_seeds: int = field(default=20, metadata=_ASIDE | _HELD)
    """Where `seeds=auto` stops, settled or not."""
    settle: str = field(default="pairs", metadata=_ASIDE | _HELD)
    """What `seeds=auto` settles: all `pairs`, or only those with the `leader`."""
    margin: float | None = field(default=None, metadata=_ASIDE | _HELD)
    """The smallest difference of accuracy that matters, in percentage points. Contestants whose true difference is
    shown to be smaller are equivalent. Without it equal contestants are never settled."""
    name: str = field(default="default", metadata=_ASIDE | _HELD)
    """The folder under `runs_dir` that collects the runs of one question."""
    runs_dir: str = field(default="runs", metadata=_ASIDE | _HELD)
    """Where results are written."""
    force: bool = field(default=False, metadata=_ASIDE)
    """Run again what is already done; the old record is kept aside."""
    retry: bool = field(default=False, metadata=_ASIDE)
    """Run again what failed."""
    workers: int = field(default=1, metadata=_ASIDE)
    """Runs of a sweep at the same time, each in a process of its own; the threads are divided among them."""
    checkpoint: Checkpoint = field(default_factory=Checkpoint, metadata=_ASIDE)
    size: str = field(default="full", metadata=_ASIDE)  # what `small` leaves is in data.limit and epochs
    """`small`: cut down to minutes on two cores, see `small`."""
    small: Small = field(default_factory=Small, metadata=_ASIDE)
    claims: list[Claim] = field(default_factory=list, metadata=_ASIDE)
    """What the documents say of this experiment."""
    ladder: dict[str, list[str]] = field(default_factory=dict, metadata=_ASIDE)
    """Additions by their names, each one a list of overrides. They are tried in this order, each one on top of those
    before it that were kept; one is kept if it makes the best validation accuracy better, beyond noise."""

    def __post_init__(self) -> None:
        _check(self.lr is None or (math.isfinite(self.lr) and self.lr > 0), "lr", self.lr, "a number above 0")
        _check(self.loss in ("cross_entropy", "squared_error"), "loss", self.loss, "cross_entropy or squared_error")
        _check(self.size in ("full", "small"), "size", self.size, "full or small")
        _check(self.epochs >= 1, "epochs", self.epochs, "at least 1")
        _check(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        _check(self.workers >= 1, "workers", self.workers, "at least 1")
        one = self.hardware.processes == 1
        _check(one or self.workers == 1, "workers", self.workers, "1 where hardware.devices or hardware.nodes is not")
        _check(self.clip is None or 0 < self.clip < math.inf, "clip", self.clip, "a number above 0")
        _check(0 <= self.seed < 2**32, "seed", self.seed, "from 0 to 4294967295")
        check_seeds(self.seeds)
        _check(FIRST_LOOK <= self.max_seeds <= 9999, "max_seeds", self.max_seeds, f"from {FIRST_LOOK} to 9999")
        _check(self.settle in ("pairs", "leader"), "settle", self.settle, "pairs or leader")
        _check(self.margin is None or 0 < self.margin <= 100, "margin", self.margin, "above 0, at most 100 points")
        plain = self.name not in ("", ".", "..") and not set(self.name) & set("/\\:\0")
        short = len(os.fsencode(self.name)) <= 255  # what file systems allow
        _check(plain and short, "name", repr(self.name), "a folder's name of at most 255 bytes, without / or :")
        _check(self.runs_dir != "", "runs_dir", repr(self.runs_dir), "a folder's path")

    @property
    def accuracy_margin(self) -> float | None:
        """`margin` as a difference of accuracies from 0 to 1."""
        return None if self.margin is None else self.margin / 100

    @property
    def trials(self) -> tuple[int, int]:
        """How many architectures a random search trains, and with how many epochs: no fewer images pass than in the
        joint search."""
        epochs = self.search.epochs or self.epochs
        of_each = self.search.trial_epochs or -(-epochs // 5)
        return -(-epochs * self.search.passes // of_each), of_each

    @property
    def search_epochs(self) -> int:
        """Epochs of the search, of all its trials together; 0 without one."""
        trials, of_each = self.trials
        return {"none": 0, "joint": self.search.epochs or self.epochs, "random": trials * of_each}[self.search.method]


def _roles(node: type, prefix: str = "", of_group: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Role]:
    roles = {}
    for each in fields(node):
        given = {**of_group, **each.metadata}
        roles[prefix + each.name] = Role(**given)
        if isinstance(each.type, type) and is_dataclass(each.type):
            roles |= _roles(each.type, f"{each.name}.", given)
    return roles


ROLES = _roles(Config)
"""The role of each group and key by its full name, such as `data.root`. A class's arguments have their group's."""


ConfigStore.instance().store(name="schema", node=Config)
