"""The schema: all keys of a config with their types, defaults, ranges and roles.

The keys of some groups (`optimizer`, `scheduler`, `model`, `logger`, `callbacks`) are arguments of a class. They are
open here, and are checked against that class's signature before a run starts. All other groups are closed.
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
    """The numbers of the training. Runs with different values are different contestants."""
    REPETITION = "repetition"
    """Which of a contestant's runs this is."""
    MEASURE = "measure"
    """What is measured in a run, not how it is trained."""
    NOTHING = "nothing"
    """No number: where and how fast a run is computed, where it is written, what is shown. Not in the run id."""


@dataclass(frozen=True)
class Role:
    """The role of a config key in an experiment: part of the field's metadata, from which everything else derives.

    A group's keys have the group's role, unless their own metadata says otherwise.
    """

    decides: Decides = Decides.SETTING
    rung: bool = True
    """Whether a rung of a ladder may change it."""
    images: bool = False
    """Whether it changes the images that are read, before they are split and normalised."""
    several: bool = False
    """Whether the group takes several options at once, such as regularizer=[l2,dropout]."""


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
    """The images, and how they are split."""

    _target_: str = field(default="???", metadata=_ASIDE | _IMAGES)
    """The function that reads the images: `cnnbench.Data -> cnnbench.ImageSet`."""
    root: str | None = field(default=None, metadata=_ASIDE | _IMAGES)
    """The folder of the images or of the archive, or a CSV file of images and labels; null for images that are not read
    from disk."""
    md5: str | None = field(default=None, metadata=_ASIDE | _IMAGES)
    """The archive's md5 sum, checked before anything is unpacked; of several files their sums in order, with spaces
    between them."""
    image_size: Any = field(default=None, metadata=_IMAGES)  # OmegaConf has no type for a number or a list
    """Height and width in pixels that all images are scaled to, as one number or as [height,width]; null keeps them."""
    grayscale: bool = field(default=False, metadata=_IMAGES)
    """One channel (luma) instead of three."""
    normalize: str = field(default="standard", metadata={"rung": True})
    """`standard`: mean 0 and standard deviation 1 per channel, over the training split. `unit`: 0 to 1. `none`: 0 to
    255."""
    labels: str = field(default="class", metadata=_IMAGES)
    """`class`, or `rotation` (Gidaris et al. 2018, learning without labels): each image four times, turned by 0, 90,
    180 and 270 degrees; the label is the angle."""
    limit: int | None = field(default=None, metadata=_IMAGES)
    """At most this many training images (stratified, before the split), and at most as many test images."""
    val: str | None = field(default=None, metadata=_IMAGES)
    """`folder`: the validation images are those that `data.root` sets apart, as in a folder `val/`. `split`: they are
    taken from the training images, to which those set apart then belong. `test`: validation on the test set, as in
    document 3; accuracies are then optimistic. null is `folder` where images are set apart, else `split`."""
    val_fraction: float = field(default=0.1, metadata=_IMAGES)
    """The share of the training images that `val=split` sets aside, stratified, drawn by the run's seed. Where the
    content of the files decides, as in a folder of classes alone, their share in `val=folder`."""
    test_fraction: float = field(default=0.2, metadata=_ASIDE | _IMAGES)  # its images are in the fingerprint
    """The share of the images that are test images where `data.root` doesn't say which: in a folder of classes alone,
    or a CSV file without a column for it. The content of each file decides, so that none ever changes sides."""
    sampler: str = field(default="shuffle", metadata={"rung": True})
    """`shuffle`: each training image once in an epoch. `balanced`: as many, but each class equally often; images of
    small classes several times, of large ones others in each epoch."""
    in_memory: bool | None = field(default=None, metadata=_ASIDE)
    """Whether the images are one tensor on the training device; false reads them from disk batch by batch, null does so
    only if they would fill half of its memory."""

    def __post_init__(self) -> None:
        sides = self.image_size if isinstance(self.image_size, list) else [self.image_size] * 2
        legal = len(sides) == 2 and all(type(side) is int and 1 <= side <= 10_000 for side in sides)
        allowed = "a whole number from 1 to 10,000, or [height,width]"
        _check(self.image_size is None or legal, "data.image_size", self.image_size, allowed)
        if legal and sides[0] == sides[1]:
            self.image_size = sides[0]  # one way to write it, and so one run id
        _check(
            self.normalize in ("standard", "unit", "none"), "data.normalize", self.normalize, "standard, unit or none"
        )
        _check(self.labels in ("class", "rotation"), "data.labels", self.labels, "class or rotation")
        _check(self.limit is None or self.limit >= 1, "data.limit", self.limit, "at least 1")
        _check(self.val in (None, "folder", "split", "test"), "data.val", self.val, "folder, split or test")
        for key in ("val_fraction", "test_fraction"):
            _check(0 < getattr(self, key) < 1, f"data.{key}", getattr(self, key), "between 0 and 1")
        _check(self.sampler in ("shuffle", "balanced"), "data.sampler", self.sampler, "shuffle or balanced")


