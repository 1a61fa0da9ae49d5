"""How much memory is free."""

import contextlib
import math
from pathlib import Path


def free_memory() -> float:
    """Bytes of memory that a process could still take; infinite where the system doesn't tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024.0 * int(line.split()[1])
    return math.inf
