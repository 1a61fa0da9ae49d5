"""Every optimizer through the real command line."""

from pathlib import Path

import pytest
import torch
from conftest import record, without_times

import cnnbench
from cnnbench.config.keys import CONF
from cnnbench.config.schema import Data
from cnnbench.data.images import digits

NAMES = sorted(path.stem for path in (CONF / "optimizer").glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_learns_digits_and_its_weights_are_kept(command, here: Path, name: str) -> None:
    words = f"data=digits epochs=3 optimizer={name} model.batch_norm=true batch_size=64"
    assert command(words).code == 0
    found = record(here)
    assert found["best"]["val_acc"] > 0.5
    model = cnnbench.load(here / "runs" / "default" / found["run_id"])
    source = digits(Data())
    with torch.no_grad():
        hits = model(torch.from_numpy(source.test).permute(0, 3, 1, 2)).argmax(1).numpy() == source.test_labels
    assert hits.mean() == pytest.approx(found["test"]["acc"], abs=0.004)
    assert command(f"{words} name=again").code == 0
    assert without_times(record(here / "runs" / "again"))["history"] == without_times(found)["history"]


def test_schedule_free_goes_on_where_it_was_stopped(command, here: Path, monkeypatch) -> None:
    import signal

    from interruptions import stop_after

    words = "data=digits epochs=3 optimizer=schedule_free model.batch_norm=true model.dropout=0.2"
    with monkeypatch.context() as patched:
        stop_after(patched, 15, signal.SIGINT)
        assert command(words).code == 130
    assert command(words).code == 0
    assert command(f"{words} name=whole").code == 0
    runs = [without_times(record(here / "runs" / name)) | {"config": None} for name in ("default", "whole")]
    assert runs[0] == runs[1]


def test_what_schedule_free_cannot_have(command, here: Path) -> None:
    for words in ("update.max_step=1", "regularizer=weight_decay"):
        result = command(f"data=digits epochs=1 optimizer=schedule_free {words}")
        assert result.code == 2
        assert "optimizer.weight_decay" in result.err
