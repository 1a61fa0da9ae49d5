"""The documents' network, layer by layer."""

import pytest
import torch

from cnnbench.compose import config_source
from cnnbench.models import PlainCNN
from cnnbench.parts import make_model
from cnnbench.schema import ConfigError


def document_cnn(shape: tuple[int, int, int], classes: int) -> PlainCNN:
    with config_source(None) as composer:
        (job,) = composer.jobs([], multirun=False)
    network = make_model(job.config, shape, classes)
    assert isinstance(network, PlainCNN)
    return network


def test_document_cnn_as_printed() -> None:
    network = document_cnn((3, 32, 32), 10)
    x, printed = torch.zeros(2, 3, 32, 32), []
    for layer in network:
        x = layer(x)
        if not isinstance(layer, torch.nn.ReLU):
            printed.append((tuple(x.shape[1:]), sum(p.numel() for p in layer.parameters())))
    assert printed == [  # document 3, 4.2; PyTorch puts channels first
        ((32, 32, 32), 896),
        ((32, 16, 16), 0),
        ((64, 16, 16), 18_496),
        ((64, 8, 8), 0),
        ((4096,), 0),
        ((128,), 524_416),
        ((10,), 1_290),
    ]
    assert sum(p.numel() for p in network.parameters()) == 545_098
    kinds = [type(layer).__name__ for layer in network]
    assert kinds == ["Conv2d", "ReLU", "MaxPool2d"] * 2 + ["Flatten", "Linear", "ReLU", "Linear"]


@pytest.mark.parametrize(
    ("shape", "classes"), [((1, 8, 8), 10), ((3, 64, 48), 3), ((1, 28, 28), 100), ((3, 33, 31), 2)]
)
def test_document_cnn_adapts(shape: tuple[int, int, int], classes: int) -> None:
    channels, height, width = shape
    network = document_cnn(shape, classes)
    assert network(torch.zeros(2, *shape)).shape == (2, classes)
    flat = 64 * (height // 4) * (width // 4)
    convs = (9 * channels + 1) * 32 + (9 * 32 + 1) * 64
    assert sum(p.numel() for p in network.parameters()) == convs + (flat + 1) * 128 + 129 * classes


def test_a_layer_that_leaves_nothing_is_named() -> None:
    valid = {"filters": 4, "kernel_size": 3, "padding": "valid", "pool": 2}
    assert PlainCNN((1, 10, 10), 2, [valid, valid], [])(torch.zeros(1, 1, 10, 10)).shape == (1, 2)
    with pytest.raises(ConfigError, match=r"model\.convs\[1\].*3x3"):
        PlainCNN((1, 9, 9), 2, [valid, valid], [])
