"""Processes that run a sweep side by side."""

import contextlib
import os
import signal
from multiprocessing import Pipe, get_context

import numpy as np
import pytest
import torch

from cnnbench.data.images import ImageSet
from cnnbench.runtime.signals import collected_signals
from cnnbench.sweeps import workers


def images() -> ImageSet:
    pixels, labels = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3), np.array([0, 1])
    return ImageSet(pixels, labels, pixels[:0], labels[:0], ("a\nb", "c"), "f" * 16, note="found")


def test_a_worker_whose_sweep_was_killed_ends_as_at_sigterm() -> None:
    receiver, sender = Pipe(duplex=False)
    receiver.close()
    with collected_signals() as received:
        workers._Remote(sender, visible=False).step(0.5, 1.0, 0.5, 100.0)
    assert received == [signal.SIGTERM]


def _compare(shared: workers._Images) -> None:
    """In another process: exits with 0 if the images are those of `images()`."""
    found, expected = ImageSet(**shared.arrays, **shared.words), images()
    same = np.array_equal(found.train, expected.train) and np.array_equal(found.test, expected.test)
    found.train[:] = 255  # a copy of this process's own
    rest = (found.classes, found.note, found.validation) == (expected.classes, expected.note, None)
    os._exit(0 if same and rest else 1)


def test_images_reach_other_processes_and_stay_as_they_are() -> None:
    context = get_context("forkserver")
    with contextlib.ExitStack() as files:
        shared = workers._share(images(), files)
        for _ in range(2):  # the second one sees nothing of what the first one wrote
            process = context.Process(target=_compare, args=(shared,))
            process.start()
            process.join()
            assert process.exitcode == 0


@pytest.mark.parametrize(
    ("count", "visible", "names"),
    [(0, None, []), (1, None, []), (2, None, ["0", "1"]), (2, "5,7", ["5", "7"]), (1, "3", [])],
)
def test_gpus_are_divided_where_there_are_several(monkeypatch, count: int, visible: str | None, names: list) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert workers._gpus() == names


def test_too_little_memory_for_the_workers_is_said_before(command, here, monkeypatch) -> None:
    monkeypatch.setattr("cnnbench.sweeps.sweep.free_memory", lambda: 200e6)
    result = command("-m data=digits data.limit=200 epochs=1 seed=0,1 workers=4 optimizer=none_such")
    assert result.code == 2  # nothing is said of memory before all is checked
    assert "workers" not in result.err
    monkeypatch.setattr("cnnbench.sweeps.sweep.carry_out", lambda *_: ([], 0))
    words = "-m data=digits data.limit=200 epochs=1 batch_size=20 seed=0,1"
    # 53,002 weights: with gradients and two averages 0.8 MB; a worker 50 MB
    (line,) = (line for line in command(f"{words} workers=4").err.splitlines() if "warning" in line)
    assert line == (
        "warning: workers=4: they take about 0.2 GB, 0.1 GB each, and 0.2 GB are free. workers=3 fits. When memory "
        "runs out, the system kills a process, whose run is then interrupted."
    )
    assert "warning" not in command(f"{words} workers=3").err
