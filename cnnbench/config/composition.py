"""The composition of configs: from the words on the command line to checked jobs.

Hydra's grammar, groups and search path are used as they are. Its job runner is not: it writes folders of its own,
starts jobs before all of them are checked, and ends a sweep at the first failure.
"""

import contextlib
import copy
import itertools
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, RangeSweep, Sweep
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import GrammarParseError, OmegaConfBaseException
from yaml import YAMLError

from cnnbench.config import engines
from cnnbench.config.engines import Engine
from cnnbench.config.keys import CONF, GROUPS, KEYS, LIGHTNINGS, keys_beside
from cnnbench.config.messages import check_yaml, load_yaml, one_line, yaml_line
from cnnbench.config.schema import ROLES, Config, Role, check_seeds
from cnnbench.config.targets import look_in
from cnnbench.errors import ConfigError, nearest

_OPEN = (
    *(field.name for field in fields(Config) if field.type == dict[str, Any]),
    "search.optimizer",
    "hydra.launcher",
)
"""Where keys are arguments of a class. A new key needs no `+` here, since it is checked against the class's signature;
`Composer.engine` checks those of a launcher."""

_SUMS = tuple(group for group in GROUPS if ROLES.get(group, Role()).several)
"""Groups that take several options at once: regularizer=[l2,dropout]."""

_HYDRA_READ = re.compile(r"hydra/launcher|hydra\.(mode|launcher|launcher\..+|sweeper\.params\..+)")
_HYDRA_INSTEAD = {
    "hydra.run": "Type runs_dir=FOLDER or name=NAME to say where results go.",
    "hydra.sweep": "Type runs_dir=FOLDER or name=NAME to say where results go.",
    "hydra/sweeper": "Type `cnnbench tune` to search for good settings.",
    "hydra.searchpath": "Type --config-dir FOLDER to add configs of your own.",
}
"""What to type instead of some of Hydra's keys. Whatever nothing reads is refused: to ignore it would mislead."""


MOST_RUNS = 100_000
"""Runs of a sweep: all of them are made and checked before the first one starts."""


@dataclass(frozen=True)
class Job:
    """One run that was asked for."""

    config: Config
    choices: dict[str, str]
    """Which option of each group was taken: `{"optimizer": "adam", "data": "cifar10", ...}`; of a `_target_` that was
    typed the name of the class."""
    overrides: tuple[str, ...]
    """The words in which the jobs of its sweep differ."""
    typed: tuple[str, ...]
    """The words that give this job alone: all that was typed, with one value of each swept key."""
    config_dir: str | None
    """The folder of the user's own configs, as typed; None without one."""

    @property
    def label(self) -> str:
        """The run in a few words, as progress and loggers name it: `adam lr=0.01 activation=tanh, seed 3`."""
        swept = [word for word in self.overrides if not word.startswith(("optimizer=", "optimizer._target_=", "seed="))]
        words = (word.removeprefix("model=").removeprefix("model.").removeprefix("optimizer.") for word in swept)
        return f"{' '.join([self.choices['optimizer'], *words])}, seed {self.config.seed}"


def as_yaml(config: Config | dict[str, Any]) -> str:
    """A config as YAML, as `--cfg job` prints it and `config.yaml` holds it."""
    return OmegaConf.to_yaml(OmegaConf.create(config if isinstance(config, dict) else asdict(config)))


