"""The search space: candidates for each convolution, H_init, and the cost of an architecture (document 0, 3)."""

import inspect
import itertools
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cnnbench.config.schema import Search
from cnnbench.config.targets import Spec
from cnnbench.errors import ConfigError
from cnnbench.models.plain_cnn import Conv, PlainCNN, size_after

PROPERTIES = ("filters", "kernel_size", "stride", "padding", "pooling")
"""The properties of a convolution that can be searched: keys of `model.convs`."""

TARGET = "cnnbench.models.PlainCNN"
"""The only class of networks whose convolutions can be searched."""

Choice = dict[str, Any]
"""A value for each of the `PROPERTIES` of a layer."""


@dataclass(frozen=True)
class Layer:
    """A convolution that is searched."""

    index: int
    """Position in `model.convs`."""
    candidates: dict[str, list[Any]]
    """Candidates by property; a property with a single one is not searched."""
    start: Choice
    """H_init: the layer's own values in the model."""

    @property
    def name(self) -> str:
        """Name in the network: `conv1` is the first convolution."""
        return f"conv{self.index + 1}"


def convolutions(model: Spec) -> list[Conv]:
    """The convolutions of `model.convs` with all keys: their own, the model's, or the defaults of `PlainCNN`."""
    defaults = inspect.signature(PlainCNN).parameters
    keys = ("kernel_size", "stride", "padding", "pooling", "pool_stride")
    common = {key: model.get(key, defaults[key].default) for key in keys} | {"pool": 1}
    complete: list[Any] = [common | conv for conv in model["convs"]]
    return complete


def searched(model: Spec, search: Search, image_shape: tuple[int, int, int]) -> list[Layer]:
    """The layers that `search` asks for, first to last, with those of its candidates that fit the images.

    While some combination of candidates leaves nothing of an image, the one that shrinks it most is left out: of the
    strides first, then of the paddings, then of the kernels, and in later layers first. The layers' own values stay.

    Raises:
        ConfigError: the model has no such layer, a layer's own value is not among the candidates, or the model itself
            leaves nothing of an image.
    """
    if model.get("_target_") != TARGET or not model.get("convs"):
        raise ConfigError(
            f"search={search.method}: {model.get('_target_')} has no layer to search. Allowed: models of {TARGET} "
            f"with convs, such as document_cnn, mnist_cnn and plain_cnn."
        )
    convs = convolutions(model)
    indices = list(range(len(convs))) if search.layers is None else sorted(search.layers)
    for index in indices:
        if not 0 <= index < len(convs):
            raise ConfigError(f"search.layers={search.layers}: there is no model.convs[{index}], only {len(convs)}.")
    layers = [_layer(index, convs[index], search) for index in indices]
    while (cramped := _cramped(convs, layers, image_shape)) is not None:
        index, error = cramped
        earlier = [layer for layer in reversed(layers) if layer.index <= index]
        shrinking = next(((layer, key) for key in _SHRINKING for layer in earlier if _excess(layer, key)), None)
        if shrinking is None:
            raise error
        layer, key = shrinking
        layer.candidates[key].remove(_excess(layer, key)[-1])
    if all(len(values) == 1 for layer in layers for values in layer.candidates.values()):
        raise ConfigError(f"search={search.method}: every list has one candidate, so there is nothing to search.")
    return layers


_SHRINKING = ("stride", "padding", "kernel_size")
"""Properties that decide how much of an image a layer leaves, the strongest first."""


def _excess(layer: Layer, key: str) -> list[Any]:
    """The candidates that leave less of an image than the layer's own value, in this order."""
    order = ["same", "valid"] if key == "padding" else sorted(layer.candidates[key])
    return [value for value in order[order.index(layer.start[key]) + 1 :] if value in layer.candidates[key]]