@dataclass
class Augment:
    """Random changes of the training images, new ones each time. Options add up: augment=[flip_crop,cutout]."""

    flip: str = "none"
    """`random`: mirrored left to right with probability 1/2. `alternating`: every other epoch (Jordan 2024)."""
    crop: int = 0
    """Largest shift in pixels, a whole number."""
    padding: str = "black"
    """What a shift by `crop` brings in from outside: `black`, or `reflect`, the image mirrored at its edge."""
    rotation: float = 0.0
    """Largest angle in degrees, to either side."""
    shift: float = 0.0
    """Largest shift as a share of width and height."""
    cutout: int = 0
    """Side in pixels of the square that is filled."""
    mixup: float = 0.0
    """Images and labels are mixed in pairs, by a share drawn from Beta(mixup, mixup); 0 mixes nothing."""
    cutmix: float = 0.0
    """A rectangle of another image, and as much of its label; its area follows from Beta(cutmix, cutmix); 0 mixes
    nothing. With mixup, each batch is mixed by one of the two."""
    vertical_flip: bool = False
    """Whether images are mirrored top to bottom, with probability 1/2."""
    resized_crop: float = 0.0
    """A part of the image is scaled to the whole size: the smallest part, as a share of the area; 0 crops nothing."""
    brightness: float = 0.0
    """Largest change of the factor of brightness, which is 1."""
    contrast: float = 0.0
    """Largest change of the factor of contrast."""
    saturation: float = 0.0
    """Largest change of the factor of saturation; grey images have none."""
    hue: float = 0.0
    """Largest turn of the hue to either side, as a share of the circle of colours."""
    randaugment: int = 0
    """Number of random operations for each image, all at `magnitude`; 0 does none."""
    magnitude: float = 9.0
    """Strength of RandAugment's operations."""
    trivialaugment: bool = False
    """Whether each image gets one random operation of random strength."""

    def __post_init__(self) -> None:
        flips = ("none", "random", "alternating")
        _check(self.flip in flips, "augment.flip", self.flip, "none, random or alternating")
        _check(self.crop >= 0, "augment.crop", self.crop, "at least 0")
        _check(self.padding in ("black", "reflect"), "augment.padding", self.padding, "black or reflect")
        _check(0 <= self.rotation <= 180, "augment.rotation", self.rotation, "from 0 to 180 degrees")
        _check(0 <= self.shift <= 1, "augment.shift", self.shift, "from 0 to 1")
        _check(self.cutout >= 0, "augment.cutout", self.cutout, "at least 0")
        for key in ("mixup", "cutmix"):
            value = getattr(self, key)
            _check(math.isfinite(value) and value >= 0, f"augment.{key}", value, "at least 0")
        for key in ("resized_crop", "brightness", "contrast", "saturation"):
            value = getattr(self, key)
            _check(0 <= value <= 1, f"augment.{key}", value, "from 0 to 1")
        _check(0 <= self.hue <= 0.5, "augment.hue", self.hue, "from 0 to 0.5")
        _check(self.randaugment >= 0, "augment.randaugment", self.randaugment, "at least 0")
        _check(0 <= self.magnitude <= 30, "augment.magnitude", self.magnitude, "from 0 to 30")


@dataclass
class Small:
    """The upper limits of a run with `size=small`."""

    limit: int = 5000
    """Training images, and test images."""
    epochs: int = 5
    """Passes over the training images."""


