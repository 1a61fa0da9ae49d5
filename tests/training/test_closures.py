"""Optimizers that evaluate the loss again within a step: the same batch, augmentation and dropout each time."""

import signal
from pathlib import Path

import pytest
import torch
from conftest import record, without_prefix, without_times
from interruptions import Killed, stop_after

from cnnbench.config.composition import config_source
from cnnbench.data.datamodule import split
from cnnbench.data.images import digits
from cnnbench.training import checkpoints, parts
from cnnbench.training.optimizers import tried

OPTIMIZERS = '''
import torch

class Twice(torch.optim.SGD):
    """Gradient descent that evaluates the loss twice for nothing."""

    def step(self, closure):
        assert torch.equal(closure(), closure())
        return super().step()

class SAM(torch.optim.Optimizer):
    """Foret et al. 2021, as it is usually written: the gradient at w + rho g / |g|, for plain gradient descent."""

    def __init__(self, params, lr, rho=0.05):
        super().__init__(params, {"lr": lr, "rho": rho})

    @torch.no_grad()
    def step(self, closure=None):
        assert closure is not None, "SAM needs a closure"
        for group in self.param_groups:
            norm = torch.stack([p.grad.norm() for p in group["params"]]).norm()
            away = [group["rho"] * p.grad / norm for p in group["params"]]
            for p, e in zip(group["params"], away):
                p.add_(e)
            with torch.enable_grad():
                closure()
            for p, e in zip(group["params"], away):
                p.sub_(e).sub_(p.grad, alpha=group["lr"])

class Broken(torch.optim.SGD):
    def step(self, closure=None):
        raise RuntimeError("no step today")
'''
RANDOM = "augment=flip_crop augment.mixup=0.2 regularizer=[dropout,batch_norm,l2]"


@pytest.fixture
def own(command, here: Path):
    """`own("optimizer=sam ...")`: a command with these optimizers."""
    (here / "mine" / "optimizer").mkdir(parents=True)
    (here / "mine" / "closures.py").write_text(OPTIMIZERS)
    for name, target in (
        ("twice", "closures.Twice"),
        ("my_sam", "closures.SAM"),
        ("broken", "closures.Broken"),
        ("lbfgs", "torch.optim.LBFGS"),
    ):
        (here / "mine" / "optimizer" / f"{name}.yaml").write_text(f"_target_: {target}\nlr: 0.1\n")
    return lambda words: command(f"--config-dir mine data=digits logger=none {words}")


def weights(here: Path, name: str) -> torch.Tensor:
    (path,) = here.glob(f"runs/{name}/*/last.ckpt")
    state = without_prefix(checkpoints.read(path)["lightning"]["state_dict"], "model.")
    return torch.cat([tensor.flatten().double() for key, tensor in state.items() if key.startswith("network")])


@pytest.mark.parametrize("update", ["minibatch", "cag update.accumulate=3 update.reduction=mean clip=1"])
def test_each_evaluation_has_the_same_random_numbers_and_leaves_no_trace(own, here: Path, update: str) -> None:
    for name in ("sgd lr=0.1", "twice"):
        result = own(
            f"optimizer={name} hardware.channels_last=false data.limit=200 batch_size=40 epochs=2 update={update} {RANDOM} name={name[:3]}"
        )
        assert result.code == 0, result.err
    assert torch.equal(weights(here, "sgd"), weights(here, "twi"))  # running statistics too
    plain, twice = (without_times(record(here / "runs" / name)) for name in ("sgd", "twi"))
    assert plain["history"] == twice["history"]


