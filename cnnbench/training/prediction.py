"""Trained models of finished runs, loaded for Python code and for the prediction of image files."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cnnbench.config.targets import build, check, look_in
from cnnbench.data.images import decode
from cnnbench.data.normalization import Normalize
from cnnbench.errors import CheckpointError, ConfigError
from cnnbench.results import records
from cnnbench.training import checkpoints, initialisation, regularizers
from cnnbench.training.test_time import mean_logits

_BATCH = 64
"""Images that go through the network together."""


@dataclass(frozen=True)
class Prediction:
    """What a model takes an image for."""

    label: str
    """The most probable class."""
    probability: float
    """Its probability, according to the model."""
    probabilities: dict[str, float]
    """Those of all classes, the most probable one first."""


class TrainedModel(nn.Sequential):
    """The model of a finished run, which names the classes of images.

    Called like any module, it takes images (n, channels, height, width) of bytes or floats from 0 to 255, normalises
    them as in training, and returns logits (n, classes).
    """

    classes: tuple[str, ...]
    """Names of the classes, in the order of the logits."""
    image_shape: tuple[int, int, int]
    """Channels, height and width of the images that it was trained on."""

    tta: str
    """The test-time augmentation of the run, which its logits are means over."""

    def __init__(self, record: records.Record, normalize: Normalize, network: nn.Module) -> None:
        super().__init__()
        self.add_module("normalize", normalize)
        self.add_module("network", network)
        self.classes, self.image_shape = tuple(record.data.classes), record.data.shape
        self.tta = record.protocol.tta

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, channels, height, width)."""
        return mean_logits(super().forward, images, self.tta)

    def predict(self, images: Tensor | np.ndarray | Sequence[str | Path] | str | Path) -> list[Prediction]:
        """Predicts the class of each image.

        Args:
            images: bytes or floats from 0 to 255, (n, channels, height, width), or paths of image files, which are
                scaled to the size that the model was trained on.

        Raises:
            ConfigError: the images have another shape, or a file is not a readable image.
        """
        if isinstance(images, Tensor | np.ndarray):
            batch = torch.as_tensor(images)
        else:
            paths = [images] if isinstance(images, str | Path) else images
            batch = (
                torch.stack([self.read(Path(path)) for path in paths]) if paths else torch.zeros(0, *self.image_shape)
            )
        if batch.ndim != 4 or tuple(batch.shape[1:]) != self.image_shape:
            raise ConfigError(f"images of shape {tuple(batch.shape)}: must be (n, {str(self.image_shape)[1:]}.")
        device = next(self.buffers()).device
        with torch.inference_mode():
            shares = [self(part.to(device)).softmax(1).cpu() for part in batch.split(_BATCH)]
        return [self._prediction(row) for row in torch.cat(shares).tolist()]

    def read(self, path: Path) -> Tensor:
        """Reads an image file as bytes (channels, height, width), scaled to the size that the model was trained on.

        Raises:
            ConfigError: it is not a readable image.
        """
        channels, height, width = self.image_shape
        return torch.tensor(decode(path, [height, width], channels == 1)).permute(2, 0, 1)

    def _prediction(self, shares: list[float]) -> Prediction:
        ranked = dict(sorted(zip(self.classes, shares, strict=True), key=lambda pair: -pair[1]))
        label = next(iter(ranked))
        return Prediction(label, ranked[label], ranked)


def load(run_folder: str | Path) -> TrainedModel:
    """Loads the model of a run with the weights of its best epoch.

    Args:
        run_folder: `runs/NAME/RUN`, the beginning of its name, or `runs/NAME` if it holds one run.

    Returns:
        A module in evaluation mode with `classes` and `predict(images or paths)`. It takes images (n, channels, height,
        width) of bytes or floats from 0 to 255, normalises them as in training, and returns logits (n, classes).

    Raises:
        ConfigError: there is no such run, or it has no trained model or a damaged one.
    """
    folder = records.run_folder(Path(run_folder))
    return _model(folder, _record(folder))


def predict(run_folder: Path, paths: Iterable[Path]) -> Iterator[tuple[Path, Prediction | ConfigError]]:
    """Predicts the classes of image files, some at a time.

    Args:
        run_folder: the run's folder.
        paths: image files, and folders whose image files are meant.

    Yields:
        Each file with its prediction, or with the reason why there is none.

    Raises:
        ConfigError: the folder holds no run with a trained model.
    """
    model = load(run_folder)
    files = (file for path in paths for file in _files(path))
    while some := list(islice(files, _BATCH)):
        read: list[Tensor | ConfigError] = []
        for path in some:
            try:
                read.append(model.read(path))
            except ConfigError as error:
                read.append(error)
        images = [image for image in read if isinstance(image, Tensor)]
        predictions = iter(model.predict(torch.stack(images)) if images else [])
        for path, image in zip(some, read, strict=True):
            yield path, image if isinstance(image, ConfigError) else next(predictions)


def _files(path: Path) -> list[Path]:
    """The file itself, or the image files below a folder."""
    if not path.is_dir():
        return [path]
    extensions = Image.registered_extensions()
    found = (file for file in path.rglob("[!.]*") if file.suffix.lower() in extensions)
    return sorted(found) or [path]  # an empty folder is no readable image


def _record(folder: Path) -> records.Record:
    record = records.of_run(folder)
    if record.best is None or not (folder / "best.ckpt").exists():
        raise ConfigError(f"{folder}: the run is {record.status} and has no trained model.")
    return record


def network_spec(record: records.Record) -> dict[str, Any]:
    """The class of the run's network and its arguments, after a search those that were found."""
    spec = record.search.model if record.search else None
    spec = initialisation.own_keys(spec or record.config["model"])
    return regularizers.put_in(record.regularizer, spec)


def _model(folder: Path, record: records.Record) -> TrainedModel:
    data = record.data
    if data.mean is None or data.deviation is None:
        raise ConfigError(f"{folder}: its record doesn't tell how its images were normalised.")
    look_in(record.config_dir)
    spec = network_spec(record)
    check("model", spec, ("image_shape", "classes"), nn.Module, "a torch.nn.modules.module.Module")
    network = build("model", spec, data.shape, len(data.classes))
    if network is None:
        raise ConfigError(f"{folder}: its record names no network.")
    model = TrainedModel(record, Normalize(data.mean, data.deviation), network)
    try:
        model.load_state_dict(checkpoints.read(folder / "best.ckpt")["model"])
    except CheckpointError as error:
        raise ConfigError(f"{error}.") from None
    except (AttributeError, KeyError, RuntimeError, TypeError):  # torch's own words fill a screen
        raise ConfigError(f"{folder / 'best.ckpt'}: does not hold the weights of this run's network.") from None
    return model.eval()
