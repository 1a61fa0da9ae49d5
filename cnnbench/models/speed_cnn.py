"""A network that is fast to train: whitened patches, three groups of two convolutions, and scaled logits."""

from collections import OrderedDict

from torch import Tensor, nn

from cnnbench.errors import ConfigError, DoesNotFit

ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU}


class SpeedCNN(nn.Sequential):
    """The network of Jordan 2024 ("94% on CIFAR-10 in 3.29 seconds on a single GPU", arXiv 2404.00498, section 3).

    A 2x2 convolution without padding, of eight filters for each channel and with biases, is followed by three groups

        3x3 convolution, 2x2 max pooling, batch norm, activation, 3x3 convolution, batch norm, activation

    whose convolutions have no biases, then by a max pooling over all that is left of the image, and by a dense layer
    without biases, whose result is multiplied by `logit_scale`. A 32x32 image becomes 31x31, 15x15, 7x7, 3x3 and 1x1.

    The paper whitens the first convolution (`model.whiten`), starts the others as identities (`model.dirac`), and gives
    batch norm no scale and another momentum (`model.norm_scale`, `model.norm_momentum`): keys that every network takes.

    On 3x32x32 images of ten classes it has 1,972,792 parameters, of which 1,440 are not trained if it is whitened and
    its batch norms have no scale.

    Args:
        image_shape: channels, height and width of the images.
        classes: number of logits.
        widths: filters of the convolutions of each group.
        activation: `gelu`, `relu` or `silu`.
        logit_scale: factor of the logits.

    Raises:
        ConfigError: a value is not legal.
        DoesNotFit: the images are too small for the groups' poolings.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classes: int,
        widths: tuple[int, ...] = (64, 256, 256),
        activation: str = "gelu",
        logit_scale: float = 1 / 9,
    ) -> None:
        if activation not in ACTIVATIONS:
            raise ConfigError(f"model.activation={activation}: must be gelu, relu or silu.")
        if not widths or min(widths) < 1:
            raise ConfigError(f"model.widths={list(widths)}: must be whole numbers of at least 1.")
        channels, height, width = image_shape
        smallest = 2 ** len(widths) + 1
        if min(height, width) < smallest:
            raise DoesNotFit(
                f"model: {len(widths)} groups leave nothing of an image of {height}x{width}; allowed: {smallest}x"
                f"{smallest} and more, or fewer model.widths."
            )
        whiten = nn.Conv2d(channels, 8 * channels, 2)
        assert whiten.bias is not None
        nn.init.zeros_(whiten.bias)
        layers: OrderedDict[str, nn.Module] = OrderedDict(whiten=whiten, activation0=ACTIVATIONS[activation]())
        channels, height, width = 8 * channels, height - 1, width - 1
        for i, filters in enumerate(widths, start=1):
            layers[f"conv{i}a"] = nn.Conv2d(channels, filters, 3, padding=1, bias=False)
            layers[f"pool{i}"] = nn.MaxPool2d(2)
            layers[f"norm{i}a"] = nn.BatchNorm2d(filters)
            layers[f"activation{i}a"] = ACTIVATIONS[activation]()
            layers[f"conv{i}b"] = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
            layers[f"norm{i}b"] = nn.BatchNorm2d(filters)
            layers[f"activation{i}b"] = ACTIVATIONS[activation]()
            channels, height, width = filters, height // 2, width // 2
        layers["pool"] = nn.MaxPool2d((height, width))
        layers["flatten"] = nn.Flatten()
        layers["output"] = nn.Linear(channels, classes, bias=False)
        layers["scale"] = Scale(logit_scale)
        super().__init__(layers)


class Scale(nn.Module):
    """Multiplies by a constant `factor`."""

    factor: float

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, values: Tensor) -> Tensor:
        """The values times `factor`."""
        return values * self.factor
