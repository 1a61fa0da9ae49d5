"""What does the machine do to a run, and what machine is it? Signals, disks, memory, versions."""

import contextlib
import ctypes
import errno
import os
import platform
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


class Interrupted(Exception):
    """Ctrl-C or SIGTERM ended a run; what it had done is kept.

    Attributes:
        exit_code: 130 or 143.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


@contextmanager
def signals() -> Iterator[list[int]]:
    """Collects Ctrl-C and SIGTERM, to be acted on between two steps; the second Ctrl-C ends the process at once."""
    received: list[int] = []

    def note(signum: int, _: object) -> None:
        if signum in received and signum == signal.SIGINT:
            os._exit(128 + signum)
        received.append(signum)

    # What is ignored stays ignored: a shell does that to what runs in the background.
    heeded = [s for s in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(s) is not signal.SIG_IGN]
    try:
        before = {s: signal.signal(s, note) for s in heeded}
    except ValueError:  # not the main thread: signals are somebody else's
        before = {}
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def is_the_disks(error: BaseException) -> bool:
    """No run after this one would fare better: the disk is full, gone, or not ours to write."""
    return isinstance(error, OSError) and error.errno in (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.EIO,
    )


def keep_freed_memory() -> None:
    """Lets the C library keep the memory of a step for the next one.

    Otherwise it gives large blocks back to the system after each use and asks for them again, empty, page by page: a
    sixth of a step's time on a processor.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, (1 << 31) - 1)


def stop_looking_for_gpus() -> None:
    """Where PyTorch finds no GPU, tells it so for good: its optimizers look again before each step, by opening the
    driver's library, which costs a tenth of a small network's step."""
    if not torch.cuda.is_available():
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def environment(device: torch.device) -> dict[str, Any]:
    """What a record says about where its numbers come from."""
    packages = ("cnnbench", "torchvision", "pytorch-lightning", "hydra-core", "numpy")
    here = Path(__file__).parent
    commit = None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        if (here.parent / ".git").exists():
            command = ["git", "-C", str(here), "rev-parse", "HEAD"]
            commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        **{name: version(name) for name in packages},
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "git_commit": commit,
    }
