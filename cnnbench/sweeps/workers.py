"""How do several processes share a sweep? Each run has a process of its own: one that is killed takes no other along.

The processes are forked from a server that has imported torch once, and map the same images.
"""

import os
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from multiprocessing import connection, forkserver, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from cnnbench.config.composition import Job
from cnnbench.data.images import ImageSet
from cnnbench.errors import Busy, Interrupted
from cnnbench.runtime.progress import Line, Sweep

Task = tuple[Job, ImageSet]

_ARRAYS = ("train", "train_labels", "test", "test_labels")


class _Remote:
    """The `Screen` of a run in another process: tells the sweep's own process what to show."""

    def __init__(self, pipe: Any, visible: bool) -> None:
        self._pipe, self.visible = pipe, visible

    def say(self, line: str) -> None:
        self._pipe.send(("say", line))

    def start(self, run: str, epochs: int) -> None:
        self._pipe.send(("start", run, epochs))

    def step(self, epoch: float, loss: float, accuracy: float, images_per_second: float) -> None:
        self._pipe.send(("step", epoch, loss, accuracy, images_per_second))

    def epoch(self, row: dict[str, float]) -> None:
        self._pipe.send(("epoch", row))

    def finish(self) -> None:
        self._pipe.send(("finish",))


@dataclass
class Ended:
    """How a run's process ended."""

    task: Task
    exit_code: int
    """0; 130 and 143 interrupted; below 0 killed by that signal."""
    word: str = ""
    """`busy`, `disk`, or nothing."""
    message: str = ""


def get_ready() -> None:
    """Starts the server, which imports torch; returns at once."""
    forkserver.set_forkserver_preload(["cnnbench.sweeps.run"])
    forkserver.ensure_running()


def side_by_side(tasks: deque[Task], workers: int, sweep: Sweep) -> Generator[Ended, None, None]:
    """Runs `tasks`, at most `workers` at a time; what is appended meanwhile is run too.

    When the caller closes the iterator, or on Ctrl-C or SIGTERM, the runs under way are told to stop and waited for.

    Yields:
        Each run as it ends.
    """
    context: Any = get_context("forkserver")
    get_ready()
    threads = max((os.cpu_count() or 1) // workers, 1)
    free = [sweep.line() for _ in range(workers)]
    active: dict[Any, tuple[BaseProcess, Task, Line, list[tuple[str, str]]]] = {}
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as place:
        try:
            while tasks or active:
                while tasks and free:
                    task = tasks.popleft()
                    ours, theirs = context.Pipe(duplex=False)
                    arguments = (task[0], _share(task[1], Path(place)), theirs, threads, sweep.visible)
                    process = context.Process(target=_work, args=arguments)
                    process.start()
                    theirs.close()
                    active[ours] = process, task, free.pop(), []
                pipes: list[Any] = connection.wait(list(active), timeout=1)
                for pipe in pipes:
                    process, task, line, words = active[pipe]
                    try:
                        name, *rest = pipe.recv()
                    except EOFError:
                        process.join()
                        del active[pipe]
                        free.append(line)
                        word, message = words[-1] if words else ("", "")
                        yield Ended(task, process.exitcode or 0, word, message)
                    else:
                        if name in ("busy", "disk"):
                            words.append((name, rest[0]))
                        else:
                            getattr(line, name)(*rest)
        finally:
            for process, *_ in active.values():
                process.terminate()
            for process, *_ in active.values():
                process.join()


def _share(images: ImageSet, place: Path) -> Path:
    """Puts images where all processes map them; once."""
    folder = place / images.fingerprint
    if not folder.exists():
        folder.mkdir()
        for name in _ARRAYS:
            np.save(folder / f"{name}.npy", getattr(images, name))
        (folder / "classes.txt").write_text("\n".join(images.classes))
    return folder


def _work(job: Job, shared: Path, pipe: Any, threads: int, visible: bool) -> None:
    """One run, in its own process."""
    import torch

    from cnnbench.sweeps.run import run

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    torch.set_num_threads(threads)
    train, train_labels, test, test_labels = (np.load(shared / f"{name}.npy", mmap_mode="c") for name in _ARRAYS)
    classes = tuple((shared / "classes.txt").read_text().split("\n"))
    images = ImageSet(train, train_labels, test, test_labels, classes, shared.name)
    try:
        run(job, images, _Remote(pipe, visible))
    except Busy as busy:
        pipe.send(("busy", str(busy)))
    except OSError as error:
        pipe.send(("disk", str(error)))
    except Interrupted as interrupted:
        sys.exit(interrupted.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
