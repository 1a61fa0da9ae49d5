"""Checks of a config before anything runs: all its parts are built, without weights, and tried.

`parts` builds them. `search.checks` has those of an architecture search.
"""

import warnings
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cnnbench.config.keys import CONF
from cnnbench.config.messages import load_yaml
from cnnbench.config.schema import Config
from cnnbench.config.targets import check
from cnnbench.data.datamodule import ImageData
from cnnbench.data.images import ImageSet
from cnnbench.errors import ConfigError, DoesNotFit
from cnnbench.results.records import Sizes
from cnnbench.runtime.machine import place
from cnnbench.training import averaging, initialisation, optimizers
from cnnbench.training.epoch import Epoch
from cnnbench.training.parts import (
    FILLED,
    batch_size,
    epoch_of,
    initialise,
    make_average,
    make_callbacks,
    make_model,
    make_optimizer,
    make_schedule,
    scheduler_spec,
)

MANY_WEIGHTS = 200_000_000
"""In a dense layer: what images that are too large make of it. The largest of torchvision's networks has half of it."""


@dataclass(frozen=True)
class Checked:
    """What the check of a config has found out about its run."""

    warnings: list[str]
    """About what may run but is probably not intended."""
    parameters: int
    """Numbers that the model trains."""
    sizes: Sizes
    validation: str
    """Where the validation images come from: `folder`, `split` or `test`."""
    note: str | None
    """What the reader of the images has to say of them."""
    steps: int
    """Optimizer steps of an epoch."""
    device: str
    """Where it will be trained, in words."""
    memory: int
    """Bytes of the machine's memory that training takes, estimated; 0 on a GPU, which has its own."""


def check_parts(config: Config, images: ImageSet) -> Checked:
    """Checks a config before anything runs: builds all parts, without weights, and sends one image through the model.

    Returns:
        What the parts tell about the run.

    Raises:
        ConfigError: a part doesn't exist, doesn't take its arguments, or doesn't fit the others.
    """
    _check_devices(config)
    for group, spec, given, base in (
        ("model", initialisation.own_keys(config.model), ("image_shape", "classes"), nn.Module),
        ("optimizer", optimizers.own_keys(config.optimizer), ("params", "model"), Optimizer),
        ("scheduler", scheduler_spec(config), ("optimizer", *FILLED), LRScheduler),
    ):
        check(group, spec, given, base, f"a {base.__module__}.{base.__name__}")
    _check_callbacks(config)
    _check_loggers(config)
    data = ImageData(images, config.data, batch_size(config), config.seed)
    _check_sizes(config, data)
    network, outputs = _checked_model(config, data, len(images.classes))
    epoch = epoch_of(config, data)
    _check_steps(config, epoch, network)
    parameters = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    device = place(config.hardware.accelerator, config.hardware.threads)
    unusual = _warnings(config, data, epoch, network)
    # Weights, gradients and an optimizer's two averages, and what all layers give for a batch. Gradients of the latter
    # take the place of what is no longer needed: ResNet-18 and VGG-16 took 13 % less and 23 % more than that.
    memory = 4 * (4 * parameters + outputs * batch_size(config)) if _on_cpu(config) else 0
    return Checked(unusual, parameters, Sizes(**data.sizes), data.validation, images.note, epoch.steps, device, memory)


def _check_devices(config: Config) -> None:
    if config.hardware.accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError("hardware.accelerator=gpu: PyTorch finds no GPU here. Allowed: auto, cpu.")
    gpus = torch.cuda.device_count()
    if config.hardware.accelerator != "cpu" and 0 < gpus < config.hardware.devices:
        raise ConfigError(
            f"hardware.devices={config.hardware.devices}: PyTorch finds {gpus} GPUs here. Allowed: 1 to {gpus}."
        )


def _check_sizes(config: Config, data: ImageData) -> None:
    """Checks that the images are large enough for the augmentation, and enough for the processes."""
    if config.augment.padding == "reflect" and config.augment.crop >= min(data.image_shape[1:]):
        raise DoesNotFit(
            f"augment.crop={config.augment.crop}: with augment.padding=reflect a shift must be smaller than the "
            f"image's sides, {data.image_shape[1]}x{data.image_shape[2]}."
        )
    processes, smallest = config.hardware.processes, min(filter(None, data.sizes.values()))
    if min(batch_size(config), smallest) < processes:
        raise ConfigError(
            f"hardware.devices={config.hardware.devices} hardware.nodes={config.hardware.nodes}: each process needs an "
            f"image of every batch and split; batch_size={batch_size(config)}, and the smallest split has {smallest}."
        )


def _checked_model(config: Config, data: ImageData, classes: int) -> tuple[nn.Module, int]:
    """The network on torch's `meta` device, after an image has gone through it, and how much its layers gave."""
    outputs: list[int] = []
    with torch.device("meta"):
        network = make_model(config, data.image_shape, classes)
        network.eval()
        layers = [layer for layer in network.modules() if not any(layer.children())]
        hooks = [layer.register_forward_hook(lambda *call: outputs.append(_numbers(call[-1]))) for layer in layers]
        try:
            logits = network(torch.zeros(1, *data.image_shape))
        except (AssertionError, RuntimeError, ValueError) as error:
            shape = "x".join(map(str, data.image_shape))
            raise DoesNotFit(f"model: does not take images of {shape} ({str(error).splitlines()[0]}).") from None
        for hook in hooks:
            hook.remove()
        if logits.shape != (1, classes):
            raise ConfigError(
                f"model: gives logits of shape {tuple(logits.shape)} for one image; must be (1, {classes})."
            )
        if data.sizes["train"] % batch_size(config) == 1:
            try:
                network.train()(torch.zeros(1, *data.image_shape))
            except ValueError:  # batch norm after a dense layer, or after a convolution that leaves a single pixel
                raise ConfigError(
                    f"batch_size={batch_size(config)}: with {data.sizes['train']:,} training images the last batch has "
                    f"one image, and batch norm needs two for a standard deviation. Use another batch_size."
                ) from None
        initialisation.check(config.model, network, data.image_shape)
        initialise(config, network, torch.zeros(1, *data.image_shape))
    return network, sum(outputs)


