"""Test-time augmentation: by hand, and alike in validation, test, prediction and the loaded model."""

from pathlib import Path

import pytest
import torch
from conftest import record, refused
from torch import Tensor

import cnnbench
from cnnbench.config.schema import Data
from cnnbench.data.images import digits
from cnnbench.training.test_time import mean_logits

pytestmark = pytest.mark.usefixtures("no_figures")

DIGITS = "data=digits data.limit=500 batch_size=128 epochs=2 seed=1"


def corner(images: Tensor) -> Tensor:
    """The pixel in the upper left corner."""
    return images[:, :, 0, 0].float()


def test_versions_by_hand() -> None:
    image = torch.arange(9.0).view(1, 1, 3, 3)  # 0 1 2 / 3 4 5 / 6 7 8
    assert mean_logits(corner, image, "none").item() == 0
    assert mean_logits(corner, image, "flip").item() == 1  # 0 and 2
    # Moved down and right, mirrored at the edge, the corner is the pixel at (1, 1), 4, and its mirror image's is at
    # (1, 1) too: 4 3 4 / 1 0 1 / 4 3 4. Moved up and left: 4 5 4 / 7 8 7 / 4 5 4. So 1 / 2 + (4 + 4) / 4.
    assert mean_logits(corner, image, "flip_translate").item() == 2.5


def test_alike_in_validation_test_and_the_loaded_model(command, here: Path) -> None:
    for tta in ("none", "flip", "flip_translate"):
        result = command(f"{DIGITS} evaluation.tta={tta} name={tta}")
        assert result.code == 0, result.err
    plain, flip, both = (record(here / "runs" / tta) for tta in ("none", "flip", "flip_translate"))
    assert [row["train_loss"] for row in plain["history"]] == [row["train_loss"] for row in both["history"]]
    assert len({run["test"]["loss"] for run in (plain, flip, both)}) == 3
    assert len({run["best"]["val_acc"] for run in (plain, flip, both)}) > 1
    assert [run["protocol"]["tta"] for run in (plain, flip, both)] == ["none", "flip", "flip_translate"]
    images = digits(Data())
    (folder,) = (here / "runs" / "flip_translate").glob("*/record.json")
    model = cnnbench.load(folder.parent)
    test = torch.from_numpy(images.test).permute(0, 3, 1, 2)[: both["data"]["sizes"]["test"]]
    assert both["data"]["sizes"]["test"] == len(images.test)  # fewer than the limit
    with torch.no_grad():
        hits = (model(test).argmax(1) == torch.from_numpy(images.test_labels)).float().mean()
    assert hits.item() == pytest.approx(both["test"]["acc"])
    assert command("compare runs/none runs/flip out=both").code == 0
    text = (here / "both" / "comparison.md").read_text()
    assert "test-time augmentation (flip)" in text
    assert "evaluation.tta=flip" in text


def test_not_of_turned_images(command, here: Path) -> None:
    says = "evaluation.tta=flip: must be none with data.labels=rotation"
    refused(command(f"{DIGITS} data.labels=rotation evaluation.tta=flip"), says, here)
    refused(command(f"{DIGITS} evaluation.tta=flop"), "evaluation.tta=flop: must be none, flip or flip_translate", here)
