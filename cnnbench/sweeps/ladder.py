"""Ladders: the runs of each rung are due when all runs of the rung before have ended."""

import sys
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from cnnbench.analysis.contestants import Contestant
from cnnbench.analysis.grouping import compare
from cnnbench.analysis.ladder import FRESH, START, JobsOf, Ladder, Rung, judge, rehearse
from cnnbench.config.composition import Job
from cnnbench.config.engines import Engine
from cnnbench.data.images import ImageSet
from cnnbench.errors import ConfigError, DoesNotFit
from cnnbench.results.records import Record
from cnnbench.sweeps.folders import folder_of
from cnnbench.sweeps.sweep import Outcome, begin, carry_out, check_all, exit_code
from cnnbench.sweeps.workers import Task

if TYPE_CHECKING:
    from cnnbench.training.checks import Checked


def climb(jobs_of: JobsOf, rehearsed: list[list[Job]], images: list[ImageSet], engine: Engine | None) -> Outcome:
    """Runs the start, each rung of the config's `ladder` and each omission of `leave_out`.

    Args:
        jobs_of: makes the jobs of a rung.
        rehearsed: as `ladder.rehearse` gives them.
        images: the images of each job of the start.
        engine: carries the runs to other machines; None runs them here.

    Returns:
        The records of all of them, and their comparison.

    Raises:
        ConfigError: a run can't be done; none was started.
    """
    rehearsed, checked = check(jobs_of, rehearsed, images)
    jobs = [job for rung in rehearsed for job in rung]
    begin(checked, engine)
    climber = _Climber(jobs_of, rehearsed[0], images)
    climber.folder.mkdir(parents=True, exist_ok=True)
    epochs = sum(job.config.search_epochs + job.config.epochs for job in jobs)
    due = deque(climber.begin())
    fresh = len(rehearsed[0]) if jobs[0].config.ladder else 0
    results, code = carry_out(due, jobs[0].config.workers, len(jobs) + fresh, epochs, engine, climber.after)
    comparisons = compare(results, apart=True, ladder=climber.ladder) if results else []
    return Outcome(climber.folder, results, exit_code(results, code), comparisons)


def check(
    jobs_of: JobsOf, rehearsed: list[list[Job]], images: list[ImageSet]
) -> "tuple[list[list[Job]], list[tuple[Job, Checked]]]":
    """Checks all runs. Rungs and omissions that don't fit the images are taken out of the config, with a warning.

    Args:
        jobs_of: makes the jobs of a rung.
        rehearsed: as `ladder.rehearse` gives them.
        images: the images of each job of the start.

    Returns:
        The jobs of the others, as `ladder.rehearse` gives them, and what `check_all` gives for them.

    Raises:
        ConfigError: a run can't be done for another reason.
    """
    start, config = rehearsed[0], rehearsed[0][0].config
    checked = check_all(zip(start, images, strict=True))
    names = [(key, name) for key in ("ladder", "leave_out") for name in getattr(config, key)]
    i = 1
    for key, name in names:
        try:
            checked += check_all(zip(rehearsed[i], images, strict=True))
            i += 1
        except DoesNotFit as error:
            print(f"warning: {key}, {name}: left out, as it doesn't fit the images ({error})", file=sys.stderr)
            del getattr(config, key)[name]
            rehearsed = rehearse(start, jobs_of)
        except ConfigError as error:
            raise ConfigError(f"{key}, {name}: {error}") from None
    return rehearsed, checked


class _Climber:
    """The state of a ladder: which rungs were decided, and which runs are due."""

    def __init__(self, jobs_of: JobsOf, start: list[Job], images: list[ImageSet]) -> None:
        self._jobs_of, self._start, self._images = jobs_of, start, images
        config = start[0].config
        steps = [Rung(f"+ {name}", words, []) for name, words in config.ladder.items()]
        steps += [Rung(FRESH, [], [], fresh=True)] if config.ladder else []
        steps += [Rung(f"without {name}", words, [], without=True) for name, words in config.leave_out.items()]
        self._steps = iter(steps)
        self._additions, self._omissions = len(config.ladder), len(config.leave_out)
        self.folder = Path(config.runs_dir).expanduser() / config.name
        self.ladder = Ladder([])
        self._records: dict[str, Record] = {}

    def begin(self) -> list[Task]:
        """Returns the runs of the start."""
        return self._put(Rung(START, [], []), self._start)

    def after(self, record: Record, say: Callable[[str], None]) -> list[Task]:
        """Returns the runs of the next rung if `record` ended the current one, else nothing."""
        self._records[record.run_id] = record
        due: list[Task] = []
        while not due and all(run_id in self._records for run_id in self.ladder.rungs[-1].runs):
            self._decide(self.ladder.rungs[-1], say)
            self.ladder.write(self.folder)
            step = next(self._steps, None)
            if step is not None and step.fresh and not self.ladder.top:  # they would repeat the start
                say("nothing was kept")
                step = next(self._steps, None)
            if step is None:
                break
            words = [f"seed={self._fresh_seeds()}"] if step.fresh else step.words
            due = self._put(step, self._jobs_of([*self.ladder.top, *words]))
        return due

    def _fresh_seeds(self) -> str:
        """As many seeds as the start has, which decided nothing."""
        seeds = [job.config.seed for job in self._start]
        return ",".join(str(max(seeds) + 1 + i) for i in range(len(seeds)))

    def _put(self, rung: Rung, jobs: list[Job]) -> list[Task]:
        """Adds a rung, and returns those of its runs that have not ended."""
        named = [replace(job, overrides=(*rung.words, *job.overrides)) for job in jobs]
        tasks = {folder_of(*task).name: task for task in zip(named, self._images, strict=True)}
        rung.runs = list(tasks)
        self.ladder.rungs.append(rung)
        self.ladder.write(self.folder)
        return [task for run_id, task in tasks.items() if run_id not in self._records]  # a rung may change nothing

    def _decide(self, rung: Rung, say: Callable[[str], None]) -> None:
        records = [self._records[run_id] for run_id in rung.runs]
        results = Contestant(rung.name, records).by_seed("val_acc")
        if rung.fresh:
            say(f"{rung.name}: validation accuracy {fmean(results.values()):.2%}, on seeds that decided nothing")
            return
        below = self.ladder.below(len(self.ladder.rungs) - 1)
        if below is None:
            rung.kept = True
            self._results = results
            return
        images = records[0].data.sizes.val
        pair = judge(self._results, results, images, self._omissions if rung.without else self._additions)
        change = "no result" if pair.difference is None else f"validation accuracy {100 * pair.difference:+.2f} points"
        if rung.without:
            say(f"{rung.name}: {change} on {below.name}, {pair.verdict}")
            return
        rung.kept = pair.verdict == "better"
        say(f"{rung.name}: {change} on {below.name}, {pair.verdict}: {'kept' if rung.kept else 'left out'}")
        if rung.kept:
            self._results = results
