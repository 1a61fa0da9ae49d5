"""The network of DeepOBS's test problem `cifar10_3c3d`."""

from collections import OrderedDict

from torch import nn

from cnnbench.errors import DoesNotFit


class DeepOBS3c3d(nn.Sequential):
    """Three convolutions, each with a max pooling, and three dense layers (Schneider et al. 2019, DeepOBS).

    A pooling has a 3x3 window, stride 2 and TensorFlow's padding `same`: it halves a size and rounds up, and pads on
    the right and below first. A 32x32 image becomes 28x28, 14x14, 12x12, 6x6 and 3x3, which gives the first dense layer
    1,152 inputs; without padding it would have 512. Zeros serve as padding, as they change no maximum after a ReLU.
    Initial weights are as in DeepOBS: Xavier, normal for the convolutions (there truncated at two standard deviations)
    and uniform for the dense layers; biases are 0.

    DeepOBS trains it with a weight decay of 0.002 on all weights but the biases.

    On 3x32x32 images of ten classes it has 895,210 parameters.

    Args:
        image_shape: channels, height and width of the images.
        classes: number of logits.

    Raises:
        DoesNotFit: the images are smaller than 9x9; the message names the convolution that leaves nothing.
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int) -> None:
        channels, height, width = image_shape
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, (filters, kernel_size, padding) in enumerate(((64, 5, 0), (96, 3, 0), (128, 3, 1)), start=1):
            layers[f"conv{i}"] = nn.Conv2d(channels, filters, kernel_size, padding=padding)
            layers[f"relu{i}"] = nn.ReLU(inplace=True)
            height, width = (size + 2 * padding - kernel_size + 1 for size in (height, width))
            if min(height, width) < 1:
                shape = "x".join(map(str, image_shape[1:]))
                raise DoesNotFit(f"model: conv{i} leaves nothing of an image of {shape}; 3c3d takes 9x9 and more.")
            layers[f"pad{i}"] = nn.ZeroPad2d((width % 2, 1, height % 2, 1))
            layers[f"pool{i}"] = nn.MaxPool2d(3, stride=2)
            channels, height, width = filters, (height + 1) // 2, (width + 1) // 2
        layers["flatten"] = nn.Flatten()
        layers["dense1"] = nn.Linear(channels * height * width, 512)
        layers["relu4"] = nn.ReLU(inplace=True)
        layers["dense2"] = nn.Linear(512, 256)
        layers["relu5"] = nn.ReLU(inplace=True)
        layers["output"] = nn.Linear(256, classes)
        super().__init__(layers)
        for layer in self:
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_normal_(layer.weight)
            elif isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
            if isinstance(layer, nn.Conv2d | nn.Linear):
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
