"""The super-network: all candidates in one network, with one convolution for each layer."""

from collections import OrderedDict
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnbench.config.targets import Spec, build
from cnnbench.models.plain_cnn import Conv, size_after, window
from cnnbench.search.space import Choice, Layer, convolutions, largest


class Architecture(nn.Module):
    """The architecture parameters H: a logit for each candidate of each property of each layer.

    Args:
        layers: the searched layers.
        margin: initial difference between the logits of H_init and all others.
    """

    logits: nn.ModuleList
    """For each layer the logits (candidates,) by property; none for a property with a single candidate."""
    _layers: list[Layer]

    def __init__(self, layers: list[Layer], margin: float) -> None:
        super().__init__()
        self._layers = layers
        self.logits = nn.ModuleList(
            nn.ParameterDict(
                {
                    key: nn.Parameter(torch.tensor([margin * (value == layer.start[key]) for value in values]))
                    for key, values in layer.candidates.items()
                    if len(values) > 1
                }
            )
            for layer in layers
        )

    def probabilities(self) -> list[dict[str, Tensor]]:
        """For each layer the probabilities of its candidates by property, the softmax of the logits.

        Properties with a single candidate are left out.
        """
        return [{key: logits.softmax(0) for key, logits in layer.named_parameters()} for layer in self.logits]

    def all_probabilities(self) -> list[dict[str, Tensor]]:
        """For each layer the probabilities of its candidates by property, on the CPU; 1 for a single candidate."""
        return [
            {key: chances[key].cpu() if key in chances else torch.ones(1) for key in layer.candidates}
            for layer, chances in zip(self._layers, self.probabilities(), strict=True)
        ]

    def chosen(self) -> list[Choice]:
        """For each layer the most probable candidate of each property, the first of equals."""
        return [
            {key: layer.candidates[key][int(probabilities.argmax())] for key, probabilities in chances.items()}
            for layer, chances in zip(self._layers, self.all_probabilities(), strict=True)
        ]

    def entropy(self) -> float:
        """The entropy relative to its maximum, mean over the searched properties: 1 is undecided, 0 is decided."""
        distributions = [chances.detach() for layer in self.probabilities() for chances in layer.values()]
        shares = [torch.special.entr(p).sum() / torch.tensor(float(len(p))).log() for p in distributions]
        return float(torch.stack(shares).mean())


