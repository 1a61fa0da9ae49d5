"""What every optimizer must do, one row for each YAML; and Schedule-Free's two sets of weights."""

import copy
import functools
import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ExponentialLR, OneCycleLR

from cnnbench.config.composition import config_source
from cnnbench.config.keys import CONF
from cnnbench.config.targets import Spec, build
from cnnbench.errors import ConfigError
from cnnbench.training.averaging import averaged, averages
from cnnbench.training.optimizers import make_optimizer, split, take_back, tried

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = sorted(path.stem for path in (CONF / "optimizer").glob("*.yaml"))


@functools.cache
def composed(words: tuple[str, ...]) -> Spec:
    with config_source(None) as composer:
        (job,) = composer.jobs(words, multirun=False)
    return job.config.optimizer


def spec(*words: str) -> Spec:
    return copy.deepcopy(composed(words))


def network(dropout: float = 0.0) -> nn.Sequential:
    """Convolutions and dense layers with biases, and batch norm after the activation, where biases do matter."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)),
        *(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.BatchNorm2d(6), nn.Dropout(dropout), nn.Flatten()),
        *(nn.Linear(96, 8), nn.Tanh(), nn.Linear(8, 5)),
    )
    return model.double()


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    return [(torch.rand(16, 3, 8, 8).double(), torch.randint(5, (16,))) for _ in range(count)]


def gradients(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    model.zero_grad()
    F.cross_entropy(model(images), labels).backward()


def train(model: nn.Module, optimizer: Optimizer, data: list[tuple[Tensor, Tensor]], parts: Spec | None = None) -> None:
    """Steps with each batch; `parts`, the optimizer's config, tells what its step asks for."""
    for images, labels in data:
        step(optimizer, lambda x=images, y=labels: F.cross_entropy(model(x), y), parts)


def step(optimizer: Optimizer, loss: Callable[[], Tensor], parts: Spec | None) -> None:
    trial = tried(parts) if parts else None

    def closure(graph: bool = trial is not None and trial.graph) -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward(create_graph=graph)
        return value

    closure(graph=False)
    optimizer.step(closure if trial is not None and trial.closure else None)


def values(model: nn.Module) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in (*model.parameters(), *model.buffers())]


def same(some: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"muon_sgd"}))  # it sets the norm of hidden weights itself
def test_descends_a_parabola(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)).double()
    goals = [0.05 * torch.randn_like(p) + p.detach() for p in model.parameters()]
    steepness = [0.5 + torch.rand_like(p) for p in model.parameters()]

    def loss() -> Tensor:
        parts = zip(model.parameters(), goals, steepness, strict=True)
        return torch.stack([(a * (p - goal) ** 2).sum() / 2 for p, goal, a in parts]).sum()

    parts = spec(f"optimizer={name}")
    optimizer = make_optimizer(
        parts | {"lr": 10 * parts.get("lr", 0.001)}, model
    )  # the defaults are for losses less smooth
    before = float(loss().detach())
    for _ in range(120):
        step(optimizer, loss, parts)
    with averaged(model, optimizer, ()):
        assert float(loss().detach()) < before / 10


@pytest.mark.parametrize("name", NAMES)
def test_goes_on_as_if_it_had_not_been_stopped(name: str) -> None:
    data = [(images.float(), labels) for images, labels in batches(10)]
    model = (
        network().float()
    )  # as networks are: torch's NAdam continues a little differently with parameters in float64
    parts = spec(f"optimizer={name}")
    optimizer = make_optimizer(parts, model)
    train(model, optimizer, data[:5], parts)

    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    other = copy.deepcopy(model)
    resumed = make_optimizer(spec(f"optimizer={name}"), other)
    resumed.load_state_dict(torch.load(file, weights_only=True))

    start, random = values(model), torch.get_rng_state()
    train(model, optimizer, data[5:], parts)
    torch.set_rng_state(random)  # as a run does that resumes
    train(other, resumed, data[5:], parts)
    assert same(values(model), values(other))
    assert not same(values(model), start)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["rows", "channels_last"])
