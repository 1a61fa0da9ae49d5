"""Which parts does a config name, and do they fit together?"""

import inspect
from dataclasses import replace
from functools import partial

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cnnbench.config.schema import Augment, Config
from cnnbench.config.targets import Spec, build, check, locate
from cnnbench.data.augmentation import Augmentation
from cnnbench.data.datamodule import ImageData, Normalize
from cnnbench.data.images import ImageSet
from cnnbench.errors import ConfigError
from cnnbench.runtime.randomness import Stream, derived_seed
from cnnbench.training import optimizers, regularizers, transfer
from cnnbench.training.loggers import check_loggers
from cnnbench.training.module import Epoch, Recipe
from cnnbench.training.schedules import Schedule


def check_parts(config: Config, images: ImageSet) -> list[str]:
    """Builds what the config names, without weights, and sends one image through it.

    Returns:
        What may run but deserves a warning.

    Raises:
        ConfigError: a part doesn't exist, doesn't take its arguments, or doesn't fit the rest.
    """
    if config.hardware.accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError("hardware.accelerator=gpu: PyTorch finds no GPU here. Allowed: auto, cpu.")
    gpus = torch.cuda.device_count()
    if config.hardware.accelerator != "cpu" and 0 < gpus < config.hardware.devices:
        raise ConfigError(
            f"hardware.devices={config.hardware.devices}: PyTorch finds {gpus} GPUs here. Allowed: 1 to {gpus}."
        )
    for group, spec, given, base in (
        ("model", transfer.own_keys(config.model), ("image_shape", "classes"), nn.Module),
        ("optimizer", config.optimizer, ("params", "model"), Optimizer),
        ("scheduler", _scheduler_spec(config), ("optimizer", *_FILLED), LRScheduler),
    ):
        check(group, spec, given, base, f"a {base.__module__}.{base.__name__}")
    for name, spec in config.callbacks.items():
        if not isinstance(spec, dict):
            raise ConfigError(f"callbacks.{name}={spec}: must be a mapping with the _target_ of a callback.")
        check(f"callbacks.{name}", spec, (), pl.Callback, "a pytorch_lightning.Callback")
    make_callbacks(config)
    check_loggers(config)
    data = ImageData(images, config.data, batch_size(config), config.seed)
    processes, fewest = config.hardware.processes, min(data.sizes.values())
    if min(batch_size(config), fewest) < processes:
        raise ConfigError(
            f"hardware.devices={config.hardware.devices} hardware.nodes={config.hardware.nodes}: each process needs an "
            f"image of every batch and split; batch_size={batch_size(config)}, and the smallest split has {fewest}."
        )
    with torch.device("meta"):
        network = make_model(config, data.image_shape, len(images.classes))
        network.eval()
        try:
            logits = network(torch.zeros(1, *data.image_shape))
        except RuntimeError as error:
            shape = "x".join(map(str, data.image_shape))
            raise ConfigError(f"model: does not take images of {shape} ({str(error).splitlines()[0]}).") from None
        if logits.shape != (1, len(images.classes)):
            raise ConfigError(f"model: gives {tuple(logits.shape)} for an image, not (1, {len(images.classes)}).")
        if data.sizes["train"] % batch_size(config) == 1:
            try:
                network.train()(torch.zeros(1, *data.image_shape))
            except ValueError:  # batch norm behind a dense layer, or where a convolution has left a single pixel
                raise ConfigError(
                    f"batch_size={batch_size(config)}: of {data.sizes['train']:,} training images the last batch has "
                    f"one, and batch norm can't take a deviation of it. Take another batch_size."
                ) from None
        transfer.initialise(config, network)
    optimizer = make_optimizer(config, network)
    if optimizers.averages(optimizer) and (config.update.max_step or config.regularizer.weight_decay):
        raise ConfigError(
            f"optimizer: {config.optimizer['_target_']} hides its weights while it trains; update.max_step and "
            f"regularizer.weight_decay can't reach them. It may have a weight_decay of its own: optimizer.weight_decay."
        )
    epoch = epoch_of(config, data)
    schedule = make_schedule(config, epoch, optimizer)
    try:  # some schedulers look at their arguments only when they step
        optimizer.step()
        for _ in range(epoch.steps):
            schedule.after_step()
        schedule.after_epoch(1.0)
    except (ArithmeticError, TypeError, ValueError) as error:
        raise ConfigError(f"scheduler: {config.scheduler['_target_']} can't step ({error}).") from None
    warnings = []
    whole = config.update.accumulate is None and epoch.batches > 1
    if whole and any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in network.modules()):
        warnings.append(
            f"update=full_batch: batch norm takes its statistics from each {epoch.batch_size} images, so the step is "
            f"not quite that of one batch of all {epoch.images}."
        )
    on_processor = config.hardware.accelerator == "cpu" or not torch.cuda.is_available()
    native = any(has for what, has in torch.cpu.get_capabilities().items() if "bf16" in what)
    if config.hardware.precision == "bf16-mixed" and on_processor and not native:
        warnings.append(
            "hardware.precision=bf16-mixed: this processor has no bfloat16 of its own; 32-true is faster here."
        )
    return warnings


def batch_size(config: Config) -> int:
    """Images in a batch: the update's own, or else the top-level one."""
    return config.update.batch_size or config.batch_size


