"""Tunings: the best setting of each contestant, found at the same cost for all. Optuna proposes, `sweep` runs.

Each setting is written to `tuning.json` before it runs, and its result is in the run's record. So the same command
resumes a tuning, here or on another machine with the same folder.
"""

import itertools
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from cnnbench.analysis import tuning
from cnnbench.analysis.grouping import compare
from cnnbench.analysis.loading import load, load_tuning
from cnnbench.analysis.tuning import Entry, Plan, words_of
from cnnbench.config.composition import Composer, Job
from cnnbench.config.engines import Engine
from cnnbench.config.spaces import Axis, Params, grid
from cnnbench.data.images import ImageSet
from cnnbench.errors import ConfigError
from cnnbench.results.records import Record
from cnnbench.sweeps.folders import folder_of
from cnnbench.sweeps.sweep import Outcome, begin, carry_out, check_all
from cnnbench.sweeps.workers import Task

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from cnnbench.training.checks import Checked


def tune(composer: Composer, plan: Plan, jobs: list[Job], images: list[ImageSet], engine: Engine | None) -> Outcome:
    """Runs all trials, then each winner with fresh seeds.

    Args:
        composer: makes the job of a setting.
        plan: the plan that `contestants` made.
        jobs: one job of each contestant.
        images: the images of each contestant.
        engine: carries the runs to other machines; None runs them here.

    Returns:
        The records of the winners' runs, their comparison and the ledger; a diverged trial is a result like any other.

    Raises:
        ConfigError: a contestant can't be run, or the folder holds another tuning.
    """
    config = jobs[0].config
    study, checked = check(composer, plan, jobs, images)
    plan, folder = study.plan, study.folder
    begin(checked, engine)
    folder.mkdir(parents=True, exist_ok=True)
    # In turn, so that all tunings of all contestants have tried about as much if they are stopped.
    turns = itertools.zip_longest(*(study.due(i) for i in range(len(plan.contestants))))
    due = deque(task for turn in turns for task in turn if task is not None)
    pages = tuning.ledger(folder, study.plan)
    total = sum(plan.trials - len(page.ended) + plan.seeds for page in pages)
    results, code = carry_out(
        due, config.workers, total, total * (config.search_epochs + config.epochs), engine, study.after
    )
    if any(r.status == "failed" or (r.config["test"] and r.status != "done") for r in results):
        code = code or 1
    runs, found = load([folder]) if any(folder.glob("*/record.json")) else [], load_tuning(folder)
    won = found is not None and any(map(found.tuned, runs))
    return Outcome(folder, runs, code, compare(runs, apart=True, tuning=found) if won else [], found)


def check(
    composer: Composer, plan: Plan, jobs: list[Job], images: list[ImageSet]
) -> "tuple[_Study, list[tuple[Job, Checked]]]":
    """Checks the contestants, and the trials that the folder already holds; with the arguments of `tune`.

    Returns:
        The tunings so far, and what was found of each contestant.

    Raises:
        ConfigError: as `tune`.
    """
    config = jobs[0].config
    if config.force:
        raise ConfigError("force=true: a tuning keeps the trials that it has. Take another name= for a new one.")
    checked = check_all(zip(jobs, images, strict=True))
    folder = Path(config.runs_dir).expanduser() / config.name
    plan = _continued(plan, folder)
    return _Study(composer, folder, plan, images * plan.tunings, config.workers, config.retry), checked


def _continued(plan: Plan, folder: Path) -> Plan:
    """The plan with the trials that its folder already holds.

    Raises:
        ConfigError: they belong to another plan. More trials, seeds or tunings do not make another one.
    """
    before = tuning.read(folder)
    if before is None:
        return plan
    for what in ("sampler", "seed"):
        if getattr(before, what) != getattr(plan, what):
            raise ConfigError(f"{folder}: was tuned with {what}={getattr(before, what)}. Take another name=.")
    first = [replace(tuned, trials=[]) for tuned in before.contestants if tuned.tuning == 1]
    if first != [tuned for tuned in plan.contestants if tuned.tuning == 1]:
        raise ConfigError(f"{folder}: was tuned for other contestants or spaces. Take another name=.")
    few = "exactly" if plan.sampler == "grid" else "at least"
    if plan.trials < before.trials or (few == "exactly" and plan.trials > before.trials):
        raise ConfigError(f"trials={plan.trials}: {folder} has {before.trials} already. Take {few} that many.")
    if plan.tunings < before.tunings:
        raise ConfigError(f"tunings={plan.tunings}: {folder} has {before.tunings} already. Take at least that many.")
    return replace(plan, contestants=before.contestants + plan.contestants[len(before.contestants) :])