@dataclass
class Claim:
    """An accuracy that a document claims, shown beside the measured one."""

    match: dict[str, str] = field(default_factory=dict)
    """The contestant: options by group, such as {optimizer: adam}."""
    data: str | None = None
    """The data set that it is about, an option of the group data. It is not compared with results on another one, nor
    with those of fewer images (`data.limit`, `size=small`); null: any data set."""
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
    """Measures against overfitting. Options add up: regularizer=[l2,dropout]. None by default.

    Penalties and decay apply to the weights of convolutions and dense layers, not to biases and normalizations.
    """

    l1: float = 0.0
    """l1 * sum |w| is added to the loss."""
    l2: float = 0.0
    """l2 * sum w^2 is added to the loss (document 4's convention)."""
    l2_half: bool = False
    """Whether the penalty is l2/2 * sum w^2 instead (document 2's convention)."""
    weight_decay: float = 0.0
    """Before each step w <- w - lr * weight_decay * w."""
    dropout: float = 0.0
    """Probability of dropout, given to the model as its `dropout`."""
    batch_norm: bool = False
    """Whether the model has batch normalization, given to it as its `batch_norm`."""
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
class Loss:
    """The loss of the training images."""

    name: str = "cross_entropy"
    """`cross_entropy`, or `squared_error` (document 2, 3.1) between one-hot labels and the softmax."""
    reduction: str = "mean"
    """`mean` over the images of a step, or `sum`: the gradient grows with the batch, as if the learning rate did. The
    loss that is shown is always the mean."""
    class_weights: str = "none"
    """`balanced`: in training an image of class c counts n / (k n_c) in the loss, where n_c of the n training images
    are of class c, one of k. All classes then weigh the same, and the weights' mean over the images is 1."""

    def __post_init__(self) -> None:
        names = ("cross_entropy", "squared_error")
        weights = ("none", "balanced")
        _check(self.class_weights in weights, "loss.class_weights", self.class_weights, "none or balanced")
        _check(self.name in names, "loss.name", self.name, "cross_entropy or squared_error")
        _check(self.reduction in ("mean", "sum"), "loss.reduction", self.reduction, "mean or sum")


@dataclass
class Average:
    """Weights averaged over the training, which validation, the test and the saved model use."""

    method: str = "none"
    """`none`, `lookahead` (Zhang et al. 2019), `ema`, an exponential moving average, or `swa`, the mean of the last
    epochs (Izmailov et al. 2018)."""
    every: int | None = None
    """Steps from one update of the average to the next; null is one epoch."""
    decay: float = 0.95
    """How much of the average is kept in each update (`ema`), or in each step at the end of the run (`lookahead`)."""
    start: int | None = None
    """Epochs before averaging begins; null is none, but three quarters of the run for `swa`."""

    def __post_init__(self) -> None:
        methods = ("none", "lookahead", "ema", "swa")
        _check(self.method in methods, "average.method", self.method, "none, lookahead, ema or swa")
        _check(self.every is None or self.every >= 1, "average.every", self.every, "at least 1")
        _check(0 <= self.decay < 1, "average.decay", self.decay, "at least 0 and below 1")
        _check(self.start is None or self.start >= 0, "average.start", self.start, "at least 0")


@dataclass
class Evaluation:
    """How validation, the test and predictions use the trained model."""

    tta: str = "none"
    """Test-time augmentation: the logits are means over versions of an image. `flip`: it and its mirror image.
    `flip_translate`: the same half, and both moved by one pixel up and left, and down and right (Jordan 2024)."""

    def __post_init__(self) -> None:
        _check(
            self.tta in ("none", "flip", "flip_translate"), "evaluation.tta", self.tta, "none, flip or flip_translate"
        )


@dataclass
class Update:
    """How many images make a step, and a bound on its length (document 3, 3.1, and document 1)."""

    accumulate: int | None = 1
    """Number of batches whose gradients make one step; null takes all batches of an epoch."""
    reduction: str = "mean"
    """`mean`: the mean gradient, as of one large batch. `sum`: the sum over the batches."""
    batch_size: int | None = None
    """Images in a batch; null takes the top-level `batch_size`."""
    max_step: float | None = None
    """Largest norm of the change of all parameters in one step, whatever the optimizer; null sets no bound."""

    def __post_init__(self) -> None:
        _check(self.accumulate is None or self.accumulate >= 1, "update.accumulate", self.accumulate, "at least 1")
        _check(self.reduction in ("mean", "sum"), "update.reduction", self.reduction, "mean or sum")
        _check(self.batch_size is None or self.batch_size >= 1, "update.batch_size", self.batch_size, "at least 1")
        _check(
            self.max_step is None or 0 < self.max_step < math.inf, "update.max_step", self.max_step, "a number above 0"
        )