def epoch_of(config: Config, data: ImageData) -> Epoch:
    """Batches and steps of an epoch.

    Raises:
        ConfigError: a step would need more batches than an epoch has.
    """
    epoch = Epoch(data.sizes["train"], batch_size(config), 1, config.update.reduction)
    accumulate = config.update.accumulate or epoch.batches
    if accumulate > epoch.batches:
        raise ConfigError(
            f"update.accumulate={accumulate}: an epoch has {epoch.batches} batches of {epoch.batch_size} images. "
            f"update=full_batch takes all of them."
        )
    return replace(epoch, accumulate=accumulate)


def make_model(config: Config, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The network alone, with new weights."""
    spec = regularizers.put_in(config.regularizer, transfer.own_keys(config.model))
    network = build("model", spec, image_shape, classes)
    assert isinstance(network, nn.Module)
    return network


def with_pixels(config: Config, network: nn.Module, mean: list[float], deviation: list[float]) -> nn.Sequential:
    """The network behind the normalization of its images' bytes, in the config's memory layout."""
    model = nn.Sequential()
    model.add_module("normalize", Normalize(mean, deviation, config.hardware.channels_last))
    model.add_module("network", network)
    return model.to(memory_format=torch.channels_last) if config.hardware.channels_last else model


def make_recipe(config: Config, epoch: Epoch) -> Recipe:
    """What moves the parameters, as the config has it."""
    return Recipe(
        make_optimizer=partial(make_optimizer, config),
        make_schedule=partial(make_schedule, config, epoch),
        loss=make_loss(config, training=True),
        validation_loss=make_loss(config, training=False),
        regularizer=config.regularizer,
        clip=config.clip,
        max_step=config.update.max_step,
        mixup=config.augment.mixup,
    )


def make_augmentation(config: Config, images: int, mean: list[float]) -> Augmentation | None:
    """What changes training images, if anything does.

    Args:
        config: of the run.
        images: how many training images there are.
        mean: bytes per channel, for what is painted over.
    """
    if replace(config.augment, mixup=0) == Augment():
        return None
    return Augmentation(config.augment, images, mean, derived_seed(config.seed, Stream.MIRROR))


def make_callbacks(config: Config) -> dict[str, pl.Callback]:
    """The user's callbacks of Lightning's, by name.

    Raises:
        ConfigError: a class refuses its arguments.
    """
    return {name: build(f"callbacks.{name}", spec) for name, spec in config.callbacks.items()}


def make_optimizer(config: Config, model: nn.Module) -> Optimizer:
    """What moves the model's parameters."""
    return optimizers.make_optimizer(config.optimizer, model, config.hardware.fused)


_FILLED = ("T_max", "total_steps", "max_lr")
"""Arguments of schedulers that the run knows: the length in the scheduler's own unit, and the learning rate."""


def make_schedule(config: Config, epoch: Epoch, optimizer: Optimizer) -> Schedule:
    """What moves the learning rate.

    Raises:
        ConfigError: the warm-up leaves nothing of the run, or the scheduler refuses its arguments.
    """
    interval, warmup = config.scheduler.get("interval", "epoch"), config.scheduler.get("warmup", 0)
    if interval not in ("epoch", "step"):
        raise ConfigError(f"scheduler.interval={interval}: must be epoch or step.")
    if isinstance(warmup, bool) or not isinstance(warmup, int | float) or not 0 <= warmup < config.epochs:
        raise ConfigError(f"scheduler.warmup={warmup}: must be at least 0 and less than epochs={config.epochs}.")
    warm_steps = round(warmup * epoch.steps)
    spec = _scheduler_spec(config)
    if spec.get("_target_") is None:
        return Schedule(optimizer, None, False, warm_steps, epoch.steps)
    whole = config.epochs * epoch.steps - warm_steps if interval == "step" else config.epochs - -(-warmup // 1)
    known = {"T_max": int(whole), "total_steps": int(whole), "max_lr": config.lr}
    takes = inspect.signature(locate(spec["_target_"])).parameters
    spec |= {key: value for key, value in known.items() if key in takes and spec.get(key) is None}
    try:
        scheduler = build("scheduler", spec, optimizer)
    except ZeroDivisionError:
        scheduler = None
    if not isinstance(scheduler, LRScheduler) or whole < 1:
        raise ConfigError(f"scheduler: {spec['_target_']} has no use for {int(whole)} {interval}s.")
    return Schedule(optimizer, scheduler, interval == "step", warm_steps, epoch.steps)


def _scheduler_spec(config: Config) -> Spec:
    return {key: value for key, value in config.scheduler.items() if key not in ("interval", "warmup")}


def make_loss(config: Config, training: bool) -> partial[Tensor]:
    """`loss(logits, labels, reduction=...)`; label smoothing is for training alone."""
    smoothing = config.regularizer.label_smoothing if training else 0.0
    if config.loss == "squared_error":
        return partial(squared_error, label_smoothing=smoothing)
    return partial(F.cross_entropy, label_smoothing=smoothing)


def squared_error(logits: Tensor, labels: Tensor, reduction: str = "mean", label_smoothing: float = 0.0) -> Tensor:
    """Document 2, 3.1: (y - y_hat)^2, summed over classes; y one-hot (smoothed), y_hat the softmax of the logits.

    Args:
        logits: (images, classes).
        labels: (images,).
        reduction: `mean` over images, or `sum`.
        label_smoothing: the share of y that is spread over all classes.
    """
    classes = logits.shape[1]
    target = F.one_hot(labels, classes) * (1 - label_smoothing) + label_smoothing / classes
    errors = (target - logits.float().softmax(1)).square().sum(1)
    return errors.sum() if reduction == "sum" else errors.mean()