def _cramped(
    convs: list[Conv], layers: list[Layer], image_shape: tuple[int, int, int]
) -> tuple[int, ConfigError] | None:
    """The first convolution for which some combination of candidates leaves no pixel, and the error; None without."""
    height, width = image_shape[1:]
    for index, conv in enumerate(convs):
        try:
            sizes = [size_after(index, variant, height, width) for variant in _variants(index, conv, layers)]
        except ConfigError as error:
            return index, error
        height, width = min(size[0] for size in sizes), min(size[1] for size in sizes)
    return None


def left_out(search: Search, layers: list[Layer]) -> list[str]:
    """The candidates of `search` that `searched` has left out, such as `stride 2 of conv1`."""
    return [
        f"{key} {value} of {layer.name}"
        for layer in layers
        for key in _SHRINKING
        for value in getattr(search, key)
        if value not in layer.candidates[key]
    ]


def _layer(index: int, conv: Conv, search: Search) -> Layer:
    own: Mapping[str, Any] = conv
    start = {key: own[key] for key in PROPERTIES}
    candidates = {key: list(getattr(search, key)) for key in PROPERTIES}
    if conv["pool"] == 1 or conv["pooling"] == "none":
        candidates["pooling"] = [conv["pooling"]]
    for key, values in candidates.items():
        if start[key] not in values:
            raise ConfigError(
                f"search.{key}={values}: must include {start[key]}, where the search starts: the value of "
                f"model.convs[{index}]."
            )
    return Layer(index, candidates, start)


def _variants(index: int, conv: Conv, layers: list[Layer]) -> Iterator[Conv]:
    """A convolution with each combination of candidates for kernel size, stride and padding."""
    lists: Mapping[str, list[Any]] = {key: [value] for key, value in conv.items()}
    lists = next((layer.candidates for layer in layers if layer.index == index), lists)
    for kernel_size, stride, padding in itertools.product(*(lists[key] for key in PROPERTIES[1:4])):
        yield {**conv, "kernel_size": kernel_size, "stride": stride, "padding": padding}


def derived(model: Spec, layers: list[Layer], choices: list[Choice]) -> Spec:
    """A copy of the `model` config with a choice for each searched layer."""
    discrete = deepcopy(model)
    for layer, choice in zip(layers, choices, strict=True):
        discrete["convs"][layer.index] |= choice
    return discrete


def largest(model: Spec, layers: list[Layer]) -> Spec:
    """The config of the largest network among the candidates: most filters, largest kernel, stride 1, `same`."""
    choices = [
        layer.start
        | {key: max(layer.candidates[key]) for key in ("filters", "kernel_size")}
        | {"stride": 1, "padding": "same"}
        for layer in layers
    ]
    return derived(model, layers, choices)


def describe(model: Spec, layers: list[Layer]) -> str:
    """The searched layers of a model as text: `64 filters 5x5, stride 1, same, max pooling`."""
    convs = convolutions(model)
    descriptions = []
    for layer in layers:
        conv = convs[layer.index]
        pooling = "" if conv["pool"] == 1 or conv["pooling"] == "none" else f", {conv['pooling']} pooling"
        size = f"{conv['kernel_size']}x{conv['kernel_size']}"
        text = f"{conv['filters']} filters {size}, stride {conv['stride']}, {conv['padding']}{pooling}"
        descriptions.append(text if len(convs) == 1 else f"{layer.name}: {text}")
    return "; ".join(descriptions)


