"""The classes and functions that a YAML file names as `_target_`: found, checked and called."""

import contextlib
import inspect
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_type_hints

from hydra.utils import get_object, instantiate

from cnnbench.errors import ConfigError, nearest

logging.getLogger("hydra").addHandler(logging.NullHandler())  # it logs what `locate` raises, in lines of its own

Spec = dict[str, Any]
"""A group's config: `_target_` and its arguments. `_target_: null` builds nothing."""

PUBLIC = (
    "cnnbench.data.archives.cifar10",
    "cnnbench.data.archives.cifar100",
    "cnnbench.data.archives.fashion_mnist",
    "cnnbench.data.archives.mnist",
    "cnnbench.data.archives.svhn",
    "cnnbench.data.folder.folder",
    "cnnbench.data.images.digits",
    "cnnbench.models.AllCNNC",
    "cnnbench.models.DeepOBS3c3d",
    "cnnbench.models.Ensemble",
    "cnnbench.models.GoogLeNet",
    "cnnbench.models.PlainCNN",
    "cnnbench.models.ResNet18",
    "cnnbench.models.ResNet20",
    "cnnbench.models.SpeedCNN",
    "cnnbench.models.VGG16BN",
    "cnnbench.models.timm_model",
    "cnnbench.models.torchvision_model",
    "cnnbench.training.library.library_optimizer",
    "cnnbench.training.loggers.TensorBoard",
    "cnnbench.training.loggers.Wandb",
    "cnnbench.training.optimizers.Muon",
    "cnnbench.training.schedules.exponential",
    "cnnbench.training.schedules.redwood",
    "cnnbench.training.schedules.triangular",
)
"""The classes and functions of cnnbench that a YAML file may name. Besides `cnnbench/__init__.py` nothing else is
public."""

MOVED = {
    "cnnbench.archives.cifar10": "cnnbench.data.archives.cifar10",
    "cnnbench.archives.cifar100": "cnnbench.data.archives.cifar100",
    "cnnbench.archives.fashion_mnist": "cnnbench.data.archives.fashion_mnist",
    "cnnbench.archives.mnist": "cnnbench.data.archives.mnist",
    "cnnbench.archives.svhn": "cnnbench.data.archives.svhn",
    "cnnbench.images.digits": "cnnbench.data.images.digits",
    "cnnbench.images.folder": "cnnbench.data.folder.folder",
    "cnnbench.loggers.TensorBoard": "cnnbench.training.loggers.TensorBoard",
    "cnnbench.loggers.Wandb": "cnnbench.training.loggers.Wandb",
    "cnnbench.optim.Muon": "cnnbench.training.optimizers.Muon",
    "cnnbench.schedule.exponential": "cnnbench.training.schedules.exponential",
    "cnnbench.schedule.redwood": "cnnbench.training.schedules.redwood",
}
"""Former names. Users' files may still use them, and a run's identity is computed from them, so that moving a class
changes no run id."""

_FORMER = {name: former for former, name in MOVED.items()}
_HYDRAS = ("_target_", "_partial_", "_convert_", "_recursive_")


def look_in(folder: str | Path | None) -> None:
    """Lets a `_target_` name what a Python file in the user's folder of configs holds, as `MODULE.NAME`.

    It is searched last, so that no file in it replaces an installed module.
    """
    if folder is not None and (path := str(Path(folder).expanduser().resolve())) not in sys.path:
        sys.path.append(path)


def locate(name: str) -> Any:
    """The class or function of this full name, such as `torch.optim.Adam`.

    Raises:
        Exception: whatever importing it raises.
    """
    return get_object(MOVED.get(name, name))


def identity_of(target: Any) -> Any:
    """The name of a `_target_` in a run's identity: the first one that it had."""
    return _FORMER.get(target, target)


def python_path(config: Any) -> str | None:
    """The PYTHONPATH without which a `_target_` of this config would not be found; None if all are installed.

    In the current folder `python -m cnnbench` finds them without it, and `cnnbench` does not.
    """
    homes = {_home(package) for package in {name.partition(".")[0] for name in _targets(config)} - {"cnnbench"}}
    given = os.environ.get("PYTHONPATH", "")
    if any(Path(folder).resolve() in homes for folder in given.split(os.pathsep) if folder):
        return given
    return "." if Path.cwd().resolve() in homes else None


