"""Everything that cnnbench raises on purpose."""

import signal
from collections.abc import Iterable
from difflib import get_close_matches


class CnnbenchError(Exception):
    """The base of all exceptions of cnnbench."""


class ConfigError(CnnbenchError):
    """A config, or data, that can't be run. Its message is one line for the person who typed it; exit code 2."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class DoesNotFit(ConfigError):
    """A part of a recipe that images of this size, or with this number of channels, can't be used with."""


class RecordError(CnnbenchError):
    """A file that is not a record of a run. Its message names the file in one line."""


class CheckpointError(CnnbenchError):
    """A checkpoint that can't be used. Its message names the file in one line."""


class Diverged(CnnbenchError):
    """The loss of a training became infinite or undefined."""


class Busy(CnnbenchError):
    """Another process is training the same run."""


class Interrupted(CnnbenchError):
    """Ctrl-C or SIGTERM ended a run; what it had done is saved.

    Attributes:
        exit_code: 130 after Ctrl-C, 143 after SIGTERM.
    """

    exit_code: int

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


class ProcessLost(CnnbenchError):
    """Another of the processes that a run needs is gone: one that trains with it, or reads its images."""


def nearest(word: str, allowed: Iterable[str]) -> str:
    """The end of an error message: the nearest match, if there is one, and what is allowed."""
    allowed = list(allowed)
    close = get_close_matches(word, allowed, n=1, cutoff=0.6)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"{hint} Allowed: {', '.join(allowed) or 'none'}."
