"""A plain CNN: a chain of convolutions, then dense layers, as in the five tutorials called documents 0 to 4."""

from collections import OrderedDict
from typing import Literal, NotRequired, TypedDict

from torch import nn

from cnnbench.errors import ConfigError, DoesNotFit, nearest

Activation = Literal["sigmoid", "tanh", "relu", "leaky_relu", "elu", "gelu", "silu"]

ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


class Conv(TypedDict):
    """A convolution and the pooling after it (document 4, 3.3 and 3.4).

    A missing `pool` is 1, that is no pooling; another missing key takes the model's value.
    """

    filters: int
    """Number of filters."""
    kernel_size: NotRequired[int]
    """Height and width of a filter in pixels."""
    stride: NotRequired[int]
    """Step of the convolution in pixels."""
    padding: NotRequired[int | Literal["same", "valid"]]
    """`same` (as in Keras, where a stride divides the size, rounded up), `valid`, or a number of pixels."""
    pool: NotRequired[int]
    """Height and width of the pooling's window in pixels; 1 is no pooling."""
    pool_stride: NotRequired[int | None]
    """Step of the pooling in pixels; null is its window."""
    pooling: NotRequired[Literal["max", "avg", "none"]]
    """Kind of the pooling."""


class PlainCNN(nn.Sequential):
    """Convolutions, flatten, hidden dense layers, and a last dense layer that gives the logits.

    With the layers of `document_cnn` (document 3, 4.2) on 3x32x32 images of ten classes it has 545,098 parameters.

    Args:
        image_shape: channels, height and width of the images.
        classes: number of logits.
        convs: the convolutions, first to last.
        dense: widths of the hidden dense layers.
        activation: after each convolution and hidden dense layer; a name of `ACTIVATIONS`.
        batch_norm: batch normalization between each of these layers and its activation (Ioffe and Szegedy 2015).
        batch_norm_affine: whether batch normalization has a trainable scale and shift; in document 4 it has none.
        dropout: probability with which an output of a hidden dense layer is dropped (document 4: 0.5).
        conv_dropout: probability with which a channel is dropped after each convolution.
        kernel_size: height and width of a filter, for convolutions without a `kernel_size` of their own.
        stride: step of convolutions without a `stride` of their own.
        padding: `same`, `valid`, or a number of pixels, for convolutions without a `padding` of their own.
        pooling: `max`, `avg` or `none`, for convolutions without a `pooling` of their own.
        pool_stride: step of poolings without a `pool_stride` of their own; None is the window.

    Raises:
        ConfigError: an argument is out of range, or a layer has an unknown key or leaves nothing of the image.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classes: int,
        convs: list[Conv],
        dense: list[int],
        activation: Activation = "relu",
        batch_norm: bool = False,
        batch_norm_affine: bool = True,
        dropout: float = 0.0,
        conv_dropout: float = 0.0,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int | Literal["same", "valid"] = "same",
        pooling: Literal["max", "avg", "none"] = "max",
        pool_stride: int | None = None,
    ) -> None:
        if activation not in ACTIVATIONS:
            raise ConfigError(f"model.activation={activation}: not known.{nearest(activation, list(ACTIVATIONS))}")
        for key, rate in (("dropout", dropout), ("conv_dropout", conv_dropout)):
            if not 0 <= rate < 1:
                raise ConfigError(f"model.{key}={rate}: must be at least 0 and below 1.")
        channels, height, width = image_shape
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        common: Conv = {
            "filters": 0,
            "kernel_size": kernel_size,
            "stride": stride,
            "padding": padding,
            "pool": 1,
            "pooling": pooling,
            "pool_stride": pool_stride,
        }
        for i, own in enumerate(convs):
            _check(i, own)
            conv: Conv = {**common, **own}
            _check_counts(i, conv)
            n = i + 1
            pad, pool = _pad(conv, height, width), _pool(i, conv)
            if pad is not None:
                layers[f"pad{n}"] = pad
            layers[f"conv{n}"] = nn.Conv2d(
                channels, conv["filters"], conv["kernel_size"], conv["stride"], conv["padding"] if pad is None else 0
            )
            if batch_norm:
                layers[f"norm{n}"] = nn.BatchNorm2d(conv["filters"], affine=batch_norm_affine)
            if activation == "relu" and isinstance(pool, nn.MaxPool2d):
                layers[f"pool{n}"], pool = pool, None  # the same numbers, and fewer values for the ReLU
            layers[f"{activation}{n}"] = ACTIVATIONS[activation]()
            if pool is not None:
                layers[f"pool{n}"] = pool
            if conv_dropout:
                layers[f"dropout{n}"] = nn.Dropout2d(conv_dropout)
            channels, (height, width) = conv["filters"], size_after(i, conv, height, width)
        layers["flatten"] = nn.Flatten()
        features = channels * height * width
        for i, units in enumerate(dense):
            if not (isinstance(units, int) and units >= 1):
                raise ConfigError(f"model.dense[{i}]={units}: must be a whole number of at least 1.")
            layers[f"dense{i + 1}"] = nn.Linear(features, units)
            if batch_norm:
                layers[f"dense_norm{i + 1}"] = nn.BatchNorm1d(units, affine=batch_norm_affine)
            layers[f"dense_{activation}{i + 1}"] = ACTIVATIONS[activation]()
            if dropout:
                layers[f"dense_dropout{i + 1}"] = nn.Dropout(dropout)
            features = units
        layers["output"] = nn.Linear(features, classes)
        super().__init__(layers)


def _check(i: int, conv: Conv) -> None:
    for key in conv:
        if key not in Conv.__annotations__:
            raise ConfigError(f"model.convs[{i}].{key}: no such key.{nearest(key, list(Conv.__annotations__))}")
    if "filters" not in conv:
        raise ConfigError(f"model.convs[{i}].filters is missing.")


def _check_counts(i: int, conv: Conv) -> None:
    counts = {"filters": conv["filters"], "kernel_size": conv["kernel_size"], "stride": conv["stride"]}
    for key, value in (counts | {"pool": conv["pool"]}).items():
        if not (isinstance(value, int) and value >= 1):
            raise ConfigError(f"model.convs[{i}].{key}={value}: must be a whole number of at least 1.")


_POOLINGS = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}


def _pad(conv: Conv, height: int, width: int) -> nn.Module | None:
    """The padding `same` of a convolution with a stride, which torch lacks.

    As in Keras, the right and lower sides get one pixel more where the padding can't be even.
    """
    kernel, stride = conv["kernel_size"], conv["stride"]
    if conv["padding"] != "same" or stride == 1:
        return None
    across, down = (max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in (width, height))
    return nn.ZeroPad2d((across // 2, across - across // 2, down // 2, down - down // 2))


def _pool(i: int, conv: Conv) -> nn.Module | None:
    across, step = window(i, conv)
    return _POOLINGS[conv["pooling"]](across, step) if across > 1 or step > 1 else None


def window(i: int, conv: Conv) -> tuple[int, int]:
    """Window and step of the pooling of convolution `i` in pixels; 1 and 1 without pooling.

    Raises:
        ConfigError: there is no such pooling.
    """
    pooling, across = conv["pooling"], conv["pool"]
    if pooling not in (*_POOLINGS, "none"):
        raise ConfigError(f"model.convs[{i}].pooling={pooling}: not known.{nearest(pooling, [*_POOLINGS, 'none'])}")
    if pooling == "none" or across == 1:
        return 1, 1
    return across, conv["pool_stride"] or across


def size_after(i: int, conv: Conv, height: int, width: int) -> tuple[int, int]:
    """Height and width after a convolution and its pooling.

    Args:
        i: position of the convolution in `model.convs`, for the message.
        conv: the convolution with all its keys.
        height: before the convolution, in pixels.
        width: before the convolution, in pixels.

    Raises:
        DoesNotFit: nothing is left of the image.
    """
    kernel, stride, padding = conv["kernel_size"], conv["stride"], conv["padding"]
    across, step = window(i, conv)
    sizes = []
    for size in (height, width):
        if padding == "same":
            convolved = -(-size // stride)
        else:
            pad = 0 if padding == "valid" else int(padding)
            convolved = (size + 2 * pad - kernel) // stride + 1
        sizes.append((convolved - across) // step + 1)
    if min(sizes) < 1:
        raise DoesNotFit(
            f"model.convs[{i}]: kernel_size {kernel}, stride {stride}, padding {padding} and pool {across} "
            f"leave nothing of an image of {height}x{width}."
        )
    return sizes[0], sizes[1]
