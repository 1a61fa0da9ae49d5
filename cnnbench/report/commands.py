"""The commands that run contestants and tunings again. (imports no torch)"""

import json
import re
import shlex
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from typing import Any

from cnnbench.analysis.comparison import Comparison, Tuning
from cnnbench.config.compose import Job, config_source
from cnnbench.config.schema import Config
from cnnbench.errors import ConfigError
from cnnbench.results import identity
from cnnbench.results.records import Record

MOST_COMMANDS = 6
"""To run contestants again; each takes a fifth of a second to be found and checked."""


_ELSEWHERE = ("lr", "seed", "name", "runs_dir", "force", "retry", "workers", "size", "small", "claims")
"""Keys that do not change what is computed, or that are told otherwise."""


def commands_of(comparison: Comparison) -> list[str]:
    """For each contestant the command that runs it again; only those that were checked to give just this config."""
    found = []
    with config_source(None) as composer:

        @cache
        def composed(*words: str) -> Job:
            return composer.jobs(words, multirun=False)[0]

        for contestant in comparison.contestants[:MOST_COMMANDS]:
            words = _words(composed, contestant.runs[0])
            if words is not None:
                seeds = sorted({run["config"]["seed"] for run in contestant.runs})
                sweep = ["-m"] if len(seeds) > 1 else []
                found.append(shlex.join(["cnnbench", *sweep, *words, f"seed={','.join(map(str, seeds))}"]))
    return found


def _words(composed: Callable[..., Job], run: Record) -> list[str] | None:
    """The overrides that give this run's config; None where they can't be found, as with options of one's own."""
    words = [
        f"{group}=[{','.join(option.split('+'))}]" if "+" in option else f"{group}={option}"
        for group, option in run["choices"].items()
        if group in ("data", "model", "optimizer")
        or (group != "experiment" and option != composed().choices.get(group))
    ]
    if (root := run["config"]["data"]["root"]) is not None:  # without which data=folder is not legal
        words.append(f"data.root={_hydra(root)}")
    wanted, defaults = _typed(run["config"]), _typed(asdict(Config()))
    try:
        plain = _typed(asdict(composed(*words).config))
        words += [f"{key}={_hydra(value)}" for key, value in wanted.items() if value != plain.get(key, _MISSING)]
        words += [f"~{key}" for key in plain if key not in wanted and key not in defaults]
        given = asdict(composed(*words).config)
    except ConfigError:
        return None
    return words if _identity(given) == _identity(run["config"]) else None


_MISSING = object()


def _typed(config: dict[str, Any]) -> dict[str, Any]:
    """What of a config is typed: all that matters, as JSON knows it."""
    plain = {key: value for key, value in json.loads(json.dumps(config)).items() if key not in _ELSEWHERE}
    plain["model"].pop("init_digest", None)  # of the file that init_from names
    return identity.flat(plain)


def _identity(config: dict[str, Any]) -> str:
    parts = identity.experiment(config, "")
    return identity.canonical(parts | {"seed": 0, "model": parts["model"] | {"init_digest": None}})


def _hydra(value: Any) -> str:
    """A value in Hydra's grammar."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_hydra(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_hydra, value)) + "]"
    if isinstance(value, str):
        word = re.fullmatch(r"[A-Za-z/][\w./-]*", value) and value.lower() not in (
            "true",
            "false",
            "null",
            "nan",
            "inf",
        )
        return value if word else "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return json.dumps(value)


def tune_command(tuning: Tuning) -> str:
    """The command that tunes again."""
    plan = tuning.plan
    values: dict[str, dict[str, None]] = defaultdict(dict)
    for tuned in plan.contestants:
        for word in tuned.words:
            key, _, value = word.partition("=")
            values[key][value] = None
    swept = [f"{key}={','.join(options)}" for key, options in values.items()]
    order = [f"trials={plan.trials}", f"seeds={plan.seeds}", f"sampler={plan.sampler}", f"seed={plan.seed}"]
    order += [f"space={plan.space}"] if plan.space else []
    return shlex.join(["cnnbench", "tune", *plan.words, *swept, *order])
