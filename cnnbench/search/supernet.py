"""How are all candidates one network? One convolution for each layer, whatever the number of candidates."""

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
        layers: what is searched.
        margin: by how much the logits of H_init are above the others at the start.
    """

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
        """For each layer by property the softmax over its candidates; of a single candidate none."""
        return [{key: logits.softmax(0) for key, logits in layer.items()} for layer in self.logits]  # type: ignore[operator]

    def all_probabilities(self) -> list[dict[str, Tensor]]:
        """The same on the processor, with 1 for a single candidate."""
        return [
            {key: found[key].cpu() if key in found else torch.ones(1) for key in layer.candidates}
            for layer, found in zip(self._layers, self.probabilities(), strict=True)
        ]

    def chosen(self) -> list[Choice]:
        """For each layer the most probable candidates, the first of equals."""
        return [
            {key: layer.candidates[key][int(chances.argmax())] for key, chances in found.items()}
            for layer, found in zip(self._layers, self.all_probabilities(), strict=True)
        ]

    def entropy(self) -> float:
        """Mean over all properties with a choice, each as a share of the largest possible: 1 undecided, 0 decided."""
        found = [chances.detach() for layer in self.probabilities() for chances in layer.values()]
        shares = [torch.special.entr(chances).sum() / torch.tensor(float(len(chances))).log() for chances in found]
        return float(torch.stack(shares).mean())


class SuperLayer(nn.Module):
    """A convolution, its activation and its pooling, with all candidates at once.

    Kernel size: the largest kernel times sum_k p_k 1[inside the k x k in its middle], as `same` aligns it. Width: the
    most filters; behind activation and pooling, filter j (from 0) times the sum of p_f over all f > j. Pooling: p_max
    max + p_avg avg. With all probability on one candidate of these three the layer gives what the discrete one gives,
    to rounding, and zeros in the filters that it doesn't have.

    Stride and padding would change the size of the result, and the layers behind need one. It is that of stride 1 and
    `same`. So these two differ from the discrete layer:

    - Stride s takes every s-th place of the convolution's result, pools there, and repeats each value (nearest) up to
      the common size. The discrete layer doesn't repeat, and the layers behind see fewer places. The first place is the
      one that Keras's `same` takes with the largest kernel; with a smaller one the discrete layer may start beside it.
    - `valid` is zero in all places of the pooled result whose window has seen pixels from outside the image, given the
      kernel size; the discrete layer leaves them out, and its pooling windows start behind them, not at the border.

    Args:
        layer: the candidates.
        conv: the layer's config in the largest network.
        convolution: with the largest kernel and the most filters.
        behind: normalization, if any, and activation.
        size: height and width in front.
    """

    def __init__(
        self, layer: Layer, conv: Conv, convolution: nn.Conv2d, behind: nn.Module, size: tuple[int, int]
    ) -> None:
        super().__init__()
        self.conv, self.behind = convolution, behind
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
        # Not parts of the state: the candidates give them.
        self.register_buffer("_kernels", kernel_masks, persistent=False)
        self.register_buffer(
            "_filters", (torch.tensor(filters)[:, None] > torch.arange(most)).float(), persistent=False
        )
        self.register_buffer("_paddings", self._padding_masks(layer.candidates["padding"], inside), persistent=False)
        self._kernels: Tensor
        self._filters: Tensor
        self._paddings: Tensor

    def _inside(self, n: int, kernel: int) -> Tensor:
        """Along one side: 1 where all of the pooling's window saw nothing but the image."""
        across, step = self._window
        first = step * torch.arange((n - across) // step + 1)
        return ((first >= (kernel - 1) // 2) & (first + across - 1 < n - kernel // 2)).float()

    @staticmethod
    def _padding_masks(paddings: list[str], inside: Tensor) -> Tensor:
        """(padding, kernel, height, width)."""
        return torch.stack([inside if padding == "valid" else torch.ones_like(inside) for padding in paddings])

    def forward(self, x: Tensor, chances: dict[str, Tensor]) -> Tensor:
        """The mixture.

        Args:
            x: (images, channels, height, width).
            chances: by property the probabilities of its candidates; nothing for a single one.
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
        if last and y.requires_grad:  # `flatten` hands gradients back in another order, in which pooling is slow
            mixed: Any = y
            mixed.register_hook(lambda gradient: gradient.contiguous(memory_format=torch.channels_last))
        mask = self._mask(chances)
        return y if mask is None else y * mask.to(y.dtype)

    def _pooled(self, y: Tensor, chances: dict[str, Tensor]) -> Tensor:
        across, step = self._window
        if (across, step) == (1, 1):
            return y
        found = [(F.max_pool2d if kind == "max" else F.avg_pool2d)(y, across, step) for kind in self._poolings]
        if "pooling" not in chances:
            return found[0]
        return found[0] * chances["pooling"][0] + found[1] * chances["pooling"][1]

    def _mask(self, chances: dict[str, Tensor]) -> Tensor | None:
        """Width and padding: (filters or 1, height or 1, width or 1)."""
        one = self._kernels.new_ones(1)
        mask = (chances["filters"] @ self._filters)[:, None, None] if "filters" in chances else None
        if not self._crops:
            return mask
        padding, kernel = chances.get("padding", one), chances.get("kernel_size", one)
        inside = torch.einsum("p,k,pkyx->yx", padding, kernel, self._paddings)
        return inside if mask is None else mask * inside


def _every(y: Tensor, stride: int, first: list[int], channels_last: bool) -> Tensor:
    """Every so many places of the last two dimensions, in the memory layout of `y`: so is the slice's gradient then."""
    if channels_last:
        return y.permute(0, 2, 3, 1)[:, first[0] :: stride, first[1] :: stride].permute(0, 3, 1, 2)
    return y[:, :, first[0] :: stride, first[1] :: stride]


def _first(n: int, kernel: int, stride: int) -> int:
    """The place of stride 1's result that is the first one of a larger stride, both padded `same` as Keras does."""
    padded = max((-(-n // stride) - 1) * stride + kernel - n, 0)
    return (kernel - 1) // 2 - padded // 2


class SuperNetwork(nn.Module):
    """The largest network among the candidates, its searched layers replaced by super-layers.

    Args:
        model: the config, as the network is built from it.
        image_shape: channels, height, width.
        classes: outputs.
        layers: what is searched.
        architecture: H. It is no part of this module's parameters: those are the weights Theta.
    """

    def __init__(
        self,
        model: Spec,
        image_shape: tuple[int, int, int],
        classes: int,
        layers: list[Layer],
        architecture: Architecture,
    ) -> None:
        super().__init__()
        self._architecture = (architecture,)  # a tuple hides a module from torch
        spec = largest(model, layers)
        convs = convolutions(spec)
        plain: Any = build("model", spec, image_shape, classes)
        sizes = list(accumulate(enumerate(convs), lambda size, pair: size_after(*pair, *size), initial=image_shape[1:]))
        found: OrderedDict[str, nn.Module] = OrderedDict()
        known = {layer.name: layer for layer in layers}
        for name, child in plain.named_children():
            kind = name.rstrip("0123456789")
            layer = known.get(f"conv{name.removeprefix(kind)}")
            if layer is None or kind == "dropout" or kind.startswith("dense"):
                found[name] = child
            elif kind == "conv":
                behind = nn.Sequential()
                found[name] = SuperLayer(layer, convs[layer.index], child, behind, sizes[layer.index])
            elif kind != "pool":
                behind.add_module(kind, child)
        self.layers = nn.Sequential(found)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (images, classes)."""
        chances = iter(self._architecture[0].probabilities())
        x = images
        for layer in self.layers:
            x = layer(x, next(chances)) if isinstance(layer, SuperLayer) else layer(x)
        return x
