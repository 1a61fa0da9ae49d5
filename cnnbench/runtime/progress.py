"""What does a waiting person see? Bars on a terminal, a few plain lines elsewhere; always on standard error."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

REFRESH = 0.25
"""Seconds between two looks at the loss: each one waits for the device."""


class _Detail(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(str(task.fields.get("detail", "")), style="cyan")


def _progress(console: Console) -> Progress:
    wide = console.width >= 110
    return Progress(
        TextColumn("{task.description}", table_column=Column(no_wrap=True, max_width=40 if wide else 8)),
        BarColumn(bar_width=24 if wide else 4),
        TextColumn("{task.percentage:>3.0f}%"),
        _Detail(),
        TimeRemainingColumn(),
        TextColumn("left", style="progress.remaining"),
        console=console,
        transient=True,
        refresh_per_second=4,
    )


@contextmanager
def bar(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar for one piece of work, in units that the caller counts.

    Args:
        what: what is being done, as the person reads it.
        total: how many units there are; None if nobody knows.

    Yields:
        A function that is told how many more units are done.
    """
    console = Console(stderr=True)
    if not console.is_interactive:
        console.print(f"{what} ...", highlight=False)
        yield lambda done: None
        return
    with _progress(console) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.advance(task, done)


class Screen(Protocol):
    """Where a run shows how it is getting on."""

    @property
    def visible(self) -> bool:
        """Is there a terminal, so that steps are worth showing?"""

    def say(self, line: str) -> None:
        """A line that stays on the screen."""

    def start(self, run: str, epochs: int) -> None:
        """A run begins, or goes on."""

    def step(self, epoch: float, loss: float, accuracy: float, images_per_second: float) -> None:
        """The run has come to `epoch` (steps are fractions: 0.5 is half of the first)."""

    def epoch(self, row: dict[str, float]) -> None:
        """An epoch has ended."""

    def finish(self) -> None:
        """The run has ended, after whatever number of epochs."""


class Sweep:
    """The progress of a list of runs.

    Args:
        total: how many runs there are.
        epochs: of all runs together, the unit of the sweep's bar.
        quiet: nothing is shown.
    """

    def __init__(self, total: int, epochs: int, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet)
        self.progress = _progress(self._console)
        self._whole = self.progress.add_task(f"{total} runs", total=epochs, visible=total > 1)
        self._lines: list[Line] = []

    def __enter__(self) -> "Sweep":
        if self.visible:
            self.progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.visible:
            self.progress.stop()

    @property
    def visible(self) -> bool:
        """Is there a terminal that bars can be drawn on?"""
        return self._console.is_interactive and not self._console.quiet

    def say(self, line: str) -> None:
        """A line that stays on the screen."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def line(self) -> "Line":
        """A line of its own for runs that follow each other."""
        self._lines.append(Line(self))
        return self._lines[-1]

    def move(self) -> None:
        """Brings the sweep's own bar up to date."""
        self.progress.update(self._whole, completed=sum(line.epochs_done for line in self._lines))


class Line:
    """The `Screen` of the runs of one worker."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._task = sweep.progress.add_task("", total=1, visible=False)
        self._ended, self._now = 0.0, 0.0
        self._written = time.monotonic()

    @property
    def epochs_done(self) -> float:
        """Of all the line's runs."""
        return self._ended + self._now

    @property
    def visible(self) -> bool:
        """Is there a terminal that bars can be drawn on?"""
        return self._sweep.visible

    def say(self, line: str) -> None:
        """A line that stays on the screen."""
        self._sweep.say(line)

    def start(self, run: str, epochs: int) -> None:
        """A run begins, or goes on."""
        self._name, self._epochs = run, epochs
        self._sweep.progress.reset(self._task, total=epochs, description=run, detail="", visible=True)

    def step(self, epoch: float, loss: float, accuracy: float, images_per_second: float) -> None:
        """The run has come to `epoch`."""
        self._now = epoch
        speed = f"{images_per_second:,.0f} images/s"
        detail = f"epoch {math.ceil(epoch)}/{self._epochs} loss {loss:.3f} acc {accuracy:.1%} {speed}"
        self._sweep.progress.update(self._task, completed=epoch, detail=detail)
        self._sweep.move()

    def epoch(self, row: dict[str, float]) -> None:
        """An epoch has ended; without a terminal it is a line, at most every ten seconds."""
        if self.visible or time.monotonic() - self._written < 10:
            return
        self._written = time.monotonic()
        self.say(
            f"{self._name}: epoch {row['epoch']}/{self._epochs}, training loss {row['train_loss']:.3f}, "
            f"validation accuracy {row['val_acc']:.2%}, {row['images_per_second']:,.0f} images/s"
        )

    def finish(self) -> None:
        """The run has ended."""
        self._ended, self._now = self._ended + self._epochs, 0.0
        self._sweep.move()
