"""A chain of convolutions and a head of dense layers, as the documents draw them."""

from collections import OrderedDict
from typing import TypedDict

from torch import nn

from cnnbench.schema import ConfigError


class Conv(TypedDict):
    """One convolution with its ReLU and its max pooling."""

    filters: int
    kernel_size: int
    padding: str
    """`same` or `valid`."""
    pool: int
    """Window and stride of the max pooling; 1 is none."""


class PlainCNN(nn.Sequential):
    """Convolutions, flatten, dense layers with ReLU, and a last dense layer to the classes.

    With the documents' layers (document 3, 4.2) on 3x32x32 images of ten classes it has 545,098 parameters.

    Args:
        image_shape: channels, height and width of the images.
        classes: how many outputs.
        convs: the convolutions, first to last.
        dense: widths of the hidden dense layers.

    Raises:
        ConfigError: a layer leaves nothing of the image; the message names it.
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int, convs: list[Conv], dense: list[int]) -> None:
        channels, height, width = image_shape
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, conv in enumerate(convs):
            filters, kernel, pool = conv["filters"], conv["kernel_size"], conv["pool"]
            lost = 0 if conv["padding"] == "same" else kernel - 1
            small = ((height - lost) // pool, (width - lost) // pool)
            if min(small) < 1:
                raise ConfigError(
                    f"model.convs[{i}]: kernel_size {kernel} ({conv['padding']}) and pool {pool} leave nothing "
                    f"of an image of {height}x{width}."
                )
            height, width = small
            layers[f"conv{i + 1}"] = nn.Conv2d(channels, filters, kernel, padding=conv["padding"])
            layers[f"relu{i + 1}"] = nn.ReLU(inplace=True)
            if pool > 1:
                layers[f"pool{i + 1}"] = nn.MaxPool2d(pool)
            channels = filters
        layers["flatten"] = nn.Flatten()
        features = channels * height * width
        for i, units in enumerate(dense):
            layers[f"dense{i + 1}"] = nn.Linear(features, units)
            layers[f"dense_relu{i + 1}"] = nn.ReLU(inplace=True)
            features = units
        layers["output"] = nn.Linear(features, classes)
        super().__init__(layers)
