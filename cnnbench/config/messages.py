"""Error messages of Hydra, OmegaConf and YAML, as one line for the person who typed the config."""

import re
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import CollectionNode, MarkedYAMLError, Node, ScalarNode, YAMLError

from cnnbench.config.keys import keys_beside
from cnnbench.errors import ConfigError, nearest
from cnnbench.runtime.files import check_regular


def load_yaml(path: Path) -> Any:
    """Reads a YAML file.

    Raises:
        ConfigError: the file can't be read or is not valid YAML.
    """
    try:
        return OmegaConf.load(path)
    except YAMLError as error:
        raise ConfigError(yaml_line(error)) from None
    except (OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: can't be read ({str(error).splitlines()[0]}).") from None


MOST_VALUES = 100_000
"""Values of a YAML file, counted as often as aliases (`*name`) repeat them. Ten lines could make a thousand million."""


def check_yaml(path: Path) -> None:
    """Checks that a YAML file holds a mapping of at most `MOST_VALUES`. Other mistakes are found when it is read.

    Raises:
        ConfigError: it doesn't, or is a pipe.
    """
    sizes: dict[int, int] = {}

    def size(node: Node) -> int:
        if id(node) not in sizes:
            pairs = node.value if isinstance(node, CollectionNode) else ()
            inner = (each for pair in pairs for each in (pair if isinstance(pair, tuple) else (pair,)))
            sizes[id(node)] = 1 + sum(map(size, inner))
        return sizes[id(node)]

    try:
        check_regular(path)
        root = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
        values = 0 if root is None else size(root)
    except (YAMLError, UnicodeDecodeError):
        return
    except OSError as error:
        raise ConfigError(f"{path}: can't be read ({error.strerror}).") from None
    except RecursionError:
        raise ConfigError(f"{path}: too many lists and mappings inside each other.") from None
    if values > MOST_VALUES:
        raise ConfigError(f"{path}: its aliases (*name) make more than {MOST_VALUES:,} values of it.")
    if isinstance(root, ScalarNode) and root.value:
        raise ConfigError(f"{path}: must hold keys with values, not a single value.")


def yaml_line(error: YAMLError) -> str:
    """The message for a mistake in a YAML file: file, line, problem."""
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem_mark.name}, line {error.problem_mark.line + 1}: not valid YAML ({error.problem})."
    return f"{getattr(error, 'name', '')}: not valid YAML ({str(error).splitlines()[0]})."


_KINDS = {"Float": "a number", "Integer": "a whole number", "Boolean": "true or false", "String": "text"}


def one_line(error: Exception, composed: DictConfig | None = None) -> str:
    """The message for an error of Hydra or OmegaConf: file, key, value, what is allowed.

    Args:
        error: the error.
        composed: the config in which an interpolation looked for its key.
    """
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    message, file = str(cause), ""
    if match := re.match(r"In '(.*)': \w+ raised while composing config:\n(?s:(.*))", message):
        file, message = f"{match[1]}.yaml: ", match[2]
    key = match[1] if (match := re.search(r"\n +full_key: (\S+)", message)) else ""
    if composed is not None and (match := re.match("Interpolation key '(.*)' not found", message)):
        parent, dot, _ = match[1].rpartition(".")
        node = OmegaConf.select(composed, parent) if dot else composed
        allowed = [f"{parent}{dot}{name!s}" for name in node if name != "hydra"] if OmegaConf.is_dict(node) else []
        return f"{key}: there is no key '{match[1]}' to take a value from.{nearest(match[1], allowed)}"
    return file + _explained(key, message)


def _explained(key: str, message: str) -> str:
    if match := re.match(r"Value '(.*)' of type '.*' could not be converted to (\w+)", message):
        return f"{key}={match[1]}: must be {_KINDS.get(match[2], match[2])}."
    if match := re.match(r"Value '(.*)' is not a valid bool", message):
        return f"{key}={match[1]}: must be true or false."
    if key and re.match(r"Key '.*' (is )?not in ", message):
        return f"there is no key '{key}'." + ("" if key.startswith("hydra") else nearest(key, keys_beside(key)))
    if "ict[str, List[str]]" in message:
        return f"{key}: must be a list of overrides for each name, such as {{faster: [lr=0.1]}}."
    if "Cannot merge DictConfig with ListConfig" in message:
        return "must hold keys with values, not a list."
    if "is not a ListConfig" in message:
        return f"{key}: must be a list, such as [a,b]."
    if "is not Optional" in message or "is not optional" in message:
        return f"{key}=null: can't be empty."
    return (f"{key}: " if key else "") + message.partition("\n")[0].strip()
