"""Transfer learning: initial weights from a run or a file, and frozen parameters (document 4, section 5).

`model.init_from` names a run's folder or a checkpoint. `model.weights` names a file with a `state_dict`, or is
`DEFAULT` for the weights that torchvision or timm publishes. Parameters of the same name and shape take the weights;
the last layer stays new if the number of classes differs. `model.freeze` lists beginnings of names of parameters that
are not trained.
"""

import hashlib
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from torch import Tensor, nn

from cnnbench.config.schema import Config
from cnnbench.errors import CheckpointError, ConfigError, nearest
from cnnbench.results import records
from cnnbench.results.records import Layer
from cnnbench.training import checkpoints

KEYS = ("init_from", "weights", "init_digest", "freeze")
"""Keys of the `model` group that are handled here, and are no arguments of the network's class."""

_PUBLISHED = {
    "cnnbench.models.torchvision_model": "cnnbench.models.from_torchvision",
    "cnnbench.models.timm_model": "cnnbench.models.from_timm",
}
"""The modules of networks that have published weights."""

PREFIXES = ("", "network.", "module.", "model.")
"""What stands before a network's own names of parameters: nothing; in cnnbench's checkpoints; in those of torch's
DataParallel; in most of Lightning's."""


def identify(config: Config) -> None:
    """Sets `model.init_digest` to a hash of the weights, which defines the experiment; a path would not.

    `model.init_from` becomes the checkpoint or the folder that is meant: the only run of a folder need not stay so.

    Raises:
        ConfigError: there are no such weights.
    """
    if (source := _source(config)) is not None:
        key, path = source
        if key == "init_from":
            config.model[key] = str(path.parent if path.name == "best.ckpt" else path)
        config.model["init_digest"] = hashlib.sha256(path.read_bytes()).hexdigest()[:8]


def load_and_freeze(config: Config, network: nn.Module) -> list[Layer]:
    """Loads the weights of `model.init_from` or `model.weights`, and freezes the parameters of `model.freeze`.

    Returns:
        What was loaded and frozen; nothing if neither was asked for.

    Raises:
        ConfigError: the file is damaged or from another network, or no parameter has a name of `model.freeze`.
    """
    loaded: dict[str, Tensor] = {}
    if (source := _source(config)) is not None:
        key, path = source
        loaded = _fitting(key, path, network)
        if not next(network.parameters()).is_meta:  # on torch's `meta` device the config is only checked
            network.load_state_dict(loaded, strict=False)
    _freeze(config, network)
    if not loaded and not config.model.get("freeze"):
        return []
    return list(_layers(network, {name: name in loaded for name, _ in network.named_parameters()}))


def in_words(layers: list[Layer]) -> str:
    """What was loaded and what is frozen, as one line."""
    groups = {
        "loaded": [each.name for each in layers if each.loaded],
        "new": [each.name for each in layers if not each.loaded],
        "frozen": [each.name for each in layers if each.frozen],
    }
    return "; ".join(f"{word}: {', '.join(names) or 'nothing'}" for word, names in groups.items())


def _source(config: Config) -> tuple[str, Path] | None:
    """The key that names weights, and their file; None without weights."""
    given = [key for key in ("init_from", "weights") if config.model.get(key) is not None]
    if len(given) == 2:
        raise ConfigError("model.init_from and model.weights: give one of them.")
    if not given:
        return None
    (key,) = given
    value = str(config.model[key])
    if key == "weights" and value == "DEFAULT":
        home = _PUBLISHED.get(str(config.model.get("_target_")))
        if home is None:
            raise ConfigError(
                "model.weights=DEFAULT: only model=torchvision and model=timm have published weights. Allowed: a file."
            )
        published: Path = import_module(home).published_weights(str(config.model.get("name")))  # imported in seconds
        return key, published
    if key == "init_from":
        return key, _path(config)
    path = Path(value).expanduser()
    if not path.is_file():
        raise ConfigError(f"model.{key}={value}: no such file.")
    return key, path


def _fitting(key: str, path: Path, network: nn.Module) -> dict[str, Tensor]:
    """The tensors of a file whose name and shape the network has, by the network's names."""
    try:
        saved = checkpoints.read(path)
    except CheckpointError as error:
        raise ConfigError(f"model.{key}: {error}. What torch.save(model.state_dict()) writes is read.") from None
    for inner in ("model", "state_dict"):  # in a checkpoint the weights stand beside other things
        if isinstance(saved, dict) and isinstance(saved.get(inner), dict):
            saved = saved[inner]
    if not isinstance(saved, dict) or not any(isinstance(value, Tensor) for value in saved.values()):
        raise ConfigError(f"model.{key}={path}: holds no weights. What torch.save(model.state_dict()) writes is read.")
    # torchvision's files of DenseNet have names of before 2018, such as denselayer1.norm.1 for denselayer1.norm1.
    named = {re.sub(r"(denselayer\d+\.(norm|conv))\.(\d)", r"\1\3", str(name)): value for name, value in saved.items()}
    own = {name: value.shape for name, value in network.state_dict().items()}
    found: dict[str, Tensor] = {}
    for prefix in PREFIXES:
        plain = {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}
        fits = {n: v for n, v in plain.items() if n in own and isinstance(v, Tensor) and v.shape == own[n]}
        found = max(found, fits, key=len)
    if not found:
        raise ConfigError(f"model.{key}={path}: none of its layers fits this network.")
    return found


def _freeze(config: Config, network: nn.Module) -> None:
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


def _layers(network: nn.Module, loaded: dict[str, bool], prefix: str = "") -> Iterator[Layer]:
    """The largest parts of the network below `prefix` whose parameters all are loaded or new, frozen or trained."""
    parts: dict[str, dict[str, nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if name.startswith(prefix):
            part = prefix + name.removeprefix(prefix).partition(".")[0]
            parts.setdefault(part, {})[name] = parameter
    for part, parameters in parts.items():
        states = {(loaded[name], not parameter.requires_grad) for name, parameter in parameters.items()}
        if len(states) > 1:
            yield from _layers(network, loaded, f"{part}.")
        else:
            yield Layer(part, sum(parameter.numel() for parameter in parameters.values()), *states.pop())
