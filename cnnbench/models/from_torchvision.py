"""Any of torchvision's classifiers, as it is."""

import torchvision
from torch import nn

from cnnbench.errors import ConfigError, nearest

NAMES: list[str] = torchvision.models.list_models(
    module=torchvision.models,
    exclude=[
        "googlenet",  # three outputs in training; cnnbench.models.GoogLeNet has one
        "inception_v3",  # two outputs in training
        "maxvit_t",  # made for one size of images
        "regnet_*",  # can't be built without memory, as the check before a run does
        "vit_*",  # made for one size of images
    ],
)


def torchvision_model(image_shape: tuple[int, int, int], classes: int, name: str = "mobilenet_v3_small") -> nn.Module:
    """torchvision's network of that name, with new weights.

    Most of them are made for images of 224x224 and divide the size by 32: of a 32x32 image they leave one pixel, and
    some nothing at all. They are not changed here in any way; their first layer takes three channels.

    On 3x32x32 images of ten classes `mobilenet_v3_small` has 1,528,106 parameters.

    Args:
        image_shape: channels, height and width of the images.
        classes: how many outputs.
        name: a name of `NAMES`.

    Raises:
        ConfigError: there is no such network, or the images don't have three channels.
    """
    if name not in NAMES:
        raise ConfigError(f"model.name={name}: not known.{nearest(name, NAMES)}")
    if image_shape[0] != 3:
        raise ConfigError(f"model.name={name}: torchvision's networks take images of 3 channels, not {image_shape[0]}.")
    network: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=classes)
    return network
