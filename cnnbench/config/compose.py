"""How do the words on the command line become checked configs? (imports Hydra and OmegaConf only)

Hydra's grammar, groups and search path are used as they are; its job runner is not, since that one writes folders of
its own, starts jobs before all of them are checked, and ends a sweep at the first failure.
"""

import itertools
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Sweep
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from cnnbench.config.schema import ROLES, Config, Role
from cnnbench.errors import ConfigError, nearest

_PACKAGE = Path(__file__).parent.parent
CONF = next(f for f in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if (f / "config.yaml").exists()).resolve()
"""The configs: inside an installed package, or beside it in a checkout."""

GROUPS = tuple(sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "space"))
KEYS = tuple(field.name for field in fields(Config) if field.name not in GROUPS)
_OPEN = (
    *(field.name for field in fields(Config) if field.type == dict[str, Any]),
    "search.optimizer",
    "hydra.launcher",
)
"""Groups, and a part of one, whose keys are a class's arguments: a new key needs no `+` here; the class's signature is
the judge, and `Composer.engine` that of a launcher's keys."""

_SUMS = tuple(group for group in GROUPS if ROLES.get(group, Role()).several)
"""Groups of which several options may be taken together: regularizer=[l2,dropout]."""


@dataclass(frozen=True)
class Job:
    """One run that was asked for."""

    config: Config
    choices: dict[str, str]
    """Which option of each group was taken: `{"optimizer": "adam", "data": "cifar10", ...}`."""
    overrides: tuple[str, ...]
    """What sets this job apart from the others of its sweep."""
    typed: tuple[str, ...]
    """All the words that give this job alone: what was typed, with one value of what is swept."""
    config_dir: str | None
    """The folder of the user's own configs, as typed."""


def as_yaml(config: Config | dict[str, Any]) -> str:
    """As `--cfg job` prints it and `config.yaml` keeps it."""
    return OmegaConf.to_yaml(OmegaConf.create(config if isinstance(config, dict) else asdict(config)))


@dataclass
class SubmititLocal:
    """`hydra/launcher=submitit_local`: each run is a process of this machine; null leaves a setting to submitit."""

    submitit_folder: str = "${runs_dir}/${name}/.launcher/%j"
    """Where the jobs' logs go; `%j` is the number of the job."""
    name: str = "cnnbench"
    """What the jobs are called in the queue."""
    timeout_min: int = 60
    """Minutes that a run may take."""
    max_num_timeout: int = 0
    """How often a run whose time is up is submitted again, to be resumed."""
    nodes: int = 1
    """Machines of a job."""
    tasks_per_node: int = 1
    """Processes of a job on each machine."""
    cpus_per_task: int | None = None
    """CPUs of a run, and its threads."""
    gpus_per_node: int | None = None
    """GPUs of a run; null is none on this machine."""
    mem_gb: float | None = None
    """Memory of a run in GB."""
    stderr_to_stdout: bool = False
    """One log for each job, not two."""


@dataclass
class SubmititSlurm(SubmititLocal):
    """`hydra/launcher=submitit_slurm`: each run is a job of Slurm; most settings are sbatch's options of that name."""

    partition: str | None = None
    qos: str | None = None
    account: str | None = None
    comment: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    gres: str | None = None
    cpus_per_gpu: int | None = None
    gpus_per_task: int | None = None
    mem_per_gpu: str | None = None
    mem_per_cpu: str | None = None
    array_parallelism: int = 256
    """Jobs that run at the same time."""
    signal_delay_s: int = 120
    """Seconds before a run's time is up that it is told to save its state."""
    setup: list[str] | None = None
    """Shell commands before the run, such as `module load cuda`."""
    additional_parameters: dict[str, Any] = field(default_factory=dict)
    """More of sbatch's options: `{nodelist: gpu1}`."""


