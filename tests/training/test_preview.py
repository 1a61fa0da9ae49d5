"""The picture of what training sees."""

from pathlib import Path

import numpy as np
from PIL import Image

from cnnbench.config.schema import Data
from cnnbench.data.datamodule import ImageData
from cnnbench.data.images import digits


def test_preview_shows_the_first_batch(command, here: Path) -> None:
    result = command("preview data=digits")
    assert result.code == 0
    picture = np.asarray(Image.open(here / "preview.png"))
    assert picture.shape == (8 * (64 + 2), 8 * (64 + 2), 3)
    source = digits(Data())
    first = ImageData(source, Data(), 128, 0).order(epoch=0)[9]  # second row, second column
    shown = picture[66 : 66 + 64 : 8, 66 : 66 + 64 : 8, 0]
    assert (shown == source.train[first, :, :, 0]).all()
    assert [path.name for path in here.iterdir()] == ["preview.png"]


def tiles(command, words: str) -> np.ndarray:
    """The 64 images of a preview, 32 x 32 each: twice as large in the picture, with two white pixels between them."""
    assert command(f"preview data=digits data.image_size=32 batch_size=64 {words}").code == 0
    picture = np.asarray(Image.open("preview.png"))[..., 0].astype(float)
    return picture.reshape(8, 66, 8, 66)[:, :64:2, :, :64:2].transpose(0, 2, 1, 3).reshape(64, 32, 32)


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
