"""The parts that a config names, built: model, optimizer, schedule, loss, augmentation, callbacks."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cnnbench.config.schema import Augment, Config
from cnnbench.config.targets import Spec, build, locate
from cnnbench.data.augmentation import Augmentation
from cnnbench.data.datamodule import ImageData
from cnnbench.data.normalization import Normalize
from cnnbench.errors import ConfigError
from cnnbench.results.records import Layer
from cnnbench.runtime.randomness import Stream, derived_seed
from cnnbench.training import initialisation, optimizers, parameter_groups, regularizers, transfer
from cnnbench.training.averaging import Average
from cnnbench.training.epoch import Epoch
from cnnbench.training.schedules import Schedule

if TYPE_CHECKING:
    from pytorch_lightning import Callback

    from cnnbench.training.module import Recipe


def batch_size(config: Config) -> int:
    """Images in a training batch: `update.batch_size` if it is set, else `batch_size`."""
    return config.update.batch_size or config.batch_size


def epoch_of(config: Config, data: ImageData) -> Epoch:
    """The division of an epoch into batches and steps.

    Raises:
        ConfigError: a step would need more batches than an epoch has.
    """
    epoch = Epoch(data.sizes["train"], batch_size(config), 1, config.update.reduction, config.loss.reduction == "sum")
    accumulate = config.update.accumulate or epoch.batches
    if accumulate > epoch.batches:
        raise ConfigError(
            f"update.accumulate={accumulate}: an epoch has only {epoch.batches} batches of {epoch.batch_size} images. "
            f"update=full_batch accumulates all of them."
        )
    return replace(epoch, accumulate=accumulate)


def make_model(config: Config, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Builds the network with new weights, without the normalization of images.

    Args:
        config: of the run.
        image_shape: channels, height and width of the images.
        classes: number of logits.

    Raises:
        ConfigError: the class refuses a value, or has no place for the regularizer's dropout or batch normalization.
    """
    spec = regularizers.put_in(config.regularizer, initialisation.own_keys(config.model))
    network = build("model", spec, image_shape, classes)
    assert isinstance(network, nn.Module)
    return network


def initialise(config: Config, network: nn.Module, images: Tensor) -> list[Layer]:
    """Gives a new network the weights that the keys of `model` ask for, and freezes parameters.

    Args:
        config: of the run.
        network: with the weights of its class.
        images: normalised training images (n, channels, height, width).

    Returns:
        What was loaded and frozen; nothing if neither was asked for.

    Raises:
        ConfigError: a checkpoint or a parameter's name does not fit the network.
    """
    initialisation.initialise(config.model, network, images)
    return transfer.load_and_freeze(config, network)


def with_pixels(config: Config, network: nn.Module, mean: list[float], std: list[float]) -> nn.Sequential:
    """Puts the normalization of images before the network, in the config's memory layout.

    Args:
        config: of the run.
        network: takes normalised images.
        mean: per channel, in units of a byte.
        std: standard deviation per channel, in units of a byte.

    Returns:
        The modules `normalize` and `network`; they take bytes (n, channels, height, width).
    """
    # Some take each gradient as a vector, without a copy, as torch's LBFGS does. This layout doesn't allow that.
    channels_last = config.hardware.channels_last and optimizers.tried(config.optimizer).channels_last
    model = nn.Sequential()
    model.add_module("normalize", Normalize(mean, std, channels_last))
    model.add_module("network", network)
    return model.to(memory_format=torch.channels_last) if channels_last else model


def make_recipe(config: Config, epoch: Epoch, class_counts: list[int]) -> "Recipe":
    """Everything that determines how the parameters are updated.

    Args:
        config: of the run.
        epoch: its division into batches and steps.
        class_counts: training images of each class.
    """
    from cnnbench.training.module import Recipe  # imports Lightning

    loss, trial = make_loss(config, training=True), optimizers.tried(config.optimizer)
    return Recipe(
        make_optimizer=partial(make_optimizer, config),
        make_schedule=partial(make_schedule, config, epoch),
        make_average=partial(make_average, config, epoch),
        groups=parameter_groups.read(config.optimizer.get("groups") or {}),
        loss=Weighted(loss, class_counts) if config.loss.class_weights == "balanced" else loss,
        validation_loss=make_loss(config, training=False),
        regularizer=config.regularizer,
        clip=config.clip,
        max_step=config.update.max_step,
        mixup=config.augment.mixup,
        tta=config.evaluation.tta,
        closure=trial.closure,
        graph=trial.graph,
        cutmix=config.augment.cutmix,
    )


def make_augmentation(config: Config, images: int, mean: list[float]) -> Augmentation | None:
    """Builds the augmentation of training images, or None if there is none.

    Args:
        config: of the run.
        images: number of training images.
        mean: value of cut-out pixels, 0 to 255, per channel.
    """
    if replace(config.augment, mixup=0, cutmix=0) == Augment():
        return None
    return Augmentation(config.augment, images, mean, derived_seed(config.seed, Stream.MIRROR))


def make_callbacks(config: Config) -> "dict[str, Callback]":
    """Builds the user's Lightning callbacks, by name.

    Raises:
        ConfigError: a class refuses its arguments.
    """
    return {name: build(f"callbacks.{name}", spec) for name, spec in config.callbacks.items()}


def make_optimizer(config: Config, model: nn.Module) -> Optimizer:
    """Builds the optimizer of the model's parameters.

    Raises:
        ConfigError: the class refuses a value or the network.
    """
    return optimizers.make_optimizer(config.optimizer, model, config.hardware.fused)


