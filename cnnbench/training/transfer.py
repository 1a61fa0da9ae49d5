"""Transfer learning: initial weights from an earlier run, and frozen parameters (document 4, section 5).

`model.init_from` names a run or a checkpoint. Parameters of the same name and shape take its weights; the last
layer stays new if the number of classes differs. `model.freeze` lists beginnings of names of parameters that are not
trained.
"""

import hashlib
from pathlib import Path

from torch import nn

from cnnbench.config.schema import Config
from cnnbench.errors import CheckpointError, ConfigError, nearest
from cnnbench.results import records
from cnnbench.training import checkpoints

KEYS = ("init_from", "init_digest", "freeze")
"""Keys of the `model` group that are handled here, and are no arguments of the network's class."""


def identify(config: Config) -> None:
    """Sets `model.init_digest` to a hash of the weights, which defines the experiment; a path would not.

    `model.init_from` becomes the checkpoint or the folder that is meant: the only run of a folder need not stay so.

    Raises:
        ConfigError: there is no such checkpoint.
    """
    if config.model.get("init_from") is not None:
        path = _path(config)
        config.model["init_from"] = str(path.parent if path.name == "best.ckpt" else path)
        config.model["init_digest"] = hashlib.sha256(path.read_bytes()).hexdigest()[:8]


def load_and_freeze(config: Config, network: nn.Module) -> None:
    """Loads the weights of `model.init_from`, and freezes the parameters of `model.freeze`.

    Raises:
        ConfigError: the checkpoint is damaged or from another network, or no parameter has a name of `model.freeze`.
    """
    if config.model.get("init_from") is not None:
        path = _path(config)
        try:
            saved = checkpoints.read(path).get("model")
        except CheckpointError as error:
            raise ConfigError(f"model.init_from: {error}.") from None
        if not isinstance(saved, dict):
            raise ConfigError(f"model.init_from={path}: is no checkpoint of a run; best.ckpt of a run's folder is one.")
        earlier = {key.removeprefix("network."): value for key, value in saved.items() if key.startswith("network.")}
        own = network.state_dict()
        fitting = {key: value for key, value in earlier.items() if key in own and own[key].shape == value.shape}
        if not fitting:
            raise ConfigError(f"model.init_from={path}: none of its layers fits this network.")
        if not next(network.parameters()).is_meta:  # on torch's `meta` device the config is only checked
            network.load_state_dict(fitting, strict=False)
    names = [name for name, _ in network.named_parameters()]
    beginnings = config.model.get("freeze") or []
    if not isinstance(beginnings, list) or not all(isinstance(each, str) for each in beginnings):
        raise ConfigError(f"model.freeze={beginnings}: must be a list of beginnings of parameters' names.")
    for beginning in beginnings:
        if not any(name.startswith(beginning) for name in names):
            layers = list(dict.fromkeys(name.split(".")[0] for name in names))
            raise ConfigError(f"model.freeze={beginning}: no parameter's name begins so.{nearest(beginning, layers)}")
        for name, parameter in network.named_parameters():
            if name.startswith(beginning):
                parameter.requires_grad_(False)


def _path(config: Config) -> Path:
    path = Path(str(config.model["init_from"])).expanduser()
    if path.is_file():
        return path
    try:
        checkpoint = path / "best.ckpt" if (path / "best.ckpt").exists() else records.run_folder(path) / "best.ckpt"
    except ConfigError as error:
        raise ConfigError(f"model.init_from={path}: neither a checkpoint nor a run. {error}") from None
    if not checkpoint.exists():
        raise ConfigError(f"model.init_from={path}: the run has no best.ckpt.")
    return checkpoint