@dataclass
class RayArguments:
    """What Ray's own functions are called with."""

    init: dict[str, Any] = field(
        default_factory=lambda: {
            "address": None,
            "include_dashboard": False,
            "log_to_driver": False,
            "logging_level": "ERROR",
        }
    )
    """Of `ray.init`; with an address it joins a cluster that is there, without one it starts Ray on this machine."""
    remote: dict[str, Any] = field(default_factory=lambda: {"num_cpus": 1, "max_retries": 0})
    """Of `ray.remote`: what a run gets, and how often one is tried again whose process was killed."""


@dataclass
class Ray:
    """`hydra/launcher=ray`: each run is one of Ray's tasks."""

    ray: RayArguments = field(default_factory=RayArguments)


@dataclass(frozen=True)
class Engine:
    """What carries runs to other machines."""

    name: str
    """As in `hydra/launcher=`."""
    settings: SubmititLocal | SubmititSlurm | Ray


_ENGINES: dict[str, type[SubmititLocal] | type[Ray]] = {
    "submitit_local": SubmititLocal,
    "submitit_slurm": SubmititSlurm,
    "ray": Ray,
}
_EXTRAS = {"submitit": "slurm", "ray": "ray"}
"""The extra that installs each package; an engine's name begins with its package's."""


@contextmanager
def config_source(config_dir: Path | None) -> Iterator["Composer"]:
    """The built-in configs, and the user's own from `config_dir` behind them. One may be used inside another.

    Raises:
        ConfigError: there is no such folder, or one of its files has the name of a built-in one.
    """
    if config_dir is not None:
        if not config_dir.is_dir():
            raise ConfigError(f"--config-dir {config_dir}: there is no such folder.")
        for path in sorted(config_dir.rglob("*.yaml")):
            name = path.relative_to(config_dir)
            if (CONF / name).exists():
                raise ConfigError(f"{path}: the built-in {name} has this name. Give yours another one.")
    hydra = GlobalHydra.instance()
    outer = hydra.hydra
    hydra.clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3", job_name="cnnbench"):
            # Now that Hydra has loaded whatever plugins are installed: some have options of these names.
            for engine, settings in _ENGINES.items():
                ConfigStore.instance().store(group="hydra/launcher", name=engine, node=settings)
            yield Composer(GlobalHydra.instance().config_loader(), config_dir)
    finally:
        GlobalHydra.instance().hydra = outer


