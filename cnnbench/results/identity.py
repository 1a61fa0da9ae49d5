"""The identity of a run: the part of its config that decides its numbers."""

import hashlib
import json
from collections.abc import Collection
from dataclasses import asdict
from functools import cache
from typing import Any

from cnnbench.config.schema import ROLES, Config, Decides, Role, Search
from cnnbench.config.targets import identity_of

ARITHMETIC = 2
"""Raised when the same config gives other numbers, also because a default has changed. Part of every identity."""


def experiment(config: dict[str, Any], fingerprint: str, without: Collection[Decides] = ()) -> dict[str, Any]:
    """Everything in a config that decides the numbers; not where the run is computed or written.

    Args:
        config: the config as a plain dict.
        fingerprint: the hash of the images.
        without: what else is left out, such as the seed by `Decides.REPETITION`.
    """
    left_out = (Decides.NOTHING, *without)
    kept: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict) and value:
            inner = {key: item for key, item in value.items() if _decides(f"{name}.{key}") not in left_out}
            kept |= {name: inner} if inner else {}
        elif _decides(name) not in left_out:
            kept[name] = value
    # Some values are compared in another place than they are typed in:
    del kept["lr"]  # optimizer.lr is the same
    kept["data"]["fingerprint"] = fingerprint  # in place of the folder that they come from
    if kept["data"].get("val") != "test":  # validation images that the folder sets aside are in the fingerprint
        kept["data"]["val"] = "split"
    for path in ("init_from", "weights"):  # model.init_digest is a hash of the weights themselves
        kept["model"].pop(path, None)
    if kept.get("search", {}).get("method", "none") == "none":  # without a search its other keys decide nothing
        kept["search"] = _NO_SEARCH
    kept |= kept.pop("hardware")
    if isinstance(kept["loss"], dict):  # earlier it was a word
        loss = kept.pop("loss")
        kept |= {"loss": loss.pop("name")} | {f"loss_{key}": value for key, value in loss.items()}
    kept["arithmetic"] = ARITHMETIC
    return kept


_NO_SEARCH = asdict(Search())


@cache
def _decides(name: str) -> Decides:
    """What a key decides. Arguments of a class decide what their group decides."""
    return (ROLES.get(name) or ROLES.get(name.partition(".")[0]) or Role()).decides


_DEFAULTS = experiment(asdict(Config()), "")


def run_id(config: Config, optimizer: str, fingerprint: str) -> str:
    """The name of the run's folder, which ends in a hash of the experiment: `adam-lr0.001-seed0-1a2b3c4d5e`."""
    digest = hashlib.sha256(canonical(experiment(asdict(config), fingerprint)).encode()).hexdigest()[:10]
    lr = "" if config.lr is None else f"-lr{config.lr:g}"
    return f"{optimizer}{lr}-seed{config.seed}-{digest}"


def canonical(experiment_: dict[str, Any]) -> str:
    """An experiment as text: equal for equal experiments.

    Keys at their default are left out, so that a later version with one more key finds the same run.
    """
    return json.dumps(_plain(_without(experiment_, _DEFAULTS)), sort_keys=True)


def _without(config: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The values that differ from `defaults`, at all depths, and `arithmetic`."""
    kept: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and isinstance(defaults.get(key), dict):
            if different := _without(value, defaults[key]):
                kept[key] = different
        elif key not in defaults or key == "arithmetic" or _plain(value) != _plain(defaults[key]):
            kept[key] = value
    return kept


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a config by their full names, such as `optimizer.lr`."""
    values: dict[str, Any] = {}
    for key, value in config.items():
        inner = isinstance(value, dict) and value
        values |= flat(value, f"{prefix}{key}.") if inner else {prefix + key: value}
    return values


def _plain(value: Any) -> Any:
    """The same value with all numbers as floats, so that 1 and 1.0 are one experiment."""
    if isinstance(value, dict):
        named = isinstance(value.get("_target_"), str)  # not so in an edited record
        return {str(k): identity_of(v) if k == "_target_" and named else _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
