"""The super-network against the discrete networks that it contains, mixtures and costs worked out by hand."""

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnbench.config.schema import Search
from cnnbench.config.targets import Spec, build
from cnnbench.models import PlainCNN
from cnnbench.search.space import PROPERTIES, TARGET, Choice, Cost, Layer, derived, describe, searched
from cnnbench.search.supernet import Architecture, SuperNetwork

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE, CLASSES = (2, 8, 7), 3


def searching(**lists: Any) -> Search:
    """A search with single candidates but for those given."""
    single = {"filters": [4], "kernel_size": [3], "stride": [1], "padding": ["same"], "pooling": ["max"]}
    return Search(method="joint", **(single | lists))


def model(**keys: Any) -> Spec:
    convs = [{"filters": 4, "pool": 2}, {"filters": 4, "kernel_size": 3, "pool": 2, "pool_stride": 1}]
    return {"_target_": TARGET, "convs": convs, "dense": [5], "activation": "relu"} | keys


def put_wholly_on(architecture: Architecture, layers: list[Layer], choices: list[Choice]) -> None:
    with torch.no_grad():
        for layer, logits, choice in zip(layers, architecture.logits, choices, strict=True):
            for key, values in logits.items():
                values.fill_(-1e4)
                values[layer.candidates[key].index(choice[key])] = 1e4


def network_of(spec: Spec, search: Search, shape=SHAPE) -> tuple[SuperNetwork, Architecture, list[Layer]]:
    torch.manual_seed(0)
    layers = searched(spec, search, shape)
    architecture = Architecture(layers, search.margin).double()
    network = SuperNetwork(spec, shape, CLASSES, layers, architecture).double()
    for buffer in network.buffers():  # statistics of batch norm that matter
        if buffer.dim() == 1:
            buffer.copy_(torch.rand_like(buffer) + 0.5)
    return network.eval(), architecture, layers


def cut(network: SuperNetwork, spec: Spec) -> PlainCNN:
    """The discrete network of `spec` with the super-network's weights."""
    plain = build("model", spec, SHAPE, CLASSES).double().eval()
    own = dict(network.layers.named_children())
    for name, child in plain.named_children():
        if isinstance(child, nn.Conv2d):
            big, k = own[name].conv.weight, child.kernel_size[0]
            start = (big.shape[2] - 1) // 2 - (k - 1) // 2
            f, c = child.weight.shape[:2]
            child.weight.data = big.data[:f, :c, start : start + k, start : start + k]
            child.bias.data = own[name].conv.bias.data[:f]
        elif isinstance(child, nn.BatchNorm2d):
            norm = own[f"conv{name.removeprefix('norm')}"].behind.norm
            for key in ("weight", "bias", "running_mean", "running_var"):
                getattr(child, key).data = getattr(norm, key).data[: child.num_features]
        elif name == "dense1":
            child.weight.data = own[name].weight.data[:, : child.in_features]  # whole channels: the size is the same
            child.bias.data = own[name].bias.data
        elif list(child.parameters()):
            child.load_state_dict(own[name].state_dict())
    return plain


