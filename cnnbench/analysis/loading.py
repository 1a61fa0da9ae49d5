"""Records and plans read from folders of runs; what can't be read is named on the screen and left out."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from cnnbench.analysis import ladder, sequential, tuning
from cnnbench.analysis.ladder import Ladder
from cnnbench.analysis.tuning_results import Tuning
from cnnbench.errors import ConfigError, RecordError
from cnnbench.results import records
from cnnbench.results.records import Record

_Plan = TypeVar("_Plan")


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
