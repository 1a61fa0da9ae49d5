"""The formats of exported models, and the libraries that they need.

None of the libraries is imported here.
"""

from dataclasses import dataclass
from importlib.util import find_spec

from cnnbench.errors import ConfigError, nearest


@dataclass(frozen=True)
class Format:
    """A format of `cnnbench export`."""

    file: str
    """The name of the file, in the run's folder."""
    libraries: tuple[str, ...] = ()
    """What writes and checks it, besides torch."""


FORMATS = {
    "onnx": Format("model.onnx", ("onnx", "onnxruntime", "onnxscript")),
    "torchscript": Format("model.torchscript.pt"),
    "safetensors": Format("model.safetensors", ("safetensors",)),
    "torch_export": Format("model.pt2"),
}


def check_format(name: str) -> None:
    """Checks that a model can be exported in this format.

    Raises:
        ConfigError: there is no such format, or its libraries are missing.
    """
    if name not in FORMATS:
        raise ConfigError(f"--format {name}: there is no such format.{nearest(name, FORMATS)}")
    missing = [library for library in FORMATS[name].libraries if find_spec(library) is None]
    if missing:
        raise ConfigError(f"--format {name}: {', '.join(missing)} missing. Type: pip install {' '.join(missing)}")
