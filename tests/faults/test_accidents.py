"""Accidents around a run: classes that end the process, signals, locks, files that were left over."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import filelock
import pytest
from conftest import all_records, record
from made_records import made, write

from cnnbench.runtime import files
from cnnbench.runtime.signals import collected_signals

QUITS = """
import sys, torch

class Quits(torch.optim.SGD):
    steps = 0

    def step(self, closure=None):
        self.steps += 1
        if self.steps == 3:
            sys.exit(0)
        return super().step(closure)
"""


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_class_that_calls_exit_fails_its_own_run_alone(command, here: Path, no_figures, workers: int) -> None:
    mine = here / "mine"
    (mine / "optimizer").mkdir(parents=True)
    (mine / "quits.py").write_text(QUITS)
    (mine / "optimizer" / "quits.yaml").write_text("_target_: quits.Quits\nlr: 0.1\n")
    sweep = "-m data=digits epochs=1 batch_size=100 optimizer=quits,adam"
    result = command(f"--config-dir mine {sweep} workers={workers}")
    assert result.code == 1
    found = {each["choices"]["optimizer"]: each for each in all_records(here)}
    assert (found["quits"]["status"], found["adam"]["status"]) == ("failed", "done")
    assert found["quits"]["error"].endswith("SystemExit: 0\n")


def test_an_older_result_is_set_aside_whatever_was_removed(command, here: Path) -> None:
    for _ in range(3):
        assert command("data=digits epochs=1 force=true").code == 0
    (old,) = here.glob("runs/default/*/.old")
    assert sorted(path.name for path in old.iterdir()) == ["1", "2"]
    for item in (old / "1").iterdir():
        item.unlink()
    (old / "1").rmdir()
    assert command("data=digits epochs=1 force=true").code == 0
    assert sorted(path.name for path in old.iterdir()) == ["2", "3"]
    assert record(here)["status"] == "done"


def test_a_folder_of_somebody_else_is_listed(command, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(here / "runs", made("seed=0", status="interrupted"))
    (lock,) = (folder / ".lock" for folder in (here / "runs").iterdir())
    lock.touch()

    def denied(self, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(filelock.FileLock, "acquire", denied)  # a test as root may write everything
    monkeypatch.setattr(filelock.FileLock, "__enter__", denied)
    for words in ("list runs", "show runs"):
        result = command(words)
        assert (result.code, result.err) == (0, "")
        assert "interrupted" in result.out


def test_files_of_killed_processes_are_removed_after_an_hour(here: Path) -> None:
    old, new, other = (here / name for name in (".a.png.x1", ".a.png.x2", ".b.png.x3"))
    for path in (old, new, other):
        path.write_text("half")
    for path in (old, other):
        os.utime(path, (time.time() - 3700,) * 2)
    files.write_whole(here / "a.png", lambda file: file.write(b"whole"))
    assert sorted(path.name for path in here.iterdir()) == [".a.png.x2", ".b.png.x3", "a.png"]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_second_signal_ends_a_batch_that_hangs(signum: int) -> None:
    child = os.fork()
    if child == 0:
        signal.signal(signum, signal.SIG_DFL)
        with collected_signals():
            os.kill(os.getpid(), signum)
            os.kill(os.getpid(), signum)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signum


def test_ctrl_c_while_modules_are_imported_is_one_line(here: Path) -> None:
    code = (
        "import sys, os, signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Interrupts:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'omegaconf': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupts())\n"
        "from cnnbench.cli import main; sys.exit(main(['list']))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=here)
    assert (result.returncode, result.stderr) == (130, "cnnbench: interrupted\n")


def test_without_a_home_directory_a_tilde_is_one_line(command, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(self: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", unknown)
    result = command("list ~/runs")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "Set HOME" in result.err


def test_a_killed_reader_of_images_costs_no_run(command, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. ")

    words = "data=digits epochs=2 data.in_memory=false"
    with monkeypatch.context() as patch:
        patch.setattr("cnnbench.data.datamodule._OnDisk.__getitem__", killed)
        patch.setattr("os.cpu_count", lambda: 1)  # no workers, so that this process raises it
        result = command(words)
    assert result.code == 1
    assert "a process that reads its images is gone" in result.err
    assert record(here)["status"] == "interrupted"
    assert command(words).code == 0
