"""Trained models as files for other programs: ONNX, TorchScript, safetensors and torch.export.

Each file takes bytes and gives logits, as `TrainedModel` does, so normalization is part of it. What a program must know
besides, such as the names of the classes, is in the file's metadata.
"""

import io
import json
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cnnbench.config.formats import FORMATS
from cnnbench.config.schema import Data
from cnnbench.config.targets import build
from cnnbench.data.datamodule import split
from cnnbench.data.images import load as load_images
from cnnbench.data.normalization import Normalize
from cnnbench.errors import ConfigError
from cnnbench.results import records
from cnnbench.runtime import files
from cnnbench.training.prediction import TrainedModel, load, network_spec

TOLERANCE = 1e-3
"""Largest difference of a probability that may come from another order of rounding."""

_BATCH = 64
"""Images that go through a model together."""

Run = Callable[[Tensor], Tensor]
"""Bytes (n, channels, height, width) to logits (n, classes)."""


@dataclass(frozen=True)
class About:
    """What a file says of its model; its metadata have each field as JSON."""

    run_id: str
    classes: list[str]
    """In the order of the logits."""
    image_shape: tuple[int, int, int]
    """Channels, height and width."""
    mean: list[float]
    """Of each channel, 0 to 255; the model subtracts it."""
    deviation: list[float]
    """Standard deviation of each channel, by which the model then divides."""
    model: dict[str, Any]
    """The network's class and its arguments."""
    input: str = "images (n, channels, height, width): bytes, RGB or grey, scaled bilinearly to height and width"
    output: str = "logits (n, classes); their softmax are the probabilities"

    def metadata(self) -> dict[str, str]:
        """The fields as JSON, by name."""
        return {key: json.dumps(value) for key, value in asdict(self).items()}


@dataclass(frozen=True)
class Agreement:
    """How an exported model compares with the model of the run, on the same images."""

    images: int
    part: str
    """Which images of the run: `test`, or `validation` where the test set is closed."""
    same: int
    """Images that both take for the same class."""
    difference: float
    """Largest difference of a probability."""

    @property
    def holds(self) -> bool:
        """Whether both are the same but for rounding."""
        return self.difference <= TOLERANCE


def export(run_folder: Path, format_: str) -> Agreement:
    """Writes the model of a run into its folder, unless the file's predictions differ from the model's.

    Args:
        run_folder: the run's folder.
        format_: one of `FORMATS`.

    Raises:
        ConfigError: the run has no trained model, its images are gone, or the format can't hold the network.
    """
    model, record = load(run_folder), records.of_run(run_folder)
    assert record.data.mean is not None
    assert record.data.deviation is not None
    about = About(
        run_id=record.run_id,
        classes=list(model.classes),
        image_shape=model.image_shape,
        mean=record.data.mean,
        deviation=record.data.deviation,
        model=network_spec(record),
    )
    images, part = _images(record)
    write, read = _FORMATS[format_]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls TorchScript deprecated at every step
        try:
            content = write(model, images[:1].repeat(2, 1, 1, 1), about)
        except Exception as error:  # the exporters raise anything
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ConfigError(f"--format {format_}: can't hold {about.model['_target_']}: {reason}") from None
        agreement = _compare(model, read(content), images, part)
    if agreement.holds:
        files.write_whole(run_folder / FORMATS[format_].file, lambda file: file.write(content))
    return agreement


def _images(record: records.Record) -> tuple[Tensor, str]:
    """The run's test images, or its validation images if the test set is closed, and the name of this part."""
    data = Data(**record.config["data"])
    images = load_images(data)
    if images.fingerprint != record.data.fingerprint:
        raise ConfigError(f"data.root={data.root}: these are not the images that {record.run_id} was trained on.")
    parts = split(images, data, record.seed)
    is_open = record.config.get("test", True)
    source = images.test if is_open or data.val == "test" else images.train
    chosen = torch.from_numpy(source[parts.test if is_open else parts.val])
    return chosen.permute(0, 3, 1, 2).contiguous(), "test" if is_open else "validation"


def _compare(model: TrainedModel, exported: Run, images: Tensor, part: str) -> Agreement:
    same, difference = 0, 0.0
    with torch.inference_mode():
        for batch in (images[:1], *images[1:].split(_BATCH)):  # one image alone, as most programs will send it
            ours, theirs = model(batch), exported(batch)
            same += int((ours.argmax(1) == theirs.argmax(1)).sum())
            difference = max(difference, float((ours.softmax(1) - theirs.softmax(1)).abs().max()))
    return Agreement(len(images), part, same, difference)


def _traced(model: TrainedModel, example: Tensor) -> torch.export.ExportedProgram:
    number = torch.export.Dim("n", min=1)
    return torch.export.export(model, (example,), dynamic_shapes=({0: number},))


def _to_onnx(model: TrainedModel, example: Tensor, about: About) -> bytes:
    traced = _traced(model, example)
    program = torch.onnx.export(traced, input_names=["images"], output_names=["logits"], verbose=False)
    assert program is not None
    proto = program.model_proto
    for key, value in about.metadata().items():
        proto.metadata_props.add(key=key, value=value)
    content: bytes = proto.SerializeToString()
    return content


def _from_onnx(content: bytes) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def _to_torchscript(model: TrainedModel, example: Tensor, about: About) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(model, example), buffer, _extra_files=about.metadata())
    return buffer.getvalue()


def _from_torchscript(content: bytes) -> Run:
    run: Run = torch.jit.load(io.BytesIO(content))
    return run


def _to_torch_export(model: TrainedModel, example: Tensor, about: About) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(_traced(model, example), buffer, extra_files=about.metadata())
    return buffer.getvalue()


def _from_torch_export(content: bytes) -> Run:
    run: Run = torch.export.load(io.BytesIO(content)).module()
    return run


def _to_safetensors(model: TrainedModel, example: Tensor, about: About) -> bytes:
    """Weights and metadata alone; the network's code is in the class that the metadata name."""
    from safetensors.torch import save

    content: bytes = save({key: value.contiguous() for key, value in model.state_dict().items()}, about.metadata())
    return content


def _from_safetensors(content: bytes) -> Run:
    """The model, built from nothing but what the file holds."""
    from safetensors.torch import load as weights_of

    length = int.from_bytes(content[:8], "little")
    about = {key: json.loads(value) for key, value in json.loads(content[8 : 8 + length])["__metadata__"].items()}
    model = torch.nn.Sequential()
    model.add_module("normalize", Normalize(about["mean"], about["deviation"]))
    model.add_module("network", build("model", about["model"], tuple(about["image_shape"]), len(about["classes"])))
    model.load_state_dict(weights_of(content))
    return model.eval()


_FORMATS: dict[str, tuple[Callable[[TrainedModel, Tensor, About], bytes], Callable[[bytes], Run]]] = {
    "onnx": (_to_onnx, _from_onnx),
    "torchscript": (_to_torchscript, _from_torchscript),
    "safetensors": (_to_safetensors, _from_safetensors),
    "torch_export": (_to_torch_export, _from_torch_export),
}
"""How a model becomes the content of a file, and that content a model again."""
