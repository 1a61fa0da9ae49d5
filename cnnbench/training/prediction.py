"""Trained models of finished runs, loaded for Python code and for the prediction of image files."""

from pathlib import Path

import torch
from torch import Tensor, nn

from cnnbench.config.schema import Regularizer
from cnnbench.config.targets import build
from cnnbench.data.datamodule import Normalize
from cnnbench.data.images import decode
from cnnbench.errors import CheckpointError, ConfigError
from cnnbench.results import records
from cnnbench.training import checkpoints, regularizers, transfer


def load(run_folder: str | Path) -> nn.Module:
    """Loads the model of a run with the weights of its best epoch.

    Args:
        run_folder: `runs/NAME/RUN`, the beginning of its name, or `runs/NAME` if it holds one run.

    Returns:
        A module in evaluation mode. It takes images (n, channels, height, width) of bytes or floats from 0 to 255,
        normalises them as in training, and returns logits (n, classes).

    Raises:
        ConfigError: there is no such run, or it has no trained model or a damaged one.
    """
    folder = records.run_folder(Path(run_folder))
    return _model(folder, _record(folder))


def predict(run_folder: Path, paths: list[Path]) -> list[tuple[Path, list[tuple[str, float]]]]:
    """Predicts the classes of image files.

    Returns:
        For each file all classes with their probabilities, the most probable one first.

    Raises:
        ConfigError: the folder holds no run with a trained model, or a file is not a readable image.
    """
    record = _record(run_folder)
    channels, height, width = record.data.shape
    if height != width:
        raise ConfigError(f"{run_folder}: the run was trained on images of {width}x{height}. Allowed: square ones.")
    images = [torch.tensor(decode(path, height, channels == 1)).permute(2, 0, 1) for path in paths]
    model = _model(run_folder, record)
    with torch.inference_mode():
        probabilities: Tensor = model(torch.stack(images)).softmax(1)
    classes = record.data.classes
    ranked = [sorted(zip(classes, row, strict=True), key=lambda pair: -pair[1]) for row in probabilities.tolist()]
    return list(zip(paths, ranked, strict=True))


def _record(folder: Path) -> records.Record:
    record = records.of_run(folder)
    if record.best is None or not (folder / "best.ckpt").exists():
        raise ConfigError(f"{folder}: the run is {record.status} and has no trained model.")
    return record


def _model(folder: Path, record: records.Record) -> nn.Module:
    data, config = record.data, record.config
    if data.mean is None or data.deviation is None:
        raise ConfigError(f"{folder}: its record doesn't tell how its images were normalised.")
    spec = record.search.model if record.search else None
    spec = regularizers.put_in(Regularizer(**config["regularizer"]), transfer.own_keys(spec or config["model"]))
    model = nn.Sequential()
    model.add_module("normalize", Normalize(data.mean, data.deviation))
    model.add_module("network", build("model", spec, data.shape, len(data.classes)))
    try:
        model.load_state_dict(checkpoints.read(folder / "best.ckpt")["model"])
    except CheckpointError as error:
        raise ConfigError(f"{error}.") from None
    return model.eval()
