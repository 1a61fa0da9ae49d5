"""The names that can be typed: groups and keys, and the folder of the groups' options."""

import re
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

from cnnbench.config.schema import Config
from cnnbench.errors import ConfigError

_PACKAGE = Path(__file__).parent.parent
CONF = next(f for f in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if (f / "config.yaml").exists()).resolve()
"""The folder of the configs: inside an installed package, or beside the package in a clone."""

GROUPS = tuple(sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "space"))
KEYS = tuple(field.name for field in fields(Config) if field.name not in GROUPS)


LIGHTNINGS = {
    "max_epochs": "epochs",
    "accelerator": "hardware.accelerator",
    "devices": "hardware.devices",
    "num_nodes": "hardware.nodes",
    "precision": "hardware.precision",
    "deterministic": "hardware.deterministic",
    "gradient_clip_val": "clip",
    "accumulate_grad_batches": "update.accumulate",
    "default_root_dir": "runs_dir",
    "data.batch_size": "batch_size",
    "datamodule.batch_size": "batch_size",
    "learning_rate": "lr",
    "ckpt_path": "model.init_from",
    "task_name": "name",
}
"""Keys by the names that they have in Lightning's Trainer and in common templates, there with or without `trainer.`."""


def values_of(key: str) -> list[str]:
    """The values of a key of the schema that takes one of a few words, such as `mean` and `sum` for `loss.reduction`.

    The schema's checks alone know them, so that they are asked with a value that no key has.
    """
    head, inner, name = key.partition(".")
    config = Config()
    node = getattr(config, head, None) if inner else config
    name = name or head
    if not is_dataclass(node) or isinstance(node, type):
        return []
    if {each.name: each.type for each in fields(node)}.get(name) not in (str, str | None):
        return []
    try:
        replace(node, **{name: "?"})
    except ConfigError as error:
        _, found, allowed = str(error).partition(": must be ")
        words = re.split(r", | or ", allowed.removesuffix("."))
        return words if found and not any(" " in word for word in words) else []
    return []


def keys_beside(key: str) -> list[str]:
    """The keys that the schema allows in the place of `key`, such as all of `data.*` for `data.limt`."""
    head, inner, _ = key.partition(".")
    group = {field.name: field.type for field in fields(Config)}.get(head)
    if not inner:
        return [*GROUPS, *KEYS]
    return [f"{head}.{field.name}" for field in fields(group)] if is_dataclass(group) else [head]
