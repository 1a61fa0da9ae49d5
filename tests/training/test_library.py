"""The optimizers of pytorch-optimizer by name: all that are said to train descend and resume identically."""

import copy
import io
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import record, refused, without_times
from interruptions import stop_after
from torch import Tensor, nn
from torch.optim import Optimizer

from cnnbench.config.targets import Spec
from cnnbench.training import library
from cnnbench.training.averaging import averaged
from cnnbench.training.optimizers import Trial, make_optimizer, tried

pytestmark = pytest.mark.usefixtures("no_figures", "one_thread")

NAMES = library.supported()
NEEDED = {"lbfgs": {"max_iter": 2}, "ranger21": {"num_iterations": 40}}
DIGITS = "data=digits data.limit=200 batch_size=20 logger=none"


def spec(name: str, **arguments: float) -> Spec:
    target = "cnnbench.training.library.library_optimizer"
    return {"_target_": target, "name": name, **NEEDED.get(name, {}), **arguments}


def step(optimizer: Optimizer, loss: Callable[[], Tensor], trial: Trial) -> None:
    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward(create_graph=trial.graph)
        return value

    closure()
    optimizer.step(closure if trial.closure else None)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 3, 3), nn.ReLU(), nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(16, 6), nn.Tanh(), nn.Linear(6, 3))


def test_there_are_many_and_each_other_one_has_its_reason() -> None:
    assert len(NAMES) >= 100
    assert {"adopt", "ademamix", "adan", "came", "kron", "lamb", "mars", "prodigy", "sam", "shampoo", "soap"} <= {
        *NAMES
    }
    assert set(library.REFUSED) | set(NAMES) == set(library._classes())
    assert not set(library.REFUSED) & set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_descends(name: str) -> None:
    """At the library's own rate or one of these, as each has its own scale, 40 steps take a fifth off the loss."""
    torch.manual_seed(1)
    images, labels = torch.rand(12, 1, 6, 6) / 4, torch.arange(12) % 3
    images[torch.arange(12), 0, 2 * labels] += 1  # a bright row tells the class
    trial = tried(spec(name))
    for rate in ({}, *({"lr": lr} for lr in (0.1, 0.01, 1.0, 10.0, 1e-3, 1e-5))):
        model = network()
        optimizer = make_optimizer(spec(name, **rate), model)

        def loss(model: nn.Module = model) -> Tensor:
            return F.cross_entropy(model(images), labels)

        before = float(loss().detach())
        for _ in range(40):
            step(optimizer, loss, trial)
        with torch.no_grad(), averaged(model, optimizer, [images]):
            if float(loss()) < 0.8 * before:
                return
    pytest.fail("the loss became smaller at none of these rates")


