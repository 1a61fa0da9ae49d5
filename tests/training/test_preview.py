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


def test_preview_shows_what_augmentation_does(command, here: Path) -> None:
    pictures = []
    for augment in ("none", "document", "[flip_crop,cutout]", "mixup"):
        assert command(f"preview data=digits data.image_size=32 augment={augment}").code == 0
        pictures.append((here / "preview.png").read_bytes())
    assert len(set(pictures)) == 4
