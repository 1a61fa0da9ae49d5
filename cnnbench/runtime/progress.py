"""The progress display: bars on a terminal or in a notebook, elsewhere a few plain lines on standard error."""

import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from cnnbench.runtime.signals import collected_signals

REFRESH = 0.25
"""Seconds between two updates of the loss on the screen, as each synchronises with the GPU."""


def short(label: str, most: int) -> str:
    """A label with its middle left out if it is longer than `most`: what differs may be at either end."""
    return label if len(label) <= most else f"{label[: most // 2 - 1]}…{label[-(most // 2) :]}"


class _Name(ProgressColumn):
    """What a bar is about, so short that it fits into `width` characters."""

    width: int

    def __init__(self, width: int) -> None:
        super().__init__(Column(no_wrap=True))
        self.width = width

    def render(self, task: Task) -> Text:
        return Text(short(task.description, self.width))


class _Detail(ProgressColumn):
    """Epoch, accuracy, loss and speed of a run: as many of its numbers as fit into `width` characters."""

    width: int

    def __init__(self, width: int) -> None:
        super().__init__(Column(no_wrap=True))
        self.width = width

    def render(self, task: Task) -> Text:
        numbers: list[str] = list(task.fields.get("numbers", ()))
        while len(" ".join(numbers)) > self.width:
            numbers.pop()
        return Text(" ".join(numbers), style="cyan")


def _progress(console: Console) -> Progress:
    name, bar = 3 * console.width // 10, console.width // 10
    rest = len(" 100%  0:00:00 ")
    return Progress(
        _Name(name),
        BarColumn(bar_width=bar),
        TextColumn("{task.percentage:>3.0f}%"),
        _Detail(console.width - name - bar - rest),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        refresh_per_second=4,
    )