@pytest.mark.parametrize("name", NAMES)
def test_resumes_identically(name: str) -> None:
    torch.manual_seed(1)
    data = [(torch.rand(8, 1, 6, 6), torch.randint(3, (8,))) for _ in range(14)]
    trial, model = tried(spec(name)), network()
    memory = torch.channels_last if trial.channels_last else torch.contiguous_format
    model = model.to(memory_format=memory)
    optimizer = make_optimizer(spec(name), model)

    def train(model: nn.Module, optimizer: Optimizer, batches: list[tuple[Tensor, Tensor]]) -> None:
        for images, labels in batches:
            step(optimizer, lambda x=images, y=labels: F.cross_entropy(model(x), y), trial)

    train(model, optimizer, data[:6])
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    other = copy.deepcopy(model)
    resumed = make_optimizer(spec(name), other)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    random = torch.get_rng_state()
    train(model, optimizer, data[6:])
    torch.set_rng_state(random)  # as a run does that resumes
    train(other, resumed, data[6:])
    pairs = list(zip(model.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(one, two) for one, two in pairs)
    assert any(not torch.equal(p, q) for p, q in zip(model.parameters(), network().parameters(), strict=True))


def test_what_a_step_asks_for() -> None:
    found = {name: tried(spec(name)) for name in ("adan", "sam", "sophiah", "adahessian", "adamp", "kron")}
    assert [name for name, trial in found.items() if trial.closure] == ["sam", "sophiah", "adahessian"]
    assert [name for name, trial in found.items() if trial.graph] == ["sophiah", "adahessian"]
    assert not found["adamp"].channels_last  # it takes weights as vectors, without a copy
    assert found["adan"].channels_last
    assert [name for name, trial in found.items() if trial.random] == ["sophiah", "adahessian", "kron"]


def test_sophia_by_hand() -> None:
    """One step on the parabola sum(a w^2) / 2, whose Hessian is a: w <- w - lr clip(m / h, p), on its first step
    m = (1 - beta1) a w and h = (1 - beta2) (z a z), where z is drawn."""
    a = torch.tensor([1.0, 3.0, 0.5])
    model = nn.ParameterList([nn.Parameter(torch.tensor([2.0, -1.0, 0.01]))])
    start = model[0].detach().clone()
    optimizer = make_optimizer(spec("sophiah", lr=0.1, p=0.5), model)
    torch.manual_seed(3)
    step(optimizer, lambda: (a * model[0] ** 2).sum() / 2, Trial(None, True, True, False, True))
    torch.manual_seed(3)
    z = torch.randn(3)
    update = (0.04 * a * start / (0.01 * a * z * z)).clamp(-0.5, 0.5)
    torch.testing.assert_close(model[0].detach(), start - 0.1 * update)


@pytest.mark.parametrize(
    "words",
    [
        "optimizer=library optimizer.name=adahessian clip=1",
        "optimizer=sam optimizer.groups=no_decay optimizer.weight_decay=0.01",
        "optimizer=kron",
        "optimizer=library optimizer.name=splus",
    ],
)
def test_stopped_and_resumed(command, here: Path, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    words = f"{DIGITS} epochs=2 {words} regularizer=[dropout,batch_norm] scheduler=one_cycle"
    assert command(f"{words} name=whole").code == 0
    with monkeypatch.context() as patched:
        stop_after(patched, 5, signal.SIGINT)
        assert command(words).code == 130
    assert command(words).code == 0
    whole, resumed = (without_times(record(here / "runs" / name)) for name in ("whole", "default"))
    assert whole["history"] == resumed["history"]


def test_a_matrix_that_is_no_longer_finite_is_divergence(command, here: Path) -> None:
    words = f"{DIGITS} epochs=20 optimizer=shampoo lr=1e9 optimizer.preconditioning_compute_steps=1"
    command(words)
    found = record(here)
    assert found["status"] == "diverged"


def test_the_name_stands_for_the_option(command, here: Path) -> None:
    assert command(f"{DIGITS} epochs=1 optimizer=library optimizer.name=adamod lr=0.01").code == 0
    found = record(here)
    assert (found["choices"]["optimizer"], found["run_id"][:16]) == ("adamod", "adamod-lr0.01-se")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("optimizer.name=sopa", "optimizer.name=sopa: not known. Did you mean 'spam'? Allowed: accsgd, adabelief"),
        ("optimizer.name=Adan", "optimizer.name=Adan: not known. Did you mean 'adan'?"),
        ("optimizer.name=conda", "optimizer.name=conda: not trained here, as it keeps objects in its state"),
        ("optimizer.name=lion", "optimizer.name=lion: not trained here, as it is built in, as optimizer=lion."),
        ("optimizer.name=soap optimizer.wieght_decay=1", "soap takes no 'wieght_decay'. Did you mean 'weight_decay'?"),
        ("optimizer.name=soap optimizer.betas=[2,0.9]", "optimizer: cnnbench.training.library.library_optimizer("),
        ("optimizer.name=ranger21", "optimizer.num_iterations is missing: ranger21 needs it."),
        ("optimizer.name=sam optimizer.momentun=1", "sam takes no 'momentun'. Did you mean 'momentum'?"),
        ("optimizer.name=sam optimizer.base_optimizer=adanw", "optimizer.base_optimizer=adanw: not known. Did you"),
        ("optimizer.name=kron optimizer.balance_prob=0.1", "optimizer.balance_prob=0.1: only 0 gives the same run"),
        ("optimizer.name=kron hardware.devices=2 hardware.accelerator=cpu", "draws random numbers, other ones in each"),
        ("optimizer.name=sophiah search=joint model=plain_cnn", "search=joint can't repeat"),
    ],
)
def test_refusals(command, here: Path, words: str, says: str) -> None:
    refused(command(f"{DIGITS} epochs=1 optimizer=library {words}"), says, here)


def test_without_the_library(command, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "find_spec", lambda name: None)
    refused(command(f"{DIGITS} epochs=1 optimizer=soap"), "pip install 'cnnbench[more]'", here)