def make_average(config: Config, epoch: Epoch, model: nn.Module) -> Average:
    """Builds the average of the model's weights; with `average=none` one that does nothing.

    Raises:
        ConfigError: the run ends before the average is first brought up to date.
    """
    average, steps = config.average, config.epochs * epoch.steps
    start = average.start if average.start is not None else 3 * config.epochs // 4 if average.method == "swa" else 0
    every = average.every or epoch.steps
    if average.method != "none" and start >= config.epochs:
        raise ConfigError(f"average.start={start}: the run has only {config.epochs} epochs.")
    last = steps - 1 if average.method == "lookahead" else steps  # its last step takes the slow weights as they are
    if average.method != "none" and start * epoch.steps + every > last:
        raise ConfigError(
            f"average.every={every}: the run has only {steps - start * epoch.steps} steps to average"
            f"{f' after average.start={start} epochs' if start else ''}."
        )
    return Average(average, model, every, start * epoch.steps, steps)


FILLED = ("T_max", "total_steps", "max_lr")
"""Arguments of schedulers that the run fills in: its length, in the scheduler's unit, and the learning rate."""


def make_schedule(config: Config, epoch: Epoch, optimizer: Optimizer) -> Schedule:
    """Builds the schedule of the learning rate.

    Raises:
        ConfigError: the warm-up is as long as the run, or the scheduler refuses its arguments.
    """
    interval, warmup = config.scheduler.get("interval", "epoch"), config.scheduler.get("warmup", 0)
    if interval not in ("epoch", "step"):
        raise ConfigError(f"scheduler.interval={interval}: must be epoch or step.")
    if isinstance(warmup, bool) or not isinstance(warmup, int | float) or not 0 <= warmup < config.epochs:
        raise ConfigError(f"scheduler.warmup={warmup}: must be at least 0 and less than epochs={config.epochs}.")
    warm_steps = round(warmup * epoch.steps)
    spec = scheduler_spec(config)
    if spec.get("_target_") is None:
        return Schedule(optimizer, None, False, warm_steps, epoch.steps)
    length = config.epochs * epoch.steps - warm_steps if interval == "step" else config.epochs - -(-warmup // 1)
    rates = [group["lr"] for group in optimizer.param_groups]
    top = rates if len(rates) > 1 or config.lr is None else config.lr
    filled = {"T_max": int(length), "total_steps": int(length), "max_lr": top}
    takes = inspect.signature(locate(spec["_target_"])).parameters
    spec |= {key: value for key, value in filled.items() if key in takes and spec.get(key) is None}
    try:
        scheduler = build("scheduler", spec, optimizer)
    except ZeroDivisionError:
        scheduler = None
    if not isinstance(scheduler, LRScheduler) or length < 1:
        raise ConfigError(f"scheduler: {spec['_target_']} needs more than {int(length)} {interval}s.")
    return Schedule(optimizer, scheduler, interval == "step", warm_steps, epoch.steps)


def scheduler_spec(config: Config) -> Spec:
    """The part of the `scheduler` group that goes to the scheduler's class."""
    return {key: value for key, value in config.scheduler.items() if key not in ("interval", "warmup")}


def make_loss(config: Config, training: bool) -> partial[Tensor]:
    """The loss function `loss(logits, labels, reduction=...)`.

    Args:
        config: of the run.
        training: whether labels are smoothed; the loss of validation and test has no label smoothing.
    """
    smoothing = config.regularizer.label_smoothing if training else 0.0
    if config.loss.name == "squared_error":
        return partial(squared_error, label_smoothing=smoothing)
    return partial(F.cross_entropy, label_smoothing=smoothing)


class Weighted(nn.Module):
    """A loss in which an image of class c counts w_c = n / (k n_c) (King and Zeng 2001): sum w_y L(y) / images.

    n_c of the n training images are of class c, one of k. The sum is divided by the number of images, not by the sum of
    their weights as in torch's own losses. So a step's gradient is the same however its images are divided into
    batches.

    Args:
        loss: `loss(logits, labels, reduction="none")`.
        class_counts: n_c.
    """

    weights: Tensor
    """w_c, (classes,); those of classes without training images are 0."""
    _loss: Callable[..., Tensor]

    def __init__(self, loss: Callable[..., Tensor], class_counts: list[int]) -> None:
        super().__init__()
        self._loss = loss
        counts = torch.tensor(class_counts, dtype=torch.float64)
        weights = counts.sum() / ((counts > 0).sum() * counts)
        self.register_buffer("weights", weights.where(counts > 0, 0).float(), persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The weighted loss, of logits (images, classes) and labels (images,)."""
        return (self.weights[labels] * self._loss(logits, labels, reduction="none")).mean()


def squared_error(logits: Tensor, labels: Tensor, reduction: str = "mean", label_smoothing: float = 0.0) -> Tensor:
    """The squared error (y - y_hat)^2, summed over classes (document 2, 3.1).

    y are the one-hot labels, smoothed; y_hat is the softmax of the logits.

    Args:
        logits: (images, classes).
        labels: (images,).
        reduction: `mean` or `sum` over images, or `none`.
        label_smoothing: the share of y that is spread over all classes.
    """
    classes = logits.shape[1]
    target = F.one_hot(labels, classes) * (1 - label_smoothing) + label_smoothing / classes
    errors = (target - logits.float().softmax(1)).square().sum(1)
    if reduction == "none":
        return errors
    return errors.sum() if reduction == "sum" else errors.mean()
