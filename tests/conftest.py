"""A command line that runs in this process, in an empty folder; small folders of images."""

import json
import os
import pty
import select
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from cnnbench.cli import main
from cnnbench.results import records


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the slow tests too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow: needs --slow"))


@dataclass
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder; the cache lies outside of it."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """For comparisons whose figures nobody looks at: they take seconds."""
    monkeypatch.setattr("cnnbench.report.figures.draw", lambda *_: [])


@pytest.fixture
def command(here: Path, capfd: pytest.CaptureFixture[str]) -> Callable[[str], Result]:
    """`command("optimizer=adam epochs=1")` as it would be typed after `cnnbench`."""

    def run(words: str) -> Result:
        capfd.readouterr()
        code = main(shlex.split(words))
        return Result(code, *capfd.readouterr())

    return run


def refused(result: Result, says: str, here: Path) -> None:
    """The command was refused in one line that says so, and wrote nothing."""
    assert result.code == 2, result.err
    assert says in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert not (here / "runs").exists()


def record(folder: Path) -> dict[str, Any]:
    """The one record below `folder`."""
    (path,) = (p for p in folder.rglob("record.json") if ".old" not in p.parts)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def all_records(folder: Path) -> list[dict[str, Any]]:
    """The records below `folder`, as they are written."""
    return [json.loads(path.read_text()) for path in records.find(folder)]


def on_terminal(words: list[str], environment: dict[str, str], typed: str = "") -> str:
    """What a terminal gets from a program, to which `typed` is typed."""
    process, terminal = pty.fork()
    if process == 0:
        os.execvpe(words[0], words, environment)
    os.write(terminal, typed.encode())
    shown = b""
    while select.select([terminal], [], [], 60)[0]:
        try:
            shown += os.read(terminal, 10_000)
        except OSError:  # it has ended
            break
    os.close(terminal)
    os.waitpid(process, 0)
    return shown.decode(errors="replace")


def without_times(record: dict[str, Any]) -> dict[str, Any]:
    """A record as two runs of one config must share it: without times, what was typed, and the commit of the code."""
    times = ("seconds", "images_per_second")
    history = [{key: value for key, value in row.items() if key not in times} for row in record["history"]]
    left_out = ("environment", "overrides")
    return {key: value for key, value in record.items() if key not in left_out} | {"history": history}


def without_prefix(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    """A `state_dict` with shorter names."""
    return {key.removeprefix(prefix): value for key, value in state.items()}


def write_images(root: Path, counts: dict[str, int], size: int = 8, suffix: str = "png", seed: int = 0) -> Path:
    """`root`/train and test with `counts[class]` images each; classes differ in colour, so that they can be learned."""
    rng = np.random.default_rng(seed)
    for split in ("train", "test"):
        for c, (name, count) in enumerate(counts.items()):
            folder = root / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                pixels = rng.integers(0, 60, (size, size, 3)).astype(np.uint8)
                pixels[..., c % 3] += 150
                Image.fromarray(pixels).save(folder / f"{i:04}.{suffix}")
    return root


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """A folder of three classes, 20 images of 8x8 each."""
    return write_images(tmp_path / "colours", {"red": 20, "green": 20, "blue": 20})


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread of torch: several wait for one another longer than batches of small tests take."""
    import torch  # seconds, which tests without it need not wait

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
