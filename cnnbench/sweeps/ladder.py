"""Ladders: the runs of each rung are due when all runs of the rung before have ended."""

import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from cnnbench.analysis.contestants import Contestant
from cnnbench.analysis.grouping import compare
from cnnbench.analysis.ladder import FRESH, START, JobsOf, Ladder, Rung, judge
from cnnbench.config.composition import Job
from cnnbench.config.engines import Engine
from cnnbench.data.images import ImageSet
from cnnbench.report.terminal import show
from cnnbench.results.records import Record
from cnnbench.sweeps.run import folder_of
from cnnbench.sweeps.sweep import carry_out, check_all
from cnnbench.sweeps.workers import Task


def climb(jobs_of: JobsOf, rehearsed: list[list[Job]], images: list[ImageSet], engine: Engine | None) -> int:
    """Runs the start and each rung of the config's `ladder`, and prints the comparison.

    Args:
        jobs_of: makes the jobs of a rung.
        rehearsed: the jobs of the start, and of each rung as if all rungs before it were kept.
        images: the images of each job of the start.
        engine: carries the runs to other machines; None runs them here.

    Returns:
        The exit code, as of `sweep.run_all`.

    Raises:
        ConfigError: a run can't be done; none was started.
    """
    jobs = [job for rung in rehearsed for job in rung]
    check_all(zip(jobs, itertools.cycle(images)))
    climber = _Climber(jobs_of, rehearsed[0], images)
    climber.folder.mkdir(parents=True, exist_ok=True)
    epochs = sum(job.config.search_epochs + job.config.epochs for job in jobs)
    due = deque(climber.begin())
    results, code = carry_out(due, jobs[0].config.workers, len(jobs) + len(rehearsed[0]), epochs, engine, climber.after)
    if any(result.status != "done" for result in results):
        code = code or 1
    if results:
        show(compare(results, apart=True, ladder=climber.ladder), climber.folder)
    return code


class _Climber:
    """The state of a ladder: which rungs were decided, and which runs are due."""

    def __init__(self, jobs_of: JobsOf, start: list[Job], images: list[ImageSet]) -> None:
        self._jobs_of, self._start, self._images = jobs_of, start, images
        config = start[0].config
        self._rungs = list(config.ladder.items())
        self.folder = Path(config.runs_dir).expanduser() / config.name
        self.ladder = Ladder([])
        self._records: dict[str, Record] = {}

    def begin(self) -> list[Task]:
        """Returns the runs of the start."""
        return self._put(START, [], self._start)

    def after(self, record: Record, say: Callable[[str], None]) -> list[Task]:
        """Returns the runs of the next rung if `record` ended the current one, else nothing."""
        self._records[record.run_id] = record
        due: list[Task] = []
        while not due and all(run_id in self._records for run_id in self.ladder.rungs[-1].runs):
            number, rung = len(self.ladder.rungs), self.ladder.rungs[-1]
            self._decide(rung, say)
            self.ladder.write(self.folder)
            if rung.fresh:
                break
            if number <= len(self._rungs):
                name, words = self._rungs[number - 1]
                due = self._put(f"+ {name}", words, self._jobs_of([*self.ladder.top, *words]))
            elif self.ladder.top:
                seeds = f"seed={self._fresh_seeds()}"
                due = self._put(FRESH, [], self._jobs_of([*self.ladder.top, seeds]), fresh=True)
            else:
                say("nothing was kept")
                break
        return due

    def _fresh_seeds(self) -> str:
        """As many seeds as the start has, which decided nothing."""
        seeds = [job.config.seed for job in self._start]
        return ",".join(str(max(seeds) + 1 + i) for i in range(len(seeds)))

    def _put(self, name: str, words: list[str], jobs: list[Job], fresh: bool = False) -> list[Task]:
        """Adds a rung, and returns those of its runs that have not ended."""
        named = [replace(job, overrides=(*words, *job.overrides)) for job in jobs]
        tasks = {folder_of(*task).name: task for task in zip(named, self._images, strict=True)}
        self.ladder.rungs.append(Rung(name, words, list(tasks), fresh=fresh))
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
        pair = judge(self._results, results, images, len(self._rungs))
        rung.kept = pair.verdict == "better"
        change = "no result" if pair.difference is None else f"validation accuracy {100 * pair.difference:+.2f} points"
        say(f"{rung.name}: {change} on {below.name}, {pair.verdict}: {'kept' if rung.kept else 'left out'}")
        if rung.kept:
            self._results = results