@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_moves(name: str, memory_format: torch.memory_format) -> None:
    parts = spec(f"optimizer={name}")
    if memory_format == torch.channels_last and not tried(parts).channels_last:
        pytest.skip("its runs have rows")
    model = network().to(memory_format=memory_format)
    optimizer = make_optimizer(parts, model)
    before = values(model)
    train(model, optimizer, batches(3), parts)
    parameters = dict(model.named_parameters())
    still = [key for (key, p), old in zip(parameters.items(), before, strict=False) if torch.equal(p, old)]
    assert len(parameters) == 12
    assert all(p.grad is not None for p in parameters.values())
    assert still == []
    optimizer.zero_grad()
    assert all(p.grad is None for p in parameters.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_config_is_checked_without_memory(name: str) -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 2))
    assert isinstance(make_optimizer(spec(f"optimizer={name}"), model), Optimizer)


# Muon


def hidden_names(model: nn.Module) -> list[str]:
    hidden, rest = split(model)
    names = {id(p): name for name, p in model.named_parameters()}
    assert len(hidden) + len(rest) == len(names)
    assert {id(p) for p in (*hidden, *rest)} == set(names)
    return [names[id(p)] for p in hidden]


def test_split() -> None:
    assert hidden_names(network()) == ["3.weight", "8.weight"]
    grouped = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 1), nn.Linear(4, 2))
    assert hidden_names(grouped) == ["2.weight"]
    assert hidden_names(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Linear(4, 2))) == []


def test_muon_without_hidden_weights() -> None:
    with pytest.raises(ConfigError, match="between the first and the last layer"):
        make_optimizer(spec("optimizer=muon"), nn.Sequential(nn.Conv2d(3, 4, 1), nn.Linear(4, 2)))
    with pytest.raises(ConfigError, match=r"optimizer: cnnbench\.training\.optimizers\.Muon.*momentum"):
        make_optimizer(spec("optimizer=muon", "optimizer.momentum=-1"), network())


def test_muon_whatever_the_layout() -> None:
    models = [network(), network().to(memory_format=torch.channels_last)]
    images, labels = batches(1)[0]
    for model in models:
        gradients(model, images, labels)
    for p, other in zip(*(m.parameters() for m in models), strict=True):
        other.grad = p.grad  # the convolutions' own rounding differs
    for model in models:
        make_optimizer(spec("optimizer=muon"), model).step()
    assert same(values(models[0])[:12], values(models[1])[:12])


def test_muon_with_sgd_by_hand() -> None:
    """Hidden weights against torch's Muon after they were scaled to sqrt(rows), the others against torch's SGD."""
    model, twin = network(), network()
    twin.load_state_dict(model.state_dict())
    hidden, rest = split(twin)
    matrices = [nn.Parameter(weight.detach().flatten(1).clone()) for weight in hidden]
    sgd = torch.optim.SGD(rest, 0.1, momentum=0.8, nesterov=True)
    muon = torch.optim.Muon(matrices, 0.1, weight_decay=0, momentum=0.6, adjust_lr_fn="original")
    words = ["optimizer=muon_sgd", "lr=0.1", "optimizer.rest_momentum=0.8", "optimizer.groups=null"]
    optimizer = make_optimizer(spec(*words), model)
    for images, labels in batches(3):
        gradients(model, images, labels)
        optimizer.step()
        gradients(twin, images, labels)
        for matrix, weight in zip(matrices, hidden, strict=True):
            matrix.data.mul_(len(matrix) ** 0.5 / matrix.detach().norm())
            matrix.grad = weight.grad.flatten(1)
        muon.step()
        sgd.step()
        for matrix, weight in zip(matrices, hidden, strict=True):
            weight.data.copy_(matrix.detach().view_as(weight))
        assert same(values(model)[:12], values(twin)[:12])
        model.zero_grad()
        twin.zero_grad()


