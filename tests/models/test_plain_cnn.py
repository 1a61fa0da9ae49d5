"""The documents' network, layer by layer."""

import pytest
import torch
from torch import nn

from cnnbench.config.composition import config_source
from cnnbench.config.keys import CONF
from cnnbench.errors import ConfigError
from cnnbench.models import PlainCNN
from cnnbench.training.parts import make_model


def document_cnn(shape: tuple[int, int, int], classes: int, words: str = "") -> PlainCNN:
    with config_source(None) as composer:
        (job,) = composer.jobs(words.split(), multirun=False)
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
    # The document rectifies first; test_relu_after_its_pooling_changes_no_bit.
    assert kinds == ["Conv2d", "MaxPool2d", "ReLU"] * 2 + ["Flatten", "Linear", "ReLU", "Linear"]


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


def layers_of(network: PlainCNN) -> list[str]:
    return [type(layer).__name__ for layer in network]


def test_mnist_cnn_as_printed() -> None:
    network = document_cnn((1, 28, 28), 10, "model=mnist_cnn")
    # 9 * 32 + 32; 9 * 32 * 64 + 64; 9 * 64 * 64 + 64; 3 * 3 * 64 * 64 + 64; 64 * 10 + 10
    counts = [sum(p.numel() for p in layer.parameters()) for layer in network if list(layer.parameters())]
    assert counts == [320, 18_496, 36_928, 36_928, 650]
    assert sum(counts) == 93_322
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert layers_of(document_cnn((1, 28, 28), 10, "model=mnist_cnn model.dropout=0.5"))[-2:] == ["Dropout", "Linear"]


@pytest.mark.parametrize(
    ("conv", "size"),
    [
        ({"padding": "same", "stride": 2}, 4),  # 7 / 2, rounded up
        ({"padding": "valid", "stride": 2}, 3),  # (7 - 3) / 2 + 1
        ({"padding": 2, "stride": 1}, 9),  # 7 + 4 - 3 + 1
        ({"padding": "same", "kernel_size": 4}, 7),
        ({"pool": 3}, 2),
        ({"pool": 3, "pool_stride": 2}, 3),  # (7 - 3) / 2 + 1
        ({"pool": 3, "pool_stride": 1, "pooling": "avg"}, 5),
        ({"pool": 3, "pooling": "none"}, 7),
    ],
)
def test_sizes_by_hand(conv: dict[str, object], size: int) -> None:
    network = PlainCNN((1, 7, 7), 3, [{"filters": 2, **conv}], [])  # type: ignore[typeddict-item]
    assert network.output.in_features == 2 * size * size
    assert network(torch.zeros(2, 1, 7, 7)).shape == (2, 3)


def test_same_padding_with_a_stride_is_kerass() -> None:
    # 4 pixels, kernel 3, stride 2: one pixel is missing, and Keras adds it at the end. Windows: 1 2 3, then 3 4 0.
    network = PlainCNN((1, 4, 4), 1, [{"filters": 1, "kernel_size": 3, "stride": 2}], [])
    torch.nn.init.constant_(network.conv1.weight, 1)
    torch.nn.init.zeros_(network.conv1.bias)
    row = torch.tensor([1.0, 2, 3, 4]).expand(1, 1, 4, 4)
    assert network.conv1(network.pad1(row))[0, 0].tolist() == [[18, 21], [12, 14]]


def test_relu_after_its_pooling_changes_no_bit() -> None:
    torch.manual_seed(0)
    network = document_cnn((3, 32, 32), 10, "")
    assert layers_of(network)[:6] == ["Conv2d", "MaxPool2d", "ReLU"] * 2
    printed = nn.Sequential(*(network[i] for i in (0, 2, 1, 3, 5, 4, 6, 7, 8, 9)))  # as in document 3, 4.2
    images, labels = torch.randn(16, 3, 32, 32), torch.arange(16) % 10
    images[0] = 0  # every maximum is of equals
    found = []
    for model in (network, printed):
        network.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in network.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_average_pooling_batch_norm_and_activations() -> None:
    network = document_cnn(
        (3, 32, 32), 10, "model.pooling=avg model.batch_norm=true model.batch_norm_affine=false model.activation=tanh"
    )
    assert layers_of(network)[:4] == ["Conv2d", "BatchNorm2d", "Tanh", "AvgPool2d"]
    assert sum(p.numel() for p in network.parameters()) == 545_098  # no scale, no shift (document 4)
    with_scale = document_cnn((3, 32, 32), 10, "model.batch_norm=true")
    assert sum(p.numel() for p in with_scale.parameters()) == 545_098 + 2 * (32 + 64 + 128)


@pytest.mark.parametrize(
    ("name", "at_minus_one"),
    [("sigmoid", 0.268941), ("tanh", -0.761594), ("relu", 0), ("leaky_relu", -0.01), ("elu", -0.632121),
     ("gelu", -0.158655), ("silu", -0.268941)],
)  # fmt: skip
def test_activations(name: str, at_minus_one: float) -> None:
    network = PlainCNN((1, 4, 4), 2, [{"filters": 1}], [], activation=name)
    assert network[1](torch.tensor(-1.0)).item() == pytest.approx(at_minus_one, abs=1e-5)


@pytest.mark.parametrize(
    "words",
    ["model.kernel_size=0", "model.convs=[{filters:0}]", "model.convs=[{filters:4,stride:0}]", "model.dense=[0]",
     "model.convs=[{filters:4,pool:1.5}]"],
)  # fmt: skip
def test_counts_below_one_are_refused(command, words: str) -> None:
    result = command(f"data=digits {words}")
    assert result.code == 2
    assert "must be a whole number of at least 1" in result.err


def test_small_vgg_has_as_many_parameters_as_its_file_says() -> None:
    network = document_cnn((3, 32, 32), 10, "model=small_vgg")
    # 28 * 32; 289 * 64 + 577 * 64; 577 * 128 + 1,153 * 128; 2,049 * 128; 129 * 10
    assert sum(p.numel() for p in network.parameters()) == 896 + 55_424 + 221_440 + 262_272 + 1_290
    assert "541,322 parameters" in (CONF / "model" / "small_vgg.yaml").read_text()


def test_batch_norm_on_a_last_batch_of_one_image_is_refused(command) -> None:
    # 90 training images: batches of 89 leave one, batches of 88 leave two.
    words = "data=digits data.limit=100 data.val_fraction=0.1 epochs=1 test=false regularizer=batch_norm"
    result = command(f"{words} batch_size=89")
    assert result.code == 2
    assert "with 90 training images the last batch has one image" in result.err
    assert command(f"{words} batch_size=88").code == 0
    assert command(f"{words.replace('regularizer=batch_norm', '')} batch_size=89").code == 0