class Composer:
    """Turns lists of overrides into configs. Made by `config_source`."""

    def __init__(self, loader: ConfigLoader, config_dir: Path | None) -> None:
        self.config_dir = None if config_dir is None else str(config_dir)
        self._loader = loader
        self._parser = OverridesParser.create(config_loader=loader)
        # The loader learns the user's folder only while it composes, so the folder is listed here.
        self._own = [] if config_dir is None else [config_dir.resolve()]
        self._search = [f"hydra.searchpath=[file://{folder}]" for folder in self._own]
        self.options = {
            group: sorted({file.stem for root in (CONF, *self._own) for file in (root / group).glob("*.yaml")})
            for group in (*GROUPS, "space")
        }

    def jobs(self, words: Iterable[str], multirun: bool) -> list[Job]:
        """The jobs that `words` ask for, in Hydra's order (the last key moves fastest), all of them checked.

        Args:
            words: overrides in Hydra's grammar.
            multirun: `-m` was given. An experiment that is a sweep needs none.

        Raises:
            ConfigError: one line that names the key, the value and what is allowed.
        """
        overrides = self._parse(words)
        swept = [o for o in overrides if o.is_sweep_override()]
        fixed = _words(o for o in overrides if not o.is_sweep_override())
        of_experiments = [o for o in swept if o.key_or_group == "experiment"]
        if of_experiments and multirun:
            rest = _words(o for o in overrides if o.key_or_group != "experiment")
            return [job for word in self._values(of_experiments[-1]) for job in self.jobs([*rest, word], multirun)]

        composed = self._compose(fixed)
        hydra = composed.hydra
        sweep = {o.key_or_group: o for o in self._sweep_of_experiment(hydra)}
        if swept and not (multirun or hydra.mode == RunMode.MULTIRUN):
            word = swept[0].input_line
            raise ConfigError(f"{word}: several values are a sweep: add -m. (A list is written [a,b].)")
        for override in overrides:
            sweep.pop(override.key_or_group, None)
        sweep |= {o.key_or_group: o for o in swept}
        if not sweep:
            return [self._job(composed, fixed, ())]
        combinations = itertools.product(*(self._values(o) for o in sweep.values()))
        return [self._job(self._compose([*fixed, *words]), fixed, words) for words in combinations]

    def config(self, words: Iterable[str]) -> DictConfig:
        """The composed config that `words` set, without what is swept, and without any check of ours."""
        return _without_hydra(self._compose(_words(o for o in self._parse(words) if not o.is_sweep_override())))

    def space(self, name: str) -> Any:
        """What the file `space/NAME.yaml` says, as plain Python; None if there is no such file."""
        for root in (CONF, *self._own):
            if (path := root / "space" / f"{name}.yaml").exists():
                try:
                    return OmegaConf.to_container(OmegaConf.load(path), resolve=True)
                except (OmegaConfBaseException, YAMLError, OSError) as error:
                    raise ConfigError(f"{path}: can't be read ({_one_line(error)}).") from None
        return None

    def engine(self, words: Iterable[str]) -> Engine | None:
        """What `words` ask for with `hydra/launcher=`; None if the runs stay in this process.

        Raises:
            ConfigError: it isn't installed, or a setting isn't one of its own.
        """
        overrides = self._parse(words)
        if not any(o.key_or_group.startswith(("hydra", "experiment")) for o in overrides):
            return None  # composing takes a while
        composed = self._compose(_words(o for o in overrides if not o.is_sweep_override()))
        name, given = composed.hydra.runtime.choices["hydra/launcher"], composed.hydra.launcher
        if name == "basic":
            for key in given.keys() - {"_target_"}:
                raise ConfigError(f"hydra.launcher.{key}: of which launcher? hydra/launcher={' or '.join(_ENGINES)}")
            return None
        _check_engine(f"hydra/launcher={name}", name)
        _check_settings(name, given, _ENGINES[name])
        package = name.partition("_")[0]
        if find_spec(package) is None:
            extra = _EXTRAS[package]
            raise ConfigError(
                f"hydra/launcher={name}: {package} isn't installed: uv sync --extra {extra} in a clone, "
                f"pip install 'cnnbench[{extra}]' elsewhere."
            )
        try:
            settings = OmegaConf.to_object(given)
        except OmegaConfBaseException as error:
            raise ConfigError(_one_line(error)) from None
        assert isinstance(settings, SubmititLocal | Ray)
        return Engine(name, settings)

    def _sweep_of_experiment(self, hydra: DictConfig) -> list[Override]:
        params = hydra.sweeper.params or {}
        if hydra.mode != RunMode.MULTIRUN:
            return []
        return self._parse(f"{key}={value}" for key, value in params.items())

    def _parse(self, words: Iterable[str]) -> list[Override]:
        overrides = []
        for word in words:
            try:
                override = self._parser.parse_override(word)
            except HydraException as error:
                reason = str(error).splitlines()[0]
                raise ConfigError(f"{word}: not of the form key=value ({reason}).") from None
            if _is_open(override.key_or_group) and not word.startswith("~"):
                override = self._parser.parse_override(f"++{word.lstrip('+')}")
            self._check(override)
            if not (override.key_or_group == "experiment" and override.value() is None):  # null: no experiment
                overrides.append(override)
        return overrides

    def _check(self, override: Override) -> None:
        key = override.key_or_group
        head = re.split(r"[./]", key)[0]
        word = (override.input_line or "").lstrip("+")
        if key == "hydra/launcher":
            _check_engine(word, override.value())
        if head == "hydra":
            return
        if head not in GROUPS + KEYS:
            raise ConfigError(f"{word}: there is no key '{head}'.{nearest(head, [*GROUPS, *KEYS])}")
        if key in GROUPS:
            values = self._options_of(override)
            if key == "experiment" and values == [None]:
                return
            if override.is_delete() or None in values:
                raise ConfigError(f"{word}: {key} can't be empty. Allowed: {', '.join(self.options[key])}.")
            if isinstance(override.value(), list) and key not in _SUMS:
                raise ConfigError(f"{word}: {key} takes one option. Allowed: {', '.join(self.options[key])}.")
            for value in values:
                if str(value) not in self.options[key]:
                    problem = f"{key} has no option '{value}'"
                    raise ConfigError(f"{word}: {problem}.{nearest(str(value), self.options[key])}")
        elif key != head and ("/" in key or not _is_open(key)):
            of_group = {field.name: field.type for field in fields(Config)}.get(head)
            allowed = [f"{head}.{field.name}" for field in fields(of_group)] if is_dataclass(of_group) else [head]
            if key not in allowed:
                raise ConfigError(f"{word}: there is no key '{key}'.{nearest(key, allowed)}")

    def _options_of(self, override: Override) -> list[Any]:
        if override.is_sweep_override():
            return [v for word in self._values(override) for v in self._options_of(self._parser.parse_override(word))]
        value = override.value()
        return value if isinstance(value, list) else [value]

    @staticmethod
    def _values(override: Override) -> list[str]:
        """A sweep as single overrides: `seed=0,1` gives `["seed=0", "seed=1"]`."""
        if not override.is_sweep_override():  # one value in an experiment's list of sweeps
            return [override.input_line or ""]
        sweep = override.value()
        if not isinstance(sweep, Sweep) or not override.is_discrete_sweep():
            raise ConfigError(f"{override.input_line}: a sweep needs a finite list of values, such as a,b,c.")
        return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]

    def _compose(self, words: list[str]) -> DictConfig:
        words = [relocated for word in words for relocated in self._relocated(word)]
        try:
            return compose("config", [*self._search, *words], return_hydra_config=True)
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(_one_line(error)) from None

    def _relocated(self, word: str) -> list[str]:
        """`callbacks=[a,b]` so that each file, which has a `_target_`, gets a place of its own below `callbacks`."""
        override = self._parser.parse_override(word)
        if override.key_or_group != "callbacks" or override.is_sweep_override():
            return [word]
        return ["callbacks=none", *(f"+callbacks@callbacks.{name}={name}" for name in self._options_of(override))]

    def _member(self, name: Any) -> Any:
        """The config of an ensemble's member, which is named by its option of the group `model`."""
        if not isinstance(name, str):
            return name
        for folder in (CONF, *self._own):
            if (path := folder / "model" / f"{name}.yaml").exists() and name != "ensemble":
                return OmegaConf.to_container(OmegaConf.load(path))
        allowed = [option for option in self.options["model"] if option != "ensemble"]
        raise ConfigError(f"model.members: there is no model '{name}'.{nearest(name, allowed)}")

    def _job(self, composed: DictConfig, fixed: list[str], combination: tuple[str, ...]) -> Job:
        choices = composed.hydra.runtime.choices
        try:
            config = OmegaConf.to_object(_without_hydra(composed))
        except OmegaConfBaseException as error:
            raise ConfigError(_one_line(error)) from None
        assert isinstance(config, Config)
        _settle_lr(config, any(o.key_or_group == "optimizer.lr" for o in self._parse([*fixed, *combination])))
        config.callbacks = _by_name(config.callbacks, str(choices.get("callbacks")))
        if "members" in config.model:
            config.model["members"] = [self._member(name) for name in config.model["members"]]
        if config.size == "small":
            small = config.small
            config.data.limit = min(config.data.limit or small.limit, small.limit)
            config.epochs = min(config.epochs, small.epochs)
        taken = {group: str(choices[group]) for group in GROUPS if choices.get(group) is not None}
        for override in self._parse([*fixed, *combination]):  # Hydra doesn't tell when a group has several options
            several = isinstance(override.value(), list) or override.key_or_group == "callbacks"
            if override.key_or_group in _SUMS and several:
                taken[override.key_or_group] = "+".join(map(str, self._options_of(override)))
        swept = tuple(word.lstrip("+") for word in combination)
        return Job(config, taken, swept, (*(word.lstrip("+") for word in fixed), *swept), self.config_dir)


