"""GoogLeNet with first layers for small images."""

import torchvision
from torch import nn
from torchvision.models.googlenet import BasicConv2d

from cnnbench.errors import DoesNotFit


class GoogLeNet(torchvision.models.GoogLeNet):
    """torchvision's GoogLeNet (Szegedy et al. 2015, table 1): batch normalization, and no auxiliary classifiers.

    Only the layers before the first Inception block differ: the 7x7 convolution of stride 2 becomes a 3x3 one of
    stride 1, and only the first of the two poolings is kept, which is cheaper than keeping the second. So a 32x32 image
    reaches the three groups of Inception blocks as 16x16, 8x8 and 4x4 instead of 4x4, 2x2 and 1x1.

    Initial weights are those of PyTorch's layers (`init_weights=False`), since torchvision's truncated normal takes
    long to draw. As in torchvision, a block's 5x5 convolution is 3x3.

    On 3x32x32 images of ten classes it has 5,602,474 parameters.

    Args:
        image_shape: channels, height and width of the images.
        classes: number of logits.

    Raises:
        DoesNotFit: the images are smaller than 4x4.
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int) -> None:
        channels, height, width = image_shape
        if min(height, width) < 4:
            raise DoesNotFit(
                f"model: maxpool3 leaves nothing of an image of {height}x{width}; GoogLeNet takes 4x4 and more."
            )
        super().__init__(num_classes=classes, aux_logits=False, init_weights=False)
        self.conv1 = BasicConv2d(channels, 64, kernel_size=3, padding=1)
        self.add_module("maxpool2", nn.Identity())