@contextmanager
def bar(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Shows a bar for one task while the context lasts; without a terminal, one line at its start.

    Args:
        what: the task, as the user reads it.
        total: number of its units, such as images or bytes; None if it is unknown.

    Yields:
        A function that takes the number of units done since its last call.
    """
    console = Console(stderr=True)
    if not console.is_interactive:
        console.print(f"{what} ...", highlight=False)
        yield lambda units: None
        return
    with _progress(console) as progress:
        task = progress.add_task(what, total=total)
        yield lambda units: progress.advance(task, units)


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Shows `loading WHAT ...` on a terminal while the context lasts, unless it is a package that is loaded already."""
    shown = what not in sys.modules and Console(stderr=True).is_interactive
    if shown:
        print(f"loading {what} ...", end="\r", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if shown:
            print("\033[K", end="", file=sys.stderr, flush=True)  # erases the line


@contextmanager
def importing(package: str) -> Iterator[None]:
    """As `loading`, for an import; signals wait for its end, since one within torch's would abort the process."""
    with loading(package), collected_signals() as received:
        yield
    for signum in received:
        signal.raise_signal(signum)


class Screen(Protocol):
    """The place where a run shows its progress."""

    @property
    def visible(self) -> bool:
        """Whether there is a terminal, so that steps are worth showing."""

    def say(self, line: str) -> None:
        """Prints a line that stays on the screen."""

    def start(self, run: str, epochs: int) -> None:
        """Starts the display of a new or resumed run.

        Args:
            run: what it is called.
            epochs: its number of epochs.
        """

    def step(self, epoch: float, loss: float, accuracy: float, images_per_second: float) -> None:
        """Shows the state within an epoch.

        Args:
            epoch: epochs so far, with a fraction for steps: 0.5 is the middle of the first epoch.
            loss: mean training loss of the epoch so far.
            accuracy: training accuracy of the epoch so far, 0 to 1.
            images_per_second: training speed.
        """

    def epoch(self, row: dict[str, float]) -> None:
        """Shows a finished epoch, given its row of the record's history."""

    def finish(self) -> None:
        """Ends the display of the run; it may have stopped before its last epoch."""


class Sweep:
    """The progress of a list of runs, shown while the context lasts.

    Args:
        total: number of runs.
        epochs: number of epochs of all runs together, the unit of the sweep's bar.
        quiet: show nothing.
    """

    progress: Progress
    _console: Console
    _bar: TaskID
    """The sweep's own bar."""
    _lines: "list[Line]"
    _skipped: int
    """Epochs of runs that were finished before."""
    _output: Any
    """Where a notebook shows the bars, an IPython `DisplayHandle`; None elsewhere."""
    _drawn: float
    """When they were last drawn there, on the clock of `time.monotonic`."""
    _said: str
    """What was last printed of the numbers of runs."""
    _printed: float
    """When that was, on the same clock."""

    def __init__(self, total: int, epochs: int, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet)
        self.progress = _progress(self._console)
        self._bar = self.progress.add_task(f"{total} runs", total=epochs, visible=total > 1)
        self._lines, self._skipped = [], 0
        self._output, self._drawn = None, -math.inf
        self._said, self._printed = "", -math.inf

    def __enter__(self) -> "Sweep":
        if self.visible and self._console.is_jupyter:
            from IPython.display import display

            self._output = display({"text/plain": ""}, raw=True, display_id=True)
        elif self.visible:
            self.progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._output is not None:
            self._output.update({"text/plain": ""}, raw=True)
        elif self.visible:
            self.progress.stop()

    @property
    def visible(self) -> bool:
        """Whether there is a terminal or a notebook to draw bars on."""
        return (self._console.is_interactive or self._console.is_jupyter) and not self._console.quiet

    def say(self, line: str) -> None:
        """Prints a line that stays on the screen."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def line(self) -> "Line":
        """Adds a line for runs that follow each other."""
        self._lines.append(Line(self))
        return self._lines[-1]

    def skip(self, epochs: int) -> None:
        """Counts the epochs of a run that was finished before."""
        self._skipped += epochs
        self.update()

    def counts(self, running: int, queued: int) -> None:
        """Shows how many runs are under way and how many wait; without a terminal in a line, when that has changed."""
        said = f"{running} running, {queued} queued"
        self.progress.update(self._bar, numbers=[said])
        if not self.visible and said != self._said and time.monotonic() - self._printed >= 10:
            self._said, self._printed = said, time.monotonic()
            self.say(said)

    def update(self) -> None:
        """Updates the sweep's own bar."""
        self.progress.update(self._bar, completed=self._skipped + sum(line.epochs_done for line in self._lines))
        # Rich's own display in notebooks needs ipywidgets, and draws from a thread, where what is printed gets lost.
        if self._output is not None and time.monotonic() - self._drawn >= REFRESH:
            self._output.update(self.progress)
            self._drawn = time.monotonic()


def _duration(seconds: float) -> str:
    """A length of time for people: `90 s`, `5 min` or `2.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


class Line:
    """The `Screen` of the runs of one worker, which follow each other on one line."""

    _sweep: Sweep
    _bar: TaskID
    _run: str
    """What the current run is called."""
    _epochs: int
    """Number of epochs of the current run."""
    _earlier: float
    """Epochs of earlier runs."""
    _current: float
    """Epochs of the current run so far."""
    _validated: list[str]
    """Its last validation accuracy, once there is one."""
    _printed: float
    """When an epoch was last printed, on the clock of `time.monotonic`."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._bar = sweep.progress.add_task("", total=1, visible=False)
        self._run, self._epochs = "", 0
        self._earlier, self._current = 0.0, 0.0
        self._validated = []
        self._printed = time.monotonic()

    @property
    def epochs_done(self) -> float:
        """Epochs so far of all runs on this line."""
        return self._earlier + self._current

    @property
    def visible(self) -> bool:
        """Whether there is a terminal to draw bars on."""
        return self._sweep.visible

    def say(self, line: str) -> None:
        """Prints a line that stays on the screen."""
        self._sweep.say(line)

    def start(self, run: str, epochs: int) -> None:
        """Starts the bar of a run.

        Args:
            run: what it is called.
            epochs: its number of epochs.
        """
        self._run, self._epochs = run, epochs
        self._validated = []
        self._sweep.progress.reset(self._bar, total=epochs, description=run, numbers=(), visible=True)

    def step(self, epoch: float, loss: float, accuracy: float, images_per_second: float) -> None:
        """Moves the bars of the run and of the sweep to `epoch`, and shows the numbers."""
        self._current = epoch
        self._show(loss, accuracy, images_per_second)

    def epoch(self, row: dict[str, float]) -> None:
        """Shows a finished epoch; without a terminal in a line of its own, at most every ten seconds."""
        self._current, self._validated = row["epoch"], [f"val {row['val_acc']:.1%}"]
        if self.visible:
            self._show(row["train_loss"], row["train_acc"], row["images_per_second"])
        elif time.monotonic() - self._printed >= 10:
            self._print(row)

    def _print(self, row: dict[str, float]) -> None:
        self._printed = time.monotonic()
        self.say(
            f"{self._run}: epoch {row['epoch']}/{self._epochs}, training loss {row['train_loss']:.3f}, "
            f"validation accuracy {row['val_acc']:.2%}, {row['images_per_second']:,.0f} images/s, "
            f"about {_duration((self._epochs - row['epoch']) * row['seconds'])} left"
        )

    def _show(self, loss: float, accuracy: float, images_per_second: float) -> None:
        """Moves the bars, and shows the numbers, the most telling ones first."""
        numbers = [f"epoch {math.ceil(self._current)}/{self._epochs}", *self._validated, f"loss {loss:.3f}"]
        numbers += [f"acc {accuracy:.1%}", f"{images_per_second:,.0f} images/s"]
        self._sweep.progress.update(self._bar, completed=self._current, numbers=numbers)
        self._sweep.update()

    def finish(self) -> None:
        """Counts the run as complete in the sweep's bar."""
        self._earlier, self._current = self._earlier + self._epochs, 0.0
        self._sweep.update()
