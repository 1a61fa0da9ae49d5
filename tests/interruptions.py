"""Runs that are interrupted or killed."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cnnbench.results import records
from cnnbench.training import training


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
