"""Ctrl-C, SIGTERM and SIGHUP, collected so that a run can end between two steps."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collected_signals() -> Iterator[list[int]]:
    """Within this context signals that end a process are only noted; the second of a kind ends it at once.

    They are Ctrl-C, SIGTERM, and the SIGHUP of a closed terminal. In a notebook, and at Python's prompt, the second
    Ctrl-C raises KeyboardInterrupt: the end of the process would take all variables along.

    Yields:
        The signal numbers received so far.
    """
    received: list[int] = []

    def note(signum: int, _: object) -> None:
        if signum in received and signum == signal.SIGINT and hasattr(sys, "ps1"):
            raise KeyboardInterrupt
        if signum in received:  # a batch that hangs never ends
            os._exit(128 + signum)
        received.append(signum)

    # An ignored signal stays ignored: a shell ignores Ctrl-C for what runs in the background.
    heeded = [s for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) is not signal.SIG_IGN]
    try:
        former = {s: signal.signal(s, note) for s in heeded}
    except ValueError:  # not the main thread, which alone may handle signals
        former = {}
    try:
        yield received
    finally:
        for signum, handler in former.items():
            signal.signal(signum, handler)
