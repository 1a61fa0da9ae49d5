"""Every write of a run fails once, in every way; then the same command is given again."""

import errno
import io
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import all_records, record, without_times, write_images
from made_records import made, write

from cnnbench.results import records
from cnnbench.runtime import files
from cnnbench.sweeps import run
from cnnbench.training.loggers import TensorBoard

WORDS = "data=digits data.limit=500 epochs=2 augment=document update=cag model.dropout=0.2"


class Killed(BaseException):
    """As SIGKILL: nobody gets to tidy up."""


def broken(kind: str, path: Path, write) -> None:
    """Stands for `write_whole` where the disk or the process goes away."""
    if kind == "killed amid":
        buffer = io.BytesIO()
        write(buffer)
        (path.parent / f".{path.name}.torn").write_bytes(buffer.getvalue()[: buffer.tell() // 2])
        raise Killed
    number = {"full": errno.ENOSPC, "broken": errno.EIO, "read-only": errno.EROFS}[kind]
    raise OSError(number, os.strerror(number), str(path))


def faulty(monkeypatch: pytest.MonkeyPatch, at: int | None, kind: str = "") -> list[Path]:
    """Lets write number `at` fail; returns the list that the writes' paths are added to."""
    real = files.write_whole
    seen: list[Path] = []

    def write_whole(path: Path, write) -> None:
        if at == len(seen):
            broken(kind, path, write)
        seen.append(path)
        real(path, write)

    monkeypatch.setattr(files, "write_whole", write_whole)
    return seen


@pytest.mark.parametrize("kind", ["full", "broken", "read-only", "killed amid"])
def test_each_write_fails_once(command, here: Path, monkeypatch, kind: str) -> None:
    with monkeypatch.context() as patched:
        paths = faulty(patched, None)
        assert command(f"{WORDS} name=whole").code == 0
    writes = [path for path in paths if path.parent.name != "whole"]
    whole = {r["run_id"]: without_times(r) for r in all_records(here / "runs" / "whole")}
    assert len(writes) >= 7  # config, record, two epochs of checkpoints and records, the last record
    for at in range(0, len(writes), 1 if kind == "full" else 2):
        name = f"fault{at}"
        with monkeypatch.context() as patched:
            faulty(patched, at, kind)
            if kind == "killed amid":
                with pytest.raises(Killed):
                    command(f"{WORDS} name={name}")
            else:
                result = command(f"{WORDS} name={name}")
                assert result.code == 1
                assert "Traceback" not in result.err
                (line,) = (line for line in result.err.splitlines() if "Stopped (" in line)
                assert os.strerror({"full": errno.ENOSPC, "broken": errno.EIO, "read-only": errno.EROFS}[kind]) in line
        before = {path: path.read_bytes() for path in records.find(here / "runs" / name)}
        assert all(records.read(path).status == "interrupted" for path in before)  # each can be read
        assert command(f"{WORDS} name={name}").code == 0
        found = without_times(record(here / "runs" / name))
        assert found | {"config": None} == whole[found["run_id"]] | {"config": None}


def test_a_full_disk_ends_the_sweep_and_harms_nothing(command, here: Path, monkeypatch) -> None:
    words = "-m data=digits epochs=1 seed=0,1,2"
    with monkeypatch.context() as patched:
        paths = faulty(patched, 8, "full")  # in the second run: the first one's config, three records and checkpoints
        assert command(words).code == 1
    assert len(paths) == 8
    before = {path: path.read_bytes() for path in records.find(here / "runs")}
    done = [path for path in before if records.read(path).status == "done"]
    assert len(done) == 1
    assert len(before) < 3  # the third was not tried
    assert command(words).code == 0
    assert done[0].read_bytes() == before[done[0]]  # not run twice


def test_a_full_disk_costs_no_table(command, here: Path, monkeypatch) -> None:
    write(here / "runs", made("optimizer=sgd", test=0.25))
    faulty(monkeypatch, 0, "full")
    result = command("compare runs")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "25.00%" in result.out
    assert "report.html" not in result.out


def test_a_full_disk_under_tensorboard(command, here: Path, monkeypatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(TensorBoard, "log_metrics", full)
        result = command("data=digits epochs=2")
    assert result.code == 1
    assert "No space left on device" in result.err
    assert command("data=digits epochs=2").code == 0
    assert len(record(here)["history"]) == 2


@pytest.fixture
def small_disk(here: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    folder = here / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3M", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"only root can mount a file system: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, free: int) -> Path:
    """Leaves `free` bytes of a disk."""
    path = disk / "filled"
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - free)
    return path


@pytest.mark.parametrize("free", [0, 20_000, 300_000, 500_000])  # no record, no checkpoint, one, not the last one
def test_a_disk_that_is_really_full(command, here: Path, small_disk: Path, free: int) -> None:
    words = f"-m data=digits data.limit=300 epochs=2 seed=0,1 runs_dir={small_disk}"
    filled = fill(small_disk, free)
    result = command(words)
    assert (result.code, "Traceback" in result.err) == (1, False)
    assert "No space left on device" in result.err
    filled.unlink()
    assert command(words).code == 0
    assert command(words.replace(str(small_disk), "other")).code == 0
    ours = {found["run_id"]: without_times(found) for found in all_records(small_disk)}
    others = {found["run_id"]: without_times(found) for found in all_records(here / "other")}
    assert len(ours) == 2
    assert {key: found | {"config": None} for key, found in ours.items()} == {
        key: found | {"config": None} for key, found in others.items()
    }


@pytest.mark.parametrize("free", [0, 10_000, 500_000])  # no hashes of 200 files, no list of them, no 960,000 bytes
def test_a_full_disk_during_decoding(command, here: Path, small_disk: Path, monkeypatch, free: int) -> None:
    write_images(here / "DIR", {"red": 50, "blue": 50}, size=40)
    monkeypatch.setenv("XDG_CACHE_HOME", str(small_disk))
    filled = fill(small_disk, free)
    result = command("data=folder data.root=DIR epochs=1")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert f"cnnbench: {small_disk}/cnnbench/folder" in result.err
    assert ": No space left on device" in result.err
    filled.unlink()
    assert command("data=folder data.root=DIR epochs=1").code == 0


def test_a_place_that_cannot_be_written(command, here: Path) -> None:
    (here / "runs").write_text("a file where the folder should be")
    result = command("data=digits epochs=1")
    assert result.code == 1
    assert result.err.count("\n") == 1
    assert "runs" in result.err
    assert (here / "runs").read_text() == "a file where the folder should be"


def test_out_of_memory_says_what_was_tried(command, here: Path, monkeypatch) -> None:
    def too_much(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(run.Classifier, "training_step", too_much)
    result = command("data=digits epochs=1 batch_size=77")
    assert result.code == 1
    assert record(here)["status"] == "failed"
    assert "batches of 77 images" in record(here)["error"]
    assert "batches of 77 images" in result.out


def test_no_download_onto_a_full_disk(command, here: Path, monkeypatch) -> None:
    class Response(io.BytesIO):
        headers = {"Content-Length": str(10**18)}

    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: Response(b""))
    result = command("data=cifar10")
    assert result.code == 2
    assert "1,000,000,000,000.0 MB are needed" in result.err
    assert list(here.iterdir()) == []
