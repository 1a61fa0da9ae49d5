"""The progress of runs on other machines, read from their records."""

import contextlib
import time
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path

from cnnbench.errors import RecordError
from cnnbench.results import records
from cnnbench.runtime.ownership import is_owned
from cnnbench.runtime.progress import Line, Sweep
from cnnbench.sweeps.folders import folder_of
from cnnbench.sweeps.workers import Task

_LINES = 8
"""Runs that have a line of their own on the screen; of the others the number is shown."""


class Progress:
    """What the screen shows of runs that other machines carry out: how many are queued, and how far the others are."""

    _sweep: Sweep
    _free: list[Line]
    _lines: dict[Path, Line]
    _written: dict[Path, int | None]
    """When the record of each active run was last written, as far as it was looked at; None if it was not."""
    _running: set[Path]
    """Active runs that have written to their record."""
    _next: float
    """When the records are looked at next, on the clock of `time.monotonic`."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._free, self._lines, self._written, self._running = [sweep.line() for _ in range(_LINES)], {}, {}, set()
        self._next = 0.0

    def begin(self, task: Task) -> None:
        """Takes up a run that is about to be submitted."""
        folder = folder_of(*task)
        self._written[folder] = None if is_owned(folder) else _changed(folder)  # it may be under way already

    def look(self, active: Collection[Task]) -> None:
        """Shows what the records of the active runs say now."""
        if time.monotonic() < self._next:
            return
        # Every two seconds; of thousands of runs less often, as each look asks the file server for all of them.
        self._next = time.monotonic() + max(2.0, len(active) / 100)
        for task in active:
            folder = folder_of(*task)
            if (changed := _changed(folder)) != self._written[folder]:
                self._written[folder] = changed
                self._show(task, folder)
        self._sweep.counts(len(self._running), len(active) - len(self._running))

    def end(self, task: Task) -> None:
        """Takes leave of a run that has ended."""
        folder, config = folder_of(*task), task[0].config
        self._running.discard(folder)
        if (line := self._lines.pop(folder, None)) is None:
            self._sweep.skip(config.search_epochs + config.epochs)
        else:
            line.finish()
            self._free.append(line)

    def _show(self, task: Task, folder: Path) -> None:
        job, config = task[0], task[0].config
        self._running.add(folder)
        if folder not in self._lines and self._free:
            self._lines[folder] = self._free.pop(0)
            self._lines[folder].start(job.label, config.search_epochs + config.epochs)
        with contextlib.suppress(RecordError):
            history = records.read(folder / "record.json").history
            if history and folder in self._lines:
                self._lines[folder].epoch(asdict(history[-1]))


def _changed(folder: Path) -> int | None:
    with contextlib.suppress(OSError):
        return (folder / "record.json").stat().st_mtime_ns
    return None
