"""The plan and ledger of `cnnbench tune`: the settings that were tried for each contestant, and the winners."""

import contextlib
import json
import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from cnnbench.config.composition import Composer, Job
from cnnbench.config.schema import Decides
from cnnbench.config.spaces import Axis, Params, Space, grid, space_of
from cnnbench.errors import ConfigError, RecordError, nearest
from cnnbench.results import decoding, identity, records
from cnnbench.results.records import Record
from cnnbench.runtime import files

FILE = "tuning.json"
"""In the folder that `tune` was given by `name=`."""

FOLDER = "trials"
"""Below it: the trials' runs. The winners' runs with fresh seeds lie beside it."""

VERSIONS = (1, 2)
"""Those that can be read; the last one is written. Version 1 knew a single tuning."""

SEEDS = 1000
"""How many training seeds each tuning has to itself, so that no two tunings share one."""

SAMPLERS = ("quasi_random", "random", "tpe", "grid")
"""`quasi_random`: a scrambled Sobol sequence. `random`: independent draws. `tpe`: Bergstra et al. 2011. `grid`: evenly
spread."""


@dataclass(frozen=True)
class Order:
    """What was asked for."""

    words: list[str]
    """Overrides that are no settings of `tune`."""
    trials: int = 12
    """Trials of each contestant."""
    seeds: int = 3
    """Fresh seeds with which each winner is run again."""
    tunings: int = 1
    """How often the whole tuning is repeated, each time with other seeds. From 2 on verdicts are about the contestants;
    with one tuning they are about the settings that it found."""
    sampler: str = "quasi_random"
    """What proposes the trials, see `SAMPLERS`."""
    space: str | None = None
    """A file of the folder `space`, for all contestants; null takes each optimizer's own."""


@dataclass
class Tuned:
    """One tuning of one contestant: its space and its trials."""

    label: str
    words: list[str]
    """What sets it apart from the others, as typed: `["optimizer=adam"]`."""
    space: Space
    trials: list[tuple[Params, str]] = field(default_factory=list)
    """Setting and run id of each trial, in order."""
    tuning: int = 1
    """Number of the tuning."""


@dataclass
class Plan:
    """What was asked of `tune`, and what has been tried so far.

    The trials of tuning k, counted from 1, have the training seed s = seed + 1000 * (k - 1); its winners are run again
    with s + 1, s + 2, ... A training seed draws the validation images too, and s is the seed of the sampler.
    """

    sampler: str
    trials: int
    """For each contestant."""
    seeds: int
    """With which each winner is run again."""
    seed: int
    """Training seed of the first tuning's trials."""
    words: list[str]
    """What all contestants have in common, as typed."""
    contestants: list[Tuned]
    """All contestants of the first tuning, then all of the second one, and so on."""
    space: str | None = None
    """The file of the folder `space` that was named for all of them."""
    config_dir: str | None = None
    """The folder of the user's own configs, as typed."""

    @property
    def tunings(self) -> int:
        """How often the whole tuning is repeated."""
        return max(tuned.tuning for tuned in self.contestants)

    def first_seed(self, tuning: int) -> int:
        """Training seed of the trials of a tuning; the seeds of its winners follow."""
        return self.seed + SEEDS * (tuning - 1)

    def tuning_of(self, seed: int) -> int:
        """Number of the tuning that a training seed belongs to."""
        return (seed - self.seed) // SEEDS + 1

    def write(self, folder: Path) -> None:
        """Writes it to `folder`, whole."""
        text = json.dumps({"schema_version": VERSIONS[-1]} | asdict(self), indent=1)
        files.write_whole(folder / FILE, lambda file: file.write(text.encode()))


def contestants(composer: Composer, order: Order) -> tuple[Plan, list[Job]]:
    """The plan, without trials, and a job of each contestant at its own default setting.

    Raises:
        ConfigError: a contestant or space is not legal.
    """
    words, seed = _without_seed(composer, order.words)
    jobs = composer.jobs([*words, f"seed={seed}"], multirun=True)
    if jobs[0].config.name == "default":
        words.append("name=tuned")
        jobs = composer.jobs([*words, f"seed={seed}"], multirun=True)
    given = {word.partition("=")[0].lstrip("+") for word in words}
    swept = {word.partition("=")[0] for word in jobs[0].overrides}
    common = [word for word in words if word.lstrip("+").partition("=")[0] not in swept]
    plan = Plan(order.sampler, order.trials, order.seeds, seed, common, [], order.space, composer.config_dir)
    for job in jobs:
        name = order.space or job.choices["optimizer"]
        space = {key: axis for key, axis in _space(composer, name, order, job).items() if key not in given}
        if not space:
            raise ConfigError(f"space {name}: all its keys are given on the command line; nothing is left to tune.")
        label = " ".join(word.removeprefix("optimizer=").removeprefix("model=") for word in job.overrides)
        plan.contestants.append(Tuned(label or job.choices["optimizer"], list(job.overrides), space))
        for end in (0, -1):  # both ends of every range have to be legal
            corner = {key: axis.points(2)[end] for key, axis in space.items()}
            last_seed = plan.first_seed(order.tunings) + order.seeds
            composer.jobs(words_of(plan, plan.contestants[-1], corner, last_seed), multirun=False)
        if order.sampler == "grid":
            grid(space, order.trials)
    once = plan.contestants
    plan.contestants = [replace(tuned, tuning=k, trials=[]) for k in range(1, order.tunings + 1) for tuned in once]
    return plan, jobs


