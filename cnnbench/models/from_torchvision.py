"""torchvision's classifiers, unchanged."""

from pathlib import Path

import torch
import torchvision
from torch import nn

from cnnbench.errors import ConfigError, DoesNotFit, nearest

NAMES: list[str] = torchvision.models.list_models(
    module=torchvision.models,
    exclude=[
        "googlenet",  # three outputs in training; cnnbench.models.GoogLeNet has one
        "inception_v3",  # two outputs in training
        "maxvit_t",  # takes images of one size only
        "regnet_*",  # can't be built on torch's `meta` device, where a config is checked
        "vit_*",  # takes images of one size only
    ],
)


def torchvision_model(image_shape: tuple[int, int, int], classes: int, name: str = "mobilenet_v3_small") -> nn.Module:
    """Builds torchvision's network of this name, with new weights.

    Most of these networks are made for images of 224x224 and divide the size by 32: a 32x32 image becomes a single
    pixel, and some networks refuse it. Their first layer takes three channels.

    On 3x32x32 images of ten classes `mobilenet_v3_small` has 1,528,106 parameters.

    Args:
        image_shape: channels, height and width of the images.
        classes: number of logits.
        name: one of `NAMES`.

    Raises:
        ConfigError: there is no such network, or the images don't have three channels.
    """
    _check(name)
    if image_shape[0] != 3:
        raise DoesNotFit(f"model.name={name}: torchvision's networks take images of 3 channels, not {image_shape[0]}.")
    network: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=classes)
    return network


def published_weights(name: str) -> Path:
    """The file of the weights that torchvision publishes for its network of this name, trained on ImageNet.

    It lies in the folder `checkpoints` of torch's cache (`TORCH_HOME`), under torchvision's own name. A missing file is
    downloaded, whole or not at all, and checked by the part of its sha256 sum that the name ends in.

    Args:
        name: one of `NAMES`.

    Raises:
        ConfigError: there is no such network, or its weights can't be downloaded.
    """
    _check(name)
    url = torchvision.models.get_model_weights(name)["DEFAULT"].url
    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=path.stem.rpartition("-")[2])
        except (OSError, RuntimeError) as error:  # no network, no space; another sum
            raise ConfigError(
                f"model.weights=DEFAULT: {url} can't be downloaded ({error}). Put the file into {path.parent}, or give "
                f"its path as model.weights."
            ) from None
    return path


def _check(name: str) -> None:
    if name not in NAMES:
        raise ConfigError(f"model.name={name}: not known.{nearest(name, NAMES)}")
