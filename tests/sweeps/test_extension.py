"""Finished runs that are extended: the numbers of a run that trained all epochs at once."""

from pathlib import Path

import pytest
import torch
from conftest import all_records, record, without_times

from cnnbench.training import checkpoints

DIGITS = "data=digits data.limit=120 batch_size=20 logger=none"


def run(here: Path, epochs: int) -> Path:
    """The folder of the run with so many epochs in runs/a."""
    (found,) = (each for each in all_records(here / "runs" / "a") if each["config"]["epochs"] == epochs)
    return here / "runs" / "a" / found["run_id"]


def same(first: object, second: object) -> bool:
    """Whether two checkpoints are equal to the last bit."""
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict) and isinstance(second, dict):
        left_out = ("seconds", "images_per_second")
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first if k not in left_out)
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


def check_same(extended: Path, whole: Path) -> None:
    one, other = ({**without_times(record(folder)), "config": None} for folder in (extended, whole))
    assert one == other
    for name in ("best.ckpt", "last.ckpt"):
        assert same(checkpoints.read(extended / name), checkpoints.read(whole / name)), name


@pytest.mark.parametrize(
    "words",
    [
        "optimizer=adam augment=flip_crop model.dropout=0.3 model.batch_norm=true average=ema callbacks=lr_monitor clip=1",
        "optimizer=momentum scheduler=plateau scheduler.patience=0 scheduler.threshold=0.5 scheduler.warmup=1.5",
        "optimizer=schedule_free scheduler=step scheduler.step_size=3 update=cag update.accumulate=4",
        "optimizer=muon scheduler=multistep scheduler.milestones=[2,5] stop=early",
    ],
    ids=lambda words: words.split()[0],
)
def test_four_epochs_become_six_to_the_digit(command, here: Path, words: str) -> None:
    assert command(f"{DIGITS} {words} epochs=4 name=a").code == 0
    before = record(run(here, 4))
    result = command(f"{DIGITS} {words} epochs=6 name=a")
    assert result.code == 0
    assert result.err.startswith(f"{run(here, 6).name}: continues {run(here, 4).name} after epoch 4\n")
    assert record(run(here, 4)) == before
    assert record(run(here, 6))["history"][:4] == before["history"]  # times too: they were not trained again
    assert len(record(run(here, 6))["history"]) == 6
    assert command(f"{DIGITS} {words} epochs=6 name=whole").err == ""
    check_same(run(here, 6), next((here / "runs" / "whole").iterdir()))


def test_a_run_that_stopped_early_stays_so(command, here: Path) -> None:
    words = f"{DIGITS} lr=1e-9 stop=early stop.patience=1 stop.min_delta=0.5"
    assert command(f"{words} epochs=2 name=a").code == 0  # the last epoch is also the one that stops it
    assert "continues" in command(f"{words} epochs=5 name=a").err
    assert command(f"{words} epochs=5 name=whole").code == 0
    assert len(record(run(here, 5))["history"]) == 2
    check_same(run(here, 5), next((here / "runs" / "whole").iterdir()))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("scheduler=cosine", "{run}: scheduler=cosine depends on the number of epochs"),
        ("scheduler=one_cycle", "{run}: scheduler=one_cycle depends on the number of epochs"),
        (
            "callbacks=none +callbacks.swa._target_=pytorch_lightning.callbacks.StochasticWeightAveraging +callbacks.swa.swa_lrs=0.1",
            "{run}: callbacks=swa may depend on the number of epochs",
        ),
    ],
    ids=lambda value: value.split()[0],
)
def test_a_run_that_starts_anew_says_why(command, here: Path, words: str, says: str) -> None:
    assert command(f"{DIGITS} {words} epochs=1 name=a").code in (0, 1)
    path = run(here, 1) / "record.json"
    path.write_text(path.read_text().replace('"status": "failed"', '"status": "done"'))
    err = command(f"{DIGITS} {words} epochs=2 name=a").err
    reason = says.format(run=run(here, 1).name)
    assert err.splitlines()[0] == f"{run(here, 2).name}: starts anew and does not continue {reason}"


def test_what_is_not_continued(command, here: Path) -> None:
    for epochs in (1, 2):
        assert command(f"{DIGITS} epochs={epochs} name=a").code == 0
    assert "continues" not in command(f"{DIGITS} epochs=3 name=b").err
    assert "continues" not in command(f"{DIGITS} epochs=5 seed=1 name=a").err
    assert "continues" not in command(f"{DIGITS} epochs=6 lr=0.01 name=a").err
    assert "continues" not in command(f"{DIGITS} epochs=3 name=a force=true").err
    last = run(here, 3) / "last.ckpt"
    state = checkpoints.read(last)
    del state["stopped"]
    checkpoints.write(last, state | {"version": 2})
    assert "last.ckpt: written by an earlier version" in command(f"{DIGITS} epochs=4 name=a").err
