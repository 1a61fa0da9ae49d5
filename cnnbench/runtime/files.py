"""Files that are written whole or not at all."""

import contextlib
import errno
import glob
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a file so that a kill or a full disk at any moment leaves the old one or the new one.

    Args:
        path: the file.
        write: fills a temporary file in the same folder. It is synced to the disk before it takes the name `path`.

    Raises:
        OSError: it can't be written; the old file is untouched and the temporary one is removed.
    """
    remove_left_over(path.parent, f".{glob.escape(path.name)}.*")
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        if isinstance(error, OSError) and error.errno and not error.filename:  # a write doesn't say to which file
            error.filename = str(path)
        raise


def check_regular(path: Path) -> None:
    """Checks that a path is no pipe or device, which might never end. What is not there is not looked at.

    Raises:
        OSError: it is one, or a folder.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def remove_left_over(folder: Path, pattern: str) -> None:
    """Removes temporary files that nobody has written to for an hour: those of processes that were killed."""
    for path in folder.glob(pattern):
        with contextlib.suppress(OSError):  # somebody else has removed it
            if time.time() - path.stat().st_mtime > 3600:
                path.unlink()


def is_disk_failure(error: BaseException) -> bool:
    """Whether the disk is full, gone or not writable, so that no later run would succeed either."""
    return isinstance(error, OSError) and error.errno in (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.EIO,
    )