@dataclass
class Stop:
    """Early stopping: when training ends before its last epoch."""

    metric: str = "val_loss"
    """`val_loss` (lower is better), or `val_acc`, `val_balanced_acc` or `val_macro_f1` (higher is better)."""
    patience: int | None = None
    """Epochs in a row without improvement; null never stops early."""
    min_delta: float = 0.0
    """A smaller change is no improvement."""

    def __post_init__(self) -> None:
        metrics = ("val_loss", "val_acc", "val_balanced_acc", "val_macro_f1")
        _check(self.metric in metrics, "stop.metric", self.metric, f"{', '.join(metrics[:-1])} or {metrics[-1]}")
        _check(self.patience is None or self.patience >= 1, "stop.patience", self.patience, "at least 1")
        _check(0 <= self.min_delta < math.inf, "stop.min_delta", self.min_delta, "at least 0")


@dataclass
class Search:
    """A search for the architecture of the model's convolutions, before the run trains it (document 0).

    Each layer is chosen on its own. The model's own layer, H_init, is one of the candidates.
    """

    method: str = "none"
    """`none`; `joint`: weights and architecture together, by gradient descent; `random`: architectures drawn from the
    same candidates, at the cost of `joint`."""
    layers: list[int] | None = None
    """Positions in `model.convs` of the layers to search; null takes all of them."""
    filters: list[int] = field(default_factory=list)
    """Candidates for the number of filters."""
    kernel_size: list[int] = field(default_factory=list)
    """Candidates for the height and width of the filters."""
    stride: list[int] = field(default_factory=list)
    """Candidates for the stride."""
    padding: list[str] = field(default_factory=list)
    """Candidates for the padding: `same`, `valid`."""
    pooling: list[str] = field(default_factory=list)
    """Candidates for the pooling, `max` and `avg`; for layers that pool."""
    level: str = "bilevel"
    """`single`: architecture and weights step on the same training batch (document 0 as written). `bilevel`: in turn,
    the architecture on validation batches and the weights on training batches."""
    order: str = "first"
    """`first`: grad_H = dL/dH. `second`: + dL/dTheta dTheta/dH, with Theta one step of gradient descent ahead."""
    lr: float = 0.001
    """Learning rate of the architecture parameters; document 0's eta_H."""
    optimizer: dict[str, Any] = field(default_factory=dict)
    """The optimizer of the architecture parameters: a class and its arguments."""
    margin: float = 0.1
    """How much larger the logits of H_init's values are than the others at the start."""
    epochs: int | None = None
    """Epochs of the joint search; null takes the run's `epochs`."""
    trial_epochs: int | None = None
    """Epochs for which `random` trains each architecture; null takes a fifth of the joint search's, rounded up."""
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
            filled = "a list of at least one" if key == "layers" else "a list of at least one candidate"
            _check(value is None or len(value) > 0, f"search.{key}", value, filled)
            _check(value is None or len(set(value)) == len(value), f"search.{key}", value, "a list without repetition")
        for key in ("filters", "kernel_size", "stride"):
            _check(min(getattr(self, key)) >= 1, f"search.{key}", getattr(self, key), "whole numbers of at least 1")
        for key, names in (("padding", {"same", "valid"}), ("pooling", {"max", "avg"})):
            value = getattr(self, key)
            _check(set(value) <= names, f"search.{key}", value, f"a list of {' and '.join(sorted(names))}")

    @property
    def passes(self) -> int:
        """The cost of the joint search for each training image, in forward and backward passes of an image.

        1 for the step of the weights. Another 1 for the step of the architecture, unless both share it (`single`,
        `first`). With the second term 4 instead: the step ahead, the loss after it, and 2 for the product of the two
        derivatives.
        """
        if self.order == "second":
            return 5
        return 1 if self.level == "single" else 2