class SuperLayer(nn.Module):
    """A convolution, its activation and its pooling, with all candidates at once.

    - Kernel size: the largest kernel times sum_k p_k 1[inside the k x k pixels in its middle, aligned as in `same`].
    - Number of filters: the largest; after activation and pooling, filter j (from 0) is multiplied by the sum of p_f
      over all f > j.
    - Pooling: p_max max + p_avg avg.

    With all probability on one candidate of each of these three, the result is that of the discrete layer, to rounding,
    and zero in filters that it lacks.

    Stride and padding would change the size of the result, but the next layer needs a single size: that of stride 1 and
    `same`. So these two are not those of the discrete layer:

    - Stride s takes every s-th pixel of the convolution's result, pools, and repeats each value (nearest) up to the
      common size. The discrete layer doesn't repeat values, so the next layers see fewer pixels. The first pixel is
      that of Keras's `same` with the largest kernel; with a smaller kernel the discrete layer may start beside it.
    - `valid` sets each pixel of the pooled result to zero if its window, for the kernel size, reached outside the
      image. The discrete layer leaves these pixels out, so its pooling windows start after them, not at the border.

    Args:
        layer: the candidates.
        conv: the layer's config in the largest network.
        convolution: the convolution with the largest kernel and the most filters.
        activation: normalization, if any, and activation.
        size: height and width before the layer.
    """

    conv: nn.Conv2d
    behind: nn.Module
    """Normalization, if any, and activation. The name is part of the keys in checkpoints."""
    _window: tuple[int, int]
    """Window and step of the pooling."""
    _poolings: list[str]
    _strides: list[int]
    _crops: bool
    """Whether `valid` is a candidate."""
    _grid: tuple[int, int]
    """Height and width of the result."""
    _first: list[list[int]]
    """For each stride the first row and column that it takes."""
    _kernels: Tensor
    """(kernel sizes, height, width), 1 inside the kernel."""
    _filters: Tensor
    """(numbers of filters, filters), 1 for the filters that exist."""
    _paddings: Tensor
    """(paddings, kernel sizes, height, width), 1 where the result is kept."""

    def __init__(
        self, layer: Layer, conv: Conv, convolution: nn.Conv2d, activation: nn.Module, size: tuple[int, int]
    ) -> None:
        super().__init__()
        self.conv, self.behind = convolution, activation
        self._window = window(layer.index, conv)
        self._poolings, self._strides = layer.candidates["pooling"], layer.candidates["stride"]
        self._crops = "valid" in layer.candidates["padding"]
        self._grid = size_after(layer.index, conv, *size)
        filters, kernels = layer.candidates["filters"], layer.candidates["kernel_size"]
        widest, most = max(kernels), max(filters)
        self._first = [[_first(n, widest, stride) for n in size] for stride in self._strides]

        kernel_masks = torch.zeros(len(kernels), widest, widest)
        for mask, kernel in zip(kernel_masks, kernels, strict=True):
            start = (widest - 1) // 2 - (kernel - 1) // 2
            mask[start : start + kernel, start : start + kernel] = 1
        inside = torch.stack([torch.outer(*(self._inside(n, kernel) for n in size)) for kernel in kernels])
        # Not part of the state, since they follow from the candidates.
        self.register_buffer("_kernels", kernel_masks, persistent=False)
        self.register_buffer(
            "_filters", (torch.tensor(filters)[:, None] > torch.arange(most)).float(), persistent=False
        )
        self.register_buffer("_paddings", self._padding_masks(layer.candidates["padding"], inside), persistent=False)

    def _inside(self, n: int, kernel: int) -> Tensor:
        """1 for each pooling window along a side of `n` pixels that depends on pixels of the image alone, else 0."""
        across, step = self._window
        first = step * torch.arange((n - across) // step + 1)
        return ((first >= (kernel - 1) // 2) & (first + across - 1 < n - kernel // 2)).float()

    @staticmethod
    def _padding_masks(paddings: list[str], inside: Tensor) -> Tensor:
        """Stacks the masks to (paddings, kernel sizes, height, width)."""
        return torch.stack([inside if padding == "valid" else torch.ones_like(inside) for padding in paddings])

    def forward(self, x: Tensor, chances: dict[str, Tensor]) -> Tensor:
        """The mixture of all candidates.

        Args:
            x: (images, channels, height, width).
            chances: probabilities of the candidates by property; a property with a single one is left out.
        """
        weight = self.conv.weight
        if "kernel_size" in chances:
            weight = weight * torch.einsum("k,kyx->yx", chances["kernel_size"], self._kernels)
        y = self.behind(F.conv2d(x, weight, self.conv.bias, padding="same"))
        last = y.is_contiguous(memory_format=torch.channels_last)
        parts = []
        for i, stride in enumerate(self._strides):
            part = self._pooled(y if stride == 1 else _every(y, stride, self._first[i], last), chances)
            if part.shape[2:] != self._grid:
                part = F.interpolate(part, self._grid, mode="nearest")
            parts.append(part * chances["stride"][i] if "stride" in chances else part)
        y = sum(parts[1:], parts[0])
        if last and y.requires_grad:  # `flatten` returns gradients in another memory layout, in which pooling is slow
            mixed: Any = y
            mixed.register_hook(lambda gradient: gradient.contiguous(memory_format=torch.channels_last))
        mask = self._mask(chances)
        return y if mask is None else y * mask.to(y.dtype)

    def _pooled(self, y: Tensor, chances: dict[str, Tensor]) -> Tensor:
        across, step = self._window
        if (across, step) == (1, 1):
            return y
        pooled = [(F.max_pool2d if kind == "max" else F.avg_pool2d)(y, across, step) for kind in self._poolings]
        if "pooling" not in chances:
            return pooled[0]
        return pooled[0] * chances["pooling"][0] + pooled[1] * chances["pooling"][1]

    def _mask(self, chances: dict[str, Tensor]) -> Tensor | None:
        """The factor for number of filters and padding, (filters or 1, height or 1, width or 1), or None for 1."""
        one = self._kernels.new_ones(1)
        mask = (chances["filters"] @ self._filters)[:, None, None] if "filters" in chances else None
        if not self._crops:
            return mask
        padding, kernel = chances.get("padding", one), chances.get("kernel_size", one)
        inside = torch.einsum("p,k,pkyx->yx", padding, kernel, self._paddings)
        return inside if mask is None else mask * inside


def _every(y: Tensor, stride: int, first: list[int], channels_last: bool) -> Tensor:
    """Every `stride`-th row and column, sliced in the memory layout of `y` so that the gradient has it too."""
    if channels_last:
        return y.permute(0, 2, 3, 1)[:, first[0] :: stride, first[1] :: stride].permute(0, 3, 1, 2)
    return y[:, :, first[0] :: stride, first[1] :: stride]


def _first(n: int, kernel: int, stride: int) -> int:
    """The first pixel along a side of stride 1's result that a larger stride takes, both with Keras's `same`."""
    padded = max((-(-n // stride) - 1) * stride + kernel - n, 0)
    return (kernel - 1) // 2 - padded // 2


class SuperNetwork(nn.Module):
    """The largest network among the candidates, with a `SuperLayer` for each searched layer.

    Args:
        model: the config from which the network is built.
        image_shape: channels, height and width of the images.
        classes: number of logits.
        layers: the searched layers.
        architecture: H. This module's parameters are the weights Theta alone, without H.
    """

    layers: nn.Sequential
    _architecture: tuple[Architecture]
    """In a tuple, so that torch doesn't register it."""

    def __init__(
        self,
        model: Spec,
        image_shape: tuple[int, int, int],
        classes: int,
        layers: list[Layer],
        architecture: Architecture,
    ) -> None:
        super().__init__()
        self._architecture = (architecture,)
        spec = largest(model, layers)
        convs = convolutions(spec)
        plain: Any = build("model", spec, image_shape, classes)
        sizes = list(accumulate(enumerate(convs), lambda size, pair: size_after(*pair, *size), initial=image_shape[1:]))
        children: OrderedDict[str, nn.Module] = OrderedDict()
        by_name = {layer.name: layer for layer in layers}
        for name, child in plain.named_children():
            kind = name.rstrip("0123456789")
            layer = by_name.get(f"conv{name.removeprefix(kind)}")
            if layer is None or kind == "dropout" or kind.startswith("dense"):
                children[name] = child
            elif kind == "conv":
                activation = nn.Sequential()
                children[name] = SuperLayer(layer, convs[layer.index], child, activation, sizes[layer.index])
            elif kind != "pool":
                activation.add_module(kind, child)
        self.layers = nn.Sequential(children)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, channels, height, width)."""
        chances = iter(self._architecture[0].probabilities())
        x = images
        for layer in self.layers:
            x = layer(x, next(chances)) if isinstance(layer, SuperLayer) else layer(x)
        return x