@pytest.mark.parametrize("keys", [{}, {"batch_norm": True, "activation": "sigmoid"}], ids=["relu", "norm-sigmoid"])
def test_with_all_probability_on_one_candidate_it_is_the_discrete_network(keys: dict) -> None:
    search = searching(filters=[1, 4, 6], kernel_size=[1, 2, 3, 4, 5], pooling=["max", "avg"])
    network, architecture, layers = network_of(model(**keys), search)
    images = torch.randn(3, *SHAPE).double()
    lists = [layer.candidates[key] for layer in layers for key in ("filters", "kernel_size", "pooling")]
    for picked in list(itertools.product(*lists))[::7]:
        pairs = (picked[:3], picked[3:])
        choices = [dict(zip(PROPERTIES, (f, k, 1, "same", p), strict=True)) for f, k, p in pairs]
        put_wholly_on(architecture, layers, choices)
        assert architecture.chosen() == choices
        spec = derived(model(**keys), layers, choices)
        expected = cut(network, spec)(images)
        torch.testing.assert_close(network(images), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel", [2, 3, 5])
def test_a_stride_gives_the_values_of_the_discrete_layer_repeated(kernel: int) -> None:
    spec = model(convs=[{"filters": 4, "kernel_size": kernel, "pool": 2}])
    network, architecture, layers = network_of(spec, searching(kernel_size=[1, kernel], stride=[1, 2]))
    choice = {"filters": 4, "kernel_size": kernel, "stride": 2, "padding": "same", "pooling": "max"}
    put_wholly_on(architecture, layers, [choice])
    images = torch.randn(3, *SHAPE).double()
    discrete = build("model", derived(spec, layers, [choice]), SHAPE, CLASSES).double()
    super_layer = network.layers[0]
    discrete.conv1.load_state_dict(super_layer.conv.state_dict())
    end = list(dict(discrete.named_children())).index("flatten")
    expected = F.interpolate(nn.Sequential(*list(discrete)[:end])(images), (4, 3), mode="nearest")
    torch.testing.assert_close(super_layer(images, architecture.probabilities()[0]), expected)


def layer_of_ones(size: int, chances: dict[str, list[float]], **lists: Any) -> Tensor:
    """What a super-layer of ones, without bias, gives for an image of ones."""
    spec = model(convs=[{"filters": 1, "kernel_size": 3, "pool": lists.pop("pool", 1)}])
    network, _, _ = network_of(spec, searching(**({"filters": [1]} | lists)), (1, size, size))
    layer = network.layers[0]
    nn.init.ones_(layer.conv.weight)
    nn.init.zeros_(layer.conv.bias)
    shares = {key: torch.tensor(values).double() for key, values in chances.items()}
    return layer(torch.ones(1, 1, size, size).double(), shares)[0].detach()


def test_mixtures_by_hand() -> None:
    # The middle pixel sees itself and 8 neighbours, these with the probability of 3x3; a corner has 3 neighbours.
    kernels = layer_of_ones(3, {"kernel_size": [0.25, 0.75]}, kernel_size=[1, 3])[0]
    assert (kernels[1, 1], kernels[0, 0]) == (1 + 8 * 0.75, 1 + 3 * 0.75)
    # The first filter is in all widths, the second in 2 and 4, the others in 4.
    widths = layer_of_ones(3, {"filters": [0.5, 0.3, 0.2]}, filters=[1, 2, 4])[:, 1, 1]
    assert widths.tolist() == pytest.approx([9.0, 0.5 * 9, 0.2 * 9, 0.2 * 9])
    # 2x2 at the corner: 4, 6, 6, 9.
    pooled = layer_of_ones(4, {"pooling": [0.4, 0.6]}, pooling=["max", "avg"], pool=2)[0, 0, 0]
    assert float(pooled) == pytest.approx(0.4 * 9 + 0.6 * 25 / 4)
    # Valid 3x3 leaves the border out, 1x1 does not.
    chances = {"padding": [0.1, 0.9], "kernel_size": [0.5, 0.5]}
    cropped = layer_of_ones(3, chances, padding=["same", "valid"], kernel_size=[1, 3])[0]
    assert float(cropped[1, 1]) == pytest.approx(1 + 8 * 0.5)
    assert float(cropped[0, 0]) == pytest.approx((1 + 3 * 0.5) * (0.1 + 0.9 * 0.5))
    # Stride 2 on 4 places takes those at 1 and 3, each for two.
    strided = layer_of_ones(4, {"stride": [0.5, 0.5]}, stride=[1, 2])[0]
    assert strided[0].tolist() == pytest.approx([0.5 * (4 + 9), 0.5 * (6 + 9), 0.5 * (6 + 6), 0.5 * (4 + 6)])


def test_where_the_search_starts() -> None:
    layers = searched(model(), searching(kernel_size=[1, 3, 5], pooling=["max", "avg"]), SHAPE)
    architecture = Architecture(layers, 0.5)
    assert [sorted(logits) for logits in architecture.logits] == [["kernel_size", "pooling"]] * 2
    chances = architecture.probabilities()[0]
    e = 1.6487213  # exp(0.5)
    assert chances["kernel_size"].tolist() == pytest.approx([1 / (2 + e), e / (2 + e), 1 / (2 + e)])
    assert architecture.chosen() == [layer.start for layer in layers]
    assert describe(model(), layers).startswith(
        "conv1: 4 filters 3x3, stride 1, same, max pooling; conv2: 4 filters 3x3"
    )
    with torch.no_grad():
        for parameter in architecture.parameters():
            parameter.zero_()
    assert architecture.entropy() == pytest.approx(1)
    put_wholly_on(architecture, layers, [layer.start for layer in layers])
    assert architecture.entropy() == 0


def test_costs_are_those_of_the_networks() -> None:
    search = searching(filters=[2, 4], kernel_size=[2, 3], stride=[1, 2], padding=["same", "valid"], layers=[0])
    spec = model(batch_norm=True, convs=[{"filters": 4, "pool": 2}, {"filters": 3}])
    layers = searched(spec, search, SHAPE)
    cost = Cost(spec, SHAPE, CLASSES, layers)
    lists = layers[0].candidates
    everything = [dict(zip(PROPERTIES, v, strict=True)) for v in itertools.product(*(lists[k] for k in PROPERTIES))]
    assert len(everything) == 16
    chances = {
        "filters": [0.3, 0.7],
        "kernel_size": [0.1, 0.9],
        "stride": [0.6, 0.4],
        "padding": [0.2, 0.8],
        "pooling": [1.0],
    }
    mean = {"parameters": 0.0, "flops": 0.0}
    for choice in everything:
        network = build("model", derived(spec, layers, [choice]), SHAPE, CLASSES)
        found = cost.of([choice])
        assert found["parameters"] == sum(p.numel() for p in network.parameters())
        share = 1.0
        for key, value in choice.items():
            share *= chances[key][lists[key].index(value)]
        mean = {key: mean[key] + share * found[key] for key in mean}
    expected = cost([{key: torch.tensor(values) for key, values in chances.items()}])
    assert {key: float(value) for key, value in expected.items()} == pytest.approx(mean, rel=1e-5)
    # 8x7 pixels: 56 places with 2x9 products for each of 4 filters; 4x3 after the pooling with 4x9 for each of 3; dense
    # 36 to 5 and 5 to 3. Two for each product.
    assert cost.of([layers[0].start])["flops"] == 2 * (56 * 18 * 4 + 12 * 36 * 3 + 36 * 5 + 15)
