"""Records and plans read from folders of runs; what can't be read is named on the screen and left out."""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from cnnbench.analysis import ladder, sequential, tuning
from cnnbench.analysis.comparison import Comparison
from cnnbench.analysis.grouping import compare
from cnnbench.analysis.ladder import Ladder
from cnnbench.analysis.tuning_results import Tuning
from cnnbench.errors import ConfigError, RecordError
from cnnbench.results import bundles, records
from cnnbench.results.records import Record

_Plan = TypeVar("_Plan")


def compare_folders(
    folders: Sequence[Path],
    by: str | None = None,
    baseline: str | None = None,
    targets: Sequence[float] = (),
    apart: bool = False,
    margin: float | None = None,
    metric: str = "acc",
) -> tuple[list[Comparison], Tuning | None]:
    """Compares all runs in folders and bundles.

    Args:
        folders: folders of runs, or bundles; the first one's ladder, tuning or plan of seeds counts.
        by: as the other arguments, of `grouping.compare`.
        baseline: the contestant that all others are compared with.
        targets: validation accuracies whose cost is shown.
        apart: whether runs that can't stand in one table get one each.
        margin: differences below it do not matter, in percentage points; None takes that of a plan of seeds.
        metric: what contestants are compared by.

    Returns:
        The comparisons, and the tuning if there was one.

    Raises:
        ConfigError: there are no runs, or they can't be compared so.
    """
    with contextlib.ExitStack() as unpacked:
        places = [
            unpacked.enter_context(bundles.unpack(f)) if f.name.endswith((".tar.xz", ".zip")) and not f.is_dir() else f
            for f in folders
        ]
        return compare_records(load(places), places[0], by, baseline, targets, apart, margin, metric)


def compare_records(
    runs: list[Record],
    folder: Path | None,
    by: str | None = None,
    baseline: str | None = None,
    targets: Sequence[float] = (),
    apart: bool = False,
    margin: float | None = None,
    metric: str = "acc",
) -> tuple[list[Comparison], Tuning | None]:
    """Compares runs by the ladder, tuning or plan of seeds in `folder`; other arguments as of `compare_folders`."""
    climbed, tuned, seeds = (
        (None, None, None) if folder is None else (load_ladder(folder), load_tuning(folder), load_seeds(folder))
    )
    planned, share = (None, 1.0) if seeds is None else (seeds.margin, seeds.share)
    limit = planned if margin is None else margin / 100
    return compare(runs, by, baseline, targets, apart, climbed, limit, share, tuned, metric), tuned


def load(folders: Iterable[Path]) -> list[Record]:
    """All records below `folders`, each once; what can't be read is named on the screen and left out.

    Trials of a tuning are left out too: they are in its ledger.

    Raises:
        ConfigError: a folder isn't there, or there is no record at all.
    """
    found: dict[Path, Record] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{folder}: there is no such folder.")
        tried = folder / tuning.FOLDER if (folder / tuning.FILE).exists() else None
        for path in records.find(folder):
            if tried is None or tried not in path.parents:
                try:
                    found[path.resolve()] = records.read(path)
                except RecordError as error:
                    _say_left_out(error)
    if not found:
        raise ConfigError(f"{', '.join(map(str, folders))}: no records there (runs/NAME/RUN/record.json).")
    return list(found.values())


def load_tuning(folder: Path) -> Tuning | None:
    """The tuning whose folder this is, if it is one; a damaged plan is named on the screen and left out."""
    plan = _or_left_out(tuning.read, folder)
    return None if plan is None else Tuning(plan, tuning.ledger(folder, plan))


def load_ladder(folder: Path) -> Ladder | None:
    """The ladder whose folder this is, in the same way."""
    return _or_left_out(ladder.read, folder)


def load_seeds(folder: Path) -> sequential.Plan | None:
    """The plan of `seeds=auto` in this folder, in the same way."""
    return _or_left_out(sequential.read, folder)


def _or_left_out(read: Callable[[Path], _Plan | None], folder: Path) -> _Plan | None:
    try:
        return read(folder)
    except ConfigError as error:
        _say_left_out(error)
        return None


def _say_left_out(error: Exception) -> None:
    Console(stderr=True).print(f"left out: {error}", highlight=False, markup=False, soft_wrap=True)
