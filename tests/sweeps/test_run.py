"""Runs and sweeps from the command line to the record, on real digits and small folders."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from threading import Timer

import numpy as np
import pytest
import torch
import yaml
from conftest import all_records, record, without_times
from interruptions import Killed, killed_after, stop_after
from PIL import Image

import cnnbench
from cnnbench.config.schema import Data
from cnnbench.data.datamodule import Batch
from cnnbench.data.images import digits
from cnnbench.results import records
from cnnbench.runtime.machine import hide_missing_gpus
from cnnbench.sweeps import run
from cnnbench.training.module import Classifier

DIGITS = "data=digits epochs=3"


def test_a_run_and_its_record(command, here: Path) -> None:
    result = command(f"{DIGITS} optimizer=momentum lr=0.05 seed=3 batch_size=100")
    assert result.code == 0
    found = record(here)
    assert found == json.loads(records.read(next(here.rglob("record.json"))).as_json())
    assert found["overrides"] == [*DIGITS.split(), "optimizer=momentum", "lr=0.05", "seed=3", "batch_size=100"]
    assert found["config_dir"] is None
    assert found["status"] == "done"
    assert found["error"] is None
    assert found["config"]["optimizer"] == {"_target_": "torch.optim.SGD", "lr": 0.05, "momentum": 0.9}
    assert found["choices"]["optimizer"] == "momentum"
    assert found["protocol"]["validation"] == "split"
    sizes = found["data"]["sizes"]
    assert sizes == {"train": 1298, "val": 144, "test": 355}
    assert found["data"]["classes"] == [str(digit) for digit in range(10)]
    assert found["parameters"] == 53_002
    rows = found["history"]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert [row["images_seen"] for row in rows] == [1298, 2596, 3894]
    assert [row["lr"] for row in rows] == [0.05] * 3
    assert rows[2]["train_loss"] < rows[0]["train_loss"]
    for row in rows:
        assert row["images_per_second"] == pytest.approx(1298 / row["seconds"])
        assert row["penalty"] == 0
    best = max(rows, key=lambda row: row["val_acc"])
    assert found["best"] == {key: best[key] for key in ("epoch", "val_acc", "val_loss")}
    confusion = np.array(found["test"]["confusion"])
    assert confusion.sum() == 355
    assert found["test"]["acc"] == pytest.approx(np.trace(confusion) / 355)
    assert found["test"]["per_class"] == pytest.approx((confusion.diagonal() / confusion.sum(1)).tolist())
    assert found["environment"]["torch"] == torch.__version__
    folder = here / "runs" / "default" / found["run_id"]
    assert yaml.safe_load((folder / "config.yaml").read_text()) == found["config"]
    assert {path.name for path in folder.iterdir() if "tfevents" not in path.name} == {
        "record.json", "config.yaml", "best.ckpt", "last.ckpt", ".lock",
    }  # fmt: skip
    assert sorted(path.name for path in here.iterdir()) == ["runs"]  # no outputs/, no multirun/
    for words in (f"{found['best']['val_acc']:.2%}", f"{found['test']['acc']:.2%}", str(folder.relative_to(here))):
        assert words in result.out
    assert result.err.strip() == ""


def test_the_test_set_can_stay_closed(command, here: Path) -> None:
    open_, closed = command(f"{DIGITS} name=open"), command(f"{DIGITS} name=closed test=false")
    assert (open_.code, closed.code) == (0, 0)
    first, second = record(here / "runs" / "open"), record(here / "runs" / "closed")
    assert second["test"] is None
    assert second["protocol"]["test"] == "closed"
    assert second["status"] == "done"
    assert second["best"] == first["best"]
    assert "test accuracy" in open_.out
    assert "test accuracy" not in closed.out
    assert "already done" in command(f"{DIGITS} name=closed test=false").err


def test_the_saved_model_gives_the_recorded_test_accuracy(command, here: Path) -> None:
    command(f"{DIGITS} data.image_size=12")
    found = record(here)
    folder = here / "runs" / "default" / found["run_id"]
    model = cnnbench.load(folder)
    source = digits(Data(image_size=12))
    with torch.no_grad():
        logits = model(torch.from_numpy(source.test).permute(0, 3, 1, 2))
    hits = (logits.argmax(1).numpy() == source.test_labels).mean()
    assert hits == pytest.approx(found["test"]["acc"])
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(source.test_labels)).item()
    assert loss == pytest.approx(found["test"]["loss"], rel=1e-5)

    Image.fromarray(source.test[0, :, :, 0]).save(here / "digit.png")
    result = command(f"predict {folder} digit.png")
    assert result.code == 0
    assert re.match(rf"digit\.png: {logits[0].argmax()} \d+\.\d%, ", result.out)
    (here / "broken.png").write_bytes(b"")
    result = command(f"predict {folder} digit.png broken.png")
    assert result.code == 1
    assert result.err == "cnnbench: broken.png: not a readable image.\n"


def test_the_same_config_twice_gives_the_same_record(command, here: Path) -> None:
    command(f"{DIGITS} augment=flip_crop seed=0")
    first = record(here)
    result = command(f"{DIGITS} augment=flip_crop seed=0")
    assert "already done" in result.err
    assert record(here) == first
    command(f"{DIGITS} augment=flip_crop seed=0 force=true")
    second = record(here)
    assert second["history"] != first["history"]  # the times
    assert without_times(second) | {"config": first["config"]} == without_times(first)
    (kept,) = here.glob("runs/default/*/.old/*/record.json")
    assert json.loads(kept.read_text()) == first
    command(f"{DIGITS} augment=flip_crop seed=1 name=one")
    assert record(here / "runs" / "one")["history"][0]["train_loss"] != first["history"][0]["train_loss"]


def test_seed_zero_is_a_seed(command, here: Path) -> None:
    torch.manual_seed(123)
    command("data=digits epochs=1 seed=0 name=a")
    torch.manual_seed(321)
    command("data=digits epochs=1 seed=0 name=b")
    a, b = (without_times(record(here / "runs" / name)) for name in "ab")
    assert a["history"] == b["history"]


def test_batches_from_disk_train_the_same(command, here: Path) -> None:
    command(f"{DIGITS} model.dropout=0.3 name=memory")
    command(f"{DIGITS} model.dropout=0.3 name=disk data.in_memory=false")
    memory, disk = (without_times(record(here / "runs" / name)) for name in ("memory", "disk"))
    assert memory["history"] == disk["history"]
    assert memory["test"] == disk["test"]
    assert memory["run_id"] == disk["run_id"]


def test_the_documents_protocol_is_said_aloud(command, here: Path) -> None:
    result = command("data=digits epochs=2 data.val=test")
    found = record(here)
    assert found["protocol"]["validation"] == "test"
    assert found["test"]["acc"] == found["best"]["val_acc"]
    assert found["data"]["sizes"] == {"train": 1442, "val": 355, "test": 355}
    assert "VALIDATION IS THE TEST SET" in result.out
    assert "VALIDATION IS THE TEST SET" in command("compare runs").out


def test_early_stopping(command, here: Path) -> None:
    command("data=digits epochs=30 optimizer=adam lr=0.01 stop=early stop.patience=2 stop.metric=val_acc")
    found = record(here)
    accuracies = [row["val_acc"] for row in found["history"]]
    best = accuracies.index(max(accuracies))
    assert len(accuracies) == best + 1 + 2 < 30
    assert found["status"] == "done"


def test_clip_bounds_the_gradient(command, here: Path) -> None:
    # Plain gradient descent: ten steps of length at most lr * clip = 1e-9 leave the weights where they are.
    command("data=digits epochs=2 optimizer=sgd lr=0.01 clip=1e-7")
    rows = record(here)["history"]
    assert rows[1]["val_loss"] == pytest.approx(rows[0]["val_loss"], abs=1e-6)


def test_schedules_follow_the_epochs(command, here: Path) -> None:
    command("data=digits epochs=4 lr=0.08 scheduler=step scheduler.step_size=2 scheduler.gamma=0.5 name=step")
    rows = record(here / "runs" / "step")["history"]
    assert [row["lr"] for row in rows] == pytest.approx([0.08, 0.08, 0.04, 0.04])
    command("data=digits epochs=4 lr=0.08 scheduler=cosine name=cosine")
    rows = record(here / "runs" / "cosine")["history"]
    # 0.04 (1 + cos(pi t / 4)): cos 0, 45, 90, 135 degrees
    assert [row["lr"] for row in rows] == pytest.approx([0.08, 0.0682843, 0.04, 0.0117157], rel=1e-5)


def test_a_sweep_goes_on_after_a_diverged_and_a_failed_run(command, here: Path, monkeypatch) -> None:
    real = run.statistics

    def fails_for_seed_1(images, positions, normalize):
        if fails_for_seed_1.calls == 1:
            fails_for_seed_1.calls += 1
            raise RuntimeError("the disk is on fire")
        fails_for_seed_1.calls += 1
        return real(images, positions, normalize)

    fails_for_seed_1.calls = 0
    monkeypatch.setattr(run, "statistics", fails_for_seed_1)
    result = command("-m data=digits epochs=2 optimizer=sgd lr=1e30,0.1,0.2")
    found = {r["config"]["lr"]: r for r in all_records(here / "runs")}
    assert {lr: r["status"] for lr, r in found.items()} == {1e30: "diverged", 0.1: "failed", 0.2: "done"}
    assert result.code == 1
    assert "Traceback" in found[0.1]["error"]
    assert "on fire" in found[0.1]["error"]
    assert "Traceback" not in result.err + result.out
    assert "step 2" in found[1e30]["error"]  # the first step's loss is that of the initial weights
    assert found[1e30]["test"] is None
    assert "3 runs" in result.err
    assert "1 diverged" in result.out
    assert "1 failed" in result.out

    alone = command("data=digits epochs=2 optimizer=sgd lr=1e30").out  # it diverged before its first checkpoint
    assert alone.splitlines()[-1].endswith(" holds record.json, config.yaml")

    again = command("-m data=digits epochs=2 optimizer=sgd lr=1e30,0.1,0.2")  # a result is a result
    assert again.code == 1
    assert again.err.count("already") == 3
    retried = command("data=digits epochs=2 optimizer=sgd lr=0.1 retry=true")
    assert retried.code == 0


def test_all_jobs_are_checked_before_the_first_starts(command, here: Path) -> None:
    result = command("-m data=digits epochs=1 optimizer=adam,sgd optimizer.betas=[0.5,0.5]")
    assert result.code == 2
    assert "torch.optim.SGD takes no 'betas'" in result.err
    assert list(here.iterdir()) == []


def test_a_sweep_ends_in_its_own_comparison(command, here: Path) -> None:
    command("data=digits epochs=1 optimizer=rmsprop")
    result = command("-m data=digits epochs=1 optimizer=adam,momentum seed=0,1")
    assert result.code == 0
    assert "adam" in result.out
    assert "rmsprop" not in result.out
    assert "rmsprop" in command("compare runs/default").out
    for name in ("comparison.csv", "comparison.md", "curves.png"):
        assert (here / "runs" / "default" / name).stat().st_size > 100


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_an_interrupted_run_is_continued_to_the_same_record(command, here: Path, signum: int, code: int) -> None:
    words = "data=digits epochs=40 augment=flip_crop scheduler=cosine optimizer=momentum"
    result = killed_after(4, signum, here, words)
    assert result.returncode == code
    assert "Traceback" not in result.stderr
    found = record(here)
    assert found["status"] == "interrupted"
    assert 4 <= len(found["history"]) < 40
    assert found["test"] is None
    assert command(words).code == 0
    continued = record(here)
    assert continued["history"][: len(found["history"])] == found["history"]  # times too: they were not run again
    command(f"{words} name=whole")
    whole = record(here / "runs" / "whole")
    assert without_times(continued) | {"config": None} == without_times(whole) | {"config": None}
    assert [path.name for path in here.iterdir()] == ["runs"]


ALL_OF_IT = (
    "data=digits data.image_size=10 epochs=3 batch_size=100 augment=document model.dropout=0.3 model.batch_norm=true "
    "scheduler=cosine optimizer=adam clip=1 stop=early"
)


@pytest.mark.parametrize(
    "update",
    ["minibatch", "cag update.accumulate=4", "cag update.accumulate=5 update.max_step=0.1", "full_batch"],
)
def test_stopped_amid_an_epoch_and_continued(command, here: Path, monkeypatch, update: str) -> None:
    words = f"{ALL_OF_IT} update={update}"  # 13 batches an epoch
    assert command(f"{words} name=whole").code == 0
    whole = record(here / "runs" / "whole")
    assert whole["data"]["sizes"]["train"] == 1298
    kills = [(7, signal.SIGINT), (2, signal.SIGTERM), (13, signal.SIGKILL), (4, signal.SIGINT), (1, signal.SIGINT)]
    for batches, signum in kills:  # the 7th batch of the first epoch, then two more, ...
        with monkeypatch.context() as patched:
            stop_after(patched, batches, signum)
            if signum == signal.SIGKILL:
                with pytest.raises(Killed):
                    command(words)
            else:
                assert command(words).code == 128 + signum
        assert record(here / "runs" / "default")["status"] == "interrupted"
    assert command(words).code == 0
    continued = record(here / "runs" / "default")
    assert without_times(continued) | {"config": None} == without_times(whole) | {"config": None}


def test_batches_are_saved_in_between(command, here: Path, monkeypatch) -> None:
    words = f"{ALL_OF_IT} checkpoint.every=5"
    trained = []
    real = run.Classifier.training_step

    def counting(self, batch) -> None:
        trained.append((self.current_epoch, self.batches_done))
        real(self, batch)

    monkeypatch.setattr(run.Classifier, "training_step", counting)
    with monkeypatch.context() as patched:
        stop_after(patched, 13 + 8, signal.SIGKILL)
        with pytest.raises(Killed):
            command(words)
    assert trained[-1] == (1, 7)
    trained.clear()
    assert command(words).code == 0
    assert trained[0] == (1, 5)
    command(f"{ALL_OF_IT} name=whole")
    runs = [without_times(record(here / "runs" / name)) | {"config": None} for name in ("default", "whole")]
    assert runs[0] == runs[1]


def test_a_damaged_checkpoint_falls_back_to_the_one_before(command, here: Path, monkeypatch) -> None:
    words = f"{ALL_OF_IT} epochs=4"
    with monkeypatch.context() as patched:
        stop_after(patched, 3 * 13 + 2, signal.SIGINT)
        assert command(words).code == 130
    (last,) = here.glob("runs/default/*/last.ckpt")
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    result = command(words)
    assert result.code == 0
    assert "warning" in result.err
    assert "last.ckpt: damaged" in result.err
    command(f"{words} name=whole")
    runs = [without_times(record(here / "runs" / name)) | {"config": None} for name in ("default", "whole")]
    assert runs[0] == runs[1]


def test_stopped_between_the_last_epoch_and_the_test(command, here: Path, monkeypatch) -> None:
    def killed(*_: object, **__: object) -> None:
        raise Killed

    words = "data=digits epochs=30 optimizer=adam lr=0.01 stop=early stop.patience=1"
    with monkeypatch.context() as patched:
        patched.setattr("pytorch_lightning.Trainer.test", killed)
        with pytest.raises(Killed):
            command(words)
    before = record(here)
    assert before["status"] == "interrupted"
    assert command(words).code == 0
    after = record(here)
    assert after["history"] == before["history"]  # early stopping is not forgotten: no epoch more
    assert after["test"] is not None


def test_two_processes_do_not_run_one_experiment_twice(command, here: Path) -> None:
    from filelock import FileLock

    command("data=digits epochs=1")
    first = record(here)
    path = here / "runs" / "default" / first["run_id"] / "record.json"
    lock = FileLock(path.parent / ".lock", thread_local=False)
    lock.acquire()
    path.write_text(json.dumps(first | {"status": "interrupted"}))  # the other process is still at it

    def end() -> None:
        path.write_text(json.dumps(first))
        lock.release()

    Timer(3, end).start()
    result = command("-m data=digits epochs=1 seed=0,1")
    assert result.code == 0
    lines = [line for line in result.err.splitlines() if "seed" in line]
    assert "another process is running it; waiting" in lines[0]
    assert "adam, seed 1: validation" in lines[1]  # the other run was not held up
    assert lines[2].startswith("adam, seed 0: already done")
    assert record(here / "runs" / "default" / first["run_id"]) == first


def test_workers_give_the_same_records(command, here: Path) -> None:
    words = "-m data=digits epochs=2 augment=flip_crop hardware.threads=1 seed=0,1 optimizer=adam,sgd"
    assert command(f"{words} name=one").code == 0
    result = command(f"{words} name=two workers=2")
    assert result.code == 0
    assert result.err.count("validation") >= 4
    runs = [
        {r["run_id"]: without_times(r) | {"config": None} for r in all_records(here / "runs" / name)}
        for name in ("one", "two")
    ]
    assert len(runs[1]) == 4
    assert runs[0] == runs[1]
    assert "already done" in command(f"{words} name=two workers=2").err


KILLER = """
import os, signal
from cnnbench.models import PlainCNN
class Killer(PlainCNN):
    def forward(self, x):
        if not x.is_meta and os.path.exists("kill"):
            os.unlink("kill")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)
