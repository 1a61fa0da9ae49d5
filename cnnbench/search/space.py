"""What can the architecture of a convolution be? Candidates, H_init, words, and what it costs (document 0, 3)."""

import inspect
import itertools
from collections.abc import Iterator
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
"""What is searched of a convolution, and keys of `model.convs`."""

TARGET = "cnnbench.models.PlainCNN"
"""The one class of networks whose convolutions can be searched."""

Choice = dict[str, Any]
"""A value of each of the `PROPERTIES` of a layer."""


@dataclass(frozen=True)
class Layer:
    """A convolution that is searched."""

    index: int
    """In `model.convs`."""
    candidates: dict[str, list[Any]]
    """By property; a single one is not searched."""
    start: Choice
    """H_init: the layer as the model has it."""

    @property
    def name(self) -> str:
        """As in the network: `conv1` is the first."""
        return f"conv{self.index + 1}"


def convolutions(model: Spec) -> list[Conv]:
    """`model.convs`, each with all keys: its own, or else the model's, or else the defaults."""
    defaults = inspect.signature(PlainCNN).parameters
    keys = ("kernel_size", "stride", "padding", "pooling", "pool_stride")
    common = {key: model.get(key, defaults[key].default) for key in keys} | {"pool": 1}
    complete: list[Any] = [common | conv for conv in model["convs"]]
    return complete


def searched(model: Spec, search: Search, image_shape: tuple[int, int, int]) -> list[Layer]:
    """The layers that `search` asks for, first to last.

    Raises:
        ConfigError: the model has no such layer, its own layer is not among the candidates, or some of them together
            leave nothing of the image.
    """
    if model.get("_target_") != TARGET or not model.get("convs"):
        raise ConfigError(
            f"search={search.method}: {model.get('_target_')} has no layer to be searched. Allowed: models of {TARGET} "
            f"with convs, such as document_cnn, mnist_cnn and plain_cnn."
        )
    convs = convolutions(model)
    which = list(range(len(convs))) if search.layers is None else sorted(search.layers)
    for index in which:
        if not 0 <= index < len(convs):
            raise ConfigError(f"search.layers={search.layers}: there is no model.convs[{index}], only {len(convs)}.")
    layers = [_layer(index, convs[index], search) for index in which]
    if all(len(values) == 1 for layer in layers for values in layer.candidates.values()):
        raise ConfigError(f"search={search.method}: every list has one candidate, so there is nothing to search.")
    height, width = image_shape[1:]
    for index, conv in enumerate(convs):
        try:
            sizes = [size_after(index, variant, height, width) for variant in _variants(index, conv, layers)]
        except ConfigError as error:
            raise ConfigError(
                f"search={search.method}: with the candidates that leave the least, {error} Shorten the lists, such as "
                f"search.stride=[1]."
            ) from None
        height, width = min(size[0] for size in sizes), min(size[1] for size in sizes)
    return layers


def _layer(index: int, conv: Conv, search: Search) -> Layer:
    start = {key: conv[key] for key in PROPERTIES}  # type: ignore[literal-required]
    candidates = {key: list(getattr(search, key)) for key in PROPERTIES}
    if conv["pool"] == 1 or conv["pooling"] == "none":
        candidates["pooling"] = [conv["pooling"]]
    for key, values in candidates.items():
        if start[key] not in values:
            raise ConfigError(
                f"search.{key}={values}: model.convs[{index}] has {start[key]}, where the search starts; it must be "
                f"among the candidates."
            )
    return Layer(index, candidates, start)


def _variants(index: int, conv: Conv, layers: list[Layer]) -> Iterator[Conv]:
    """A convolution with each kernel size, stride and padding that it may have."""
    keys = PROPERTIES[1:4]
    own = next((layer.candidates for layer in layers if layer.index == index), None)
    values = [own[key] if own else [conv[key]] for key in keys]  # type: ignore[literal-required]
    for combination in itertools.product(*values):
        yield {**conv, **dict(zip(keys, combination, strict=True))}  # type: ignore[typeddict-item]


def derived(model: Spec, layers: list[Layer], choices: list[Choice]) -> Spec:
    """The `model` config with a choice for each searched layer."""
    found = deepcopy(model)
    for layer, choice in zip(layers, choices, strict=True):
        found["convs"][layer.index] |= choice
    return found


