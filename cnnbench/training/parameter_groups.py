"""Parameter groups by pattern: learning rate, weight decay and freezing for some parameters of any optimizer.

`optimizer.groups` maps a name of the user's choice to a group, such as

    biases: {match: [norms, biases], lr_factor: 64, weight_decay: 0, epochs: 3}

A parameter belongs to the last group that matches it; all others keep the optimizer's own settings.
`optimizer.groups=no_decay` is one of `PRESETS`.
"""

import math
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from cnnbench.errors import ConfigError, nearest

KINDS = ("biases", "norms", "convolutions", "dense")
"""What `match` may name besides patterns. `norms` are all parameters of normalizations, `biases` all other biases."""

_NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.RMSNorm)


PRESETS = {"no_decay": {"no_decay": {"match": ["biases", "norms"], "weight_decay": 0}}}
"""Groups that have a name: `no_decay` has no weight decay for biases and normalizations, as most recipes today."""


@dataclass(frozen=True)
class Group:
    """Settings of the parameters that match."""

    name: str
    match: tuple[str, ...]
    """Kinds of `KINDS`, or names of parameters, in which * stands for anything."""
    lr_factor: float = 1.0
    """Times the learning rate, at every point of the schedule."""
    weight_decay: float | None = None
    """The optimizer's weight decay for these parameters; None keeps that of all others."""
    epochs: int | None = None
    """Epochs after which they are frozen; None trains them to the end."""


def read(spec: Any) -> list[Group]:
    """The groups of `optimizer.groups`, or those of `PRESETS` if it is a word.

    Raises:
        ConfigError: a key or value is not legal.
    """
    if isinstance(spec, str):
        if spec not in PRESETS:
            raise ConfigError(f"optimizer.groups={spec}: not known.{nearest(spec, PRESETS)} A mapping is allowed too.")
        spec = PRESETS[spec]
    if not isinstance(spec, dict):
        raise ConfigError(f"optimizer.groups={spec}: must map names to groups, such as {{head: {{match: [dense]}}}}.")
    return [_group(str(name), values) for name, values in spec.items() if values is not None]


def _group(name: str, values: Any) -> Group:
    key = f"optimizer.groups.{name}"
    allowed = [field.name for field in fields(Group)][1:]
    if not isinstance(values, dict):
        raise ConfigError(f"{key}={values}: must be a mapping. Allowed keys: {', '.join(allowed)}.")
    for each in values:
        if each not in allowed:
            raise ConfigError(f"{key}.{each}={values[each]}: not known.{nearest(str(each), allowed)}")
    match = values.get("match")
    match = [match] if isinstance(match, str) else match
    if not isinstance(match, list) or not match or not all(isinstance(each, str) for each in match):
        raise ConfigError(f"{key}.match={match}: must be a list of {', '.join(KINDS)}, or names such as output.*")
    for each in ("lr_factor", "weight_decay"):
        value = values.get(each)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (number and 0 <= value < math.inf):
            raise ConfigError(f"{key}.{each}={value}: must be a number of at least 0.")
    epochs = values.get("epochs")
    if epochs is not None and (isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 0):
        raise ConfigError(f"{key}.epochs={epochs}: must be a whole number of at least 0, or null.")
    return Group(name, **(values | {"match": tuple(match)}))


def members(groups: list[Group], network: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The trained parameters of each group, by the group's name.

    Raises:
        ConfigError: a pattern matches no parameter of the network.
    """
    kinds = _kinds(network)
    for group in groups:
        for pattern in group.match:
            if pattern not in KINDS and not any(_matches(pattern, name, kind) for name, kind in kinds.items()):
                words = [*KINDS, *kinds, *dict.fromkeys(name.split(".")[0] + ".*" for name in kinds)]
                raise ConfigError(
                    f"optimizer.groups.{group.name}.match={pattern}: no parameter of this network has such a name, "
                    f"and no kind.{nearest(pattern, words)}"
                )
    found: dict[str, list[nn.Parameter]] = {group.name: [] for group in groups}
    for (name, kind), parameter in zip(kinds.items(), network.parameters(), strict=True):
        for group in reversed(groups):
            if any(_matches(pattern, name, kind) for pattern in group.match):
                if parameter.requires_grad:
                    found[group.name].append(parameter)
                break
    return found


def divide(optimizer: Optimizer, groups: list[Group], network: nn.Module) -> None:
    """Divides the optimizer's parameter groups, so that each holds parameters with the same settings.

    Raises:
        ConfigError: a pattern matches nothing, or a weight decay is given to an optimizer that has none.
    """
    own = members(groups, network)
    divided: list[dict[str, Any]] = []
    for whole in optimizer.param_groups:
        left = list(whole["params"])
        parts = []
        for group in groups:
            ids = {id(parameter) for parameter in own[group.name]}
            if not (chosen := [parameter for parameter in left if id(parameter) in ids]):
                continue
            left = [parameter for parameter in left if id(parameter) not in ids]
            changes: dict[str, Any] = {"params": chosen, "lr": whole["lr"] * group.lr_factor}
            if group.weight_decay is not None:
                if "weight_decay" not in whole:
                    raise ConfigError(
                        f"optimizer.groups.{group.name}.weight_decay={group.weight_decay:g}: "
                        f"{type(optimizer).__name__} has no weight decay."
                    )
                changes["weight_decay"] = group.weight_decay
            parts.append(whole | changes)
        divided += [whole | {"params": left}] * bool(left) + parts
    optimizer.param_groups[:] = divided


def frozen(groups: list[Group], network: nn.Module, epochs_done: int) -> list[nn.Parameter]:
    """The parameters that are no longer trained after so many epochs."""
    if not any(group.epochs is not None for group in groups):
        return []
    own = members(groups, network)
    ended = [group.name for group in groups if group.epochs is not None and group.epochs <= epochs_done]
    return [parameter for name in ended for parameter in own[name]]


def _kinds(network: nn.Module) -> dict[str, str]:
    """The kind of each parameter by its name, in the network's order; an empty text for other kinds than `KINDS`."""
    kinds = {}
    for path, layer in network.named_modules():
        for own, _ in layer.named_parameters(recurse=False):
            name = f"{path}.{own}".lstrip(".")
            if isinstance(layer, _NORMS):
                kinds[name] = "norms"
            elif own == "bias":
                kinds[name] = "biases"
            elif isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
                kinds[name] = "convolutions"
            else:
                kinds[name] = "dense" if isinstance(layer, nn.Linear) else ""
    # A run's module normalises images before its `network`, whose names are those to match.
    return {name.removeprefix("network."): kinds[name] for name, _ in network.named_parameters()}


def _matches(pattern: str, name: str, kind: str) -> bool:
    return pattern == kind if pattern in KINDS else fnmatchcase(name, pattern)