@pytest.mark.parametrize("sam", ["my_sam", "sam optimizer.momentum=0"])  # the second one is pytorch-optimizer's
def test_sam_by_hand(own, here: Path, sam: str) -> None:
    words = f"optimizer={sam} lr=0.1 optimizer.rho=0.5 data.limit=100 batch_size=30 update=full_batch epochs=1"
    assert own(f"{words} name=sam").code == 0
    with config_source(None) as composer:
        (job,) = composer.jobs(["data=digits", "data.limit=100"], multirun=False)
    images, found = digits(job.config.data), record(here)["data"]
    torch.manual_seed(0)
    network = parts.make_model(job.config, (1, 8, 8), 10)
    positions = split(images, job.config.data, 0).train
    inputs = (torch.from_numpy(images.train[positions]).float().movedim(3, 1) - found["mean"][0]) / found["deviation"][
        0
    ]
    labels, parameters = torch.from_numpy(images.train_labels[positions]), list(network.parameters())

    def gradient() -> list[torch.Tensor]:
        return list(torch.autograd.grad(torch.nn.functional.cross_entropy(network(inputs), labels), parameters))

    start = [parameter.detach().clone() for parameter in parameters]
    first = gradient()
    length = torch.cat([g.flatten() for g in first]).norm()
    with torch.no_grad():
        for parameter, g in zip(parameters, first, strict=True):
            parameter.add_(g, alpha=0.5 / length.item())
    expected = [w - 0.1 * g for w, g in zip(start, gradient(), strict=True)]
    steps = [torch.cat([w.flatten().double() for w in each]) for each in (start, expected)]
    plain = torch.cat([(w - 0.1 * g).flatten().double() for w, g in zip(start, first, strict=True)])
    assert (weights(here, "sam") - steps[1]).norm() < 1e-4 * (steps[1] - steps[0]).norm()
    assert (plain - steps[1]).norm() > 0.05 * (steps[1] - steps[0]).norm()  # gradient descent goes elsewhere


def test_lbfgs_on_the_full_batch(own, here: Path) -> None:
    words = "optimizer=lbfgs lr=1 optimizer.line_search_fn=strong_wolfe data.limit=200 update=full_batch epochs=3"
    assert own(f"{words} name=long").code == 0
    # 20 iterations a step: the row of epoch 3 is measured after two steps, which have learned the 180 images.
    assert record(here / "runs" / "long")["history"][2]["train_acc"] > 0.9

    losses = []
    for size in (200, 40):  # few iterations, so that rounding stays small
        assert own(f"{words} optimizer.max_iter=2 batch_size={size} name=of{size}").code == 0
        losses.append([row["train_loss"] for row in record(here / "runs" / f"of{size}")["history"]])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][0] > losses[0][1] > losses[0][2]


def test_stopped_amid_a_step_and_resumed(own, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = f"optimizer=my_sam data.limit=200 batch_size=30 epochs=2 update=full_batch {RANDOM}"  # 6 batches a step
    assert own(f"{words} name=whole").code == 0
    for batches, signum in ((4, signal.SIGINT), (1, signal.SIGTERM), (3, signal.SIGKILL)):
        with monkeypatch.context() as patched:
            stop_after(patched, batches, signum)
            if signum == signal.SIGKILL:
                with pytest.raises(Killed):
                    own(words)
            else:
                assert own(words).code == 128 + signum
    assert own(words).code == 0
    assert torch.equal(weights(here, "whole"), weights(here, "default"))
    whole, resumed = (without_times(record(here / "runs" / name)) for name in ("whole", "default"))
    assert whole["history"] == resumed["history"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("optimizer=broken", "optimizer: closures.Broken can't step (no step today)."),
        ("optimizer=lbfgs hardware.devices=2 hardware.accelerator=cpu", "torch.optim.LBFGS evaluates the loss several"),
        ("optimizer=lbfgs search=joint", "search=joint can't repeat"),
    ],
)
def test_what_does_not_go_together_is_one_line(own, words: str, says: str) -> None:
    result = own(words)
    assert (result.code, result.err.count("\n")) == (2, 1), result.err
    assert says in result.err


def test_built_in_optimizers_need_none() -> None:
    for name in ("adam", "sgd", "muon", "schedule_free", "lion"):
        with config_source(None) as composer:
            (job,) = composer.jobs([f"optimizer={name}"], multirun=False)
        assert not tried(job.config.optimizer).closure
    assert tried({"_target_": "torch.optim.LBFGS"}).closure