@contextlib.contextmanager
def config_source(config_dir: Path | None) -> Iterator["Composer"]:
    """Opens the built-in configs, and the user's own in `config_dir`. May be used inside another one.

    Args:
        config_dir: a folder that is laid out as `conf/`, or None.

    Yields:
        What turns words into configs.

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
            check_yaml(path)
        look_in(config_dir)
    hydra = GlobalHydra.instance()
    outer = hydra.hydra
    hydra.clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3", job_name="cnnbench"):
            engines.register()
            yield Composer(GlobalHydra.instance().config_loader(), config_dir)
    finally:
        GlobalHydra.instance().hydra = outer


class Composer:
    """Turns lists of overrides into configs. `config_source` makes it."""

    config_dir: str | None
    """The folder of the user's own configs, as typed."""
    options: dict[str, list[str]]
    """The options of each group, and the spaces of `tune`."""
    _parser: OverridesParser
    _own: list[Path]
    """The same folder, or nothing."""
    _search: list[str]
    """Tells Hydra of it."""

    def __init__(self, loader: ConfigLoader, config_dir: Path | None) -> None:
        self.config_dir = None if config_dir is None else str(config_dir)
        self._parser = OverridesParser.create(config_loader=loader)
        # The loader knows the user's folder only while it composes, so its files are listed here.
        self._own = [] if config_dir is None else [config_dir.resolve()]
        self._search = [f"hydra.searchpath=[file://{folder}]" for folder in self._own]
        self.options = {
            group: sorted({file.stem for root in (CONF, *self._own) for file in (root / group).glob("*.yaml")})
            for group in (*GROUPS, "space")
        }

    def jobs(self, words: Iterable[str], multirun: bool) -> list[Job]:
        """The jobs that `words` ask for, all of them checked, in Hydra's order: the last key changes fastest.

        Args:
            words: overrides in Hydra's grammar.
            multirun: whether `-m` was given. An experiment that is a sweep needs no `-m`.

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
        multirun = multirun or composed.hydra.mode == RunMode.MULTIRUN
        if swept and not multirun:
            word = swept[0].input_line
            raise ConfigError(f"{word}: several values are a sweep: add -m. (A list is written [a,b].)")
        sweep = {o.key_or_group: o for o in self._composed_sweep(composed)} if multirun else {}
        for override in overrides:
            sweep.pop(override.key_or_group, None)
        sweep |= {o.key_or_group: o for o in swept}
        if composed.seeds is not None:
            check_seeds(composed.seeds)
            given = {o.key_or_group: o.input_line for o in overrides}
            if "seed" not in given:
                if not multirun:
                    raise ConfigError(f"seeds={composed.seeds}: several seeds are a sweep: add -m.")
                sweep.pop("seed", None)
                if composed.seeds != "auto":  # which has no seeds before they are due
                    sweep["seed"] = self._parser.parse_override(f"seed=range({composed.seeds})")
            elif "seeds" in given:
                raise ConfigError(f"{given['seeds']} {given['seed']}: give one of them.")
            else:  # an experiment's seeds: what is typed wins
                fixed.append("seeds=null")
                composed = self._compose(fixed)
        typed = [word for word in fixed if not word.lstrip("+").startswith("seeds=")]  # a job has one seed
        if not sweep:
            return [self._job(composed, typed, ())]
        unseeded: dict[tuple[str, ...], DictConfig] = {(): composed}
        runs = math.prod(_count(o) for o in sweep.values())
        if runs > MOST_RUNS:
            words = " ".join(o.input_line or "" for o in sweep.values())
            raise ConfigError(f"{words}: {runs:,} runs. A sweep has at most {MOST_RUNS:,}.")
        jobs = []
        for combination in itertools.product(*(self._values(o) for o in sweep.values())):
            seeds = [word for word in combination if word.startswith("seed=")]
            others = tuple(word for word in combination if word not in seeds)
            if others not in unseeded:
                unseeded[others] = self._compose([*fixed, *others])
            jobs.append(self._job(self._with_values(unseeded[others], seeds), typed, combination))
        return jobs

    def config(self, words: Iterable[str]) -> DictConfig:
        """The config that Hydra composes from `words` without their sweeps. Values are not checked."""
        return _without_hydra(self._compose(_words(o for o in self._parse(words) if not o.is_sweep_override())))

    def space(self, name: str) -> Any:
        """The content of `space/NAME.yaml` as plain Python; None if there is no such file.

        Raises:
            ConfigError: the file can't be read.
        """
        for root in (CONF, *self._own):
            if (path := root / "space" / f"{name}.yaml").exists():
                try:
                    return OmegaConf.to_container(load_yaml(path), resolve=True)
                except OmegaConfBaseException as error:
                    raise ConfigError(f"{path}: {one_line(error)}") from None
        return None

    def engine(self, words: Iterable[str]) -> Engine | None:
        """The engine that `hydra/launcher=` names, which carries the runs to other machines; None without one.

        Raises:
            ConfigError: the engine isn't installed, or has no setting of that name.
        """
        overrides = self._parse(words)
        if not any(o.key_or_group.startswith(("hydra", "experiment")) for o in overrides):
            return None  # composing takes a while
        hydra = self._compose(_words(o for o in overrides if not o.is_sweep_override())).hydra
        return engines.engine_of(hydra.runtime.choices["hydra/launcher"], hydra.launcher)

    def _composed_sweep(self, composed: DictConfig) -> list[Override]:
        """The sweeps in `hydra.sweeper.params`, where an experiment's file has them."""
        try:
            return self._parse(
                f"{key}={value}" for key, value in (OmegaConf.select(composed, "hydra.sweeper.params") or {}).items()
            )
        except OmegaConfBaseException as error:
            raise ConfigError(one_line(error, composed)) from None

    def _parse(self, words: Iterable[str]) -> list[Override]:
        overrides = []
        for word in words:
            # A sweep as Hydra's files have it is the same as one that is typed: +hydra.sweeper.params.seed="0,1".
            word = re.sub(r"""^\+*hydra\.sweeper\.params\.([^=]+)=(["']?)(.*)\2$""", r"\1=\3", word)
            word = re.sub(
                r"^([\w.+]+)=(~(?:/[^'\",]*)?)$", r"\1='\2'", word
            )  # data.root=~/images, which bash leaves so
            if re.split("[.=]", word.lstrip("+"))[0] in GROUPS + KEYS:
                word = word.lstrip("+")  # all keys exist, so that nothing has to be added
            try:
                override = self._parser.parse_override(word)
            except (HydraException, RecursionError, ValueError) as error:  # the last of a number of thousands of digits
                reason = str(error).splitlines()[0]
                raise ConfigError(f"{word or repr('')}: not of the form key=value ({reason}).") from None
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
        if head == "hydra":
            _check_hydra(word, override)
            if key == "hydra/launcher":
                engines.check_name(word, override.value())
            return
        if (ours := LIGHTNINGS.get(key) or LIGHTNINGS.get(key.removeprefix("trainer."))) is not None:
            raise ConfigError(f"{word}: there is no key '{key}'. It is called {ours} here.")
        if head not in GROUPS + KEYS:
            raise ConfigError(f"{word}: there is no key '{head}'.{nearest(head, [*GROUPS, *KEYS])}")
        if key == "seeds" and override.is_sweep_override():
            raise ConfigError(f"{word}: takes one value.")
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
        elif key not in keys_beside(key) and ("/" in key or not _is_open(key)):
            raise ConfigError(f"{word}: there is no key '{key}'.{nearest(key, keys_beside(key))}")

    def _options_of(self, override: Override) -> list[Any]:
        if override.is_sweep_override():
            return [v for word in self._values(override) for v in self._options_of(self._parser.parse_override(word))]
        value = override.value()
        return value if isinstance(value, list) else [value]

    def _values(self, override: Override) -> list[str]:
        """Splits a sweep into single overrides: `seed=0,1` gives `["seed=0", "seed=1"]`."""
        if not override.is_sweep_override():  # one value in an experiment's list of sweeps
            return [override.input_line or ""]
        sweep, key = override.value(), override.key_or_group
        if isinstance(sweep, Glob) and key in GROUPS:
            names = sweep.filter(self.options[key])
            if not names:
                raise ConfigError(f"{override.input_line}: matches none of {', '.join(self.options[key])}.")
            return [f"{key}={name}" for name in names]
        if not isinstance(sweep, Sweep) or not override.is_discrete_sweep():
            raise ConfigError(
                f"{override.input_line}: a sweep needs a finite list of values, such as a,b,c. "
                f"`cnnbench tune` searches an interval."
            )
        return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]

    def _compose(self, words: list[str]) -> DictConfig:
        words = [relocated for word in words for relocated in self._relocated(word)]
        try:
            return compose("config", [*self._search, *words], return_hydra_config=True)
        except YAMLError as error:
            raise ConfigError(yaml_line(error)) from None
        except (
            HydraException,
            OmegaConfBaseException,
            OverflowError,
            RecursionError,
            ValueError,
        ) as error:  # Hydra's own, of a bad file
            for kind in (GrammarParseError, UnicodeDecodeError):
                if isinstance(error.__cause__ or error, kind):
                    self._find_unreadable(kind)
            raise ConfigError(one_line(error)) from None

    def _with_values(self, composed: DictConfig, words: list[str]) -> DictConfig:
        """A copy of a config with other values, as Hydra would set them. To compose it anew takes far longer.

        Raises:
            ConfigError: a value is not of its key's type.
        """
        changed = copy.deepcopy(composed)
        for override in map(self._parser.parse_override, words):
            try:
                OmegaConf.update(changed, override.key_or_group, override.value())
            except OmegaConfBaseException as error:
                raise ConfigError(one_line(error)) from None
        return changed

    def _relocated(self, word: str) -> list[str]:
        """Gives each file of `callbacks=[a,b]` a place of its own below `callbacks`; their `_target_`s would clash."""
        override = self._parser.parse_override(word)
        if override.key_or_group != "callbacks" or override.is_sweep_override():
            return [word]
        return ["callbacks=none", *(f"+callbacks@callbacks.{name}={name}" for name in self._options_of(override))]

    def _find_unreadable(self, kind: type[Exception]) -> None:
        """Raises a `ConfigError` that names the user's file with a mistake of this kind. Hydra doesn't name it."""
        for path in (file for root in self._own for file in sorted(root.rglob("*.yaml"))):
            with contextlib.suppress(GrammarParseError, UnicodeDecodeError, YAMLError):  # another file's
                try:
                    OmegaConf.load(path)
                except kind as error:
                    raise ConfigError(f"{path}: can't be read ({str(error).splitlines()[0]}).") from None

    def _member(self, name: Any) -> Any:
        """The config of a member of an ensemble, given the name of an option of the group `model`."""
        if not isinstance(name, str):
            return name
        for folder in (CONF, *self._own):
            if (path := folder / "model" / f"{name}.yaml").exists() and name != "ensemble":
                return load_yaml(path)
        allowed = [option for option in self.options["model"] if option != "ensemble"]
        raise ConfigError(f"model.members: there is no model '{name}'.{nearest(name, allowed)}")

    def _job(self, composed: DictConfig, fixed: list[str], combination: tuple[str, ...]) -> Job:
        choices = composed.hydra.runtime.choices
        typed = self._parse([*fixed, *combination])
        try:
            with open_dict(_without_hydra(composed)):
                self._settle(composed, any(o.key_or_group == "optimizer.lr" for o in typed))
            config = OmegaConf.to_object(composed)
        except OmegaConfBaseException as error:
            raise ConfigError(one_line(error, composed)) from None
        assert isinstance(config, Config)
        config.callbacks = _by_name(config.callbacks, str(choices.get("callbacks")))
        for key, value in _numbers(asdict(config)):
            if not abs(value) < 10**18 and not isinstance(value, float):  # torch and NumPy count in 64 bits
                raise ConfigError(f"{key}={value}: must be a number of at most 18 digits.")
            if not math.isfinite(value):  # no record could hold it
                raise ConfigError(f"{key}={value}: must be a finite number.")
        taken = {group: str(choices[group]) for group in GROUPS if choices.get(group) is not None}
        for override in typed:  # Hydra doesn't tell when a group has several options
            several = isinstance(override.value(), list) or override.key_or_group == "callbacks"
            if override.key_or_group in _SUMS and several:
                taken[override.key_or_group] = "+".join(map(str, self._options_of(override)))
            group, _, key = override.key_or_group.partition(".")
            other = override.key_or_group == "optimizer.name" and taken[group] == "library"
            if other or (key == "_target_" and group in taken):  # another class than the option's: its name stands
                name = str(override.value()).rpartition(".")[2]  # for the option
                taken[group] = taken[group] if name.lower() == taken[group] else name
        swept = tuple(word.lstrip("+") for word in combination)
        return Job(config, taken, swept, (*(word.lstrip("+") for word in fixed), *swept), self.config_dir)

    def _settle(self, composed: DictConfig, lr_in_group: bool) -> None:
        """Sets what follows from other values: the learning rate, an ensemble's members, a small run's size.

        Interpolations are resolved afterwards, so `${lr}` in a file is the learning rate that the run takes: that of
        `lr=`, or else the optimizer's own. It then stands in both places.
        """
        optimizer, model = composed.optimizer, composed.model
        own = OmegaConf.select(composed, "optimizer.lr")
        if own is not None:
            try:
                own = float(own)
            except (OverflowError, TypeError, ValueError):
                raise ConfigError(f"optimizer.lr={own}: must be a number above 0.") from None
        if composed.lr is None:
            composed.lr = own
        elif lr_in_group and own != composed.lr:
            raise ConfigError(f"lr={composed.lr:g} and optimizer.lr={own}: give one learning rate, as lr=.")
        if composed.lr is None:
            optimizer.pop("lr", None)  # the class has a default, or says that it needs one
        else:
            optimizer.lr = composed.lr
        if OmegaConf.is_list(model.get("members")):
            model.members = [self._member(name) for name in model.members]
        if composed.size == "small":
            data, small = composed.data, composed.small
            data.limit = small.limit if data.limit is None else min(data.limit, small.limit)
            composed.epochs = min(composed.epochs, small.epochs)