@dataclass
class Hardware:
    """The device and precision of the arithmetic. Only `precision` is part of an experiment's identity."""

    accelerator: str = "auto"
    """`auto`, `cpu` or `gpu`."""
    precision: str = field(default="32-true", metadata={"decides": Decides.SETTING})
    """`32-true` or `bf16-mixed` (convolutions and matrix products in bfloat16)."""
    channels_last: bool = True
    """Whether images and weights lie in memory with their channels last: faster on most machines, the same numbers
    except for rounding."""
    fused: bool = True
    """Whether torch's optimizers take their step in one pass over the parameters, where they can: the same numbers
    except for rounding."""
    compile: bool = False
    """Whether `torch.compile` compiles the network, which takes a while and needs a C++ compiler."""
    deterministic: bool = False
    """Whether only algorithms are used that give the same numbers each time on the same machine; an operation without
    one ends the run. On the CPU all operations have one."""
    threads: int | None = None
    """CPU threads; null takes PyTorch's own number."""
    devices: int = 1
    """Processes of the run on each machine, each with a GPU of its own or a share of the CPU. They share each batch,
    and take the same steps as a single process except for rounding. Two things are each process's own: augmentation and
    dropout are drawn separately, and batch norm's statistics are those of its share of the batch."""
    nodes: int = 1
    """Machines that train the run together."""

    @property
    def processes(self) -> int:
        """Number of processes that train one run together."""
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
    """When a run saves its state within an epoch. It always does so after each epoch and on Ctrl-C."""

    every: str | None = None
    """`500`: after each 500 batches. `10min`: every ten minutes. null: never. For epochs that take long."""

    def __post_init__(self) -> None:
        legal = self.every is None or re.fullmatch(r"[1-9]\d*(min)?", self.every) is not None
        _check(legal, "checkpoint.every", self.every, "a number of batches such as 500, or of minutes such as 10min")


