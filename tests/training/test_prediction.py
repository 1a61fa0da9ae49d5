"""Trained models in Python, and `cnnbench predict`."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_images
from PIL import Image

import cnnbench

STARTS_WITH_TORCH_ALONE = """
import sys
from cnnbench.cli import main
code = main({words!r})
slow = {{"pytorch_lightning", "torchvision", "torchmetrics", "sklearn", "matplotlib"}} & set(sys.modules)
assert not slow, slow
sys.exit(code)
"""


@pytest.fixture
def photos(command, here: Path) -> Path:
    """Images of three colours, larger than the model's 6x6, and a model in runs/colours."""
    write_images(here / "photos", {"red": 12, "green": 12, "blue": 12}, size=9)
    words = "data=folder data.root=photos data.image_size=6 model.convs=[{filters:4}] model.dense=[] logger=none"
    assert (
        command(f"{words} model=plain_cnn epochs=12 lr=0.03 batch_size=6 data.val_fraction=0.25 name=colours").code == 0
    )
    return here / "photos" / "test"


def test_a_loaded_model_names_the_classes_of_images(photos: Path) -> None:
    model = cnnbench.load("runs/colours")
    assert model.classes == ("blue", "green", "red")
    assert model.image_shape == (3, 6, 6)
    paths = [photos / "red" / "0003.png", str(photos / "blue" / "0000.png"), photos / "green" / "0001.png"]
    found = model.predict(paths)
    assert [each.label for each in found] == ["red", "blue", "green"]
    pixels = [np.asarray(Image.open(path).resize((6, 6), Image.Resampling.BILINEAR)) for path in paths]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
    shares = model(images).softmax(1)
    for prediction, row in zip(found, shares.tolist(), strict=True):
        assert prediction.probability == pytest.approx(max(row))
        assert prediction.probabilities == pytest.approx(dict(zip(model.classes, row, strict=True)))
        assert list(prediction.probabilities.values()) == sorted(row, reverse=True)
    for same in (images, images.float(), images.numpy()):
        assert model.predict(same) == found
    (alone,) = model.predict(paths[0])
    assert alone.probabilities == pytest.approx(found[0].probabilities)
    # More images than go through the network together: each gets its own prediction.
    assert [each.label for each in model.predict(paths * 50)] == ["red", "blue", "green"] * 50
    assert model.predict([]) == []
    for shape in ((1, 3, 9, 9), (3, 6, 6), (2, 6, 6, 3)):
        with pytest.raises(cnnbench.ConfigError, match=r"must be \(n, 3, 6, 6\)\."):
            model.predict(torch.zeros(shape))
    with pytest.raises(cnnbench.ConfigError, match=r"nowhere\.png: there is no such image\."):
        model.predict([paths[0], "nowhere.png"])


def test_predict_takes_folders_and_goes_on_after_a_bad_file(photos: Path, command, here: Path) -> None:
    (photos / "red" / "0000.png").write_bytes(b"no image")
    (photos / "red" / "notes.txt").write_text("no image, and none that anybody would expect")
    (photos / "red" / ".hidden.png").write_bytes(b"")
    (here / "empty").mkdir()
    one = photos / "green" / "0000.png"
    result = command(f"predict runs/colours {photos} nowhere.png empty {one}")
    broken = photos / "red" / "0000.png"
    assert result.code == 1
    assert result.err.splitlines() == [
        f"cnnbench: {broken}: not a readable image.",
        "cnnbench: nowhere.png: there is no such image.",
        "cnnbench: empty: not a readable image.",
    ]
    assert result.out.count("\n") == 36 - 1 + 1  # one file is named twice
    assert result.out.splitlines()[-1].startswith(f"{one}: green ")

    result = command(f"predict runs/colours {photos / 'red'} --json")
    rows = json.loads(result.out)
    assert result.code == 1
    assert rows[0] == {"path": str(broken), "error": f"{broken}: not a readable image."}
    assert [Path(row["path"]).name for row in rows] == [f"{i:04}.png" for i in range(12)]
    assert {row["label"] for row in rows[1:]} == {"red"}
    assert all(sum(row["probabilities"].values()) == pytest.approx(1) for row in rows[1:])
    assert all(row["probability"] == row["probabilities"]["red"] for row in rows[1:])
    assert command(f"predict runs/colours {one} --json").code == 0

    program = STARTS_WITH_TORCH_ALONE.format(words=["predict", "runs/colours", str(one)])
    started = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert started.returncode == 0, started.stderr
