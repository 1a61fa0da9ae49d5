"""Arguments of the commands: options, and settings typed as KEY=VALUE."""

import argparse
import math
from typing import TYPE_CHECKING, Any, NoReturn

from cnnbench.errors import ConfigError

if TYPE_CHECKING:
    pass


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are `ConfigError`s, one line each."""

    def error(self, message: str) -> NoReturn:
        """Raises the complaint instead of ending the process."""
        raise ConfigError(f"{message} (cnnbench --help shows what there is)")


def command_parser(command: str, description: str) -> Parser:
    """The parser of a command, with `--help` and `--cfg job`."""
    parser = Parser(prog=f"cnnbench {command}", allow_abbrev=False, description=description)
    parser.add_argument("--cfg", choices=["job"], help="print the config and stop")
    return parser


def settings_of(words: list[str], allowed: list[str]) -> tuple[dict[str, str], list[str]]:
    """Splits words into a command's own settings, KEY=VALUE, and the rest."""
    pairs = {word: word.partition("=") for word in words}
    own = [word for word in words if pairs[word][0] in allowed and pairs[word][1]]
    return {pairs[word][0]: pairs[word][2] for word in own}, [word for word in words if word not in own]


def number(settings: dict[str, str], key: str, kind: type[int] | type[float], low: float, high: float) -> Any:
    """A setting as a number; None where it isn't given."""
    if key not in settings:
        return None
    try:
        value = kind(settings[key])
    except ValueError:
        value = None
    if value is None or not low <= value <= high:
        bound = f"from {low:g} to {high:g}" if high < math.inf else f"at least {low:g}"
        raise ConfigError(f"{key}={settings[key]}: must be {'a whole number' if kind is int else 'a number'} {bound}.")
    return value
