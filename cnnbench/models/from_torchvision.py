"""torchvision's classifiers, unchanged."""

import torchvision
from torch import nn

from cnnbench.errors import ConfigError, nearest

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
    if name not in NAMES:
        raise ConfigError(f"model.name={name}: not known.{nearest(name, NAMES)}")
    if image_shape[0] != 3:
        raise ConfigError(f"model.name={name}: torchvision's networks take images of 3 channels, not {image_shape[0]}.")
    network: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=classes)
    return network
