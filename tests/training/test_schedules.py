"""Each schedule against learning rates worked out by hand, from the YAML to the optimizer."""

import pytest
import torch

from cnnbench.config.composition import config_source
from cnnbench.training.module import Epoch
from cnnbench.training.parts import make_schedule
from cnnbench.training.schedules import Schedule


def schedule(words: str, epochs: int = 4, steps: int = 2) -> tuple[Schedule, torch.optim.Optimizer]:
    with config_source(None) as composer:
        (job,) = composer.jobs([f"epochs={epochs}", *words.split()], multirun=False)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=job.config.lr)
    return make_schedule(job.config, Epoch(images=steps, batch_size=1, accumulate=1), optimizer), optimizer


def rates(words: str, epochs: int = 4, steps: int = 2, losses: list[float] | None = None) -> list[float]:
    """The learning rate of each step of a run."""
    moving, optimizer = schedule(words, epochs, steps)
    found = []
    for epoch in range(epochs):
        for _ in range(steps):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            moving.after_step()
        moving.after_epoch(losses[epoch] if losses else 1.0)
    return found


def twice(*values: float) -> list[float]:
    """Two steps an epoch."""
    return [value for value in values for _ in range(2)]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("lr=0.5 scheduler=fixed", [0.5] * 8),
        # (1 + 3)^(-t/2) = 1, 1/2, 1/4, 1/8
        ("lr=0.8 scheduler=exponential scheduler.delta=3", twice(0.8, 0.4, 0.2, 0.1)),
        # 1 / sqrt(1 + 3 t): 1, 1/2, 1/sqrt(7), 1/sqrt(10)
        ("lr=1 scheduler=redwood scheduler.delta=3", twice(1, 0.5, 0.3779645, 0.3162278)),
        ("lr=1 scheduler=step scheduler.step_size=2 scheduler.gamma=0.1", twice(1, 1, 0.1, 0.1)),
        ("lr=1 scheduler=multistep scheduler.milestones=[1,3]", twice(1, 0.1, 0.1, 0.01)),
        # (1 + cos(pi s / 8)) / 2 in step s of 8
        ("lr=1 scheduler=cosine", [1, 0.9619398, 0.8535534, 0.6913417, 0.5, 0.3086583, 0.1464466, 0.0380602]),
        ("lr=1 scheduler=cosine scheduler.interval=epoch", twice(1, 0.8535534, 0.5, 0.1464466)),
        # Of eight steps, the peak at 2: 0.2 + 0.8 t / 2, then 1 - 0.93 (t - 2) / 6
        ("lr=1 scheduler=triangular scheduler.peak=0.25", [0.2, 0.6, 1, 0.845, 0.69, 0.535, 0.38, 0.225]),
        (
            "lr=1 scheduler=triangular scheduler.peak=0 scheduler.end=0",
            [1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125],
        ),
        # A rise over two steps of eight, then a warm-up's end: 1/2, 1, and the scheduler from its beginning
        ("lr=1 scheduler=fixed scheduler.warmup=1", [0.5, 1, 1, 1, 1, 1, 1, 1]),
        ("lr=1 scheduler=exponential scheduler.delta=3 scheduler.warmup=1", [0.5, 1, 1, 1, 0.5, 0.5, 0.25, 0.25]),
        # (1 + cos(pi s / 6)) / 2 over the six steps that are left
        ("lr=1 scheduler=cosine scheduler.warmup=1", [0.5, 1, 1, 0.9330127, 0.75, 0.5, 0.25, 0.0669873]),
        ("lr=1 scheduler=step scheduler.step_size=1 scheduler.warmup=1.5", [1 / 3, 2 / 3, 1, 1, 1, 1, 0.1, 0.1]),
    ],
)
def test_rates_by_hand(words: str, expected: list[float]) -> None:
    assert rates(words) == pytest.approx(expected, rel=1e-5)


def test_one_cycle_by_hand() -> None:
    # 10 steps, 30 % of them up: from 1/25 in step 0 to 1 in step 2, and in step 9 down to 1/25/10^4, by half cosines.
    found = rates("lr=1 scheduler=one_cycle", epochs=5)
    assert found[:3] == pytest.approx([0.04, 0.52, 1])
    assert found[9] == pytest.approx(0.04 / 1e4)
    assert found[2:] == sorted(found[2:], reverse=True)


def test_plateau_by_hand() -> None:
    # Patience 1: the second epoch in a row without improvement divides by ten.
    found = rates("lr=1 scheduler=plateau scheduler.patience=1", epochs=6, losses=[1, 0.9, 0.95, 0.92, 0.91, 0.5])
    assert found == pytest.approx(twice(1, 1, 1, 1, 0.1, 0.1))


@pytest.mark.parametrize("name", ["exponential", "cosine", "plateau", "one_cycle", "step", "fixed"])
def test_a_schedule_goes_on_from_its_state(name: str) -> None:
    words = f"lr=1 scheduler={name} scheduler.warmup=1.5" + (" scheduler.patience=0" if name == "plateau" else "")
    whole = rates(words, epochs=6)
    moving, optimizer = schedule(words, epochs=6)
    found = []
    for epoch in range(6):
        for step in range(2):
            if (epoch, step) in [(1, 0), (2, 1), (4, 0)]:
                state, of_optimizer = moving.state_dict(), optimizer.state_dict()
                moving, optimizer = schedule(words, epochs=6)
                optimizer.load_state_dict(of_optimizer)
                moving.load_state_dict(state)
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            moving.after_step()
        moving.after_epoch(1.0)
    assert found == whole


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("scheduler=exponential scheduler.delta=-1", "delta=-1"),
        ("scheduler=cosine scheduler.warmup=4", "scheduler.warmup=4"),
        ("scheduler.warmup=-1", "scheduler.warmup=-1"),
        ("scheduler=cosine scheduler.interval=batch", "scheduler.interval=batch"),
        ("scheduler=step scheduler.step_size=0", "StepLR"),
        ("scheduler=one_cycle scheduler.pct_start=2", "pct_start"),
    ],
)
def test_schedules_that_make_no_sense(command, words: str, says: str) -> None:
    result = command(f"data=digits epochs=4 {words}")
    assert result.code == 2
    assert says in result.err
    assert result.err.count("\n") == 1
