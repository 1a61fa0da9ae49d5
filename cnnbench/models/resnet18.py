"""ResNet-18 with the first layer that is common for small images."""

import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock


class ResNet18(torchvision.models.ResNet):
    """torchvision's ResNet-18 (He et al. 2016, table 1); only the layers before the first block differ.

    One 3x3 convolution of stride 1 replaces the 7x7 convolution of stride 2 and the max pooling, which would reduce
    32x32 to 8x8. A 32x32 image is 32x32, 16x16, 8x8 and 4x4 in the four stages. Images may have any size.

    On 3x32x32 images of ten classes it has 11,173,962 parameters.

    Args:
        image_shape: channels, height and width of the images.
        classes: number of logits.
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes=classes)
        self.conv1 = nn.Conv2d(image_shape[0], 64, kernel_size=3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's others
        self.add_module("maxpool", nn.Identity())
