"""`cnnbench list` and `cnnbench show`: what was run, what is running, and what came of it."""

import json
import sys
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from cnnbench.analysis.grouping import shortest_labels
from cnnbench.config.composition import config_source
from cnnbench.config.schema import ROLES, Decides
from cnnbench.errors import ConfigError, RecordError
from cnnbench.report.commands import command_of
from cnnbench.report.tables import MOST_CLASSES, Sheet
from cnnbench.report.terminal import print_sheet
from cnnbench.results import identity, jobs, records
from cnnbench.results.records import Layer, Record
from cnnbench.runtime.ownership import is_owned
from cnnbench.runtime.text import legible


@dataclass
class Row:
    """A run, as `cnnbench list` shows it."""

    run: str
    """Its folder, below the one that was listed."""
    contestant: str
    """Its setting, as far as the runs in the same folder differ in it."""
    seed: int
    status: str
    """That of its record, `running`, `queued`, or `lost` if it has neither a record nor a job in the queue."""
    epochs: int
    """So far."""
    of: int
    """How many there will be, unless it stops early."""
    val_acc: float | None
    """The best so far."""
    test_acc: float | None
    untested: str
    """Why there will be no test accuracy; empty for a run with a test."""
    seconds: float
    """Of training."""
    config: dict[str, Any] | None
    """None without a record."""
    job: str = ""
    """The number of the Slurm job that carries it or waits to."""


