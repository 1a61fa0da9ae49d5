"""The runs of `seeds=auto`: the seeds of one look after the other, until the contestants are settled."""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cnnbench.analysis import sequential
from cnnbench.analysis.grouping import compare
from cnnbench.analysis.sequential import Decision, Look, Plan
from cnnbench.config.composition import Job
from cnnbench.config.engines import Engine
from cnnbench.config.schema import FIRST_LOOK
from cnnbench.data.images import ImageSet
from cnnbench.errors import ConfigError
from cnnbench.results.records import Record
from cnnbench.sweeps.folders import folder_of
from cnnbench.sweeps.sweep import Outcome, begin, carry_out, check_all, exit_code, identify
from cnnbench.sweeps.workers import Task

if TYPE_CHECKING:
    from cnnbench.training.checks import Checked

JobsOf = Callable[[int, int], list[Job]]
"""Gives the jobs of all contestants with the seeds from the first number up to, but without, the second one; those of a
contestant stand together."""

MOST_NAMED = 3
"""How many unsettled pairs a line on the screen names."""


def add_seeds(jobs: list[Job], jobs_of: JobsOf, images: list[ImageSet], engine: Engine | None) -> Outcome:
    """Runs the first look's seeds, and adds more until the contestants are settled.

    Args:
        jobs: the first look's.
        jobs_of: makes the jobs of more seeds.
        images: those of each contestant.
        engine: carries the runs to other machines; None runs them here.

    Returns:
        The records of all runs, and their comparison.

    Raises:
        ConfigError: a run can't be done, or the folder holds another plan; no run was started.
    """
    begin(check(jobs, jobs_of, images), engine)
    adder = _Adder(jobs, jobs_of, images)
    config, total = jobs[0].config, len(images) * jobs[0].config.max_seeds
    epochs = total * max(job.config.search_epochs + job.config.epochs for job in jobs)
    due = deque(adder.begin())
    results, code = carry_out(due, config.workers, total, epochs, engine, adder.after, at_most=True)
    plan = adder.plan
    comparisons = compare(results, apart=True, margin=plan.margin, share=plan.share) if results else []
    return Outcome(adder.folder, results, exit_code(results, code), comparisons)


def check(jobs: list[Job], jobs_of: JobsOf, images: list[ImageSet]) -> "list[tuple[Job, Checked]]":
    """Checks the first look's runs, and that their folder holds no other plan; with the arguments of `add_seeds`.

    Raises:
        ConfigError: as `add_seeds`.
    """
    checked = check_all((job, images[i // FIRST_LOOK]) for i, job in enumerate(jobs))
    if all(each.fingerprint for each in images):  # stand-ins of a dry run have none
        _Adder(jobs, jobs_of, images).planned()
    return checked


class _Adder:
    """The seeds that are due next, and what has been decided."""

    plan: Plan
    folder: Path
    """The one that the runs are written to."""
    _jobs: list[Job]
    """The first look's."""
    _jobs_of: JobsOf
    _images: list[ImageSet]
    """Those of each contestant."""
    _pending: set[str]
    """Ids of the look's runs that have not ended."""
    _ended: dict[str, Record]
    """By run id."""

    def __init__(self, jobs: list[Job], jobs_of: JobsOf, images: list[ImageSet]) -> None:
        config = jobs[0].config
        self._jobs, self._jobs_of, self._images = jobs, jobs_of, images
        self._pending, self._ended = set(), {}
        self.folder = Path(config.runs_dir).expanduser() / config.name
        first = [folder_of(*task).name for task in zip(jobs[::FIRST_LOOK], images, strict=True)]
        self.plan = Plan(config.settle, config.accuracy_margin, sequential.looks(config.max_seeds), first)

    def planned(self) -> bool:
        """Whether the folder holds this plan already.

        Raises:
            ConfigError: it holds another one.
        """
        planned = sequential.read(self.folder)
        if planned is None or self._jobs[0].config.force:
            return False
        if replace(planned, decisions=[]) != self.plan:  # the error was split over the looks of that plan
            raise ConfigError(
                f"{self.folder}: has other contestants, or another max_seeds, settle or margin. A plan can't change "
                f"once its results are known. Take another name=."
            )
        return True

    def begin(self) -> list[Task]:
        """Writes the plan, and returns the runs of the first look."""
        if not self.planned():
            self.folder.mkdir(parents=True, exist_ok=True)
            self.plan.write(self.folder)
        return self._due(self._jobs)

    def after(self, record: Record, say: Callable[[str], None]) -> list[Task]:
        """Returns the runs that are due because a run has ended: the next look's, if it was the last one of its own."""
        self._pending.remove(record.run_id)
        self._ended[record.run_id] = record
        if self._pending:
            return []
        number = len(self.plan.decisions)
        look, more = self.plan.looks[number], self.plan.looks[number + 1 :]
        self.plan.decisions.append(decide(list(self._ended.values()), look, self.plan))
        self.plan.write(self.folder)
        line = _told(self.plan.decisions[-1])
        if self.plan.settled:
            most = len(self._images) * self.plan.looks[-1].seeds
            say(f"{line} with {len(self._ended)} of at most {most} runs")
            return []
        if not more:
            say(f"{line}; max_seeds is reached")
            return []
        say(f"{line}; {more[0].seeds} seeds next")
        return self._due(self._jobs_of(look.seeds, more[0].seeds))

    def _due(self, jobs: list[Job]) -> list[Task]:
        """The jobs as tasks, each run once, also where two contestants turn out to be the same experiment."""
        each = len(jobs) // len(self._images)
        for job in jobs:
            identify(job)
        tasks = ((job, self._images[i // each]) for i, job in enumerate(jobs))
        due = {folder_of(*task).name: task for task in tasks}
        self._pending = set(due)
        return list(due.values())


def decide(runs: list[Record], look: Look, plan: Plan) -> Decision:
    """Finds the pairs that are not settled at a look.

    Args:
        runs: all runs of the look.
        look: its seeds, and the share of the error that it may use.
        plan: says which pairs have to be settled, and which difference matters.
    """
    pairs = [
        pair
        for comparison in compare(runs, apart=True, margin=plan.margin, share=look.share)
        for pair in comparison.pairs
        if plan.settle == "pairs" or comparison.contestants[0].label in (pair.first, pair.second)
    ]
    return Decision(look.seeds, len(pairs), [(p.first, p.second) for p in pairs if not sequential.settled([p])])


def _told(decision: Decision) -> str:
    """A decision in one line."""
    pairs, unsettled = decision.pairs, decision.unsettled
    line = f"after {decision.seeds} seeds: {pairs - len(unsettled)} of {pairs} pairs settled"
    if unsettled:
        line += ", not " + ", ".join(f"{first} and {second}" for first, second in unsettled[:MOST_NAMED])
        line += f" and {len(unsettled) - MOST_NAMED} more" if len(unsettled) > MOST_NAMED else ""
    return line
