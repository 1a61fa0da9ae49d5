"""VGG-16 with batch normalization and one dense layer."""

from collections import OrderedDict

from torch import nn

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Filters of the convolutions between one pooling and the next (Simonyan and Zisserman 2015, table 1, D)."""


class VGG16BN(nn.Sequential):
    """VGG-16 (Simonyan and Zisserman 2015, table 1, D) with batch normalization, adapted to small images.

    The 13 convolutions are those of torchvision's `vgg16_bn`. Two things differ:

    - One dense layer takes the mean over all pixels; torchvision has three dense layers with dropout.
    - Poolings round up, so that five of them reduce 28x28 to 1x1. Images may have any size.

    On 3x32x32 images of ten classes it has 14,728,266 parameters.

    Args:
        image_shape: channels, height and width of the images.
        classes: number of logits.
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = image_shape[0]
        for stage, widths in enumerate(STAGES, start=1):
            for i, filters in enumerate(widths, start=1):
                layers[f"conv{stage}_{i}"] = nn.Conv2d(channels, filters, kernel_size=3, padding=1)
                layers[f"norm{stage}_{i}"] = nn.BatchNorm2d(filters)
                layers[f"relu{stage}_{i}"] = nn.ReLU(inplace=True)
                channels = filters
            layers[f"pool{stage}"] = nn.MaxPool2d(2, ceil_mode=True)
        layers["mean"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        layers["output"] = nn.Linear(channels, classes)
        super().__init__(layers)
        for layer in self:  # initial weights as in torchvision
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.01)
            if isinstance(layer, nn.Conv2d | nn.Linear):
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
