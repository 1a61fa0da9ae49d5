"""How does a `_target_` of the config become an object? Its arguments are checked against its signature first."""

import inspect
from typing import Any, get_type_hints

from hydra.utils import get_object, instantiate

from cnnbench.schema import ConfigError, nearest

Spec = dict[str, Any]
"""A group's config: `_target_`, and the arguments of what it names. `_target_: null` is nothing at all."""


def check(group: str, spec: Spec, given: tuple[str, ...], base: type, what: str) -> None:
    """Is there such a class, is it one of this group's, and does it take these arguments?

    A config can name any function there is on the machine; only what the group is for gets called.

    Args:
        group: the config group, for the message.
        spec: its config.
        given: names of the arguments that cnnbench passes itself, in their order.
        base: the class that the group's classes are of.
        what: the same in words.

    Raises:
        ConfigError: one line that names key and value.
    """
    name = spec.get("_target_", "")
    if name is None:
        return
    if not isinstance(name, str) or "." not in name:
        raise ConfigError(f"{group}._target_={name}: must be the full name of a class, such as torch.optim.Adam.")
    for key, value in spec.items():
        if key.startswith("_") and key != "_target_":
            raise ConfigError(f"{group}.{key}={value}: Hydra's own keys have no place here, except _target_.")
    try:
        target = get_object(name)
    except Exception:
        raise ConfigError(f"{group}._target_={name}: there is no such class.") from None
    made = target if inspect.isclass(target) else _returned(target)
    if not inspect.isclass(made) or not issubclass(made, base):
        raise ConfigError(f"{group}._target_={name}: must be {what}, or a function declared to return one.")
    parameters = inspect.signature(target).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    allowed = [key for key in parameters if key not in given]
    for key, value in spec.items():
        if not key.startswith("_") and key not in allowed:
            raise ConfigError(f"{group}.{key}={value}: {name} takes no '{key}'.{nearest(key, allowed)}")
    for key in allowed:
        if parameters[key].default is inspect.Parameter.empty and key not in spec:
            raise ConfigError(f"{group}.{key} is missing: {name} needs it.")


def _returned(function: Any) -> Any:
    try:
        return get_type_hints(function).get("return")
    except Exception:  # no function, or annotations that don't resolve
        return None


def build(group: str, spec: Spec, *given: Any) -> Any:
    """The object: `_target_(*given, **arguments)`; None where `_target_` is null.

    Raises:
        ConfigError: the class refuses a value; the message is its own.
    """
    if spec.get("_target_") is None:
        return None
    try:
        return instantiate(spec, *given, _convert_="all", _recursive_=False)
    except Exception as error:
        cause = error.__cause__ or error
        if isinstance(cause, ConfigError):
            raise cause from None
        arguments = ", ".join(f"{key}={value}" for key, value in spec.items() if not key.startswith("_"))
        raise ConfigError(
            f"{group}: {spec['_target_']}({arguments}): {(str(cause) or type(cause).__name__).splitlines()[0]}"
        ) from error
