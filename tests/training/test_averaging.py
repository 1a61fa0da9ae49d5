"""Averages of weights: against the printed formulas, step by step, and resumed to the digit."""

import signal
from pathlib import Path

import pytest
import torch
from conftest import record, refused, without_times
from interruptions import stop_after
from torch import nn

from cnnbench.config import schema
from cnnbench.training import checkpoints
from cnnbench.training.averaging import Average
from cnnbench.training.module import Classifier

pytestmark = pytest.mark.usefixtures("no_figures")

DIGITS = "data=digits data.limit=500 batch_size=128 epochs=3 seed=1"
"""450 training images: 4 steps in an epoch."""


class One(nn.Module):
    """A model of one number."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))


def weights_while(method: str, every: int, steps: int, decay: float = 0.5, first: int = 0) -> list[float]:
    """A weight that each step raises by 1, as the average leaves it after each step."""
    model = One()
    average = Average(schema.Average(method, every, decay), model, every, first, steps)
    found = []
    for _ in range(steps):
        with torch.no_grad():
            model.w += 1
        average.after_step()
        found.append(model.w.item())
    with average.held([]):
        found.append(model.w.item())
    assert model.w.item() == found[-2]
    return found


def test_lookahead_by_hand() -> None:
    # After step 2 of 4: a = 0.5^2 (2/4)^3 = 1/32, slow = 1/32 * 0 + 31/32 * 2 = 1.9375. The last step takes the slow ones.
    assert weights_while("lookahead", 2, 4) == [1.0, 1.9375, 2.9375, 1.9375, 1.9375]


def test_ema_by_hand() -> None:
    # Begins as the weights after the first step: 1, then (1 + 2) / 2 = 1.5, (1.5 + 3) / 2 = 2.25.
    assert weights_while("ema", 1, 3) == [1.0, 2.0, 3.0, 2.25]
    assert weights_while("ema", 1, 3, first=2) == [1.0, 2.0, 3.0, 3.0]


def test_swa_by_hand() -> None:
    # After 2 steps, every 2 steps: the mean of 4 and 6.
    assert weights_while("swa", 2, 6, first=2)[-1] == 5.0
    assert weights_while("swa", 2, 6, first=5)[-1] == 6.0  # not yet begun


def test_ema_is_what_is_validated_tested_and_saved(command, here: Path, monkeypatch) -> None:
    """Against the average worked out from the weights after each step; training itself does not change."""
    assert command(f"{DIGITS} name=plain").code == 0
    averages: list[dict[str, torch.Tensor]] = []
    real = Classifier._step

    def stepping(self, optimizer) -> None:
        real(self, optimizer)
        now = self.model.network.state_dict()
        kept = 0.9 if averages else 0.0
        averages.append(
            {key: kept * averages[-1][key] + (1 - kept) * now[key] if averages else now[key].clone() for key in now}
        )

    monkeypatch.setattr(Classifier, "_step", stepping)
    assert command(f"{DIGITS} average=ema average.decay=0.9 name=ema").code == 0
    plain, ema = (record(here / "runs" / name) for name in ("plain", "ema"))
    assert [row["train_loss"] for row in ema["history"]] == [row["train_loss"] for row in plain["history"]]
    assert [row["val_loss"] for row in ema["history"]] != [row["val_loss"] for row in plain["history"]]
    assert ema["run_id"] != plain["run_id"]
    (best,) = here.glob("runs/ema/*/best.ckpt")
    expected = averages[4 * ema["best"]["epoch"] - 1]
    for key, value in checkpoints.read(best)["model"].items():
        if key.startswith("network."):
            torch.testing.assert_close(value, expected[key.removeprefix("network.")], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", ["lookahead", "ema", "swa average.start=1 regularizer.batch_norm=true"])
def test_resumed_to_the_digit(command, here: Path, monkeypatch, method: str) -> None:
    words = f"{DIGITS} average={method}"
    assert command(f"{words} name=whole").code == 0
    for batches in (6, 3):  # amid the second epoch, then amid the third
        with monkeypatch.context() as patched:
            stop_after(patched, batches, signal.SIGTERM)
            assert command(f"{words} name=stopped").code == 143
    assert command(f"{words} name=stopped").code == 0
    first, second = (without_times(record(here / "runs" / name)) for name in ("whole", "stopped"))
    assert (first["history"], first["test"]) == (second["history"], second["test"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("average=swa average.start=3", "average.start=3: the run has only 3 epochs"),
        ("average=lookahead average.every=13", "average.every=13: the run has only 12 steps to average"),
        ("average=ema average.start=2 average.every=5", "only 4 steps to average after average.start=2 epochs"),
        ("average=ema optimizer=schedule_free", "average=ema: schedulefree.AdamWScheduleFree averages weights itself"),
        ("average.method=mean", "average.method=mean: must be none, lookahead, ema or swa"),
    ],
)
def test_refusals(command, here: Path, words: str, says: str) -> None:
    refused(command(f"{DIGITS} {words}"), says, here)
