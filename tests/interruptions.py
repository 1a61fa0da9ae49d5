"""Runs that are interrupted or killed."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cnnbench.results import records
from cnnbench.training import training

HELD = """
import os, time
from cnnbench.models import PlainCNN
class Held(PlainCNN):
    batches = 0
    def forward(self, x):
        if not x.is_meta and self.training:
            self.batches += 1
            if self.batches == 3:
                open(f"pid{os.getpid()}", "w").close()
            while self.batches > 2 and os.path.exists("hold"):  # after the first epoch
                time.sleep(0.1)
        return super().forward(x)
"""
"""A model that trains an epoch, names its process by a file, and then waits until the file `hold` is gone."""


def wait_for(true: Callable[[], bool]) -> None:
    """Waits until something is true, five minutes at most."""
    deadline = time.monotonic() + 300
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.3)


def heed_ctrl_c() -> None:
    """Tests that run in the background inherit that Ctrl-C is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def killed_after(epochs: int, signum: int, here: Path, words: str) -> subprocess.CompletedProcess[str]:
    """Starts the command, waits until the record has so many epochs, and sends the signal."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cnnbench", *words.split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=here,
        preexec_fn=heed_ctrl_c,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        written = records.find(here / "runs") if (here / "runs").exists() else []
        if written and len(json.loads(written[0].read_text())["history"]) >= epochs:
            break
        time.sleep(0.02)
    process.send_signal(signum)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


class Killed(BaseException):
    """As SIGKILL: nobody gets to tidy up."""


def stop_after(monkeypatch: pytest.MonkeyPatch, batches: int, signum: int) -> None:
    """The next run gets the signal when it has done so many batches."""
    real = training._Watch.on_train_batch_end
    seen = 0

    def counting(self, *arguments) -> None:
        nonlocal seen
        seen += 1
        if seen == batches:
            if signum == signal.SIGKILL:
                raise Killed
            self._training.surroundings.received.append(signum)
        real(self, *arguments)

    monkeypatch.setattr(training._Watch, "on_train_batch_end", counting)
