"""What the loggers say is what the record says, after interruptions too."""

import csv
import errno
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Result, record
from interruptions import Killed, stop_after

from cnnbench.results import records
from cnnbench.training.loggers import TensorBoard

DIGITS = "data=digits data.limit=200 epochs=3"
SCALARS = [field.name for field in fields(records.Epoch) if field.name != "epoch"]


def written(folder: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv."""
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_same(rows: list[dict[str, Any]], found: dict[str, Any]) -> None:
    """A row for each epoch and one for the final figures, all with the record's values."""
    *epochs, last = rows
    assert [int(row["step"]) for row in epochs] == [row["epoch"] for row in found["history"]]
    for row, expected in zip(epochs, found["history"], strict=True):
        assert {key: float(row[key]) for key in SCALARS} == pytest.approx({key: expected[key] for key in SCALARS})
    assert float(last["hp/val_acc_best"]) == found["best"]["val_acc"]
    assert float(last["hp/test_acc"]) == found["test"]["acc"]


def of_tensorboard(folder: Path) -> list[dict[str, Any]]:
    """The events as rows: one for each step of each tag."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    points = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    rows = [{"step": step} for step, _ in points["val_acc"]]
    for tag in SCALARS:
        for row, (step, value) in zip(rows, points[tag], strict=True):
            assert row["step"] == step
            row[tag] = value
    return [*rows, {tag: points[tag][0][1] for tag in ("hp/val_acc_best", "hp/test_acc")}]


def test_tensorboard_and_csv_have_the_records_numbers(command: Callable[[str], Result], here: Path) -> None:
    result = command(f"{DIGITS} logger=[tensorboard,csv] optimizer=momentum")
    assert (result.code, result.err) == (0, "")
    found = record(here)
    folder = here / "runs" / "default" / found["run_id"]
    assert found["choices"]["logger"] == "tensorboard+csv"
    assert_same(written(folder), found)
    *epochs, last = of_tensorboard(folder)
    assert [row["val_acc"] for row in epochs] == pytest.approx([row["val_acc"] for row in found["history"]])
    assert last == pytest.approx({"hp/val_acc_best": found["best"]["val_acc"], "hp/test_acc": found["test"]["acc"]})
    said = yaml.safe_load((folder / "hparams.yaml").read_text())
    assert said["optimizer"] == "momentum"
    assert said["optimizer.momentum"] == 0.9
    assert said["lr"] == found["config"]["lr"]
    assert "_target_" not in str(said)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_all_epochs_are_there_after_an_interruption(command, here: Path, monkeypatch, signum: int) -> None:
    words = f"{DIGITS} batch_size=20 logger=[tensorboard,csv]"  # 9 batches an epoch
    for batches in (9 + 4, 3):
        with monkeypatch.context() as patched:
            stop_after(patched, batches, signum)
            if signum == signal.SIGKILL:
                with pytest.raises(Killed):
                    command(words)
            else:
                assert command(words).code == 130
    result = command(words)
    assert (result.code, result.err) == (0, "")
    found = record(here)
    folder = here / "runs" / "default" / found["run_id"]
    assert_same(written(folder), found)
    *epochs, last = of_tensorboard(folder)
    assert [row["step"] for row in epochs] == [1, 2, 3]
    assert last["hp/test_acc"] == pytest.approx(found["test"]["acc"])


def test_none_writes_nothing(command, here: Path) -> None:
    assert command(f"{DIGITS} logger=none").code == 0
    (folder,) = here.glob("runs/default/*")
    left = {path.name for path in folder.iterdir()}
    assert left == {".lock", "best.ckpt", "config.yaml", "last.ckpt", "record.json"}


LOGGER = """
from lightning_fabric.loggers.logger import Logger
class Mine(Logger):
    name, version = "mine", ""
    def __init__(self, path, fail_at=None):
        self.path, self.fail_at = path, fail_at
    def log_hyperparams(self, params):
        self.say(params["optimizer"])
    def log_metrics(self, metrics, step):
        if step == self.fail_at:
            raise RuntimeError("no more\\npaper")
        self.say(f"{step} {','.join(metrics)}")
    def finalize(self, status):
        self.say(status)
    def say(self, line):
        with open(self.path, "a") as file:
            print(line, file=file)
"""


@pytest.fixture
def mine(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's own logger."""
    (here / "paper.py").write_text(LOGGER)
    monkeypatch.syspath_prepend(str(here))
    folder = here / "mine" / "logger"
    folder.mkdir(parents=True)
    (folder / "paper.yaml").write_text('paper:\n  _target_: paper.Mine\n  path: "{folder}/{name}.txt"\n')
    return here / "mine"


def test_a_users_own_logger_is_one_yaml_file(command, here: Path, mine: Path) -> None:
    assert command(f"--config-dir mine {DIGITS} name=own logger=[paper,csv]").code == 0
    found = record(here)
    folder = here / "runs" / "own" / found["run_id"]
    first, *epochs, last, status = (folder / "own.txt").read_text().splitlines()
    assert first == "adam"
    assert epochs == [f"{epoch} {','.join(SCALARS)}" for epoch in (1, 2, 3)]
    assert (last, status) == ("3 hp/val_acc_best,hp/test_acc", "success")
    assert_same(written(folder), found)
    command(f"--config-dir mine {DIGITS} logger=paper optimizer=sgd lr=1e30 name=diverged")
    (text,) = here.glob("runs/diverged/*/diverged.txt")
    assert text.read_text().splitlines()[-1] == "failed"


def test_a_logger_that_fails_costs_no_run(command, here: Path, mine: Path) -> None:
    result = command(f"--config-dir mine {DIGITS} logger=[paper,csv] logger.paper.fail_at=2")
    assert result.code == 0
    assert result.err == "warning: logger=paper: no more; the run continues without it\n"
    found = record(here)
    folder = here / "runs" / "default" / found["run_id"]
    assert len((folder / "default.txt").read_text().splitlines()) == 2
    assert_same(written(folder), found)


def test_a_full_disk_within_tensorboards_own_error_is_seen(command, here: Path, monkeypatch) -> None:
    def wrapped(*_: object) -> None:
        raise ValueError("you tried to log 0.5") from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(TensorBoard, "log_metrics", wrapped)
    result = command(DIGITS)
    assert result.code == 1
    assert "Stopped ([Errno 28] No space left on device)" in result.err
    assert record(here)["status"] == "interrupted"


def test_without_wandb_one_line_names_the_extra(command, here: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr("cnnbench.training.checks.find_spec", lambda name: None)
    result = command(f"{DIGITS} logger=wandb")
    assert result.code == 2
    assert result.err == "cnnbench: logger=wandb: Weights & Biases is missing: pip install wandb.\n"
    assert list(here.iterdir()) == []


def test_wandb_offline(command, here: Path) -> None:
    wandb = pytest.importorskip("wandb")
    result = command(f"-m {DIGITS} logger=[wandb,csv] seed=0,1")
    assert result.code == 0
    assert "wandb" not in result.out + result.err
    runs = sorted(here.glob("runs/default/*/wandb/offline-run-*"))
    assert len(runs) == 2  # each run has its own, in its own folder
    assert wandb.run is None
    assert [path.name for path in here.iterdir()] == ["runs"]
    for run in runs:
        found = json.loads((run.parent.parent / "record.json").read_text())
        (file,) = run.glob("*.wandb")
        assert b"hp/test_acc" in file.read_bytes()
        assert found["run_id"].encode() in file.read_bytes()
