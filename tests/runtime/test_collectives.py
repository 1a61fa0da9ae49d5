"""One run trained by two processes on the CPU takes the same steps as by one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import record, without_times
from interruptions import heed_ctrl_c, killed_after

from cnnbench.config.schema import Data
from cnnbench.data.datamodule import ImageData
from cnnbench.data.images import digits
from cnnbench.results import identity
from cnnbench.runtime import collectives
from cnnbench.runtime.randomness import Stream, derived_seed
from cnnbench.training import checkpoints
from cnnbench.training.module import Epoch

# 181 training images make 9 batches of 20 and one of 1, of which the second process has none.
RUN = "data=digits data.limit=201 batch_size=20 hardware.threads=1 optimizer=momentum lr=0.05"
TWO = "hardware=ddp hardware.accelerator=cpu"


def start(here: Path, words: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, which the other processes of its run repeat."""
    return subprocess.run(
        [sys.executable, "-m", "cnnbench", *words.split()],
        cwd=here,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(here), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        preexec_fn=heed_ctrl_c,
    )


def assert_same(one: dict, two: dict) -> None:
    """Two records but for rounding and times."""
    assert one["run_id"] == two["run_id"]
    assert (one["status"], two["status"]) == ("done", "done")
    for a, b in zip(without_times(one)["history"], without_times(two)["history"], strict=True):
        assert a == pytest.approx(b, rel=1e-5)
        assert a["train_acc"] == b["train_acc"]
        assert a["val_acc"] == b["val_acc"]
    assert one["test"]["confusion"] == two["test"]["confusion"]
    assert one["test"]["acc"] == two["test"]["acc"]
    assert one["test"]["loss"] == pytest.approx(two["test"]["loss"], rel=1e-5)


def test_two_processes_take_the_steps_of_one(command, here: Path) -> None:
    words = (
        f"{RUN} epochs=3 update=cag update.accumulate=3 clip=0.5 regularizer=[l2,weight_decay] augment.flip=alternating"
    )
    assert command(f"{words} name=one").code == 0
    result = start(here, f"{words} {TWO} name=two")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("test accuracy") == 1
    one, two = (record(here / "runs" / name) for name in ("one", "two"))
    assert one["history"][2]["train_loss"] < one["history"][0]["train_loss"]
    assert_same(one, two)
    assert two["config"]["hardware"]["devices"] == 2
    first, second = (
        checkpoints.read(here / "runs" / name / one["run_id"] / "best.ckpt")["model"] for name in ("one", "two")
    )
    for name, weights in first.items():
        torch.testing.assert_close(second[name], weights, rtol=1e-4, atol=1e-6)
    folder = here / "runs" / "two" / one["run_id"]
    assert len(list(folder.glob("*tfevents*"))) == 1
    assert not list(folder.glob(".old"))


@pytest.mark.slow
def test_what_looks_at_the_model_by_itself(command, here: Path) -> None:
    words = f"{RUN} epochs=2 update=full_batch update.reduction=sum optimizer=schedule_free model=ensemble data.in_memory=false"
    assert command(f"{words} name=one").code == 0
    result = start(here, f"{words} {TWO} name=two")
    assert (result.returncode, result.stderr) == (0, "")
    one, two = (record(here / "runs" / name) for name in ("one", "two"))
    assert_same(one, two)
    assert one["test"]["members"] == two["test"]["members"]
    assert 0 < max(one["test"]["members"]) <= 1


