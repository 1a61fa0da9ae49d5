"""The owner of a run: the one process that may write to its folder, known by a lock and by a heartbeat.

The system's lock ends with its process, however that ends. But on many shared file systems another machine does not see
it. So a file beside it names the owner, and the file's time of change, set again and again, is the heartbeat.
"""

import contextlib
import errno
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from cnnbench.errors import Busy

BEAT = 15.0
"""Seconds between two heartbeats."""

OLD = 120.0
"""Seconds without a heartbeat after which the owner counts as gone: several beats, as file servers have hiccups."""

_SETTLE = 2.0
"""Seconds after which two processes that took over at the same time see which of them came last."""

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What a file system without locks answers."""

FILES = (".lock", ".owner")
"""The files of this module in a run's folder."""


@dataclass(frozen=True)
class _Owner:
    """The content of the owner file."""

    host: str
    pid: int
    token: str
    """Distinguishes processes of one host that have the same number, such as those of containers."""

    def __str__(self) -> str:
        return f"{self.host}, process {self.pid}"


class Ownership:
    """The right to write to a run's folder, which another process may have taken over meanwhile."""

    _path: Path
    _me: _Owner
    _ended: threading.Event

    def __init__(self, folder: Path) -> None:
        self._path = folder / ".owner"
        self._me = _Owner(socket.gethostname(), os.getpid(), secrets.token_hex(8))
        self._ended = threading.Event()

    def check(self) -> None:
        """Checks that this process is still the owner; to be called before each writing.

        Raises:
            Busy: another process has taken over.
        """
        if (owner := _read(self._path)) != self._me:
            raise Busy(f"taken over by {owner or 'another process'}, as this process gave no sign for {OLD:.0f} s")

    def claim(self, locked: bool, say: Callable[[str], None]) -> None:
        """Becomes the owner.

        Args:
            locked: whether this process has the lock, so that no other of this machine is the owner.
            say: prints a line.

        Raises:
            Busy: the owner is alive.
        """
        owner = _read(self._path)
        if owner is not None:
            here = owner.host == self._me.host and (locked or not _is_alive(owner.pid))
            silent = self._silence()
            if not here and silent < OLD:
                raise Busy(f"another process is running it ({owner})")
            if not here:
                say(f"{self._path.parent.name}: taken over from {owner}, which gave no sign for {silent:.0f} s")
            self._path.unlink(missing_ok=True)
        try:
            with self._path.open("x") as file:  # one machine of several succeeds, on NFS too
                file.write(json.dumps(asdict(self._me)))
        except FileExistsError:
            raise Busy(f"another process is running it ({_read(self._path)})") from None
        if owner is not None and not here:  # a second one may have removed the file that this one has just written
            time.sleep(_SETTLE)
            self.check()

    def beat(self) -> None:
        """Gives a heartbeat every few seconds, until the end or until another process takes over."""
        while not self._ended.wait(BEAT) and _read(self._path) == self._me:
            with contextlib.suppress(OSError):  # the file server may be away for a while
                os.utime(self._path)

    def release(self) -> None:
        """Ends the heartbeat, and removes the owner file unless it is another process's."""
        self._ended.set()
        if _read(self._path) == self._me:
            self._path.unlink(missing_ok=True)

    def _silence(self) -> float:
        """Seconds since the owner's last heartbeat, by the file server's clock: that of this machine may be wrong."""
        lock = self._path.with_name(".lock")
        lock.touch()
        try:
            return lock.stat().st_mtime - self._path.stat().st_mtime
        except FileNotFoundError:  # another process is taking over
            return 0.0


@contextlib.contextmanager
def owned(folder: Path, say: Callable[[str], None]) -> Iterator[Ownership]:
    """Owns a run's folder while the context lasts.

    Args:
        folder: of the run.
        say: prints a line, if the folder is taken over from a machine that is gone.

    Raises:
        Busy: another process is the owner.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_lock(folder))
            locked = True
        except Timeout:
            owner = _read(folder / ".owner")
            raise Busy("another process is running it" + (f" ({owner})" if owner else "")) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            locked = False
        ownership = Ownership(folder)
        ownership.claim(locked, say)
        stack.callback(ownership.release)
        threading.Thread(target=ownership.beat, daemon=True).start()
        yield ownership


def is_owned(folder: Path) -> bool:
    """Whether a process owns the folder, as far as can be seen from here. In a folder that may not be written, no."""
    if (folder / ".lock").exists():
        try:
            with _lock(folder):
                pass
        except Timeout:
            return True
        except OSError:
            pass
    try:
        silent = time.time() - (folder / ".owner").stat().st_mtime
    except OSError:
        return False
    owner = _read(folder / ".owner")
    return owner is not None and owner.host != socket.gethostname() and silent < OLD


def _lock(folder: Path) -> FileLock:
    return FileLock(folder / ".lock", blocking=False, fallback_to_soft=False)


def _read(path: Path) -> _Owner | None:
    """The owner that a file names; None without a file."""
    try:
        return _Owner(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):  # it is just being written
        return _Owner("unknown", 0, "")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
