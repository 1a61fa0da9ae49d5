"""Regularizers against overfitting: penalties on the weights, and dropout and batch normalization in the model."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from cnnbench.config.schema import Regularizer
from cnnbench.config.targets import locate
from cnnbench.errors import ConfigError


def put_in(regularizer: Regularizer, model: dict[str, Any]) -> dict[str, Any]:
    """Adds the regularizer's dropout and batch normalization to a model's config.

    Raises:
        ConfigError: the model takes no such argument, or its own config has another value.
    """
    arguments: dict[str, Any] = {}
    if regularizer.dropout:
        arguments["dropout"] = regularizer.dropout
    if regularizer.batch_norm:
        arguments["batch_norm"] = True
    if not arguments:
        return model
    takes = inspect.signature(locate(model["_target_"])).parameters
    for key, value in arguments.items():
        if key not in takes:
            raise ConfigError(f"regularizer.{key}={value}: {model['_target_']} takes no '{key}'.")
        if model.get(key, value) != value:
            raise ConfigError(f"regularizer.{key}={value} and model.{key}={model[key]}: give one of them.")
    return model | arguments


def penalised(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that penalties apply to, by name: trained weights of convolutions and dense layers.

    They are recognised by their two or more dimensions; biases and parameters of normalizations have one.
    """
    trained = ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
    return {name: parameter for name, parameter in trained if parameter.dim() >= 2}


def penalty(regularizer: Regularizer, weights: list[Tensor]) -> Tensor:
    """The penalty l1 * sum |w| + l2 * sum w^2, with l2/2 if `l2_half` is set (documents 2 and 4, 3.1); a scalar."""
    total = torch.zeros((), device=weights[0].device)
    l2 = regularizer.l2 / 2 if regularizer.l2_half else regularizer.l2
    if regularizer.l1:
        total = total + regularizer.l1 * torch.stack([weight.abs().sum() for weight in weights]).sum()
    if l2:
        total = total + l2 * torch.stack([weight.square().sum() for weight in weights]).sum()
    return total


def describe(regularizer: Regularizer, model: nn.Module) -> dict[str, list[str]]:
    """The names of penalised parameters, and of layers with dropout or batch normalization, for the record."""
    layers = list(model.named_modules())
    on_weights = regularizer.l1 or regularizer.l2 or regularizer.weight_decay
    return {
        "penalised": list(penalised(model)) if on_weights else [],
        "dropout": [name for name, layer in layers if isinstance(layer, nn.Dropout | nn.Dropout1d | nn.Dropout2d)],
        "batch_norm": [name for name, layer in layers if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)],
    }