SCHEDULES: list[Callable[[Optimizer], Any]] = [
    lambda optimizer: ExponentialLR(optimizer, 0.5),
    lambda optimizer: OneCycleLR(optimizer, max_lr=0.01, total_steps=4),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=["exponential", "one_cycle"])
def test_a_schedule_moves_both_parts_of_muon(schedule: Callable[[Optimizer], Any]) -> None:
    model = network()
    optimizer = make_optimizer(spec("optimizer=muon", "optimizer.weight_decay=0"), model)
    scheduler = schedule(optimizer)
    data = batches(1) * 3
    lrs, steps = [], []
    for _ in data:
        before, state = values(model)[:12], copy.deepcopy(optimizer.state_dict())
        lrs.append({group["lr"] for group in optimizer.param_groups})
        train(model, optimizer, data[:1])
        moved = [new - old for new, old in zip(values(model), before, strict=False)]
        # The same step again, from the same place with another optimizer whose lr never was any other.
        (lr,) = lrs[-1]
        twin = copy.deepcopy(model)
        for p, q, old in zip(twin.parameters(), model.parameters(), before, strict=True):
            p.data, p.grad = old.clone(), q.grad
        constant = make_optimizer(spec("optimizer=muon", "optimizer.weight_decay=0", f"lr={lr}"), twin)
        constant.load_state_dict(state | {"param_groups": constant.state_dict()["param_groups"]})
        for group, scheduled in zip(constant.param_groups, optimizer.param_groups, strict=True):
            group["momentum"] = state["param_groups"][0]["momentum"]  # one-cycle moves it too
            assert group["lr"] == scheduled["lr"]
        constant.step()
        again = [new.detach() - old for new, old in zip(twin.parameters(), before, strict=True)]
        assert same(moved, again)
        steps.append(sum(float(m.norm()) for m in moved))
        scheduler.step()
    assert len({lr for both in lrs for lr in both}) == 3


# Schedule-Free


def reference(model: nn.Module, data: list[tuple[Tensor, Tensor]], lr: float) -> Iterator[list[Tensor]]:
    """The averages x of Defazio et al. 2024, algorithm 1, without warm-up and decay; `model` is left at the last y."""
    beta1, beta2, eps = 0.9, 0.999, 1e-8
    y = list(model.parameters())
    z, x = ([p.detach().clone() for p in y] for _ in range(2))
    v = [torch.zeros_like(p) for p in y]
    for t, (images, labels) in enumerate(data, start=1):
        with torch.no_grad():
            for i, p in enumerate(y):
                p.copy_((1 - beta1) * z[i] + beta1 * x[i])
        gradients(model, images, labels)
        for i, p in enumerate(y):
            v[i] = beta2 * v[i] + (1 - beta2) * p.grad**2
            z[i] = z[i] - lr * p.grad / ((v[i] / (1 - beta2**t)).sqrt() + eps)
            x[i] = (1 - 1 / t) * x[i] + 1 / t * z[i]
        yield x


def statistics(model: nn.Sequential, images: list[Tensor]) -> list[Tensor]:
    """Mean and variance of what each batch norm is given, the mean over the batches; dropout is off."""
    model = copy.deepcopy(model).eval()
    norms = [layer for layer in model if isinstance(layer, nn.BatchNorm2d)]
    for norm in norms:
        norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None  # normalise by the batch
    seen: list[list[list[Tensor]]] = [[] for _ in norms]
    for norm, rows in zip(norms, seen, strict=True):
        norm.register_forward_pre_hook(
            lambda _, given, rows=rows: rows.append(
                [given[0].mean((0, 2, 3)), given[0].transpose(0, 1).flatten(1).var(1)]
            )
        )
    with torch.no_grad():
        for batch in images:
            model(batch)
    return [torch.stack(column).mean(0) for rows in seen for column in zip(*rows, strict=True)]


