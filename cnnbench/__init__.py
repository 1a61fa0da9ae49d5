"""cnnbench compares optimizers, learning rates, regularizers, schedules and architectures of CNNs, honestly.

What is named here is the public Python API. A YAML file may also name what `config.targets.PUBLIC` lists.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cnnbench.errors import CheckpointError, CnnbenchError, ConfigError, RecordError

if TYPE_CHECKING:
    from cnnbench.api import Comparison, Run, Runs, compare, sweep, train, tune
    from cnnbench.config.schema import Data
    from cnnbench.data.images import ImageSet
    from cnnbench.training.prediction import Prediction, TrainedModel, load

__all__ = [
    "CheckpointError",
    "CnnbenchError",
    "Comparison",
    "ConfigError",
    "Data",
    "ImageSet",
    "Prediction",
    "RecordError",
    "Run",
    "Runs",
    "TrainedModel",
    "compare",
    "load",
    "sweep",
    "train",
    "tune",
]

_HOMES = {
    **dict.fromkeys(("Comparison", "Run", "Runs", "compare", "sweep", "train", "tune"), "api"),
    "Data": "config.schema",
    "ImageSet": "data.images",
    "Prediction": "training.prediction",
    "TrainedModel": "training.prediction",
    "load": "training.prediction",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:  # imported when somebody asks for it: `load` imports torch
        return getattr(import_module(f"cnnbench.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'cnnbench' has no attribute {name!r}")