def _without_seed(composer: Composer, words: list[str]) -> tuple[list[str], int]:
    given = [word for word in words if word.startswith("seed=")]
    if any(not word.removeprefix("seed=").isdigit() for word in given):
        raise ConfigError(f"{given[0]}: tune tries settings with one seed; seeds=N says with how many winners are run.")
    return [word for word in words if word not in given], int(given[-1].removeprefix("seed=")) if given else 0


def _space(composer: Composer, name: str, order: Order, job: Job) -> Space:
    written = composer.space(name)
    if written is not None:
        return space_of(f"space/{name}.yaml", written)
    if order.space is not None:
        raise ConfigError(f"space={name}: there is no such space.{nearest(name, composer.options['space'])}")
    if job.config.lr is None:
        raise ConfigError(f"optimizer {name}: has no lr of its own, so it needs a space (space/{name}.yaml).")
    wide = math.sqrt(1000)
    return {"lr": Axis(float(f"{job.config.lr / wide:.3g}"), float(f"{job.config.lr * wide:.3g}"), log=True)}


def words_of(plan: Plan, tuned: Tuned, params: Params, seed: int) -> list[str]:
    """A run of a contestant, as it would be typed."""
    typed = (f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in params.items())
    return [*plan.words, *tuned.words, *typed, f"seed={seed}"]


def read(folder: Path) -> Plan | None:
    """The plan in `folder`, if there is one.

    Raises:
        ConfigError: it is damaged, or was written by another version.
    """
    return decoding.read_plan(folder / FILE, Plan, VERSIONS)


@dataclass
class Trial:
    """One line of the ledger."""

    number: int
    """From 1."""
    params: Params
    run_id: str
    record: Record | None
    """None: not run yet."""

    @property
    def status(self) -> str:
        """`done`, `diverged`, `failed`, `interrupted` or `due`."""
        return self.record.status if self.record else "due"

    @property
    def val_acc(self) -> float | None:
        """Best validation accuracy, if it was done."""
        return self.record.best.val_acc if self.record and self.record.best and self.status == "done" else None


@dataclass
class Entry:
    """A page of the ledger: one tuning of one contestant, with what came out."""

    tuned: Tuned
    trials: list[Trial]

    @property
    def ended(self) -> list[Trial]:
        """The trials that came to an end, whatever it was."""
        return [trial for trial in self.trials if trial.status in ("done", "diverged", "failed")]

    @property
    def winner(self) -> Trial | None:
        """The trial with the highest validation accuracy, the first of equals."""
        done = [trial for trial in self.trials if trial.val_acc is not None]
        return max(done, key=lambda trial: trial.val_acc or 0.0, default=None)

    @property
    def edges(self) -> list[str]:
        """Keys of the winner beyond whose value nothing was tried: what is best may lie outside the space."""
        winner = self.winner
        if winner is None:
            return []
        found = []
        for key, axis in self.tuned.space.items():
            tried = [trial.params[key] for trial in self.trials if trial.status in ("done", "diverged")]
            if not axis.choices and winner.params[key] in (min(tried), max(tried)):
                found.append(key)
        return found


def setting_of(run: Record) -> str:
    """What a trial has in common with the same setting's runs with other seeds."""
    left_out = [Decides.REPETITION, Decides.MEASURE]
    return identity.canonical(identity.experiment(run.config, run.data.fingerprint, without=left_out))


def entry(folder: Path, tuned: Tuned) -> Entry:
    """The trials of a tuning of a contestant, with what came out."""
    found = []
    for number, (params, run_id) in enumerate(tuned.trials, 1):
        result = None
        with contextlib.suppress(RecordError):
            result = records.read(folder / FOLDER / run_id / "record.json")
        found.append(Trial(number, params, run_id, result))
    return Entry(tuned, found)


def ledger(folder: Path, plan: Plan) -> list[Entry]:
    """Every trial of every tuning and contestant."""
    return [entry(folder, tuned) for tuned in plan.contestants]