def largest(model: Spec, layers: list[Layer]) -> Spec:
    """The largest network among the candidates: the most filters, the largest kernel, stride 1, same."""
    choices = [
        layer.start
        | {key: max(layer.candidates[key]) for key in ("filters", "kernel_size")}
        | {"stride": 1, "padding": "same"}
        for layer in layers
    ]
    return derived(model, layers, choices)


def words(model: Spec, layers: list[Layer]) -> str:
    """The searched layers of a model: `64 filters 5x5, stride 1, same, max pooling`."""
    convs = convolutions(model)
    told = []
    for layer in layers:
        conv = convs[layer.index]
        pooling = "" if conv["pool"] == 1 or conv["pooling"] == "none" else f", {conv['pooling']} pooling"
        size = f"{conv['kernel_size']}x{conv['kernel_size']}"
        text = f"{conv['filters']} filters {size}, stride {conv['stride']}, {conv['padding']}{pooling}"
        told.append(text if len(convs) == 1 else f"{layer.name}: {text}")
    return "; ".join(told)


class Cost:
    """What a network costs whose architecture is uncertain: exact means, differentiable in the probabilities.

    The properties are independent of each other and from layer to layer, so the mean of a product is the product of
    means but for what shares a cause: kernel size, stride and padding decide a layer's work and the size of what it
    leaves, which is followed from layer to layer as a distribution over heights and widths.

    Args:
        model: the config, as the network is built from it.
        image_shape: channels, height, width.
        classes: outputs of the network.
        layers: what is searched.
    """

    def __init__(self, model: Spec, image_shape: tuple[int, int, int], classes: int, layers: list[Layer]) -> None:
        self._channels, self._layers = image_shape[0], layers
        self._convs = convolutions(model)
        self._widths = [*model.get("dense", []), classes]
        norm = model.get("batch_norm", False) and model.get("batch_norm_affine", True)
        self._of_norm = 2 if norm else 0  # parameters for each filter or unit
        self._work: list[Tensor] = []
        """For each convolution multiplications by variant and size in front, for one filter and one channel."""
        self._moves: list[Tensor] = []
        """For each convolution 1 where a variant leads from one size to another: (variant, size, size behind)."""
        sizes = [image_shape[1:]]
        for index, conv in enumerate(self._convs):
            variants = list(_variants(index, conv, layers))
            behind = [[size_after(index, variant, *size) for size in sizes] for variant in variants]
            reached = sorted({size for row in behind for size in row})
            work, moves = torch.zeros(len(variants), len(sizes)), torch.zeros(len(variants), len(sizes), len(reached))
            for v, variant in enumerate(variants):
                for s, size in enumerate(sizes):
                    height, width = size_after(index, {**variant, "pool": 1}, *size)
                    work[v, s] = variant["kernel_size"] ** 2 * height * width
                    moves[v, s, reached.index(behind[v][s])] = 1
            self._work.append(work)
            self._moves.append(moves)
            sizes = reached
        self._areas = torch.tensor([float(height * width) for height, width in sizes])

    def __call__(self, probabilities: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Means of `parameters` and `flops` (two for each multiplication with its addition).

        Args:
            probabilities: for each searched layer those of its candidates, by property; on the processor.
        """
        given = {layer.index: (layer, found) for layer, found in zip(self._layers, probabilities, strict=True)}
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
            parameters = parameters + (channels * taps + 1 + self._of_norm) * filters
            flops = flops + 2 * channels * filters * (variants @ self._work[index] @ sizes)
            sizes = torch.einsum("v,s,vsb->b", variants, sizes, self._moves[index])
            channels = filters
        features = channels * (sizes @ self._areas)
        for i, units in enumerate(self._widths):
            hidden = i < len(self._widths) - 1
            parameters = parameters + (features + 1 + (self._of_norm if hidden else 0)) * units
            flops = flops + 2 * features * units
            features = torch.tensor(float(units))
        return {"parameters": parameters, "flops": flops}

    def of(self, choices: list[Choice]) -> dict[str, float]:
        """The same of one architecture."""
        certain = [
            {key: torch.tensor([float(v == choice[key]) for v in values]) for key, values in layer.candidates.items()}
            for layer, choice in zip(self._layers, choices, strict=True)
        ]
        return {key: float(mean) for key, mean in self(certain).items()}