def rows(folder: Path) -> list[Row]:
    """All runs below `folder`; what can't be read is named on the screen and left out.

    Raises:
        ConfigError: there is no such folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such folder.")
    together: dict[Path, list[tuple[Path, Record]]] = defaultdict(list)
    for path in records.find(folder):
        try:
            record = records.read(path)
        except RecordError as error:
            print(f"left out: {error}", file=sys.stderr)
        else:
            together[path.parent.parent].append((path.parent, record))
    records_of = {run: record for runs in together.values() for run, record in runs}
    submitted = _submitted(folder, records_of)
    waiting = [
        Row(
            run=str(run.relative_to(folder)),
            contestant=each.label.removesuffix(f", seed {each.seed}"),
            seed=each.seed,
            status=_of_job(job) if job else "lost",
            epochs=0,
            of=each.epochs,
            val_acc=None,
            test_acc=None,
            untested="",
            seconds=0.0,
            config=None,
            job=job.number if job else "",
        )
        for run, (each, job) in submitted.items()
        if run not in records_of
    ]
    return waiting + [
        Row(
            run=str(run.relative_to(folder)),
            contestant=label,
            seed=record.seed,
            status=_of_job(job) if (job := submitted.get(run, (None, None))[1]) else _status(run, record),
            epochs=len(record.history),
            of=record.config["epochs"],
            val_acc=None if record.best is None else record.best.val_acc,
            test_acc=None if record.test is None else record.test.acc,
            untested=record.untested,
            seconds=record.seconds,
            config=record.config,
            job=job.number if job else "",
        )
        for runs in together.values()
        for (run, record), label in zip(runs, shortest_labels([record for _, record in runs]), strict=True)
    ]


def _submitted(folder: Path, found: dict[Path, Record]) -> dict[Path, tuple[jobs.Submitted, jobs.Job | None]]:
    """The runs below `folder` that were submitted to Slurm and have not ended, with their jobs in the queue.

    Args:
        folder: the one that is listed.
        found: the records below it, by the run's folder.
    """
    submissions = [(parent, each) for parent in jobs.folders(folder) for each in jobs.submissions(parent)]
    ended = {run for run, record in found.items() if record.status != "interrupted"}
    runs = {parent / run.run_id: run for parent, each in submissions for run in each.runs}
    runs = {run: each for run, each in runs.items() if run not in ended}
    if not runs:
        return {}
    try:
        queue = jobs.queue()
    except ConfigError as error:
        print(f"left out: runs that wait in Slurm's queue ({error})", file=sys.stderr)
        return {}
    queued = {parent / run: job for parent, each in submissions for run, job in each.jobs(queue).items()}
    return {run: (each, queued.get(run)) for run, each in runs.items()}


def _of_job(job: jobs.Job) -> str:
    """The status of a run whose job is in the queue."""
    return "queued" if job.state == "PENDING" else "running"


def _status(folder: Path, record: Record) -> str:
    return "running" if record.status == "interrupted" and is_owned(folder) else record.status


def show_list(folder: Path, as_json: bool) -> None:
    """Prints all runs below `folder`."""
    found = rows(folder)
    if as_json:
        print(json.dumps([asdict(row) for row in found], indent=1))
        return
    cells = [
        [
            f"{r.contestant}, seed {r.seed}", legible(r.run), f"{r.status}, job {r.job}" if r.job else r.status,
            f"{r.epochs}/{r.of}", _percent(r.val_acc), _tested(r), f"{r.seconds:,.1f}",
        ]
        for r in found
    ]  # fmt: skip
    columns = ["contestant", "run", "status", "epochs", "best validation", "test", "seconds"]
    title = f"{legible(str(folder))}: {len(found)} runs"
    print_sheet(_console(), Sheet(title, columns, cells, left=3), "`cnnbench list --json`")


def _tested(row: Row) -> str:
    return "not tested" if row.untested else _percent(row.test_acc)


def show_run(folder: Path, as_json: bool) -> None:
    """Prints a run's settings, its epochs, its test result and the command that runs it again.

    Raises:
        ConfigError: the folder holds no run, or a damaged record.
    """
    record = records.of_run(folder)
    if as_json:
        print(record.as_json())
        return
    console = _console()
    status = _status(folder, record)
    console.print(f"{record.run_id}: {status}", style="bold", highlight=False, markup=False, soft_wrap=True)
    if record.reason:
        console.print(record.reason, highlight=False, markup=False, soft_wrap=True)
    settings = [[key, str(value)] for key, value in _not_default(record).items()]
    print_sheet(console, Sheet("Settings that are not at their default", ["key", "value"], settings, left=2))
    if record.layers:
        show_layers(record.layers)
    names = ["epoch", "train_loss", "train_acc", "val_loss", "val_acc", "lr", "seconds"]
    history = [[f"{getattr(row, name):.4g}" for name in names] for row in record.history]
    print_sheet(console, Sheet("Epochs", names, history, left=0), "record.json")
    if test := record.test:
        classes = list(zip(record.data.classes, test.per_class, strict=True))
        if many := len(classes) > MOST_CLASSES:
            classes.sort(key=lambda each: 1.0 if each[1] is None else each[1])
        means = [("all", test.acc), ("balanced accuracy", test.balanced_acc), ("macro F1", test.macro_f1)]
        cells = [[name, _percent(share)] for name, share in (*means, *classes)]
        note = "The worst classes come first." if many else ""
        print_sheet(console, Sheet("Test accuracy", ["class", "accuracy"], cells, note), "record.json")
    elif record.untested:
        console.print(f"Not tested: {record.untested}.", highlight=False, markup=False, soft_wrap=True)
    if (command := command_of([record])) is not None:
        console.print("How to run it again", style="bold", markup=False)
        console.print(command, highlight=False, markup=False, soft_wrap=True)


def show_layers(layers: list[Layer]) -> None:
    """Prints which layers of a network were loaded, and which are frozen."""
    cells = [
        [each.name, "loaded" if each.loaded else "new", "frozen" if each.frozen else "trained", f"{each.parameters:,}"]
        for each in layers
    ]
    print_sheet(_console(), Sheet("Layers", ["layer", "weights", "", "parameters"], cells, left=3))


def _not_default(record: Record) -> dict[str, Any]:
    """The options that are not the default ones, and the keys that are not at their option's default."""
    own = Path(record.config_dir or "")
    with config_source(own if record.config_dir and own.is_dir() else None) as composer:
        (plain,) = composer.jobs([], multirun=False)
        options = {
            group: option
            for group, option in record.choices.items()
            if group in ROLES and ROLES[group].decides != Decides.NOTHING and option != plain.choices.get(group)
        }
        several = {
            group: f"[{option.replace('+', ',')}]" if "+" in option else option for group, option in options.items()
        }
        try:
            (same,) = composer.jobs([f"{group}={option}" for group, option in several.items()], multirun=False)
        except ConfigError:  # an option of the user's own files, which are not here
            same = plain
    defaults, values = _experiment(asdict(same.config), record), _experiment(record.config, record)
    return options | {key: value for key, value in values.items() if value != defaults.get(key)}


def _experiment(config: dict[str, Any], record: Record) -> dict[str, Any]:
    values = identity.flat(identity.experiment(config, record.data.fingerprint))
    values["lr"] = values.pop("optimizer.lr", None)  # as it is typed
    return values


def _console() -> Console:
    return Console(width=None if Console().is_terminal else 160, markup=False)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"