class _Study:
    """The state of all tunings: which trials of each contestant have ended, and which runs are due."""

    def __init__(
        self, composer: Composer, folder: Path, plan: Plan, images: list[ImageSet], workers: int, retry: bool
    ) -> None:
        self._composer, self.folder, self.plan, self._images = composer, folder, plan, images
        self._lock = FileLock(folder / f".{tuning.FILE}.lock")
        self._contestant: dict[str, int] = {}
        """The plan's contestant of each run that was handed out, by run id."""
        # TPE learns from trials that have ended. It proposes several at once only if workers would be idle otherwise.
        self._ahead = -(-workers // len(plan.contestants)) if plan.sampler == "tpe" else plan.trials

        self._retry = retry
        for i, tuned in enumerate(plan.contestants):
            if not tuned.trials or not images[i].fingerprint:  # a dry run's stand-in has none
                continue
            params, run_id = tuned.trials[0]
            if folder_of(self._job(i, params), images[i]).name != run_id:
                raise ConfigError(f"{folder}: {tuned.label} was tuned with another config. Take another name=.")

    def due(self, i: int) -> list[Task]:
        """The trials of the plan's contestant `i` that can be run now; when all have ended, the runs of its winner."""
        plan, tuned = self.plan, self.plan.contestants[i]
        with self._lock:  # another process may have asked meanwhile
            before = tuning.read(self.folder)
            written = before.contestants if before else []
            for mine, theirs in zip(plan.contestants, written, strict=False):
                mine.trials = theirs.trials
            plan.contestants += written[len(plan.contestants) :]  # it repeats the tuning more often
            page = tuning.entry(self.folder, tuned)
            while len(tuned.trials) < min(plan.trials, len(page.ended) + self._ahead):
                params = _propose(plan, page, len(tuned.trials))
                tuned.trials.append((params, folder_of(self._job(i, params), self._images[i]).name))
            plan.write(self.folder)
        page = tuning.entry(self.folder, tuned)
        again = [t for t in page.trials if self._retry and t.status == "failed" and t.run_id not in self._contestant]
        waiting = [t for t in page.trials if t not in page.ended] + again
        if waiting or len(page.trials) < plan.trials:
            jobs = [self._job(i, trial.params) for trial in waiting if trial.run_id not in self._contestant]
        elif (winner := page.winner) is not None:
            fresh = range(1, plan.seeds + 1)
            jobs = [self._job(i, winner.params, number) for number in fresh]
        else:
            jobs = []
        tasks = [(job, self._images[i]) for job in jobs]
        new = [task for task in tasks if folder_of(*task).name not in self._contestant]
        self._contestant |= {folder_of(*task).name: i for task in new}
        return new

    def after(self, record: Record, say: Callable[[str], None]) -> list[Task]:
        """Returns the runs that are due because `record` has ended."""
        return self.due(self._contestant[record.run_id])

    def _job(self, i: int, params: Params, fresh: int = 0) -> Job:
        """The job of a trial; or of a winner's run with its first, second, ... fresh seed."""
        plan, tuned = self.plan, self.plan.contestants[i]
        words = words_of(plan, tuned, params, plan.first_seed(tuned.tuning) + fresh)
        (job,) = self._composer.jobs(words, multirun=False)
        job = replace(job, overrides=tuple(words[len(plan.words) :]))  # in which the tuning's runs differ
        if fresh == 0:
            job.config.test = False
            job.config.runs_dir, job.config.name = str(self.folder), tuning.FOLDER
        return job


def _propose(plan: Plan, page: Entry, number: int) -> Params:
    """The setting of trial `number`, counted from 0.

    Unless it learns from results, the contestants of one tuning get the same points of their spaces.
    """
    space, seed = page.tuned.space, plan.first_seed(page.tuned.tuning)
    if plan.sampler == "grid":
        return list(grid(space, plan.trials))[number]
    import optuna  # takes half a second

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    distributions = {key: _distribution(axis) for key, axis in space.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental; balanced only for powers of two
        if plan.sampler == "quasi_random":
            sobol = optuna.samplers.QMCSampler(seed=seed, scramble=True)
            study = optuna.create_study(sampler=sobol)
            study.ask()
            asked = study.trials[0]
            found = [sobol.sample_relative(study, asked, distributions) for _ in range(number + 1)]
            return {key: _short(found[-1][key]) for key in space}
        own_seed = seed * 100_003 + number
        if plan.sampler == "random":
            drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=own_seed)).ask(distributions).params
            return {key: _short(drawn[key]) for key in space}
        start = max(plan.trials // 3, 3)
        tpe = optuna.samplers.TPESampler(n_startup_trials=start, multivariate=True, seed=own_seed)
        study = optuna.create_study(direction="maximize", sampler=tpe)
    for trial in page.ended:
        state = optuna.trial.TrialState.FAIL if trial.status == "failed" else optuna.trial.TrialState.COMPLETE
        value = None if trial.status == "failed" else trial.val_acc or 0.0  # diverged: as bad as can be
        study.add_trial(
            optuna.trial.create_trial(state=state, value=value, params=trial.params, distributions=distributions)
        )
    params = study.ask(distributions).params
    return {key: _short(params[key]) for key in space}


def _distribution(axis: Axis) -> "BaseDistribution":
    import optuna

    if axis.choices:
        return optuna.distributions.CategoricalDistribution(axis.choices)
    if axis.whole:
        return optuna.distributions.IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return optuna.distributions.FloatDistribution(axis.low, axis.high, log=axis.log)


def _short(value: Any) -> Any:
    """A number to four digits, which are enough and fit on a screen."""
    return float(f"{value:.4g}") if isinstance(value, float) else value