@dataclass
class Config:
    """The config of one run."""

    data: Data = field(default_factory=Data, metadata=_HELD)
    augment: Augment = field(default_factory=Augment, metadata=_SEVERAL)
    model: dict[str, Any] = field(default_factory=dict)
    """The network. Every network takes more keys: `init_from` names a finished run or a checkpoint, whose weights are
    taken where name and shape are the same; `weights` names a file with a `state_dict` instead, or is `DEFAULT` for
    those that torchvision or timm publishes; `freeze` lists beginnings of names of parameters that are not trained;
    `whiten` gives the first convolution filters that whiten patches of training images; `dirac` starts all other
    convolutions as identities; `norm_scale` says whether batch norm's scale is trained; `norm_momentum` is the weight
    of a new batch in its running statistics."""
    optimizer: dict[str, Any] = field(default_factory=dict)
    """The optimizer. Its learning rate is typed as `lr=` or as `optimizer.lr=`. Every optimizer takes one more key,
    `groups`: settings for some parameters, each under a name of your choice, with `match`, a list of `biases`, `norms`,
    `convolutions`, `dense` or patterns such as `output.*`; `lr_factor`; `weight_decay`; and `epochs`, after which they
    are frozen. `optimizer.groups=no_decay` stands for one group: biases and norms without weight decay."""
    regularizer: Regularizer = field(default_factory=Regularizer, metadata=_SEVERAL)
    scheduler: dict[str, Any] = field(default_factory=dict)
    """The schedule of the learning rate. Every schedule takes two more keys: `interval` says whether the rate changes
    each `epoch` (the default) or each `step`; `warmup` is a number of epochs of linear rise before it, 0 by default."""
    update: Update = field(default_factory=Update)
    stop: Stop = field(default_factory=Stop)
    search: Search = field(default_factory=Search)
    hardware: Hardware = field(default_factory=Hardware, metadata=_ASIDE)
    logger: dict[str, Any] = field(default_factory=dict, metadata=_ASIDE | _SEVERAL)
    """Where the numbers of each epoch go besides the record: Lightning's loggers, each under a name. Options add up:
    logger=[tensorboard,csv]. In their values {folder}, {run} and {name} stand for the run's folder, id and name,
    {label} for what was swept: `adam lr=0.01, seed 3`."""
    callbacks: dict[str, Any] = field(default_factory=dict, metadata=_SEVERAL)
    """Lightning's callbacks, each under a name. Options add up, such as callbacks=[lr_monitor,mine]."""
    lr: float | None = None
    """Learning rate; null takes the optimizer's own default."""
    loss: Loss = field(default_factory=Loss)
    average: Average = field(default_factory=Average)
    evaluation: Evaluation = field(default_factory=Evaluation)
    select: str = "val_acc"
    """What the tested epoch is the best by: `val_acc`, `val_balanced_acc` or `val_macro_f1`. Tunings and ladders decide
    by the accuracy of that epoch."""
    epochs: int = 50
    """Passes over the training images."""
    batch_size: int = 128
    """Images in a training step."""
    clip: float | None = None
    """Largest norm of the whole gradient, beyond which it is scaled down; null never scales."""
    seed: int = field(default=0, metadata={"decides": Decides.REPETITION} | _HELD)
    """Decides everything random: split, initial weights, order, augmentation, dropout."""
    test: bool = field(default=True, metadata={"decides": Decides.MEASURE})
    """Whether the run is tested, once, with the selected epoch's weights. false never opens the test set, as in the
    trials of `tune`."""
    seeds: str | None = field(default=None, metadata=_ASIDE | _HELD)
    """Number of seeds of each contestant in a sweep, instead of `seed`: `5` is seed=0,1,2,3,4. `auto` starts with three
    and adds seeds until all pairs of contestants are settled: one is better, or both are equivalent within `margin`."""
    max_seeds: int = field(default=20, metadata=_ASIDE | _HELD)
    """Largest number of seeds with `seeds=auto`, settled or not."""
    settle: str = field(default="pairs", metadata=_ASIDE | _HELD)
    """What `seeds=auto` settles: all `pairs`, or only those with the `leader`."""
    margin: float | None = field(default=None, metadata=_ASIDE | _HELD)
    """The smallest difference of accuracy that matters, in percentage points. Contestants whose true difference is
    shown to be smaller are equivalent. Without a margin equal contestants are never settled."""
    name: str = field(default="default", metadata=_ASIDE | _HELD)
    """The folder under `runs_dir` for the runs of one question."""
    runs_dir: str = field(default="runs", metadata=_ASIDE | _HELD)
    """The folder of all results."""
    force: bool = field(default=False, metadata=_ASIDE)
    """Whether all runs start anew, finished ones too; old results are moved to `.old/`."""
    retry: bool = field(default=False, metadata=_ASIDE)
    """Whether failed runs are run again."""
    workers: int = field(default=1, metadata=_ASIDE)
    """Number of runs of a sweep at the same time, each in a process of its own, with a share of the CPU threads."""
    checkpoint: Checkpoint = field(default_factory=Checkpoint, metadata=_ASIDE)
    size: str = field(default="full", metadata=_ASIDE)  # what `small` leaves is in data.limit and epochs
    """`small` cuts the run down to the limits in `small`: minutes on two cores."""
    small: Small = field(default_factory=Small, metadata=_ASIDE)
    claims: list[Claim] = field(default_factory=list, metadata=_ASIDE)
    """Accuracies that the documents claim for this experiment."""
    ladder: dict[str, list[str]] = field(default_factory=dict, metadata=_ASIDE)
    """Additions to a recipe by name, each one a list of overrides. They are tried in this order, each one on top of
    those that were kept; one is kept if the best validation accuracy becomes significantly better."""
    leave_out: dict[str, list[str]] = field(default_factory=dict, metadata=_ASIDE)
    """Ingredients of a recipe by name, each one with the overrides that take it away. Each is left out on its own, of
    the recipe with all that the `ladder` has kept, and judged by the best validation accuracy."""

    def __post_init__(self) -> None:
        _check(self.lr is None or (math.isfinite(self.lr) and self.lr > 0), "lr", self.lr, "a number above 0")
        turned = self.data.labels == "rotation" and self.evaluation.tta != "none"
        _check(
            not turned,
            "evaluation.tta",
            self.evaluation.tta,
            "none with data.labels=rotation: a mirrored image has another angle",
        )
        both = self.loss.class_weights == "balanced" and self.data.sampler == "balanced"
        _check(not both, "loss.class_weights", "balanced", "none with data.sampler=balanced, which does the same")
        selects = ("val_acc", "val_balanced_acc", "val_macro_f1")
        _check(self.select in selects, "select", self.select, f"{', '.join(selects[:-1])} or {selects[-1]}")
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
        """How many architectures a random search trains, and for how many epochs each.

        At least as many images pass through a network as in the joint search.
        """
        epochs = self.search.epochs or self.epochs
        of_each = self.search.trial_epochs or -(-epochs // 5)
        return -(-epochs * self.search.passes // of_each), of_each

    @property
    def search_epochs(self) -> int:
        """Epochs of the search, all trials together; 0 without a search."""
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
"""The role of each group and key by its full name, such as `data.root`. Arguments of a class have that of the group."""


ConfigStore.instance().store(name="schema", node=Config)