def test_the_averaged_weights_and_back() -> None:
    data = batches(8)
    images = [batch for batch, _ in data[:3]]
    plain, model = network(), network(dropout=0.5)
    model[6].p = 0.0  # while both train
    optimizer = make_optimizer(spec("optimizer=schedule_free"), model)
    assert averages(optimizer)
    for (batch, labels), x in zip(data, reference(plain, data, 0.0025), strict=True):
        gradients(model, batch, labels)
        optimizer.step()
        before, random = values(model), torch.get_rng_state()
        state = copy.deepcopy(optimizer.state_dict())
        model[6].p = 0.5
        with averaged(model, optimizer, images):
            for p, expected in zip(model.parameters(), x, strict=True):
                torch.testing.assert_close(p.detach(), expected, rtol=1e-9, atol=1e-12)
            found = [b for layer in (model[2], model[5]) for b in (layer.running_mean, layer.running_var)]
            for buffer, expected in zip(found, statistics(model, images), strict=True):
                torch.testing.assert_close(buffer, expected, rtol=1e-9, atol=1e-12)
            assert all(layer.momentum == 0.1 for layer in (model[2], model[5]))
        assert all(module.training for module in model.modules())
        assert same(values(model), before)
        assert torch.equal(torch.get_rng_state(), random)
        assert repr(optimizer.state_dict()) == repr(state)
        model[6].p = 0.0


def test_training_does_not_notice() -> None:
    data = batches(6)
    models = [network(), network()]
    watched, left_alone = (make_optimizer(spec("optimizer=schedule_free"), model) for model in models)
    for step in data:
        train(models[0], watched, [step])
        models[0].eval()
        with torch.inference_mode(), averaged(models[0], watched, [step[0]]):  # as Lightning validates
            assert not models[0].training
        assert not any(module.training for module in models[0].modules())
        models[0].train()
        train(models[1], left_alone, [step])
    assert same(values(models[0]), values(models[1]))


def test_training_continues_after_an_error() -> None:
    model = network()
    optimizer = make_optimizer(spec("optimizer=schedule_free"), model)
    train(model, optimizer, batches(2))
    before = values(model)
    with pytest.raises(ValueError, match="there were none"), averaged(model, optimizer, ()):
        pass
    with pytest.raises(KeyError), averaged(model, optimizer, [batches(1)[0][0]]):
        raise KeyError
    assert same(values(model), before)
    train(model, optimizer, batches(1))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "schedule_free"])
def test_the_others_have_nothing_to_switch(name: str) -> None:
    model, parts = network(), spec(f"optimizer={name}")
    optimizer = make_optimizer(parts, model)
    train(model, optimizer, batches(1), parts)
    before = values(model)

    def never() -> Iterator[Tensor]:
        raise AssertionError("looked at the batches")
        yield

    with averaged(model, optimizer, never()):
        assert same(values(model), before)
    assert not averages(optimizer)


def test_an_optimizer_is_needed() -> None:
    assert build("scheduler", {"_target_": None}) is None
    with pytest.raises(ConfigError, match=r"optimizer\._target_=null"):
        make_optimizer({"_target_": None}, network())


@pytest.mark.parametrize("name", ["adam", "adagrad", "momentum", "rmsprop"])
@pytest.mark.parametrize("before", [True, False])
def test_goes_on_where_steps_are_fused_or_not(name: str, before: bool) -> None:
    data, models = batches(6), [network() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    whole, first = (make_optimizer(spec(f"optimizer={name}"), model, before) for model in models)
    train(models[0], whole, data)
    train(models[1], first, data[:3])
    second = make_optimizer(spec(f"optimizer={name}"), models[1], not before)
    own = second.param_groups[0].get("fused")
    take_back(second, first.state_dict())
    assert second.param_groups[0].get("fused") == own
    train(models[1], second, data[3:])
    for a, b in zip(values(models[1]), values(models[0]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
