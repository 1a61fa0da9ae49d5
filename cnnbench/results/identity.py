"""The identity of a run: what in its config decides its numbers."""

import hashlib
import json
from collections.abc import Collection
from dataclasses import asdict
from functools import cache
from typing import Any

from cnnbench.config.schema import ROLES, Config, Decides, Role, Search
from cnnbench.config.targets import identity_of

ARITHMETIC = 2
"""Raised when the same config would give other numbers, a default's new value included: part of every identity."""


def experiment(config: dict[str, Any], fingerprint: str, without: Collection[Decides] = ()) -> dict[str, Any]:
    """Everything in a config that decides the numbers, and nothing else: not where it runs or where it is written.

    Args:
        config: as a plain dict.
        fingerprint: of the images.
        without: what is left out besides, such as the seed by `Decides.REPETITION`.
    """
    left_out = (Decides.NOTHING, *without)
    kept: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict) and value:
            inner = {key: item for key, item in value.items() if _decides(f"{name}.{key}") not in left_out}
            kept |= {name: inner} if inner else {}
        elif _decides(name) not in left_out:
            kept[name] = value
    # Some values stand in another place than they are typed in:
    del kept["lr"]  # it is optimizer.lr too
    kept["data"]["fingerprint"] = fingerprint  # for where the images come from
    kept["model"].pop("init_from", None)  # model.init_digest tells the weights themselves
    if kept.get("search", {}).get("method", "none") == "none":  # whatever else is said of a search, there is none
        kept["search"] = _NO_SEARCH
    kept |= kept.pop("hardware")
    kept["arithmetic"] = ARITHMETIC
    return kept


_NO_SEARCH = asdict(Search())


@cache
def _decides(name: str) -> Decides:
    """What a key decides; arguments of a class decide what their group does."""
    return (ROLES.get(name) or ROLES.get(name.partition(".")[0]) or Role()).decides


_DEFAULTS = experiment(asdict(Config()), "")


def run_id(config: Config, optimizer: str, fingerprint: str) -> str:
    """The run's folder: readable, and ending in a hash of the experiment, such as `adam-lr0.001-seed0-1a2b3c4d5e`."""
    digest = hashlib.sha256(canonical(experiment(asdict(config), fingerprint)).encode()).hexdigest()[:10]
    lr = "" if config.lr is None else f"-lr{config.lr:g}"
    return f"{optimizer}{lr}-seed{config.seed}-{digest}"


def canonical(experiment_: dict[str, Any]) -> str:
    """An experiment as text, the same for the same numbers.

    Keys at their default are left out, so that results outlive a version that has one key more.
    """
    return json.dumps(_plain(_without(experiment_, _DEFAULTS)), sort_keys=True)


def _without(config: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """What differs from `defaults`, in all depths; `arithmetic` stays."""
    said: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and isinstance(defaults.get(key), dict):
            if different := _without(value, defaults[key]):
                said[key] = different
        elif key not in defaults or key == "arithmetic" or _plain(value) != _plain(defaults[key]):
            said[key] = value
    return said


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values by their full names, such as `optimizer.lr`."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        inner = isinstance(value, dict) and value
        found |= flat(value, f"{prefix}{key}.") if inner else {prefix + key: value}
    return found


def _plain(value: Any) -> Any:
    """The same value with all numbers as floats: 1 and 1.0 are one experiment."""
    if isinstance(value, dict):
        named = isinstance(value.get("_target_"), str)  # it isn't in a record that somebody edited
        return {str(k): identity_of(v) if k == "_target_" and named else _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