def _by_name(callbacks: dict[str, Any], option: str) -> dict[str, Any]:
    """Callbacks by name: a file holds one `_target_`, or several under names of their own."""
    if "_target_" in callbacks:  # chosen in an experiment's defaults
        return {option: callbacks}
    found: dict[str, Any] = {}
    for name, spec in callbacks.items():
        inner = isinstance(spec, dict) and "_target_" not in spec
        found |= spec if inner else {name: spec}
    return found


def _check_engine(word: str, name: Any) -> None:
    if name == "joblib":
        raise ConfigError(f"{word}: workers=N runs N at a time on this machine.")
    if name not in ("basic", *_ENGINES):
        raise ConfigError(f"{word}: there is no such launcher.{nearest(str(name), ['basic', *_ENGINES])}")


def _check_settings(name: str, given: DictConfig, kind: Any, prefix: str = "hydra.launcher.") -> None:
    allowed = {field.name: field.type for field in fields(kind)}
    for key in map(str, given):
        if key not in allowed:
            raise ConfigError(f"{prefix}{key}: {name} has no such setting.{nearest(key, list(allowed))}")
        if is_dataclass(nested := allowed[key]):
            _check_settings(name, given[key], nested, f"{prefix}{key}.")


def _is_open(key: str) -> bool:
    return key.startswith(tuple(f"{group}." for group in _OPEN))