class Cost:
    """The expected cost of a network whose architecture is a distribution: exact, differentiable in the probabilities.

    All properties are independent, within a layer and from layer to layer, so the mean of a product is the product of
    the means. The exception is what depends on the same properties: kernel size, stride and padding determine both a
    layer's work and the size of its result. That size is carried from layer to layer as a distribution over heights and
    widths.

    Args:
        model: the config from which the network is built.
        image_shape: channels, height and width of the images.
        classes: number of logits.
        layers: the searched layers.
    """

    _channels: int
    """Channels of the images."""
    _layers: list[Layer]
    _convs: list[Conv]
    _widths: list[int]
    """Widths of the dense layers, the last one too."""
    _norm_parameters: int
    """Parameters of batch normalization for each filter or unit."""
    _work: list[Tensor]
    """(variants, sizes) for each convolution: multiplications of one filter and channel, by variant and input size."""
    _transitions: list[Tensor]
    """(variants, sizes, next sizes) for each convolution: 1 where a variant turns an input size into an output size."""
    _areas: Tensor
    """(sizes,), height times width of each size after the last convolution."""

    def __init__(self, model: Spec, image_shape: tuple[int, int, int], classes: int, layers: list[Layer]) -> None:
        self._channels, self._layers = image_shape[0], layers
        self._convs = convolutions(model)
        self._widths = [*model.get("dense", []), classes]
        norm = model.get("batch_norm", False) and model.get("batch_norm_affine", True)
        self._norm_parameters = 2 if norm else 0
        self._work, self._transitions = [], []
        sizes = [image_shape[1:]]
        for index, conv in enumerate(self._convs):
            variants = list(_variants(index, conv, layers))
            outputs = [[size_after(index, variant, *size) for size in sizes] for variant in variants]
            next_sizes = sorted({size for row in outputs for size in row})
            work = torch.zeros(len(variants), len(sizes))
            transitions = torch.zeros(len(variants), len(sizes), len(next_sizes))
            for v, variant in enumerate(variants):
                for s, size in enumerate(sizes):
                    height, width = size_after(index, {**variant, "pool": 1}, *size)
                    work[v, s] = variant["kernel_size"] ** 2 * height * width
                    transitions[v, s, next_sizes.index(outputs[v][s])] = 1
            self._work.append(work)
            self._transitions.append(transitions)
            sizes = next_sizes
        self._areas = torch.tensor([float(height * width) for height, width in sizes])

    def __call__(self, probabilities: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The expected cost of a distribution over architectures.

        Args:
            probabilities: for each searched layer those of its candidates, by property, on the CPU.

        Returns:
            Means of `parameters` and of `flops`: two for each multiplication and its addition, for one image.
        """
        given = {layer.index: (layer, chances) for layer, chances in zip(self._layers, probabilities, strict=True)}
        channels = torch.tensor(float(self._channels))
        sizes = torch.ones(1)
        parameters = flops = torch.zeros(())
        for index, conv in enumerate(self._convs):
            filters, taps = torch.tensor(float(conv["filters"])), torch.tensor(float(conv["kernel_size"]) ** 2)
            variants = torch.ones(1)
            if index in given:
                layer, chances = given[index]
                values = {key: torch.tensor([float(v) for v in layer.candidates[key]]) for key in PROPERTIES[:2]}
                filters = chances["filters"] @ values["filters"]
                taps = chances["kernel_size"] @ values["kernel_size"].square()
                variants = torch.cartesian_prod(*(chances[key] for key in PROPERTIES[1:4])).prod(1)
            parameters = parameters + (channels * taps + 1 + self._norm_parameters) * filters
            flops = flops + 2 * channels * filters * (variants @ self._work[index] @ sizes)
            sizes = torch.einsum("v,s,vsb->b", variants, sizes, self._transitions[index])
            channels = filters
        features = channels * (sizes @ self._areas)
        for i, units in enumerate(self._widths):
            hidden = i < len(self._widths) - 1
            parameters = parameters + (features + 1 + (self._norm_parameters if hidden else 0)) * units
            flops = flops + 2 * features * units
            features = torch.tensor(float(units))
        return {"parameters": parameters, "flops": flops}

    def of(self, choices: list[Choice]) -> dict[str, float]:
        """The cost of a single architecture: `parameters` and `flops`."""
        certain = [
            {key: torch.tensor([float(v == choice[key]) for v in values]) for key, values in layer.candidates.items()}
            for layer, choice in zip(self._layers, choices, strict=True)
        ]
        return {key: float(mean) for key, mean in self(certain).items()}
