"""Processes that run a sweep side by side."""

import contextlib
import os
import signal
from multiprocessing import Pipe, get_context

import numpy as np

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
