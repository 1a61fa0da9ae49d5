"""What is penalised, and what is put into the model, so that it doesn't learn the training images by heart?"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from cnnbench.config.schema import Regularizer
from cnnbench.config.targets import locate
from cnnbench.errors import ConfigError


def put_in(regularizer: Regularizer, model: dict[str, Any]) -> dict[str, Any]:
    """The model's config with the regularizer's dropout and batch normalization.

    Raises:
        ConfigError: the model has no place for them, or its own config says otherwise.
    """
    wanted: dict[str, Any] = {}
    if regularizer.dropout:
        wanted["dropout"] = regularizer.dropout
    if regularizer.batch_norm:
        wanted["batch_norm"] = True
    if not wanted:
        return model
    takes = inspect.signature(locate(model["_target_"])).parameters
    for key, value in wanted.items():
        if key not in takes:
            raise ConfigError(f"regularizer.{key}={value}: {model['_target_']} has no place for it.")
        if model.get(key, value) != value:
            raise ConfigError(f"regularizer.{key}={value} and model.{key}={model[key]}: give one of them.")
    return model | wanted


def penalised(model: nn.Module) -> dict[str, Tensor]:
    """Weights of convolutions and dense layers, by name: all parameters of two dimensions or more that are trained.

    Biases and the scales and shifts of normalizations have one, and are left alone.
    """
    trained = ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
    return {name: parameter for name, parameter in trained if parameter.dim() >= 2}


def penalty(regularizer: Regularizer, weights: list[Tensor]) -> Tensor:
    """l1 * sum |w| + l2 * sum w^2, or l2/2 with `l2_half` (documents 2 and 4, 3.1)."""
    total = torch.zeros((), device=weights[0].device)
    l2 = regularizer.l2 / 2 if regularizer.l2_half else regularizer.l2
    if regularizer.l1:
        total = total + regularizer.l1 * torch.stack([weight.abs().sum() for weight in weights]).sum()
    if l2:
        total = total + l2 * torch.stack([weight.square().sum() for weight in weights]).sum()
    return total


def describe(regularizer: Regularizer, model: nn.Module) -> dict[str, list[str]]:
    """Where it went, for the record: names of parameters and layers."""
    layers = list(model.named_modules())
    on_weights = regularizer.l1 or regularizer.l2 or regularizer.weight_decay
    return {
        "penalised": list(penalised(model)) if on_weights else [],
        "dropout": [name for name, layer in layers if isinstance(layer, nn.Dropout | nn.Dropout1d | nn.Dropout2d)],
        "batch_norm": [name for name, layer in layers if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)],
    }
