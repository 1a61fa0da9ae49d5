"""Users' own callbacks: any of Lightning's, each one YAML file."""

import signal
from pathlib import Path

import pytest
from conftest import record, without_times
from interruptions import stop_after

DIGITS = "data=digits data.limit=500 epochs=3 logger=none"

OWN = """
import pytorch_lightning as pl


class Counter(pl.Callback):
    def __init__(self, path="count.txt", fail_at=None, keep=None):
        self.path, self.fail_at, self.keep, self.batches = path, fail_at, keep, 0

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.batches += 1
        if self.batches == self.fail_at:
            raise RuntimeError("no more fingers\\nto count with")

    def on_fit_end(self, trainer, module):
        with open(self.path, "w") as file:
            print(self.batches, file=file)

    def state_dict(self):
        return {"batches": self.batches} | ({"kept": self.keep and object()} if self.keep else {})

    def load_state_dict(self, state):
        self.batches = state["batches"]


class Stopper(pl.Callback):
    def __init__(self, batches=6):
        self.batches = batches

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        if trainer.global_step == self.batches:
            trainer.should_stop = True


class Other:
    pass
"""


@pytest.fixture
def own(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (here / "fingers.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(here))
    folder = here / "mine" / "callbacks"
    folder.mkdir(parents=True)
    (folder / "counter.yaml").write_text("_target_: fingers.Counter\n")
    (folder / "stopper.yaml").write_text("stopper:\n  _target_: fingers.Stopper\n")
    (folder / "ema.yaml").write_text("_target_: pytorch_lightning.callbacks.EMAWeightAveraging\ndecay: 0.99\n")
    (folder / "other.yaml").write_text("_target_: fingers.Other\n")
    return here / "mine"


@pytest.mark.parametrize("batches", [4, 5])
def test_a_callbacks_state_is_in_the_checkpoint(command, here: Path, own: Path, monkeypatch, batches: int) -> None:
    words = f"--config-dir mine {DIGITS} callbacks=[counter,ema,lr_monitor] logger=csv"
    assert command(f"{words} name=whole").code == 0
    assert (here / "count.txt").read_text() == "12\n"  # 3 epochs of 450 images in batches of 128
    with monkeypatch.context() as patched:
        stop_after(patched, batches, signal.SIGTERM)
        assert command(f"{words} name=stopped").code == 143
    assert command(f"{words} name=stopped").code == 0
    assert (here / "count.txt").read_text() == "12\n"
    first, second = (without_times(record(here / "runs" / name)) for name in ("whole", "stopped"))
    assert (first["history"], first["test"]) == (second["history"], second["test"])
    (metrics,) = here.glob("runs/whole/*/metrics.csv")
    assert "lr-Adam" in metrics.read_text().splitlines()[0]


def test_a_callback_may_end_training_amid_an_epoch(command, here: Path, own: Path) -> None:
    assert command(f"--config-dir mine {DIGITS} callbacks=stopper").code == 0
    found = record(here)
    assert found["status"] == "done"
    assert [row["images_seen"] for row in found["history"]] == [450, 450 + 2 * 128]
    assert "already done" in command(f"--config-dir mine {DIGITS} callbacks=stopper").err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("callbacks=other", ["callbacks.other._target_=fingers.Other", "a pytorch_lightning.Callback"]),
        ("callbacks=counter callbacks.counter.pth=x", ["callbacks.counter.pth=x", "Did you mean 'path'?"]),
        ("callbacks=[counter,nothing]", ["callbacks has no option 'nothing'", "counter"]),
        (
            "callbacks=lr_monitor callbacks.lr_monitor.logging_interval=year",
            ["callbacks.lr_monitor", "logging_interval"],
        ),
        ("callbacks=null", ["callbacks can't be empty"]),
    ],
)
def test_what_can_be_known_before_is_one_line(command, here: Path, own: Path, words: str, says: list[str]) -> None:
    result = command(f"--config-dir mine {DIGITS} {words}")
    assert (result.code, result.err.count("\n")) == (2, 1), result.err
    assert all(part in result.err for part in says), result.err
    assert not (here / "runs").exists()


def test_a_callback_that_raises_fails_the_run_and_is_named(command, here: Path, own: Path) -> None:
    result = command(f"--config-dir mine {DIGITS} callbacks=counter callbacks.counter.fail_at=5")
    assert result.code == 1
    assert "failed after 1 epochs: callbacks=counter: Counter.on_train_batch_end: no more fingers\n" in result.out
    assert record(here)["status"] == "failed"


def test_a_state_that_no_checkpoint_can_hold_fails_the_run(command, here: Path, own: Path) -> None:
    result = command(f"--config-dir mine {DIGITS} callbacks=counter callbacks.counter.keep=true")
    assert result.code == 1
    assert "callbacks.counter: its state_dict['kept'] holds a object" in result.out


def test_an_experiment_chooses_callbacks(command, here: Path, own: Path) -> None:
    (own / "experiment").mkdir()
    (own / "experiment" / "counted.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /callbacks: counter\nepochs: 1\n"
    )
    assert command("--config-dir mine experiment=counted data=digits data.limit=500 logger=none").code == 0
    assert list(record(here)["config"]["callbacks"]) == ["counter"]
    assert record(here)["choices"]["callbacks"] == "counter"
    assert (here / "count.txt").exists()
