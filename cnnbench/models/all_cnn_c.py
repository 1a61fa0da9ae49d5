"""All-CNN-C, a network of convolutions only."""

from collections import OrderedDict

from torch import nn

from cnnbench.errors import DoesNotFit


class AllCNNC(nn.Sequential):
    """All-CNN-C (Springenberg et al. 2015, section 3.1): convolutions of stride 2 instead of pooling, no dense layer.

    A 32x32 image becomes 16x16, 8x8 and, after the one 3x3 convolution without padding, 6x6. The logits are the means
    over the pixels of the last convolution. Dropout is 20 % on the input and 50 % after each convolution of stride 2.

    The paper's table has a ReLU after the last convolution too. It is left out here: with it all logits soon became 0
    in our trials, where the gradient is 0 and training stops. The paper doesn't give the initial weights; they are as
    in DeepOBS (Schneider et al. 2019), Xavier normal, with biases of 0.1.

    On 3x32x32 images of ten classes it has 1,369,738 parameters.

    Args:
        image_shape: channels, height and width of the images.
        classes: number of logits.

    Raises:
        DoesNotFit: the images are smaller than 9x9.
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int) -> None:
        channels, height, width = image_shape
        if min(height, width) < 9:
            raise DoesNotFit(
                f"model: conv7 leaves nothing of an image of {height}x{width}; All-CNN-C takes 9x9 and more."
            )
        layers: OrderedDict[str, nn.Module] = OrderedDict(dropout0=nn.Dropout(0.2))
        for i, (filters, kernel_size, stride, padding) in enumerate(
            (
                (96, 3, 1, 1),
                (96, 3, 1, 1),
                (96, 3, 2, 1),
                (192, 3, 1, 1),
                (192, 3, 1, 1),
                (192, 3, 2, 1),
                (192, 3, 1, 0),
                (192, 1, 1, 0),
                (classes, 1, 1, 0),
            ),
            start=1,
        ):
            conv = nn.Conv2d(channels, filters, kernel_size, stride, padding)
            nn.init.xavier_normal_(conv.weight)
            assert conv.bias is not None
            nn.init.constant_(conv.bias, 0.1)
            layers[f"conv{i}"] = conv
            if i < 9:
                layers[f"relu{i}"] = nn.ReLU(inplace=True)
            if stride == 2:
                layers[f"dropout{i}"] = nn.Dropout(0.5)
            channels = filters
        layers["mean"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        super().__init__(layers)
