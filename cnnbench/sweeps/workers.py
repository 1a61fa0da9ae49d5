"""Workers: processes that run a sweep side by side, one for each run, so that a killed one affects no other run.

The processes are forked from a server that has imported torch once, and share one copy of the images.
"""

import contextlib
import os
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, fields
from multiprocessing import connection, forkserver, get_context, reduction
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from cnnbench.config.composition import Job
from cnnbench.data.images import ImageSet
from cnnbench.errors import Busy, Interrupted, ProcessLost
from cnnbench.runtime.progress import Line, Sweep

Task = tuple[Job, ImageSet]


class _Remote:
    """The `Screen` of a run in a worker: sends each call to the sweep's own process, which shows it."""

    visible: bool
    _pipe: Any
    """A `multiprocessing.connection.Connection`, or on Windows a `PipeConnection`."""

    def __init__(self, pipe: Any, visible: bool) -> None:
        self._pipe, self.visible = pipe, visible

    def say(self, line: str) -> None:
        self._send("say", line)

    def start(self, run: str, epochs: int) -> None:
        self._send("start", run, epochs)

    def step(self, epoch: float, loss: float, accuracy: float, images_per_second: float) -> None:
        self._send("step", epoch, loss, accuracy, images_per_second)

    def epoch(self, row: dict[str, float]) -> None:
        self._send("epoch", row)

    def finish(self) -> None:
        self._send("finish")

    def _send(self, *call: Any) -> None:
        if self._pipe is None:
            return
        try:
            self._pipe.send(call)
        except OSError:  # the sweep's own process was killed: end as at its SIGTERM, with the state saved
            self._pipe = None
            os.kill(os.getpid(), signal.SIGTERM)


@dataclass
class Ended:
    """How a run's process ended."""

    task: Task
    """The run."""
    exit_code: int
    """0 after any result; 130 or 143 if interrupted; -N if killed by signal N."""
    reason: str = ""
    """`busy` if another process has the run, `disk` if the disk failed, `interrupted` by a signal, `lost` if a process
    that it needs was killed, else empty."""
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
    gpus = _gpus()
    of_line = {line: gpus[i % len(gpus)] for i, line in enumerate(free)} if gpus else {}
    active: dict[Any, _Worker] = {}
    shared: dict[str, _Images] = {}
    with contextlib.ExitStack() as files:
        try:
            while tasks or active:
                while tasks and free:
                    task = tasks.popleft()
                    receiver, sender = context.Pipe(duplex=False)
                    images = task[1]
                    if images.fingerprint not in shared:
                        shared[images.fingerprint] = _share(images, files)
                    line = free.pop()
                    arguments = (
                        task[0], shared[images.fingerprint], sender, threads, of_line.get(line), sweep.visible
                    )  # fmt: skip
                    process = context.Process(target=_work, args=arguments)
                    process.start()
                    sender.close()  # this process's copy, so that `recv` ends with the worker
                    active[receiver] = _Worker(process, task, line)
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
                        if method in ("busy", "disk", "interrupted", "lost"):
                            worker.reason, (worker.message,) = method, values
                        else:
                            getattr(worker.line, method)(*values)
        finally:
            for worker in active.values():
                worker.process.terminate()
            for worker in active.values():
                worker.process.join()


class _SharedArray:
    """An array in a file without a name, which is gone with the last process that has it open, however that ends."""

    _file: IO[bytes]

    def __init__(self, array: NDArray[Any]) -> None:
        if hasattr(os, "memfd_create"):  # /dev/shm is too small in most containers
            descriptor = os.memfd_create("cnnbench")
        else:
            descriptor, name = tempfile.mkstemp()
            Path(name).unlink()
        self._file = os.fdopen(descriptor, "w+b")
        np.save(self._file, array)
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _mapped, (reduction.DupFd(self._file.fileno()),)


def _mapped(duplicate: Any) -> NDArray[Any]:
    """The array of a `_SharedArray`, in a process that got it; what it writes there others don't see."""
    descriptor: int = duplicate.detach()
    try:
        array: NDArray[Any] = np.load(f"/dev/fd/{descriptor}", mmap_mode="c")
        return array
    finally:
        os.close(descriptor)


@dataclass
class _Images:
    """An `ImageSet` for other processes."""

    arrays: dict[str, Any]
    """A `_SharedArray` each; in a worker the array itself."""
    words: dict[str, Any]
    """Its other fields."""


def _share(images: ImageSet, files: contextlib.ExitStack) -> _Images:
    """Puts the arrays of a data set where all processes can map them, until `files` is closed."""
    values = {each.name: getattr(images, each.name) for each in fields(images)}
    arrays = {name: _SharedArray(value) for name, value in values.items() if isinstance(value, np.ndarray)}
    for array in arrays.values():
        files.callback(array.close)
    return _Images(arrays, {name: value for name, value in values.items() if name not in arrays})


def _gpus() -> list[str]:
    """The GPUs as CUDA_VISIBLE_DEVICES names them, where there are several; else none, as there is no choice."""
    import torch

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    names = given.split(",")[:count] if given else [str(i) for i in range(count)]
    return names if count > 1 else []


def _work(job: Job, shared: _Images, pipe: Any, threads: int, gpu: str | None, visible: bool) -> None:
    """Carries out one run; the main function of a worker.

    Args:
        job: the run.
        shared: its images.
        pipe: takes what the screen is to show, and why the run ended.
        threads: CPU threads of torch.
        gpu: the GPU that it may use; None leaves the choice to torch.
        visible: whether there is a terminal.
    """
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # heeded until CUDA starts in this process
    import torch

    from cnnbench.sweeps.run import run

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    torch.set_num_threads(threads)
    try:
        run(job, ImageSet(**shared.arrays, **shared.words), _Remote(pipe, visible))
    except Busy as busy:
        pipe.send(("busy", str(busy)))
    except OSError as error:
        pipe.send(("disk", str(error)))
    except ProcessLost as lost:
        pipe.send(("lost", str(lost)))
        sys.exit(1)
    except Interrupted as interrupted:
        pipe.send(("interrupted", str(interrupted)))
        sys.exit(interrupted.exit_code)
    except KeyboardInterrupt:  # the sweep's own process got it too
        sys.exit(130)
