"""Readers: small archives of the real format, folders of every kind of image, the cache."""

import hashlib
import io
import os
import pickle
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from conftest import write_images
from PIL import Image

from cnnbench.images import cifar10, decode, digits, folder, load
from cnnbench.schema import ConfigError, Data

CIFAR_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def write_cifar10(root: Path, per_batch: int = 4, evil: object = None) -> tuple[Path, str]:
    """An archive as CIFAR-10's, with few images; returns it and its md5 sum."""
    root.mkdir(parents=True, exist_ok=True)
    path = root / "cifar-10-python.tar.gz"
    rng = np.random.default_rng(0)
    with tarfile.open(path, "w:gz") as tar:
        for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]:
            content: object = {
                "data": rng.integers(0, 256, (per_batch, 3072)).astype(np.uint8),
                "labels": [i % 10 for i in range(per_batch)],
            }
            if name == "batches.meta":
                content = {"label_names": CIFAR_CLASSES, "num_cases_per_batch": per_batch, "num_vis": 3072}
            if evil is not None and name == "data_batch_3":
                content = evil
            blob = pickle.dumps(content, protocol=2)
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(blob)
            tar.addfile(info, io.BytesIO(blob))
    return path, hashlib.md5(path.read_bytes()).hexdigest()


def test_cifar10_reads_the_real_format(tmp_path: Path) -> None:
    archive, md5 = write_cifar10(tmp_path)
    images = cifar10(Data(root=str(tmp_path), md5=md5))
    assert images.train.shape == (20, 32, 32, 3)
    assert images.test.shape == (4, 32, 32, 3)
    assert list(images.classes) == CIFAR_CLASSES
    assert images.train_labels.tolist() == [0, 1, 2, 3] * 5
    with tarfile.open(archive) as tar:
        file = tar.extractfile("cifar-10-batches-py/data_batch_1")
        assert file is not None
        row = pickle.load(file)["data"][2]
    # A row is 1,024 red bytes, then green, then blue, each from the top left.
    assert images.train[2, 5, 7].tolist() == [row[5 * 32 + 7], row[1024 + 5 * 32 + 7], row[2048 + 5 * 32 + 7]]
    assert images.fingerprint == cifar10(Data(root=str(tmp_path), md5=None)).fingerprint


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, ("unpickled",))


def test_cifar10_checks_before_it_unpickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, md5 = write_cifar10(tmp_path, evil=Evil())
    with pytest.raises(ConfigError, match=f"data.md5=.*has md5 {md5}"):
        cifar10(Data(root=str(tmp_path), md5="0" * 32))
    with pytest.raises(ConfigError, match="mkdir"):  # the right sum, and still nothing but arrays is let in
        cifar10(Data(root=str(tmp_path), md5=md5))
    assert not (tmp_path / "unpickled").exists()


def test_cifar10_downloads_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, md5 = write_cifar10(tmp_path / "server")
    content = archive.read_bytes()

    class Response(io.BytesIO):
        headers = {"Content-Length": str(len(content))}

    asked = []

    def answer(url: str, timeout: float) -> Response:
        asked.append(url)
        return Response(content if len(asked) > 1 else content[:100])

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    data = Data(root=str(tmp_path / "new" / "data"), md5=md5)
    with pytest.raises(ConfigError, match="ended after 100 of"):
        cifar10(data)
    assert list(tmp_path.glob("new/data/*")) == []
    assert len(cifar10(data).train) == 20
    assert len(cifar10(data).train) == 20
    assert asked == ["https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"] * 2

    def nobody(url: str, timeout: float) -> Response:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", nobody)
    with pytest.raises(ConfigError, match=r"no network.*Put the archive into .*data=digits.*data=folder"):
        cifar10(Data(root=str(tmp_path / "empty"), md5=md5))
    assert not (tmp_path / "empty").exists()


def test_digits_are_all_there() -> None:
    images = digits(Data())
    assert len(images.train) + len(images.test) == 1797
    assert images.train.shape[1:] == (8, 8, 1)
    assert images.train.max() == 255
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
        patched.setattr("cnnbench.images._decode_all", never)
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
        "from cnnbench.images import *\n"
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
    with pytest.raises(ConfigError, match=r"data\._target_=cnnbench\.images\.nothing"):
        load(Data("cnnbench.images.nothing"))


def test_images_of_one_size_are_never_resized(tmp_path: Path, cache: Path) -> None:
    root = write_images(tmp_path / "ppm", {"a": 3}, size=8)
    source = np.asarray(Image.open(root / "train" / "a" / "0001.png"))
    assert (folder(Data(root=str(root))).train[1] == source).all()
    assert (folder(Data(root=str(root), image_size=8)).train[1] == source).all()