def _words(overrides: Iterable[Override]) -> list[str]:
    return [override.input_line or "" for override in overrides]


def _without_hydra(composed: DictConfig) -> DictConfig:
    with open_dict(composed):
        del composed["hydra"]
    return composed


def _settle_lr(config: Config, given_in_group: bool) -> None:
    """One learning rate, in both places: `lr=`, or else the optimizer's own."""
    own = config.optimizer.get("lr")
    if own is not None:
        try:
            own = float(own)
        except (TypeError, ValueError):
            raise ConfigError(f"optimizer.lr={own}: must be a number above 0.") from None
    if config.lr is None:
        config.lr = own
        config.__post_init__()
    elif given_in_group and own != config.lr:
        raise ConfigError(f"lr={config.lr:g} and optimizer.lr={own}: give one learning rate, as lr=.")
    if config.lr is not None:
        config.optimizer["lr"] = config.lr


_KINDS = {"Float": "a number", "Integer": "a whole number", "Boolean": "true or false", "String": "text"}


def _one_line(error: Exception) -> str:
    """Hydra's or OmegaConf's complaint in our form: file, key, value, what is allowed."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    key, message, file = getattr(cause, "full_key", None), str(cause), ""
    if match := re.match(r"In '(.*)': \w+ raised while composing config:\n(?s:(.*\n +full_key: (\S+).*))", message):
        file, message, key = f"{match[1]}.yaml: ", match[2], match[3]
    return file + _told(key, message)


def _told(key: str | None, message: str) -> str:
    if match := re.match(r"Value '(.*)' of type '.*' could not be converted to (\w+)", message):
        return f"{key}={match[1]}: must be {_KINDS.get(match[2], match[2])}."
    if match := re.match(r"Value '(.*)' is not a valid bool", message):
        return f"{key}={match[1]}: must be true or false."
    if "ict[str, List[str]]" in message:
        return f"{key}: must be a list of overrides for each name, such as {{faster: [lr=0.1]}}."
    if "is not a ListConfig" in message:
        return f"{key}: must be a list, such as [a,b]."
    if "is not Optional" in message or "is not optional" in message:
        return f"{key}=null: can't be empty."
    return " ".join(line.strip() for line in message.splitlines()[:1])