def _home(package: str) -> Path | None:
    """The folder in which Python finds a module or package; None for what is no file, such as built-in modules."""
    with contextlib.suppress(ImportError, ValueError):  # the second for a program's own __main__
        if (spec := find_spec(package)) is not None:
            file = spec.origin if spec.has_location else None
            place = next(iter(spec.submodule_search_locations or ()), file)  # a package may have no __init__.py
            return None if place is None else Path(place).resolve().parent
    return None


def _targets(config: Any) -> Iterator[str]:
    """All names that stand as `_target_` in a config, at any depth."""
    if isinstance(config, dict):
        for key, value in config.items():
            if key == "_target_" and isinstance(value, str):
                yield value
            yield from _targets(value)
    elif isinstance(config, list):
        for value in config:
            yield from _targets(value)


def check(group: str, spec: Spec, given: tuple[str, ...], base: type, what: str) -> None:
    """Checks that a `_target_` exists, is of the group's type and takes its arguments.

    A config can name any function on the machine, so a function of another type is never called.

    Args:
        group: the config group, for the message.
        spec: its config.
        given: names of the arguments that cnnbench passes itself, in their order.
        base: the base class of the group's classes.
        what: the same in words, for the message.

    Raises:
        ConfigError: one line with key, value and what is allowed.
    """
    name = spec.get("_target_", "")
    if name is None:
        for key in spec.keys() - {*_HYDRAS}:
            raise ConfigError(f"{group}.{key}={spec[key]}: nothing takes it, since {group}._target_ is null.")
        return
    if not isinstance(name, str) or "." not in name:
        raise ConfigError(f"{group}._target_={name}: must be the full name of a class, such as torch.optim.Adam.")
    for key, value in spec.items():
        if key.startswith("_") and key not in _HYDRAS:
            raise ConfigError(f"{group}.{key}={value}: not accepted here.{nearest(key, _HYDRAS)}")
    try:
        target = locate(name)
    except (Exception, SystemExit):
        raise ConfigError(f"{group}._target_={name}: there is no such class.") from None
    made = target if inspect.isclass(target) else _returned(target)
    if not inspect.isclass(made) or not issubclass(made, base):
        raise ConfigError(f"{group}._target_={name}: must be {what}, or a function declared to return one.")
    parameters = inspect.signature(target).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    check_arguments(group, name, parameters, spec, given)


def check_arguments(
    group: str, name: str, parameters: Mapping[str, inspect.Parameter], spec: Spec, given: tuple[str, ...]
) -> None:
    """Checks that a class or function takes the arguments of a config, and that none is missing.

    Args:
        group: the config group, for the message.
        name: what takes them, for the message.
        parameters: of its signature; `*args` and `**kwargs` allow nothing here.
        spec: the config.
        given: names of the arguments that cnnbench passes itself.

    Raises:
        ConfigError: one line with key, value and what is allowed.
    """
    named = {key: each for key, each in parameters.items() if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)}
    allowed = [key for key in named if key not in given]
    for key, value in spec.items():
        if not key.startswith("_") and key not in allowed:
            raise ConfigError(f"{group}.{key}={value}: {name} takes no '{key}'.{nearest(key, allowed)}")
    for key in allowed:
        if named[key].default is inspect.Parameter.empty and key not in spec:
            raise ConfigError(f"{group}.{key} is missing: {name} needs it.")


def _returned(function: Any) -> Any:
    try:
        return get_type_hints(function).get("return")
    except Exception:  # not a function, or its annotations don't resolve
        return None


def build(group: str, spec: Spec, *given: Any) -> Any:
    """Builds an object: `_target_(*given, **arguments)`; None where `_target_` is null.

    Two of Hydra's keys are accepted and change nothing. `_partial_: true` leaves arguments out, which are `given` here.
    `_convert_` is always `all`: a checkpoint that holds OmegaConf's lists or dicts can't be read again.

    Args:
        group: the config group, for the message.
        spec: its config.
        *given: the first arguments, which cnnbench passes itself.

    Raises:
        ConfigError: the class refuses a value; the message is the class's own.
    """
    if spec.get("_target_") is None:
        return None
    called = {"_recursive_": False} | spec | {"_convert_": "all", "_partial_": False}
    try:
        return instantiate(called | {"_target_": MOVED.get(spec["_target_"], spec["_target_"])}, *given)
    except (Exception, SystemExit) as error:
        cause = error.__cause__ or error
        if isinstance(cause, ConfigError):
            raise cause from None
        arguments = ", ".join(f"{key}={value}" for key, value in spec.items() if not key.startswith("_"))
        raise ConfigError(
            f"{group}: {spec['_target_']}({arguments}): {(str(cause) or type(cause).__name__).splitlines()[0]}"
        ) from error