def _count(override: Override) -> int:
    """The number of values of a sweep, which are not listed for it."""
    sweep = override.value()
    if isinstance(sweep, RangeSweep) and sweep.step:
        assert sweep.start is not None, "Hydra's parser sets it"
        assert sweep.stop is not None, "Hydra's parser sets it"
        return max(0, math.ceil((sweep.stop - sweep.start) / sweep.step))
    return len(sweep.list) if isinstance(sweep, ChoiceSweep) else 1


def _by_name(callbacks: dict[str, Any], option: str) -> dict[str, Any]:
    """The callbacks by name. A file holds one `_target_`, or several under names of their own."""
    if "_target_" in callbacks:  # chosen in an experiment's defaults
        return {option: callbacks}
    found: dict[str, Any] = {}
    for name, spec in callbacks.items():
        inner = isinstance(spec, dict) and "_target_" not in spec
        found |= spec if inner else {name: spec}
    return found


def _check_hydra(word: str, override: Override) -> None:
    """Checks a word that sets one of Hydra's own keys.

    Raises:
        ConfigError: nothing reads this key, or it takes one value.
    """
    key = override.key_or_group
    if not _HYDRA_READ.fullmatch(key):
        instead = next((says for head, says in _HYDRA_INSTEAD.items() if re.match(rf"{head}(\.|$)", key)), "")
        read = "hydra/launcher, hydra.launcher.*, hydra.mode, hydra.sweeper.params.*"
        raise ConfigError(f"{word}: nothing reads this. {instead} Of Hydra's own keys these are read: {read}.")
    several = override.is_sweep_override() or (isinstance(override.value(), list) and key == "hydra/launcher")
    if several and not key.startswith("hydra.sweeper"):
        raise ConfigError(f"{word}: takes one value.")
    if key == "hydra.mode" and str(override.value()) not in RunMode.__members__:
        raise ConfigError(f"{word}: must be {' or '.join(RunMode.__members__)}.")


def _numbers(config: Any, key: str = "") -> Iterator[tuple[str, int | float]]:
    """All numbers of a config with their full keys."""
    if isinstance(config, dict | list):
        for inner, value in config.items() if isinstance(config, dict) else enumerate(config):
            yield from _numbers(value, f"{key}.{inner}" if key else str(inner))
    elif isinstance(config, int | float):
        yield key, config


def _is_open(key: str) -> bool:
    return key.startswith(tuple(f"{group}." for group in _OPEN))


def _words(overrides: Iterable[Override]) -> list[str]:
    return [override.input_line or "" for override in overrides]


def _without_hydra(composed: DictConfig) -> DictConfig:
    with open_dict(composed):
        del composed["hydra"]
    return composed
