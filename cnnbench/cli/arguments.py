"""Arguments of the commands: options such as `--cfg`, and settings typed as KEY=VALUE."""

import argparse
import math
from typing import Any, NoReturn

from cnnbench.errors import ConfigError

_INSTEAD = {
    "--info": "type --cfg job to see the config, --help to see all groups and options",
    "-i": "type --cfg job to see the config, --help to see all groups and options",
    "--hydra-help": "type --help",
    "--config-name": "type experiment=NAME, for DIR/experiment/NAME.yaml in --config-dir DIR",
    "-cn": "type experiment=NAME, for DIR/experiment/NAME.yaml in --config-dir DIR",
    "--config-path": "type --config-dir DIR",
    "-cp": "type --config-dir DIR",
    "--shell-completion": "type --completion bash, zsh or fish",
    "-sc": "type --completion bash, zsh or fish",
}
"""What to type instead of options that Hydra has and cnnbench has not."""


class Parser(argparse.ArgumentParser):
    """A parser that raises a `ConfigError` of one line instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        """Raises `message` as a `ConfigError`."""
        option = message.removeprefix("unrecognized arguments: ").partition(" ")[0].partition("=")[0]
        if option in _INSTEAD:
            raise ConfigError(f"{option}: there is no such option; {_INSTEAD[option]}.")
        raise ConfigError(f"{message} (cnnbench --help shows all options)")


def command_parser(command: str, description: str) -> Parser:
    """Makes the parser of a command, with `--help` and `--cfg job`."""
    parser = Parser(prog=f"cnnbench {command}", allow_abbrev=False, description=description)
    parser.add_argument("--cfg", choices=["job"], help="print the config and stop")
    return parser


def settings_of(words: list[str], allowed: list[str]) -> tuple[dict[str, str], list[str]]:
    """Splits words into a command's own settings, given as KEY=VALUE, and the rest.

    Args:
        words: all words after the command.
        allowed: the keys of its settings.
    """
    pairs = {word: word.partition("=") for word in words}
    own = [word for word in words if pairs[word][0] in allowed and pairs[word][1]]
    return {pairs[word][0]: pairs[word][2] for word in own}, [word for word in words if word not in own]


def number(settings: dict[str, str], key: str, kind: type[int] | type[float], low: float, high: float) -> Any:
    """A setting as a number from `low` to `high`; None if it isn't given.

    Raises:
        ConfigError: it is no such number.
    """
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
