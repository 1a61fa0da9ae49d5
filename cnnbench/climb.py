"""How is a ladder climbed? `sweep` runs each rung's seeds; the next rung is due when they have ended."""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cnnbench.compare import compare
from cnnbench.compose import Engine, Job
from cnnbench.images import ImageSet
from cnnbench.ladder import START, Ladder, Rung, judge
from cnnbench.record import Record
from cnnbench.report import show
from cnnbench.run import folder_of
from cnnbench.schema import ConfigError
from cnnbench.sweep import carry_out, check_all
from cnnbench.workers import Task


def climb(jobs_of: Callable[[list[str]], list[Job]], images: list[ImageSet], engine: Engine | None) -> int:
    """Runs the start and each rung of the config's `ladder`, and shows the comparison.

    Args:
        jobs_of: the jobs, one for each seed, that what was typed gives with more words behind it.
        images: those of each job.
        engine: what carries the runs to other machines, if anything does.

    Returns:
        The exit code, as `sweep.run_all`.

    Raises:
        ConfigError: the ladder can't be climbed; nothing was started.
    """
    climber = _Climber(jobs_of, images)
    rungs = [climber.start, *climber.rehearsal()]
    check_all(task for rung in rungs for task in zip(rung, images, strict=True))
    climber.folder.mkdir(parents=True, exist_ok=True)
    total = sum(map(len, rungs))
    epochs = sum(job.config.search_epochs + job.config.epochs for rung in rungs for job in rung)
    results, code = carry_out(
        deque(climber.begin()), climber.start[0].config.workers, total, epochs, engine, climber.after
    )
    if any(result["status"] != "done" for result in results):
        code = code or 1
    if results:
        show(compare(results, apart=True, ladder=climber.ladder), climber.folder)
    return code


class _Climber:
    """What is due next, and what has been decided."""

    def __init__(self, jobs_of: Callable[[list[str]], list[Job]], images: list[ImageSet]) -> None:
        self._jobs_of, self._images = jobs_of, images
        self.start = jobs_of([])
        config = self.start[0].config
        self._rungs = list(config.ladder.items())
        self.folder = Path(config.runs_dir).expanduser() / config.name
        self.ladder = Ladder([])
        self._ended: dict[str, Record] = {}

    def rehearsal(self) -> list[list[Job]]:
        """Each rung's jobs if all below it were kept.

        Raises:
            ConfigError: a rung is not legal, or changes more than a recipe.
        """
        if swept := _beside_seeds(self.start):
            raise ConfigError(f"{swept}: a ladder sweeps over seeds alone.")
        if len(self.start) < 2:
            raise ConfigError("seed: a ladder needs several, such as seed=0,1,2: one can't show that a rung pays.")
        rungs: list[list[Job]] = []
        added: list[str] = []
        for name, words in self._rungs:
            added += words
            try:
                jobs = self._jobs_of(added)
                if swept := _beside_seeds(jobs):
                    raise ConfigError(f"{swept}: a rung is no sweep.")
            except ConfigError as error:
                raise ConfigError(f"ladder, {name}: {error}") from None
            for job, before in zip(jobs, self.start, strict=True):
                if replace(job.config.data, normalize="none") != replace(before.config.data, normalize="none"):
                    raise ConfigError(f"ladder, {name}: of the data a rung may change data.normalize alone.")
            rungs.append(jobs)
        return rungs

    def begin(self) -> list[Task]:
        """The runs of the start."""
        return self._put(START, [], self.start)

    def after(self, record: Record, say: Callable[[str], None]) -> list[Task]:
        """What is due because a run has ended: the next rung, if it was the last run of its own."""
        self._ended[record["run_id"]] = record
        number, rung = len(self.ladder.rungs), self.ladder.rungs[-1]
        if not all(run_id in self._ended for run_id in rung.runs):
            return []
        self._decide(rung, say)
        self.ladder.write(self.folder)
        if number > len(self._rungs):
            return []
        name, words = self._rungs[number - 1]
        return self._put(f"+ {name}", words, self._jobs_of([*self.ladder.top, *words]))

    def _put(self, name: str, words: list[str], jobs: list[Job]) -> list[Task]:
        tasks = list(zip(jobs, self._images, strict=True))
        self.ladder.rungs.append(Rung(name, words, [folder_of(*task).name for task in tasks]))
        self.ladder.write(self.folder)
        self._ended = {}
        return tasks

    def _decide(self, rung: Rung, say: Callable[[str], None]) -> None:
        results = {r["config"]["seed"]: r["best"]["val_acc"] for r in self._ended.values() if r["status"] == "done"}
        below = self.ladder.below(len(self.ladder.rungs) - 1)
        if below is None:
            rung.kept = True
            self._results = results
            return
        images = next(iter(self._ended.values()))["data"]["sizes"]["val"]
        pair = judge(self._results, results, images)
        rung.kept = pair.verdict == "better"
        change = (
            "no result" if pair.difference is None else f"{100 * pair.difference:+.2f} points of validation accuracy"
        )
        say(f"{rung.name}: {change} on {below.name}: {pair.verdict}, {'kept' if rung.kept else 'left out'}")
        if rung.kept:
            self._results = results


def _beside_seeds(jobs: list[Job]) -> str | None:
    """What is swept besides the seed."""
    return next((word for job in jobs for word in job.overrides if not word.startswith("seed=")), None)
