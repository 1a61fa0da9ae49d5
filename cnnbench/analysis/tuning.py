"""Which settings were tried for each contestant, and which won? The plan and ledger of `cnnbench tune`. (no torch)"""

import contextlib
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cnnbench.config.composition import Composer, Job
from cnnbench.config.spaces import Axis, Params, Space, grid, space_of
from cnnbench.errors import ConfigError, RecordError, nearest
from cnnbench.results import decoding, records
from cnnbench.results.records import Record
from cnnbench.runtime import files

FILE = "tuning.json"
"""In the folder that `tune` was given by `name=`."""

FOLDER = "trials"
"""Below it: the trials' runs. The winners' runs with fresh seeds lie beside it."""

VERSION = 1

SAMPLERS = ("quasi_random", "tpe", "grid")
"""`quasi_random`: a scrambled Sobol sequence. `tpe`: Bergstra et al. 2011. `grid`: evenly spread."""


@dataclass(frozen=True)
class Order:
    """What was asked for."""

    words: list[str]
    """Overrides that are no settings of `tune`."""
    trials: int = 12
    """Trials of each contestant."""
    seeds: int = 3
    """Fresh seeds with which each winner is run again."""
    sampler: str = "quasi_random"
    """What proposes the trials, see `SAMPLERS`."""
    space: str | None = None
    """A file of the folder `space`, for all contestants; null takes each optimizer's own."""


@dataclass
class Tuned:
    """A contestant, its space and its trials."""

    label: str
    words: list[str]
    """What sets it apart from the others, as typed: `["optimizer=adam"]`."""
    space: Space
    trials: list[tuple[Params, str]] = field(default_factory=list)
    """Setting and run id of each trial, in order."""


@dataclass
class Plan:
    """What was asked of `tune`, and what has been tried so far."""

    sampler: str
    trials: int
    """For each contestant."""
    seeds: int
    """With which each winner is run again."""
    seed: int
    """Of all trials; the winners take the ones after it."""
    words: list[str]
    """What all contestants have in common, as typed."""
    contestants: list[Tuned]
    space: str | None = None
    """The file of the folder `space` that was named for all of them."""
    config_dir: str | None = None
    """The folder of the user's own configs, as typed."""

    def write(self, folder: Path) -> None:
        """Writes it to `folder`, whole."""
        text = json.dumps({"schema_version": VERSION} | asdict(self), indent=1)
        files.write_whole(folder / FILE, lambda file: file.write(text.encode()))


def contestants(composer: Composer, order: Order) -> tuple[Plan, list[Job]]:
    """The contestants, each with its space and, to be checked, a job at its own default setting.

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
            composer.jobs(words_of(plan, plan.contestants[-1], corner, seed), multirun=False)
        if order.sampler == "grid":
            grid(space, order.trials)
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
    path = folder / FILE
    if not path.exists():
        return None
    try:
        plan: Plan = decoding.read(path, Plan, (VERSION,))
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return plan


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
    """A contestant's page of the ledger."""

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


def entry(folder: Path, tuned: Tuned) -> Entry:
    """The trials of a contestant, with what came out."""
    found = []
    for number, (params, run_id) in enumerate(tuned.trials, 1):
        result = None
        with contextlib.suppress(RecordError):
            result = records.read(folder / FOLDER / run_id / "record.json")
        found.append(Trial(number, params, run_id, result))
    return Entry(tuned, found)


def ledger(folder: Path, plan: Plan) -> list[Entry]:
    """Every trial of every contestant."""
    return [entry(folder, tuned) for tuned in plan.contestants]
