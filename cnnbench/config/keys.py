"""The names that can be typed: groups and keys, and the folder of the groups' options."""

from dataclasses import fields, is_dataclass
from pathlib import Path

from cnnbench.config.schema import Config

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


def keys_beside(key: str) -> list[str]:
    """The keys that the schema allows in the place of `key`, such as all of `data.*` for `data.limt`."""
    head, inner, _ = key.partition(".")
    group = {field.name: field.type for field in fields(Config)}.get(head)
    if not inner:
        return [*GROUPS, *KEYS]
    return [f"{head}.{field.name}" for field in fields(group)] if is_dataclass(group) else [head]
