"""The picture of what training sees."""

from pathlib import Path

import numpy as np
import pytest
from conftest import write_images
from PIL import Image

from cnnbench.config.schema import Data
from cnnbench.data.datamodule import ImageData
from cnnbench.data.images import digits


def test_preview_shows_the_first_batch(command, here: Path) -> None:
    result = command("preview data=digits")
    assert result.code == 0
    picture = np.asarray(Image.open(here / "preview.png"))
    assert picture.shape == (8 * (64 + 2 + 14), 8 * (64 + 2), 3)  # below each image its class
    source = digits(Data())
    first = ImageData(source, Data(), 128, 0).order(epoch=0)[9]  # second row, second column
    shown = picture[80 : 80 + 64 : 8, 66 : 66 + 64 : 8, 0]
    assert (shown == source.train[first, :, :, 0]).all()
    assert [path.name for path in here.iterdir()] == ["preview.png"]


def test_preview_names_the_classes(command, here: Path, colours: Path) -> None:
    assert command(f"preview data=folder data.root={colours} batch_size=64").code == 0
    picture = np.asarray(Image.open(here / "preview.png")).astype(int)
    names = {}
    for row in range(0, len(picture) - 79, 80):
        for column in range(0, picture.shape[1] - 65, 66):
            middle = picture[row + 32, column + 32]
            if middle.min() < 200:
                names.setdefault(int(middle.argmax()), set()).add(
                    picture[row + 66 : row + 80, column : column + 64].tobytes()
                )
    # Each colour has one name, and no two the same; Pillow writes "red" as it stands there.
    assert [len(names[channel]) for channel in range(3)] == [1, 1, 1]
    assert len(set.union(*names.values())) == 3


def tiles(command, words: str) -> np.ndarray:
    """The 64 images of a preview, 32 x 32 each: twice as large in the picture, with two white pixels between
    them, and a line for the class below."""
    assert command(f"preview data=digits data.image_size=32 batch_size=64 {words}").code == 0
    picture = np.asarray(Image.open("preview.png"))[..., 0].astype(float)
    return picture.reshape(8, 80, 8, 66)[:, :64:2, :, :64:2].transpose(0, 2, 1, 3).reshape(64, 32, 32)


def test_preview_shows_what_augmentation_does(command) -> None:
    plain = tiles(command, "")

    flipped = tiles(command, "augment.flip=random")
    same, mirrored = (flipped == plain).all((1, 2)), (flipped == plain[:, :, ::-1]).all((1, 2))
    assert (same | mirrored).all()
    assert 16 < mirrored.sum() < 48  # 32 +- 4 of 64

    changed = tiles(command, "augment=cutout") != plain
    assert changed.any((1, 2)).all()
    assert changed.any(1).sum(1).max() == changed.any(2).sum(1).max() == 8  # the side of the square

    mixed = tiles(command, "augment=mixup augment.mixup=1")
    assert (mixed != plain).any((1, 2)).sum() > 60
    # a x + (1 - a) x[partner], where every image is somebody's partner: the mean stays, but for rounding
    assert np.abs(mixed.mean(0) - plain.mean(0)).max() <= 0.5


def test_names_that_no_font_can_draw(command, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(here / "animals", {"猫": 12, "dog": 12})
    monkeypatch.setattr("cnnbench.report.fonts.drawable", lambda text: text.isascii())
    result = command("preview data=folder data.root=animals")
    assert result.out.splitlines() == ["No font installed here has the letters of #2 猫.", "preview.png"]
