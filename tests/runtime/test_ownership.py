"""The owner of a run, on machines that don't see each other's locks."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import record, without_times

from cnnbench.errors import Busy
from cnnbench.runtime import ownership
from cnnbench.training import training

PROCESS = """
import socket, sys, time
from pathlib import Path
from cnnbench.errors import Busy
from cnnbench.runtime import ownership
host, folder = sys.argv[1:]
socket.gethostname = lambda: host
ownership.BEAT, ownership.OLD, ownership._SETTLE = 0.1, 1.5, 0.2
say = lambda line: print(line, flush=True)
try:
    with ownership.owned(Path(folder), say) as owner:
        say("owned")
        while True:
            owner.check()
            time.sleep(0.05)
except Busy as busy:
    say(busy)
"""
"""A process on a machine called `host`, which owns `folder` until it is told that it doesn't."""


class Process:
    def __init__(self, host: str, folder: Path) -> None:
        (folder / ".lock").unlink(missing_ok=True)  # a new file, so that the locks of others are not seen
        command = [sys.executable, "-c", PROCESS, host, str(folder)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def says(self) -> str:
        return self.process.stdout.readline().rstrip()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def test_two_machines_that_do_not_see_each_others_locks(tmp_path: Path) -> None:
    first = Process("first", tmp_path)
    assert first.says() == "owned"
    assert Process("second", tmp_path).says() == f"another process is running it (first, process {first.process.pid})"
    assert ownership.is_owned(tmp_path)

    first.process.send_signal(signal.SIGSTOP)  # as if its machine hung
    time.sleep(2)
    second = Process("second", tmp_path)
    told = second.says()
    assert told.startswith(f"{tmp_path.name}: taken over from first, process {first.process.pid}, which gave no sign")
    assert second.says() == "owned"

    first.process.send_signal(signal.SIGCONT)
    assert first.says().startswith(f"taken over by second, process {second.process.pid}")
    first.process.wait()
    assert ownership._read(tmp_path / ".owner").host == "second"  # the first one removes nothing of the second one's
    second.kill()


def test_after_a_kill_the_same_machine_goes_on_at_once(tmp_path: Path) -> None:
    first = Process("one", tmp_path)
    assert first.says() == "owned"
    first.kill()
    assert (tmp_path / ".owner").exists()
    second = Process("one", tmp_path)
    assert second.says() == "owned"
    second.kill()


def owner(folder: Path, host: str, age: float) -> None:
    path = folder / ".owner"
    path.write_text(json.dumps({"host": host, "pid": 1, "token": "t"}))
    os.utime(path, (time.time() - age, time.time() - age))


def test_one_of_several_takes_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "_SETTLE", 0.5)
    owner(tmp_path, "gone", ownership.OLD + 1)
    start, won, lost = threading.Barrier(8), [], []

    def claim() -> None:
        mine = ownership.Ownership(tmp_path)
        start.wait()
        try:
            mine.claim(True, lambda line: None)
            time.sleep(1)
            mine.check()  # as before each writing
            won.append(mine)
        except Busy as busy:
            lost.append(str(busy))

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)


@pytest.mark.parametrize(("age", "held"), [(ownership.OLD - 5, True), (ownership.OLD + 5, False)])
def test_an_owner_is_gone_when_its_heartbeat_is_old(tmp_path: Path, monkeypatch, age: float, held: bool) -> None:
    monkeypatch.setattr(ownership, "_SETTLE", 0)
    owner(tmp_path, "elsewhere", age)
    assert ownership.is_owned(tmp_path) == held
    said: list[str] = []
    if held:
        with pytest.raises(Busy, match="elsewhere, process 1"), ownership.owned(tmp_path, said.append):
            pass
        assert said == []
        return
    with ownership.owned(tmp_path, said.append) as mine:
        mine.check()
        assert ownership._read(tmp_path / ".owner").host == socket.gethostname()
    (line,) = said
    assert "taken over from elsewhere, process 1, which gave no sign for 12" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock"]


def test_a_run_that_was_taken_over_writes_nothing_more(command, here: Path, monkeypatch) -> None:
    words = "data=digits data.limit=200 epochs=4 hardware.threads=1"
    command(words + " name=undisturbed")
    expected = without_times(record(here / "runs" / "undisturbed"))
    monkeypatch.setattr(ownership, "_SETTLE", 0)
    real, calls = training._Watch.on_train_epoch_end, []

    def taken_over(self, *arguments) -> None:
        calls.append(1)
        folder = self._training.surroundings.folder
        if len(calls) == 3:
            owner(folder, "elsewhere", ownership.OLD + 5)  # it is gone again when the run is tried again
            before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*")}
            try:
                real(self, *arguments)
            finally:
                assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*")} == before
        real(self, *arguments)

    monkeypatch.setattr(training._Watch, "on_train_epoch_end", taken_over)
    result = command(words)
    assert result.code == 0, result.err
    assert "taken over by elsewhere, process 1" in result.err
    assert "taken over from elsewhere, process 1" in result.err
    assert len(calls) == 5  # the third epoch twice
    found = without_times(record(here / "runs" / "default"))
    assert found | {"config": None} == expected | {"config": None}
