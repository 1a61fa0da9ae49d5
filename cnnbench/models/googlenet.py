"""GoogLeNet with a first layer for small images."""

import torchvision
from torch import nn
from torchvision.models.googlenet import BasicConv2d

from cnnbench.errors import ConfigError


class GoogLeNet(torchvision.models.GoogLeNet):  # type: ignore[misc]
    """torchvision's GoogLeNet (Szegedy et al. 2015, table 1): batch normalization, and no auxiliary classifiers.

    Only the layers before the first Inception block differ: the 7x7 convolution of stride 2 becomes a 3x3 one of
    stride 1, and of the two poolings only the first is kept, which leaves less to compute than the second would. So the
    three groups of Inception blocks get 16x16, 8x8 and 4x4 of a 32x32 image instead of 4x4, 2x2 and 1x1.

    Weights start as PyTorch's layers do (`init_weights=False`): torchvision's truncated normal takes long to draw. A
    block's 5x5 convolution is 3x3 in torchvision, and so it is here.

    On 3x32x32 images of ten classes it has 5,602,474 parameters.

    Args:
        image_shape: channels, height and width of the images.
        classes: how many outputs.

    Raises:
        ConfigError: the images are smaller than 4x4.
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int) -> None:
        channels, height, width = image_shape
        if min(height, width) < 4:
            raise ConfigError(
                f"model: maxpool3 leaves nothing of an image of {height}x{width}; GoogLeNet takes 4x4 and more."
            )
        super().__init__(num_classes=classes, aux_logits=False, init_weights=False)
        self.conv1 = BasicConv2d(channels, 64, kernel_size=3, padding=1)
        self.maxpool2 = nn.Identity()