def _numbers(output: Any) -> int:
    """How many numbers a layer has given; 0 for what is no tensor."""
    return output.numel() if isinstance(output, torch.Tensor) else 0


def _on_cpu(config: Config) -> bool:
    return config.hardware.accelerator == "cpu" or not torch.cuda.is_available()


def _check_steps(config: Config, epoch: Epoch, network: nn.Module) -> None:
    """Builds what moves the weights, and takes a step with it."""
    optimizer = make_optimizer(config, network)
    if averaging.averages(optimizer) and config.average.method != "none":
        raise ConfigError(f"average={config.average.method}: {config.optimizer['_target_']} averages weights itself.")
    if averaging.averages(optimizer) and (config.update.max_step or config.regularizer.weight_decay):
        raise ConfigError(
            f"optimizer: {config.optimizer['_target_']} averages weights, which update.max_step and "
            f"regularizer.weight_decay would break. It may have a weight_decay of its own: optimizer.weight_decay."
        )
    make_average(config, epoch, network)
    schedule = make_schedule(config, epoch, optimizer)
    trial, name = optimizers.tried(config.optimizer), config.optimizer["_target_"]
    several = f"hardware.devices={config.hardware.devices} hardware.nodes={config.hardware.nodes}"
    if trial.closure and config.hardware.processes > 1:
        raise ConfigError(
            f"{several}: {name} evaluates the loss several times a step, which several processes can't do together. "
            f"Allowed: 1."
        )
    if trial.random and config.hardware.processes > 1:
        raise ConfigError(f"{several}: {name} draws random numbers, other ones in each process. Allowed: 1.")
    if trial.error is not None:
        try:
            optimizer.step()
        except (Exception, SystemExit) as error:  # of a user's own class: anything
            raise ConfigError(f"optimizer: {name} can't step ({str(error) or type(error).__name__}).") from None
    try:  # some schedulers check their arguments only when they step
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch would have the optimizer step before
            for _ in range(epoch.steps):
                schedule.after_step()
            schedule.after_epoch(1.0)
    except (ArithmeticError, TypeError, ValueError) as error:
        raise ConfigError(f"scheduler: {config.scheduler['_target_']} can't step ({error}).") from None


def _warnings(config: Config, data: ImageData, epoch: Epoch, network: nn.Module) -> list[str]:
    """What may run but is probably not intended."""
    found = []
    dense = max((layer.weight.numel() for layer in network.modules() if isinstance(layer, nn.Linear)), default=0)
    if dense >= MANY_WEIGHTS:
        _, height, width = data.image_shape
        found.append(
            f"model: a dense layer has {dense:,} weights, {dense * 4 / 1e9:.1f} GB before gradients and optimizer, as "
            f"the images have {height} x {width} pixels. data.image_size=N, or [H,W], makes them smaller."
        )
    full_batch = config.update.accumulate is None and epoch.batches > 1
    if full_batch and any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in network.modules()):
        found.append(
            f"update=full_batch: batch norm takes its statistics from each {epoch.batch_size} images, so the step is "
            f"not exactly that of one batch of all {epoch.images}."
        )
    native = any(present for feature, present in torch.cpu.get_capabilities().items() if "bf16" in feature)
    if config.hardware.precision == "bf16-mixed" and _on_cpu(config) and not native:
        found.append("hardware.precision=bf16-mixed: this CPU has no native bfloat16; 32-true is faster here.")
    return found


def _check_callbacks(config: Config) -> None:
    if not config.callbacks:
        return
    from pytorch_lightning import Callback  # seconds

    for name, spec in config.callbacks.items():
        if not isinstance(spec, dict):
            raise ConfigError(f"callbacks.{name}={spec}: must be a mapping with the _target_ of a callback.")
        check(f"callbacks.{name}", spec, (), Callback, "a pytorch_lightning.Callback")
    make_callbacks(config)


def _check_loggers(config: Config) -> None:
    for name, spec in config.logger.items():
        if not isinstance(spec, dict):
            raise ConfigError(f"logger.{name}={spec}: must be a mapping with the _target_ of a logger.")
        if str(spec.get("_target_")).lower().endswith((".wandb", ".wandblogger")) and find_spec("wandb") is None:
            raise ConfigError(f"logger={name}: Weights & Biases is missing: pip install wandb.")
        if spec != _built_in_logger(name):  # those are tested, and to look at their classes imports Lightning: seconds
            from lightning_fabric.loggers.logger import Logger

            check(f"logger.{name}", spec, (), Logger, "a lightning_fabric.loggers.Logger")


@cache
def _built_in_logger(name: str) -> Any:
    """The logger that `conf/logger/NAME.yaml` holds; None if there is no such file."""
    path = CONF / "logger" / f"{name}.yaml"
    return OmegaConf.to_container(load_yaml(path)[name]) if path.exists() else None
