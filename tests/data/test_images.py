"""Readers: digits, folders of every kind of image, the cache."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import write_images
from PIL import Image
from sklearn.datasets import load_digits

from cnnbench.config.schema import Data
from cnnbench.data.folder import folder
from cnnbench.data.images import decode, digits, load
from cnnbench.errors import ConfigError


def test_digits_are_all_there() -> None:
    images = digits(Data())
    assert len(images.train) + len(images.test) == 1797
    assert images.train.shape[1:] == (8, 8, 1)
    assert images.train.max() == 255
    given = load_digits()  # of scikit-learn
    zeros = (given.images[given.target == 0] * (255 / 16)).round()
    assert np.array_equal(images.test[images.test_labels == 0][..., 0], zeros[4::5])
    assert np.array_equal(images.train[images.train_labels == 0][:4, ..., 0], zeros[:4])
    assert np.bincount(images.test_labels).tolist() == [35, 36, 35, 36, 36, 36, 36, 35, 34, 36]
    larger = digits(Data(image_size=28))
    assert larger.train.shape[1:] == (28, 28, 1)
    assert larger.fingerprint != images.fingerprint


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_folder_reads_every_kind_of_image(tmp_path: Path, cache: Path) -> None:
    root = tmp_path / "images"
    for split in ("train", "test"):
        (root / split / "a").mkdir(parents=True)
    place = root / "train" / "a"
    grey = np.full((4, 6), 77, np.uint8)
    Image.fromarray(grey).save(place / "grey.png")
    Image.fromarray(np.dstack([grey, grey + 1, grey + 2, grey])).save(place / "rgba.png")
    Image.fromarray((grey.astype(np.uint16) << 8) + 3).save(place / "sixteen.png")
    Image.fromarray(np.dstack([grey] * 3)).quantize(4).save(place / "palette.gif")
    Image.fromarray(np.dstack([grey, grey + 9, grey])).save(root / "test" / "a" / "nested.bmp")
    (place / "notes.txt").write_text("not an image")
    (place / ".hidden.png").write_text("not an image")
    images = folder(Data(root=str(root)))
    assert images.train.shape == (4, 4, 6, 3)  # grey, palette, rgba, sixteen: by name
    assert images.train[0, 0, 0].tolist() == [77, 77, 77]
    assert images.train[1, 0, 0].tolist() == [77, 77, 77]
    assert images.train[2, 0, 0].tolist() == [77, 78, 79]
    assert images.train[3, 0, 0].tolist() == [77, 77, 77]
    grey_images = folder(Data(root=str(root), grayscale=True))
    assert grey_images.test.shape == (1, 4, 6, 1)
    assert grey_images.test[0, 0, 0, 0] == 82  # 0.299 * 77 + 0.587 * 86 + 0.114 * 77 = 82.3
    assert folder(Data(root=str(root), image_size=5)).train.shape == (4, 5, 5, 3)


def test_folder_is_decoded_once_and_again_when_it_changes(
    tmp_path: Path, cache: Path, colours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in colours.rglob("*")}
    first = folder(Data(root=str(colours)))
    assert {path: path.stat().st_mtime_ns for path in colours.rglob("*")} == before  # nothing is written there
    assert first.train_labels.tolist() == [0] * 20 + [1] * 20 + [2] * 20
    assert first.classes == ("blue", "green", "red")

    def never(*_: object) -> None:
        raise AssertionError("decoded again")

    with monkeypatch.context() as patched:
        patched.setattr("cnnbench.data.cache._decode_all", never)
        again = folder(Data(root=str(colours)))
    assert again.fingerprint == first.fingerprint
    assert (again.train == first.train).all()

    stat = (colours / "train" / "red" / "0000.png").stat()
    changed = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    changed.save(colours / "train" / "red" / "0000.png")
    os.utime(colours / "train" / "red" / "0000.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    third = folder(Data(root=str(colours)))
    assert third.fingerprint != first.fingerprint
    assert third.train[40].max() == 0
    assert len([p for p in (cache / "cnnbench" / "folder").glob("*/*") if p.is_dir()]) == 1  # the old one is gone


def test_two_processes_share_one_cache(cache: Path, colours: Path) -> None:
    program = (
        "from cnnbench.data.folder import *\n"
        f"if __name__ == '__main__': print(folder(Data(root={str(colours)!r})).fingerprint)"
    )
    both = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = {process.communicate()[0] for process in both}
    assert len(answers) == 1
    assert len(answers.pop().strip()) == 16
    assert len([p for p in (cache / "cnnbench" / "folder").glob("*/*") if p.is_dir()]) == 1


def test_a_broken_image_leaves_no_cache(cache: Path, colours: Path) -> None:
    whole = (colours / "test" / "red" / "0001.png").read_bytes()
    (colours / "test" / "red" / "0001.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=r"red/0001\.png"):
        folder(Data(root=str(colours)))
    assert list((cache / "cnnbench" / "folder").glob("*/*")) == []
    (colours / "test" / "red" / "0001.png").write_bytes(whole)
    assert len(folder(Data(root=str(colours))).test) == 60


def test_photos_lie_as_they_were_taken(tmp_path: Path) -> None:
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[:, 4:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    assert decode(tmp_path / "turned.png", None, False).shape == (8, 4, 3)


def test_an_unknown_reader(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\._target_=cnnbench\.data\.images\.nothing"):
        load(Data("cnnbench.data.images.nothing"))


def test_images_of_one_size_are_never_resized(tmp_path: Path, cache: Path) -> None:
    root = write_images(tmp_path / "ppm", {"a": 3}, size=8)
    source = np.asarray(Image.open(root / "train" / "a" / "0001.png"))
    assert (folder(Data(root=str(root))).train[1] == source).all()
    assert (folder(Data(root=str(root), image_size=8)).train[1] == source).all()
