"""Facts and settings of this machine: memory, GPUs, versions."""

import contextlib
import ctypes
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def keep_freed_memory() -> None:
    """Lets the C library keep the memory of one step for the next.

    By default it returns large blocks to the system after each use and asks for them again, empty, page by page. That
    is a sixth of a step's time on a CPU.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, (1 << 31) - 1)


def hide_missing_gpus() -> None:
    """Tells PyTorch for good that there is no GPU, where it finds none.

    Its optimizers look again before each step by opening the driver's library, a tenth of a small network's step.
    """
    import torch

    if not torch.cuda.is_available():
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def place(accelerator: str, threads: int | None) -> str:
    """The device that trains, in words: the GPU's name, or the CPU with its threads.

    Args:
        accelerator: `auto`, `cpu` or `gpu`.
        threads: CPU threads; None takes PyTorch's own number.
    """
    import torch

    if accelerator != "cpu" and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    count = threads or torch.get_num_threads()
    return f"the CPU with {count} thread{'s' * (count > 1)}"


def environment(device: "torch.device") -> dict[str, Any]:
    """Versions, platform, device and git commit, as a record keeps them."""
    import torch

    packages = ("cnnbench", "torchvision", "pytorch-lightning", "hydra-core", "numpy")
    package = Path(__file__).parent.parent
    commit = None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        if (package.parent / ".git").exists():
            command = ["git", "-C", str(package), "rev-parse", "HEAD"]
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