@pytest.mark.slow
def test_an_interrupted_run_goes_on(command, here: Path) -> None:
    words = f"{RUN} lr=0.01 epochs=20 stop=early stop.patience=19"
    result = killed_after(2, signal.SIGINT, here, f"{words} {TWO}")  # only the first process gets the signal
    assert result.returncode == 130, result.stderr
    assert "Traceback" not in result.stderr
    stopped = record(here)
    assert stopped["status"] == "interrupted"
    assert 2 <= len(stopped["history"]) < 20
    result = start(here, f"{words} {TWO}")  # ends only when all who hold its output have ended
    assert result.returncode == 0, result.stderr
    found = record(here)
    assert found["history"][: len(stopped["history"])] == stopped["history"]
    assert command(f"{words} name=whole").code == 0
    whole = record(here / "runs" / "whole")
    losses = [[row["train_loss"] for row in r["history"]] for r in (found, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert len(found["history"]) == len(whole["history"]) == 20


@pytest.mark.slow
def test_all_processes_end_where_the_loss_does(here: Path) -> None:
    result = start(here, f"{RUN} lr=1e30 epochs=3 {TWO} batch_size=16 regularizer=batch_norm")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert record(here)["status"] == "diverged"


FAILS = """
from cnnbench.runtime import collectives
from cnnbench.models import PlainCNN
class Fails(PlainCNN):
    def forward(self, x):
        if collectives.rank() == 1:
            raise RuntimeError("the second GPU is on fire")
        return super().forward(x)
"""


@pytest.mark.slow
def test_one_that_fails_ends_the_others(here: Path) -> None:
    (here / "fails.py").write_text(FAILS)
    result = start(here, f"{RUN} epochs=3 {TWO} model._target_=fails.Fails")
    assert result.returncode == 1
    assert "process 1: Traceback" in result.stderr
    assert "on fire" in result.stderr
    assert "another of the run's 2 processes is gone" in result.stderr
    assert record(here)["status"] == "interrupted"  # a process that was killed looks the same, and can be resumed


@pytest.mark.parametrize("in_memory", [True, False])
def test_every_image_is_seen_once(monkeypatch: pytest.MonkeyPatch, in_memory: bool) -> None:
    class Trainer:
        current_epoch = 1
        strategy = type("Strategy", (), {"root_device": torch.device("cpu")})

    data = ImageData(digits(Data()), Data(limit=201, in_memory=in_memory), 20, seed=3)
    data.trainer = Trainer()
    monkeypatch.setattr(collectives, "world_size", lambda: 3)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    for part in ("train", "val", "test"):
        shares = []
        for rank in range(3):
            monkeypatch.setattr(collectives, "rank", lambda rank=rank: rank)
            shares.append([batch[2].tolist() for batch in getattr(data, f"{part}_dataloader")()])
        assert len({len(batches) for batches in shares}) == 1
        seen = np.concatenate([np.concatenate(batches) for batches in shares])
        assert sorted(seen.tolist()) == sorted(getattr(data.split, part).tolist())
    batches = list(data.train_dataloader())
    assert [len(batch[1]) for batch in batches] == [6] * 9 + [0]
    assert batches[-1][0].shape[1:] == (1, 8, 8)


def test_shares_of_a_batch_weigh_as_much_as_the_batch() -> None:
    for reduction in ("mean", "sum"):
        epoch = Epoch(181, 20, 3, reduction)
        assert [epoch.size(index) for index in (0, 8, 9)] == [20, 20, 1]
        assert epoch.weight(4, 7) + epoch.weight(4, 7) + epoch.weight(4, 6) == pytest.approx(epoch.weight(4, 20))
    one, first, second = (derived_seed(5, Stream.AUGMENT, 7, *rank) for rank in ((), (0,), (1,)))
    assert one == first != second


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (f"-m seed=0,1 {TWO}", "hardware.devices=2 hardware.nodes=1: several processes train a single run."),
        (f"{TWO} workers=2", "workers=2: must be 1 where hardware.devices or hardware.nodes is not."),
        (f"{TWO} update=stochastic", "hardware.devices=2 hardware.nodes=1: each process needs an image of every batch"),
        (f"{TWO} hardware.devices=0", "hardware.devices=0: must be at least 1."),
        (f"{TWO} hardware.nodes=0", "hardware.nodes=0: must be at least 1."),
    ],
)
def test_what_several_processes_cannot_do(command, here: Path, words: str, error: str) -> None:
    result = command(f"data=digits {words}")
    assert result.code == 2
    assert result.err.startswith(f"cnnbench: {error}")
    assert result.err.count("\n") == 1
    assert list(here.iterdir()) == []


def test_the_gpus_that_are_there_are_named(command, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    result = command("data=digits hardware=ddp")
    assert result.code == 2
    assert result.err == "cnnbench: hardware.devices=2: PyTorch finds 1 GPUs here. Allowed: 1 to 1.\n"


def test_a_run_is_the_same_on_any_number_of_processes(command, here: Path) -> None:
    command("data=digits data.limit=60 epochs=1 data.val_fraction=0.2")
    config = record(here)["config"]
    spread = config | {"hardware": config["hardware"] | {"devices": 4, "nodes": 2}}
    assert identity.experiment(config, "") == identity.experiment(spread, "")
