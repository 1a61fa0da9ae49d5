"""What does a network know before it is trained? Weights of an earlier run (document 4, section 5), frozen or not.

`model.init_from` names a run's folder or its checkpoint. Weights go where name and shape are the same: another number
of classes leaves the last layer new. `model.freeze` lists beginnings of names of parameters that stay as they are.
"""

import hashlib
from pathlib import Path
from typing import Any

from torch import nn

from cnnbench.config.schema import Config
from cnnbench.errors import CheckpointError, ConfigError, nearest
from cnnbench.training import checkpoints

KEYS = ("init_from", "init_digest", "freeze")
"""Keys of the `model` group that are ours, not the network's."""


def own_keys(model: dict[str, Any]) -> dict[str, Any]:
    """The network's own part of the `model` group."""
    return {key: value for key, value in model.items() if key not in KEYS}


def identify(config: Config) -> None:
    """Notes which weights `model.init_from` means, by their content: the name of a file says nothing about a run.

    Raises:
        ConfigError: there is no such checkpoint.
    """
    if config.model.get("init_from") is not None:
        path = _path(config)
        config.model["init_digest"] = hashlib.sha256(path.read_bytes()).hexdigest()[:8]


def initialise(config: Config, network: nn.Module) -> None:
    """Loads and freezes what the config says.

    Raises:
        ConfigError: the checkpoint is damaged or from another network, or nothing has the name of what is to be frozen.
    """
    if config.model.get("init_from") is not None:
        path = _path(config)
        try:
            saved = checkpoints.read(path)["model"]
        except CheckpointError as error:
            raise ConfigError(f"model.init_from: {error}.") from None
        known = {key.removeprefix("network."): value for key, value in saved.items() if key.startswith("network.")}
        own = network.state_dict()
        fitting = {key: value for key, value in known.items() if key in own and own[key].shape == value.shape}
        if not fitting:
            raise ConfigError(f"model.init_from={path}: no layer of it fits this network.")
        if not next(network.parameters()).is_meta:  # a network without memory is only checked
            network.load_state_dict(fitting, strict=False)
    names = [name for name, _ in network.named_parameters()]
    beginnings = config.model.get("freeze") or []
    if not isinstance(beginnings, list) or not all(isinstance(each, str) for each in beginnings):
        raise ConfigError(f"model.freeze={beginnings}: must be a list of beginnings of parameters' names.")
    for beginning in beginnings:
        if not any(name.startswith(beginning) for name in names):
            layers = list(dict.fromkeys(name.split(".")[0] for name in names))
            raise ConfigError(f"model.freeze={beginning}: no parameter has this name.{nearest(beginning, layers)}")
        for name, parameter in network.named_parameters():
            if name.startswith(beginning):
                parameter.requires_grad_(False)


def _path(config: Config) -> Path:
    path = Path(str(config.model["init_from"])).expanduser()
    path = path / "best.ckpt" if path.is_dir() else path
    if not path.is_file():
        raise ConfigError(f"model.init_from={config.model['init_from']}: no run with a checkpoint, and no checkpoint.")
    return path
