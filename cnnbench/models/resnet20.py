"""ResNet-20, the 20-layer residual network for CIFAR-10."""

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock


class ResNet20(nn.Sequential):
    """ResNet-20 (He et al. 2016, section 4.2, n = 3): a 3x3 convolution, nine blocks of two, and a dense layer.

    The three stages have 16, 32 and 64 filters; a 32x32 image is 32x32, 16x16 and 8x8 in them. The dense layer takes
    the mean over all pixels. A shortcut has no parameters (option A). Images may have any size.

    On 3x32x32 images of ten classes it has 269,722 parameters.

    Args:
        image_shape: channels, height and width of the images.
        classes: number of logits.
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(
            nn.Conv2d(image_shape[0], 16, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(inplace=True),
            *(BasicBlock(16, 16) for _ in range(3)),
            BasicBlock(16, 32, stride=2, downsample=_Shortcut(16)),
            *(BasicBlock(32, 32) for _ in range(2)),
            BasicBlock(32, 64, stride=2, downsample=_Shortcut(32)),
            *(BasicBlock(64, 64) for _ in range(2)),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, classes),
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


class _Shortcut(nn.Module):
    """A shortcut without parameters (option A): every second pixel of every second row, zeros for the new channels."""

    new_channels: int

    def __init__(self, new_channels: int) -> None:
        super().__init__()
        self.new_channels = new_channels

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.new_channels))
