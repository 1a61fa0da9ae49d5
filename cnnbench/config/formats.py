"""The formats of `cnnbench export`, of models and of results, and the libraries that they need.

None of the libraries is imported here.
"""

from dataclasses import dataclass
from importlib.util import find_spec

from cnnbench.errors import ConfigError, nearest


@dataclass(frozen=True)
class Format:
    """A format of `cnnbench export`."""

    file: str
    """The name of a model's file in the run's folder; of the file of results in the working folder, after its name."""
    libraries: tuple[str, ...] = ()
    """What writes and checks it, besides torch."""
    results: bool = False
    """Whether it is for results, not for a model."""


FORMATS = {
    "onnx": Format("model.onnx", ("onnx", "onnxruntime", "onnxscript")),
    "torchscript": Format("model.torchscript.pt"),
    "safetensors": Format("model.safetensors", ("safetensors",)),
    "torch_export": Format("model.pt2"),
    "csv": Format(".csv", results=True),
    "parquet": Format(".parquet", results=True),
    "mlflow": Format(".mlflow.db", ("mlflow", "sqlalchemy", "alembic"), results=True),
}


def check_format(name: str) -> None:
    """Checks that this format can be written.

    Raises:
        ConfigError: there is no such format, or its libraries are missing.
    """
    if name not in FORMATS:
        raise ConfigError(f"--format {name}: there is no such format.{nearest(name, FORMATS)}")
    missing = [library for library in FORMATS[name].libraries if find_spec(library) is None]
    if missing:
        raise ConfigError(f"--format {name}: {', '.join(missing)} missing. Type: pip install {' '.join(missing)}")
