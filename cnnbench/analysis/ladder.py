"""The plan of a ladder, which asks what additions to a recipe pay, and the judgement of a rung.

Each rung adds something to what the rungs below it have left, and stays if that pays. It is a greedy search: what was
left out is not tried again, unless a later rung names it. After the top, each ingredient that `leave_out` names is
taken away on its own: what something is worth in the recipe where it works.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cnnbench.analysis import stats
from cnnbench.config.composition import Job
from cnnbench.config.schema import ROLES
from cnnbench.errors import ConfigError
from cnnbench.results import decoding
from cnnbench.results.identity import flat
from cnnbench.runtime import files

FILE = "ladder.json"
"""In the folder of the rungs' runs."""

VERSION = 2
"""Of the file. Version 1 left nothing out one at a time."""

JobsOf = Callable[[list[str]], list[Job]]
"""Gives the jobs, one for each seed, of what was typed with more words after it."""

START = "start"
"""The name of the recipe to which nothing was added."""

FRESH = "top, fresh seeds"
"""The name of the last rung: all that was kept, on seeds that decided nothing. Its gain is not flattered by choice."""


@dataclass
class Rung:
    """One addition, or one omission, with its runs."""

    name: str
    words: list[str]
    """What it changes, as typed."""
    runs: list[str]
    """Ids of its runs, one for each seed."""
    kept: bool | None = None
    """None: not decided yet."""
    fresh: bool = False
    """Whether it adds nothing, but runs what was kept again with seeds that decided nothing."""
    without: bool = False
    """Whether it leaves out something of what was kept. It stands on the top, and is not kept itself."""


@dataclass
class Ladder:
    """The rungs that were tried, the first one being the start."""

    rungs: list[Rung]

    @property
    def labels(self) -> dict[str, str]:
        """The name of the rung that a run belongs to, by run id; the lowest one's where a rung changed nothing."""
        return {run_id: rung.name for rung in reversed(self.rungs) for run_id in rung.runs}

    def below(self, i: int) -> Rung | None:
        """What rung `i` stands on: the last one below that was kept."""
        return next((rung for rung in reversed(self.rungs[:i]) if rung.kept), None)

    @property
    def top(self) -> list[str]:
        """All that was kept, as typed."""
        return [word for rung in self.rungs if rung.kept for word in rung.words]

    def write(self, folder: Path) -> None:
        """Writes it to `folder`, whole."""
        text = json.dumps({"schema_version": VERSION} | asdict(self), indent=1)
        files.write_whole(folder / FILE, lambda file: file.write(text.encode()))


def rehearse(start: list[Job], jobs_of: JobsOf) -> list[list[Job]]:
    """The start's jobs, those of each rung if all below it were kept, and those of each omission.

    Args:
        start: the jobs of the start.
        jobs_of: makes those of a rung.

    Raises:
        ConfigError: something else than seeds is swept, or a rung is not legal or changes more than a recipe.
    """
    if swept := _beside_seeds(start):
        raise ConfigError(f"{swept}: a ladder sweeps over seeds alone.")
    if len(start) < 2:
        raise ConfigError("seed: a ladder needs several, such as seed=0,1,2: one can't show that a rung pays.")
    rungs = [start]
    config = start[0].config
    added: list[str] = []
    changes = [("ladder", name, words) for name, words in config.ladder.items()]
    changes += [("leave_out", name, words) for name, words in config.leave_out.items()]
    for key, name, words in changes:
        try:
            jobs = jobs_of([*added, *words])
            added += words if key == "ladder" else []
            if swept := _beside_seeds(jobs):
                raise ConfigError(f"{swept}: a rung is no sweep.")
            if len(jobs) != len(start):
                raise ConfigError("seed: a rung has the start's seeds.")
            for before, now in zip(map(_held, start), map(_held, jobs), strict=True):
                if changed := next((key for key in before if now[key] != before[key]), None):
                    raise ConfigError(f"{changed}={now[changed]}: a rung can't change {changed}, only the recipe.")
        except ConfigError as error:
            raise ConfigError(f"{key}, {name}: {error}") from None
        rungs.append(jobs)
    return rungs


def _held(job: Job) -> dict[str, Any]:
    """The values that no rung may change, by their full names."""
    values = flat(asdict(job.config))
    return {name: values[name] for name, role in ROLES.items() if name in values and not role.rung}


def _beside_seeds(jobs: list[Job]) -> str | None:
    """What is swept besides the seed."""
    return next((word for job in jobs for word in job.overrides if not word.startswith("seed=")), None)


def judge(without: Mapping[int, float], with_it: Mapping[int, float], images: int, rungs: int) -> stats.Pair:
    """Judges an addition: it pays if its verdict is `better`.

    Each rung may use its share of the 5 %, so that the chance of keeping any useless rung of a ladder is at most 5 %.

    Args:
        without: best validation accuracy by seed.
        with_it: best validation accuracy by seed, with the addition.
        images: validation images.
        rungs: how many rungs the ladder has.
    """
    samples = {"with": with_it, "without": without}
    (pair,) = stats.verdicts(samples, resolution=1 / max(images, 1), share=1 / max(rungs, 1))
    return pair


def read(folder: Path) -> Ladder | None:
    """The ladder in `folder`, if there is one.

    Raises:
        ConfigError: it is damaged, or was written by another version.
    """
    return decoding.read_plan(folder / FILE, Ladder, (1, VERSION))