"""


@pytest.mark.slow
def test_a_killed_worker_takes_no_other_along(here: Path) -> None:
    (here / "killer.py").write_text(KILLER)
    (here / "kill").touch()
    words = "-m data=digits epochs=1 seed=0,1,2 workers=2 model._target_=killer.Killer"
    command = [sys.executable, "-m", "cnnbench", *words.split()]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(here), os.environ.get("PYTHONPATH", "")])}
    result = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 1, result.stderr
    assert "killed by signal 9" in result.stderr
    statuses = sorted(found["status"] for found in all_records(here / "runs"))
    assert statuses == ["done", "done", "interrupted"]
    (error,) = (found["error"] for found in all_records(here / "runs") if found["status"] == "interrupted")
    assert error == "killed by signal 9, as the system does when memory runs out"
    assert "1 interrupted" in result.stdout
    again = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("already done") == 2


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_interrupted_workers_keep_what_they_have(command, here: Path, signum: int, code: int) -> None:
    words = "-m data=digits epochs=40 hardware.threads=1 seed=0,1,2 workers=2"
    result = killed_after(2, signum, here, words)
    assert result.returncode == code
    assert "Traceback" not in result.stderr
    found = all_records(here / "runs")
    assert {record["status"] for record in found} == {"interrupted"}
    assert sum(len(record["history"]) for record in found) >= 2


@pytest.mark.parametrize("native", [True, False])
def test_a_cpu_without_bfloat16_is_warned_of(command, monkeypatch, native: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": native})
    result = command(f"{DIGITS} hardware=cpu_bf16 epochs=1")
    assert result.code == 0
    assert ("warning: hardware.precision=bf16-mixed" in result.err) != native


def test_deterministic_algorithms_for_this_run_alone(command, monkeypatch) -> None:
    seen, step = [], Classifier.training_step

    def watched(self: Classifier, batch: Batch) -> None:
        seen.append(torch.are_deterministic_algorithms_enabled())
        step(self, batch)

    monkeypatch.setattr(Classifier, "training_step", watched)
    for words, expected in (("hardware=deterministic", {True}), ("seed=1", {False})):
        seen.clear()
        assert command(f"{DIGITS} epochs=1 {words}").code == 0
        assert set(seen) == expected


@pytest.mark.parametrize("gpu", [True, False])
def test_where_no_gpu_is_found_none_is_looked_for_again(monkeypatch, gpu: bool) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    hide_missing_gpus()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ("0" if gpu else "")


@pytest.mark.slow
def test_a_compiled_network_is_the_same_network(command, here: Path) -> None:
    found = []
    for name, compiled in (("plain", "false"), ("compiled", "true")):
        result = command(f"{DIGITS} epochs=2 hardware.compile={compiled} hardware.threads=1 name={name}")
        assert result.code == 0, result.err
        found.append(record(here / "runs" / name))
    one, other = found
    assert other["run_id"] == one["run_id"]
    assert other["history"][-1]["train_loss"] == pytest.approx(one["history"][-1]["train_loss"], rel=1e-3)
    model = cnnbench.load(here / "runs" / "compiled" / one["run_id"])  # its weights have the plain network's names
    assert model(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
