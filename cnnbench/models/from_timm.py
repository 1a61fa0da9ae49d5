"""timm's classifiers, unchanged."""

import io
import logging
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cnnbench.errors import ConfigError
from cnnbench.runtime import files


def timm_model(image_shape: tuple[int, int, int], classes: int, name: str = "resnet10t", **arguments: Any) -> nn.Module:
    """Builds timm's network of this name, with new weights.

    Networks that are made for one size of images, such as vision transformers, are made for the size of these.

    On 3x32x32 images of ten classes `resnet10t` has 4,927,618 parameters.

    Args:
        image_shape: channels, height and width of the images.
        classes: number of logits.
        name: one of `timm.list_models()`.
        **arguments: of the network's class in timm, such as `drop_path_rate`.

    Raises:
        ConfigError: timm is not installed, or has no such network.
    """
    timm = _library(name)
    channels, *size = image_shape
    fitted = timm.models.resolve_model_input_args(name, {"in_chans": channels, "img_size": size})
    fixed = {"img_size": fitted["img_size"]} if "img_size" in fitted else {}
    network = timm.create_model(name, num_classes=classes, in_chans=channels, **(fixed | arguments))
    assert isinstance(network, nn.Module)
    return network


def published_weights(name: str) -> Path:
    """The file of the weights that timm publishes for its network of this name.

    It lies as `timm-NAME.pth` in the folder `checkpoints` of torch's cache (`TORCH_HOME`). A missing file is downloaded
    by timm, and written whole or not at all.

    Args:
        name: one of `timm.list_models()`.

    Raises:
        ConfigError: there is no such network, or its weights can't be downloaded.
    """
    timm = _library(name)
    path = Path(torch.hub.get_dir(), "checkpoints", f"timm-{name}.pth")
    if not path.exists():
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of each attempt
        try:
            weights = timm.create_model(name, pretrained=True).state_dict()
            path.parent.mkdir(parents=True, exist_ok=True)
            buffer = io.BytesIO()
            torch.save(weights, buffer)
            files.write_whole(path, lambda file: file.write(buffer.getbuffer()))
        except Exception as error:  # of the libraries that download, each has its own
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ConfigError(
                f"model.weights=DEFAULT: timm's weights of {name} can't be downloaded ({reason}). Put the file of a "
                f"state_dict into {path.parent} as {path.name}, or give its path as model.weights."
            ) from None
    return path


def _library(name: str) -> Any:
    """The module `timm`, which takes seconds to import.

    Raises:
        ConfigError: it is missing, or has no network of this name.
    """
    if find_spec("timm") is None:
        raise ConfigError(
            f"model.name={name}: this network is of timm, which is missing: pip install 'cnnbench[more]'."
        )
    timm = import_module("timm")
    if not timm.is_model(name):
        names = timm.list_models()
        hint = "".join(f" Did you mean '{close}'?" for close in get_close_matches(str(name), names, n=1))
        raise ConfigError(f"model.name={name}: not known.{hint} Allowed: the {len(names):,} of timm.list_models().")
    return timm
