"""What words ask for, typed or in Python: a run, a sweep, a ladder, or a sweep that adds seeds.

Slow modules are imported only after the words have been checked.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING

from cnnbench.config.composition import Composer, Job
from cnnbench.config.engines import Engine
from cnnbench.config.schema import FIRST_LOOK, ROLES, Data

if TYPE_CHECKING:
    from cnnbench.analysis.ladder import JobsOf
    from cnnbench.data.images import ImageSet
    from cnnbench.sweeps.sweep import Outcome


@dataclass
class Request:
    """The jobs that words ask for."""

    jobs: list[Job]
    """All of them; with `seeds=auto` one for each contestant, of a ladder those of its start."""
    jobs_of: "JobsOf"
    """The jobs with some words more."""
    engine: Engine | None
    """Carries the runs to other machines; None runs them here."""

    @classmethod
    def of(cls, composer: Composer, words: Sequence[str], multirun: bool) -> "Request":
        """Composes what words ask for.

        Raises:
            ConfigError: they are no config.
        """

        def jobs_of(added: list[str]) -> list[Job]:
            return composer.jobs([*words, *added], multirun)

        return cls(jobs_of([]), jobs_of, composer.engine(words))

    @cached_property
    def grows(self) -> bool:
        """Whether seeds are added until all is settled (`seeds=auto`).

        Raises:
            ConfigError: of contestants that can't be compared so.
        """
        if not any(job.config.seeds == "auto" for job in self.jobs):
            return False
        from cnnbench.analysis.sequential import check_contestants

        check_contestants(self.jobs)
        return True

    def with_seeds(self, first: int, end: int) -> list[Job]:
        """The jobs of all contestants with the seeds from `first` to before `end`."""
        return self.jobs_of(["seeds=null", f"seed=range({first},{end})"])

    @cached_property
    def first_look(self) -> list[Job]:
        """The jobs with which `seeds=auto` begins."""
        return self.with_seeds(0, FIRST_LOOK)

    @cached_property
    def rungs(self) -> list[list[Job]]:
        """The jobs of each rung of a ladder, and of each omission; of a sweep its own.

        Raises:
            ConfigError: a rung can't be composed.
        """
        config = self.jobs[0].config
        if not (config.ladder or config.leave_out):
            return [self.jobs]
        from cnnbench.analysis.ladder import rehearse

        return rehearse(self.jobs, self.jobs_of)

    def carry_out(self) -> "Outcome":
        """Runs all of it.

        Raises:
            ConfigError: a job can't be run; none was started.
        """
        jobs = self.first_look if self.grows else self.jobs
        rungs = [] if self.grows else self.rungs
        prepare(jobs, self.engine)
        images = images_of(self.jobs)
        if self.grows:
            from cnnbench.sweeps.seeds import add_seeds

            return add_seeds(jobs, self.with_seeds, images, self.engine)
        if len(rungs) > 1:
            from cnnbench.sweeps.ladder import climb

            return climb(self.jobs_of, rungs, images, self.engine)
        from cnnbench.sweeps.sweep import run_all

        return run_all(jobs, images, self.engine)


def prepare(jobs: list[Job], engine: Engine | None) -> None:
    """Lets the workers' server import torch while this process imports its own."""
    if engine is None and min(jobs[0].config.workers, len(jobs)) > 1:
        from cnnbench.sweeps.workers import get_ready

        get_ready()


def images_of(jobs: list[Job], dry_run: bool = False) -> "list[ImageSet]":
    """The images of each job. Equal data are loaded once.

    Args:
        jobs: the runs.
        dry_run: whether nothing may be downloaded; black images then stand in for what is missing.

    Raises:
        ConfigError: images are missing or unreadable.
    """
    from cnnbench.data.archives import stand_in
    from cnnbench.data.images import load
    from cnnbench.runtime.progress import loading

    loaded: dict[tuple[object, ...], ImageSet] = {}
    equal: dict[str, ImageSet] = {}  # most data sets are the same whatever data.limit and data.val are
    images = []
    names = [field.name for field in fields(Data) if ROLES[f"data.{field.name}"].images]
    for data in (job.config.data for job in jobs):
        key = tuple(str(getattr(data, name)) for name in names)
        if key not in loaded:
            with loading("images"):
                found = (stand_in(data) if dry_run else None) or load(data)
            loaded[key] = equal.setdefault(found.fingerprint, found)
        images.append(loaded[key])
    return images
