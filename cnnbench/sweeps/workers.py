"""Workers: processes that run a sweep side by side, one for each run, so that a killed one affects no other run.

The processes are forked from a server that has imported torch once, and share one copy of the images.
"""

import json
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

_ARRAYS = ("train", "train_labels", "test", "test_labels", "validation")


class _Remote:
    """The `Screen` of a run in a worker: sends each call to the sweep's own process, which shows it."""

    visible: bool
    _pipe: Any
    """A `multiprocessing.connection.Connection`, or on Windows a `PipeConnection`."""

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
    """The run."""
    exit_code: int
    """0 after any result; 130 or 143 if interrupted; -N if killed by signal N."""
    reason: str = ""
    """`busy` if another process has the run, `disk` if the disk failed, else empty."""
    message: str = ""
    """The error that goes with the reason or the exit code."""


@dataclass
class _Worker:
    """A process under way."""

    process: BaseProcess
    task: Task
    line: Line
    """Shows the run's progress."""
    reason: str = ""
    """As in `Ended`."""
    message: str = ""


def get_ready() -> None:
    """Starts the server, which imports torch, without waiting for it."""
    forkserver.set_forkserver_preload(["cnnbench.sweeps.run"])
    forkserver.ensure_running()


def side_by_side(tasks: deque[Task], workers: int, sweep: Sweep) -> Generator[Ended, None, None]:
    """Runs tasks in processes of their own.

    When the caller closes the generator, or on Ctrl-C or SIGTERM, the processes get SIGTERM and are waited for.

    Args:
        tasks: the runs; those that are appended meanwhile are run too.
        workers: largest number of processes at a time.
        sweep: shows the progress.

    Yields:
        Each run as it ends.
    """
    context: Any = get_context("forkserver")
    get_ready()
    threads = max((os.cpu_count() or 1) // workers, 1)
    free = [sweep.line() for _ in range(workers)]
    active: dict[Any, _Worker] = {}
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as shared:
        try:
            while tasks or active:
                while tasks and free:
                    task = tasks.popleft()
                    receiver, sender = context.Pipe(duplex=False)
                    arguments = (task[0], _share(task[1], Path(shared)), sender, threads, sweep.visible)
                    process = context.Process(target=_work, args=arguments)
                    process.start()
                    sender.close()  # this process's copy, so that `recv` ends with the worker
                    active[receiver] = _Worker(process, task, free.pop())
                receivers: list[Any] = connection.wait(list(active), timeout=1)
                for receiver in receivers:
                    worker = active[receiver]
                    try:
                        method, *values = receiver.recv()
                    except EOFError:
                        worker.process.join()
                        del active[receiver]
                        free.append(worker.line)
                        yield Ended(worker.task, worker.process.exitcode or 0, worker.reason, worker.message)
                    else:
                        if method in ("busy", "disk"):
                            worker.reason, (worker.message,) = method, values
                        else:
                            getattr(worker.line, method)(*values)
        finally:
            for worker in active.values():
                worker.process.terminate()
            for worker in active.values():
                worker.process.join()


def _share(images: ImageSet, shared: Path) -> Path:
    """Writes the images of a data set once, for all processes to map; returns their folder."""
    folder = shared / images.fingerprint
    if not folder.exists():
        folder.mkdir()
        for name in _ARRAYS:
            if (array := getattr(images, name)) is not None:
                np.save(folder / f"{name}.npy", array)
        (folder / "words.json").write_text(json.dumps([images.classes, images.note]))
    return folder


def _work(job: Job, shared: Path, pipe: Any, threads: int, visible: bool) -> None:
    """Carries out one run; the main function of a worker.

    Args:
        job: the run.
        shared: the folder of its images.
        pipe: takes what the screen is to show, and why the run ended.
        threads: CPU threads of torch.
        visible: whether there is a terminal.
    """
    import torch

    from cnnbench.sweeps.run import run

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    torch.set_num_threads(threads)
    arrays = {path.stem: np.load(path, mmap_mode="c") for path in shared.glob("*.npy")}
    classes, note = json.loads((shared / "words.json").read_text())
    images = ImageSet(**arrays, classes=tuple(classes), fingerprint=shared.name, note=note)
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
