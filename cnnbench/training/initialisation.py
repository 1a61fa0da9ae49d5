"""Keys that every network takes: whitening filters, identity convolutions, and batch norm's scale and momentum.

They are typed as `model.whiten` and so on, beside the arguments of the network's class.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cnnbench.errors import ConfigError, DoesNotFit
from cnnbench.training import transfer

KEYS = ("whiten", "dirac", "norm_scale", "norm_momentum", *transfer.KEYS)
"""Keys of the `model` group that are no arguments of the network's class."""

PATCH_IMAGES = 5000
"""Training images whose patches whitening looks at, as in Jordan 2024."""


def own_keys(model: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the `model` group that goes to the network's class."""
    return {key: value for key, value in model.items() if key not in KEYS}


def check(model: Mapping[str, Any], network: nn.Module, image_shape: tuple[int, int, int]) -> None:
    """Checks the keys' values, and that the network has the layers that they are about.

    Raises:
        ConfigError: one line that names the key.
    """
    for key in ("whiten", "dirac", "norm_scale"):
        if not isinstance(model.get(key, False), bool):
            raise ConfigError(f"model.{key}={model[key]}: must be true or false.")
    momentum = model.get("norm_momentum", 0.1)
    if isinstance(momentum, bool) or not isinstance(momentum, int | float) or not 0 < momentum <= 1:
        raise ConfigError(f"model.norm_momentum={momentum}: must be above 0 and at most 1.")
    has_norms = any(isinstance(layer, _BatchNorm) for layer in network.modules())
    for key in ("norm_scale", "norm_momentum"):
        if key in model and not has_norms:
            raise ConfigError(f"model.{key}={model[key]}: this network has no batch norm.")
    if model.get("dirac") and not _identities(network):
        raise ConfigError("model.dirac=true: no convolution after the first one has as many filters as inputs or more.")
    if model.get("whiten"):
        channels, height, width = image_shape
        if channels != 3:
            raise DoesNotFit(
                "model.whiten=true: whitening needs images of 3 channels, as it separates colours from edges; these "
                f"are grey ({channels} channel). Allowed: model.whiten=false."
            )
        first = _first(network)
        patch = first.kernel_size
        if height < patch[0] or width < patch[1]:
            raise DoesNotFit(
                f"model.whiten=true: images of {height}x{width} are smaller than the first convolution's patches of "
                f"{patch[0]}x{patch[1]}."
            )


def initialise(model: Mapping[str, Any], network: nn.Module, images: Tensor) -> None:
    """Sets the weights and batch norms of a new network as the keys say.

    Args:
        model: the `model` group, checked.
        network: takes normalised images.
        images: normalised training images (n, channels, height, width); only whitening looks at them.
    """
    for layer in network.modules():
        if isinstance(layer, _BatchNorm):
            layer.momentum = model.get("norm_momentum", layer.momentum)
            if not model.get("norm_scale", True) and layer.affine:
                layer.weight.requires_grad_(False)  # it stays 1
    with torch.no_grad():
        if model.get("dirac"):
            for convolution in _identities(network):
                nn.init.dirac_(convolution.weight[: convolution.in_channels])
        first = _first(network) if model.get("whiten") else None
        if first is not None and not first.weight.is_meta:  # on torch's `meta` device the config is only checked
            filters = whitening(images, first.kernel_size)[: first.out_channels]
            first.weight[: len(filters)] = filters


def whitening(images: Tensor, patch: tuple[int, ...], eps: float = 5e-4) -> Tensor:
    """The filters that whiten the patches of images, each one beside its negative (Jordan 2024, section 3.2).

    With eigenvectors v_i and eigenvalues l_i of the mean of p p^T over all patches p, the filters are

        v_i / sqrt(l_i + eps)  and  -v_i / sqrt(l_i + eps) ,  largest l_i first

    so that the responses of the first half to those patches are uncorrelated and have mean square l_i / (l_i + eps).

    Args:
        images: normalised (n, channels, height, width).
        patch: height and width of a patch.
        eps: limits the amplification of directions in which patches hardly differ.

    Returns:
        (2 * size, channels, height and width of a patch), where size is channels * height * width of a patch.
    """
    channels = images.shape[1]
    size = channels * math.prod(patch)
    total, count = torch.zeros(size, size, dtype=torch.float64), 0
    for block in images.split(500):
        patches = block.unfold(2, patch[0], 1).unfold(3, patch[1], 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, size)
        total += (patches.T @ patches).double()
        count += len(patches)
    values, vectors = torch.linalg.eigh(total / count)
    filters = (vectors / (values.clamp_min(0) + eps).sqrt()).T.flip(0)
    return torch.cat([filters, -filters]).reshape(2 * size, channels, *patch).float()


def _first(network: nn.Module) -> nn.Conv2d:
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.groups == 1:
            return layer
    raise ConfigError("model.whiten=true: this network has no convolution.")


def _identities(network: nn.Module) -> list[nn.Conv2d]:
    """The convolutions after the first one that can pass their input on unchanged."""
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    return [c for c in convolutions[1:] if c.groups == 1 and c.out_channels >= c.in_channels]
