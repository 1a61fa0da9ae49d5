"""Parameter groups by pattern: which parameters they hold, their settings in every step, and freezing."""

from pathlib import Path

import pytest
import torch
from conftest import record, refused
from torch import nn

from cnnbench.training import checkpoints
from cnnbench.training.optimizers import make_optimizer
from cnnbench.training.parameter_groups import frozen, members, read

pytestmark = pytest.mark.usefixtures("no_figures")

DIGITS = "data=digits data.limit=500 batch_size=128 seed=1"


def network() -> nn.Sequential:
    model = nn.Sequential()
    model.add_module("conv", nn.Conv2d(1, 2, 3))
    model.add_module("norm", nn.BatchNorm2d(2))
    model.add_module("hidden", nn.Linear(2, 3))
    model.add_module("output", nn.Linear(3, 2, bias=False))
    return model


def names(groups: dict, model: nn.Module) -> dict[str, list[str]]:
    own = {id(parameter): name for name, parameter in model.named_parameters()}
    return {key: [own[id(p)] for p in found] for key, found in members(read(groups), model).items()}


def test_kinds_and_patterns() -> None:
    groups = {
        "a": {"match": ["biases", "norms"]},
        "b": {"match": ["convolutions"]},
        "c": {"match": "dense"},
        "d": {"match": ["out*"]},  # the last group that matches has it
    }
    assert names(groups, network()) == {
        "a": ["conv.bias", "norm.weight", "norm.bias", "hidden.bias"],
        "b": ["conv.weight"],
        "c": ["hidden.weight"],
        "d": ["output.weight"],
    }
    whole = nn.Sequential()
    whole.add_module("network", network())  # as a run's module has it, after the normalization of images
    assert names(groups, whole)["d"] == ["network.output.weight"]


def test_a_step_by_hand() -> None:
    # SGD with all gradients 1: W <- W - lr (1 + weight_decay W), at lr 0.1, with 0.1 * 3 for norms, without their decay.
    model = network()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(2.0)
            parameter.grad = torch.ones_like(parameter)
    groups = {"norms": {"match": ["norms"], "lr_factor": 3, "weight_decay": 0}}
    spec = {"_target_": "torch.optim.SGD", "lr": 0.1, "weight_decay": 0.5, "groups": groups}
    optimizer = make_optimizer(spec, model)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, pytest.approx(0.3)]
    optimizer.step()
    for name, parameter in model.named_parameters():
        expected = 2 - 0.3 * 1 if name.startswith("norm") else 2 - 0.1 * (1 + 0.5 * 2)
        torch.testing.assert_close(parameter.detach(), torch.full_like(parameter, expected))


def test_no_decay_in_one_word() -> None:
    model = network()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(2.0)
            parameter.grad = torch.ones_like(parameter)
    make_optimizer({"_target_": "torch.optim.SGD", "lr": 0.1, "weight_decay": 0.5, "groups": "no_decay"}, model).step()
    for name, parameter in model.named_parameters():
        decayed = name in ("conv.weight", "hidden.weight", "output.weight")
        expected = 2 - 0.1 * (1 + (0.5 * 2 if decayed else 0))
        torch.testing.assert_close(parameter.detach(), torch.full_like(parameter, expected))


def test_frozen_after_so_many_epochs() -> None:
    model = network()
    groups = read({"a": {"match": ["conv.bias"], "epochs": 2}, "b": {"match": ["dense"]}})
    assert [frozen(groups, model, epoch) for epoch in (0, 1)] == [[], []]
    assert [p is model.conv.bias for p in frozen(groups, model, 2)] == [True]


@pytest.mark.parametrize("schedule", ["one_cycle", "triangular", "cosine scheduler.warmup=1"])
def test_the_factor_holds_at_every_point_of_the_schedule(command, here: Path, monkeypatch, schedule: str) -> None:
    from cnnbench.training.module import Classifier

    rates = []
    real = Classifier._step

    def stepping(self, optimizer) -> None:
        rates.append([group["lr"] for group in optimizer.param_groups])
        real(self, optimizer)

    monkeypatch.setattr(Classifier, "_step", stepping)
    groups = "+optimizer.groups.biases.match=[biases] +optimizer.groups.biases.lr_factor=4"
    assert command(f"{DIGITS} epochs=2 scheduler={schedule} {groups}").code == 0
    assert len({base for base, _ in rates}) > 2
    assert [biases for _, biases in rates] == pytest.approx([4 * base for base, _ in rates])


def test_a_frozen_group_stops_where_it_is(command, here: Path) -> None:
    words = f"{DIGITS} regularizer.weight_decay=0.1 checkpoint.every=1 +optimizer.groups.first"
    groups = f"{words}.match=[conv1.*] +optimizer.groups.first.epochs=1"
    assert command(f"{groups} epochs=1 name=one").code == 0
    assert command(f"{groups} epochs=2 name=two").code == 0
    one, two = (next(here.glob(f"runs/{name}/*/last.ckpt")) for name in ("one", "two"))
    before, after = (checkpoints.read(path)["lightning"]["state_dict"] for path in (one, two))
    still = [key for key in before if "num_batches" not in key and torch.equal(before[key], after[key])]
    assert sorted(key for key in still if "network" in key) == [
        "model.network.conv1.bias",
        "model.network.conv1.weight",
    ]
    assert record(here / "runs" / "two")["status"] == "done"


def test_an_unknown_word(command, here: Path) -> None:
    says = "optimizer.groups=no_decai: not known. Did you mean 'no_decay'? Allowed: no_decay."
    refused(command(f"{DIGITS} epochs=1 optimizer.groups=no_decai"), says, here)


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        (
            "a:{match:[conv9.*]}",
            "optimizer.groups.a.match=conv9.*: no parameter of this network has such a name, and no kind",
        ),
        ("a:{match:[bias]}", "Did you mean 'biases'?"),
        ("a:{match:[biases],lr_facto:2}", "optimizer.groups.a.lr_facto=2: not known. Did you mean 'lr_factor'?"),
        ("a:{match:[biases],lr_factor:-1}", "optimizer.groups.a.lr_factor=-1: must be a number of at least 0"),
        ("a:{match:[biases],epochs:0.5}", "optimizer.groups.a.epochs=0.5: must be a whole number"),
        ("a:{lr_factor:2}", "optimizer.groups.a.match=None: must be a list of biases, norms, convolutions, dense"),
        ("a:3", "optimizer.groups.a=3: must be a mapping"),
    ],
)
def test_refusals(command, here: Path, groups: str, says: str) -> None:
    refused(command(f"{DIGITS} epochs=1 '+optimizer.groups={{{groups}}}'"), says, here)


def test_a_weight_decay_is_refused_where_there_is_none(command, here: Path) -> None:
    words = "optimizer._target_=torch.optim.Rprop '+optimizer.groups={a:{match:[biases],weight_decay:0}}'"
    words += " ~optimizer.betas ~optimizer.eps"
    refused(command(f"{DIGITS} epochs=1 {words}"), "optimizer.groups.a.weight_decay=0: Rprop has no weight decay", here)
