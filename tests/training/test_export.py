"""Exported models, each run by the library that it is for."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import safetensors
import torch
from conftest import record, write_images
from PIL import Image

import cnnbench
from cnnbench.config import formats
from cnnbench.data.images import digits
from cnnbench.training import export

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")

DIGITS = "data=digits data.limit=200 epochs=2 logger=none"


def test_from_a_folder_of_photos_to_a_file_that_onnxruntime_runs(command, here: Path) -> None:
    write_images(here / "photos", {"red": 20, "green": 20, "blue": 20}, size=20, suffix="jpg")
    words = "data=folder data.root=photos data.image_size=16 batch_size=8 epochs=3 augment=flip_crop"
    assert command(f"{words} name=photos").code == 0
    result = command("export runs/photos --format onnx")
    assert result.code == 0
    run = record(here / "runs")["run_id"]
    assert result.out.startswith(f"runs/photos/{run}/model.onnx: 60 of 60 test images get the same class as from the")

    # From here on without cnnbench: the file has all that is needed.
    session = onnxruntime.InferenceSession(f"runs/photos/{run}/model.onnx")
    about = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    channels, height, width = about["image_shape"]
    assert (channels, height, width, about["run_id"]) == (3, 16, 16, run)
    assert about["classes"] == ["blue", "green", "red"]
    paths = sorted(Path("photos/test").rglob("*.jpg"))
    pixels = [Image.open(path).convert("RGB").resize((width, height), Image.Resampling.BILINEAR) for path in paths]
    batch = np.stack([np.asarray(image).transpose(2, 0, 1) for image in pixels])
    logits = np.concatenate([session.run(None, {"images": part})[0] for part in (batch[:1], batch[1:])])
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)

    rows = json.loads(command("predict runs/photos photos/test --json").out)
    assert [row["path"] for row in rows] == list(map(str, paths))
    assert [row["label"] for row in rows] == [about["classes"][i] for i in logits.argmax(1)]
    expected = [[row["probabilities"][name] for name in about["classes"]] for row in rows]
    np.testing.assert_allclose(shares, expected, atol=1e-6)
    assert command("export runs/photos --cfg job").out == (here / "runs/photos" / run / "config.yaml").read_text()


def test_every_format_holds_weights_normalization_and_classes(command, here: Path) -> None:
    assert command(f"{DIGITS} model.batch_norm=true model.dropout=0.2").code == 0
    (folder,) = here.glob("runs/default/*")
    model, images = cnnbench.load(folder), torch.from_numpy(digits(cnnbench.Data()).test).permute(0, 3, 1, 2)
    mean = record(folder)["data"]["mean"]
    for name in (name for name, each in formats.FORMATS.items() if not each.results):
        out = command(f"export {folder} --format {name}").out
        assert out.startswith(f"{folder}/{formats.FORMATS[name].file}: 200 of 200 test images get the same class")

    extra = dict.fromkeys(("classes", "mean", "image_shape"), "")
    scripted = torch.jit.load(str(folder / "model.torchscript.pt"), _extra_files=extra)
    program = torch.export.load(folder / "model.pt2", extra_files=(also := dict.fromkeys(extra, "")))
    with safetensors.safe_open(folder / "model.safetensors", "pt") as file:
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    for found in (extra, also, metadata):
        assert json.loads(found["classes"]) == [str(digit) for digit in range(10)]
        assert json.loads(found["mean"]) == mean
        assert json.loads(found["image_shape"]) == [1, 8, 8]
    with torch.no_grad():
        expected = model(images)
        torch.testing.assert_close(scripted(images), expected)
        torch.testing.assert_close(program.module()(images), expected)
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items())
    assert json.loads(metadata["model"])["_target_"] == "cnnbench.models.PlainCNN"


def test_where_the_test_set_is_closed_it_stays_so(command, here: Path) -> None:
    assert command(f"{DIGITS} test=false").code == 0
    assert ": 20 of 20 validation images get the same class" in command("export runs --format torchscript").out


def test_a_file_that_predicts_differently_is_not_written(command, here: Path, monkeypatch) -> None:
    assert command(DIGITS).code == 0
    write, read = export._FORMATS["safetensors"]

    def swapped(content: bytes) -> export.Run:
        run = read(content)
        return lambda images: run(images)[:, [1, 0, *range(2, 10)]]

    monkeypatch.setitem(export._FORMATS, "safetensors", (write, swapped))
    result = command("export runs --format safetensors")
    assert (result.code, "was not written" in result.err) == (1, True)
    assert not list(here.rglob("model.safetensors"))


def test_what_is_refused(command, here: Path, monkeypatch) -> None:
    write_images(here / "photos", {"red": 9, "blue": 9})
    words = "data=folder data.root=photos batch_size=8 data.val_fraction=0.3 epochs=1 logger=none"
    assert command(words).code == 0
    (folder,) = here.glob("runs/default/*")
    write_images(here / "photos", {"red": 9, "blue": 9}, seed=1)
    result = command("export runs --format torchscript")
    assert result.code == 2
    problem = f"these are not the images that {folder.name} was trained on."
    assert result.err.splitlines()[-1] == f"cnnbench: data.root=photos: {problem}"
    monkeypatch.setattr(formats, "find_spec", lambda name: None if "onnx" in name else name)
    assert command("export runs --format onnx").err == (
        "cnnbench: --format onnx: onnx, onnxruntime, onnxscript missing. Type: pip install onnx onnxruntime onnxscript\n"
    )
    (folder / "best.ckpt").unlink()
    assert "has no trained model" in command("export runs --format torchscript").err
    assert not list(folder.glob("model.*"))
