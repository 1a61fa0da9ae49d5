"""Where do the images come from? Readers that return all images of a data set as arrays. (imports no torch)

A reader is a function from `schema.Data` to an `ImageSet`, named by `_target_` in a YAML file under `conf/data/`.
"""

import functools
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import get_type_hints

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image, ImageOps
from platformdirs import user_cache_path

from cnnbench.config.schema import Data
from cnnbench.config.targets import locate
from cnnbench.errors import ConfigError, nearest
from cnnbench.runtime.progress import bar

Bytes = NDArray[np.uint8]
Labels = NDArray[np.int64]

_CACHE_FORMAT = 1  # raised when cached pixels would come out differently


@dataclass(frozen=True)
class ImageSet:
    """All images of a data set."""

    train: Bytes
    """(images, height, width, channels), 0 to 255."""
    train_labels: Labels
    """(images,), positions in `classes`."""
    test: Bytes
    test_labels: Labels
    classes: tuple[str, ...]
    fingerprint: str = ""
    """A hash of pixels, labels and class names."""

    def fingerprinted(self) -> "ImageSet":
        """The same with its fingerprint filled in."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for array in (self.train, self.train_labels, self.test, self.test_labels):
            digest.update(str(array.shape).encode())
            digest.update(np.ascontiguousarray(array).data)
        return replace(self, fingerprint=digest.hexdigest()[:16])


def load(data: Data) -> ImageSet:
    """The images that `data` names, in the size and with the channels that it asks for.

    Raises:
        ConfigError: there are no such images here, or they can't be read.
    """
    try:
        read: Callable[[Data], ImageSet] = locate(data._target_)
        reads = get_type_hints(read).get("return") is ImageSet
    except Exception:
        raise ConfigError(f"data._target_={data._target_}: there is no such function.") from None
    if not reads:
        raise ConfigError(f"data._target_={data._target_}: must be declared to return a cnnbench.data.images.ImageSet.")
    images = read(data)
    return _turned(images) if data.labels == "rotation" else images


def _turned(images: ImageSet) -> ImageSet:
    """Every image in four rotations, labelled with them; a task that needs no labels.

    Raises:
        ConfigError: the images are not square.
    """
    if images.train.shape[1] != images.train.shape[2]:
        raise ConfigError("data.labels=rotation: needs square images. Give data.image_size=N.")

    def turn(array: Bytes) -> tuple[Bytes, Labels]:
        turned = np.concatenate([np.rot90(array, k, axes=(1, 2)) for k in range(4)])
        return turned, np.repeat(np.arange(4), len(array))

    fingerprint = hashlib.sha256(f"{images.fingerprint} rotation".encode()).hexdigest()[:16]
    return ImageSet(*turn(images.train), *turn(images.test), ("0", "90", "180", "270"), fingerprint)


# --- digits


def digits(data: Data) -> ImageSet:
    """scikit-learn's 1,797 handwritten digits (Alpaydin and Kaynak 1998), 8x8 grey; one fifth for the test."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = (bunch.images * (255 / 16)).round().astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int64)
    is_test = np.zeros(len(images), bool)
    for digit in range(10):
        is_test[np.flatnonzero(labels == digit)[4::5]] = True
    classes = tuple(str(digit) for digit in range(10))
    return fitted(
        ImageSet(images[~is_test], labels[~is_test], images[is_test], labels[is_test], classes), data
    ).fingerprinted()


# --- folder


def folder(data: Data) -> ImageSet:
    """Any images in `data.root`: `train/<class>/*` and `test/<class>/*`, in every format that Pillow reads.

    They are decoded once into the user's cache directory and read from there as long as no file of the folder changes.
    Grey, palette and transparent images become RGB. With `data.image_size` images are scaled to a square (bilinear,
    their sides not kept in proportion); without it they must all have one size.
    """
    root = root_of(data, "folder")
    if not root.is_dir():
        raise ConfigError(f"data.root={data.root}: there is no such folder.")
    if not any(root.iterdir()):
        raise ConfigError(f"data.root={data.root}: the folder is empty. It must hold train/<class>/ and test/<class>/.")
    train, test = (_listing(root, split) for split in ("train", "test"))
    for name in test:
        if name not in train:
            raise ConfigError(f"data.root={data.root}: test/{name} has no train/{name}.{nearest(name, list(train))}")
    for name in train:
        if name not in test:
            raise ConfigError(f"data.root={data.root}: train/{name} has no test/{name}: every class is tested.")

    content = hashlib.sha256(json.dumps([_CACHE_FORMAT, train, test]).encode()).hexdigest()[:16]
    place = hashlib.sha256(str(root).encode()).hexdigest()[:16]
    channels = "grey" if data.grayscale else "rgb"
    cache = user_cache_path("cnnbench") / "folder" / f"{root.name}-{place}-{data.image_size or 'own'}-{channels}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache.with_name(f"{cache.name}.lock")):
        if not (cache / content).is_dir():
            _decode_all(root, train, test, data, cache, content)
        return _from_cache(cache / content)


Listing = dict[str, list[tuple[str, int, int, int]]]
"""For each class its files: path below the root, size, time of change, and of change of the inode."""


def _listing(root: Path, split: str) -> Listing:
    if not (root / split).is_dir():
        found = sorted(path.name for path in root.iterdir() if path.is_dir())
        holds = f"it holds {', '.join(found[:5])}" if found else "it holds no folder"
        raise ConfigError(f"data.root={root}: there is no {split}/ in it ({holds}).")
    extensions = Image.registered_extensions()
    classes: Listing = {}
    for class_folder in sorted(path for path in (root / split).iterdir() if path.is_dir() and path.name[0] != "."):
        files = []
        for directory, _, names in os.walk(class_folder, followlinks=True):
            for path in (Path(directory, name) for name in names):
                if path.name[0] != "." and path.suffix.lower() in extensions:
                    stat = path.stat()
                    files.append((str(path.relative_to(root)), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
        if not files:
            raise ConfigError(f"data.root={root}: {split}/{class_folder.name} holds no images.")
        classes[class_folder.name] = sorted(files)
    if not classes:
        raise ConfigError(f"data.root={root}: {split}/ holds no class folders.")
    return classes


def _from_cache(path: Path) -> ImageSet:
    about = json.loads((path / "about.json").read_text())
    # Copy-on-write maps: every process of the machine shares the same pages.
    train, test = (np.load(path / f"{split}.npy", mmap_mode="c") for split in ("train", "test"))
    train_labels, test_labels = (np.load(path / f"{split}_labels.npy") for split in ("train", "test"))
    return ImageSet(train, train_labels, test, test_labels, tuple(about["classes"]), about["fingerprint"])


def _decode_all(root: Path, train: Listing, test: Listing, data: Data, cache: Path, content: str) -> None:
    """Writes `cache/content` whole and removes what was there before."""
    first = root / next(iter(train.values()))[0][0]
    shape = decode(first, data.image_size, data.grayscale).shape
    total = sum(len(files) for listing in (train, test) for files in listing.values())
    check_space(cache, total * math.prod(shape))
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        new = Path(temporary) / content
        new.mkdir()
        with (
            ProcessPoolExecutor(mp_context=get_context("spawn")) as pool,
            bar(f"Decoding {total:,} images, once", total) as advance,
        ):
            for split, listing in (("train", train), ("test", test)):
                paths = [root / file[0] for files in listing.values() for file in files]
                array = np.lib.format.open_memmap(new / f"{split}.npy", "w+", np.uint8, (len(paths), *shape))
                chunks = [paths[start : start + 256] for start in range(0, len(paths), 256)]
                work = functools.partial(_decode_some, first, shape, data.image_size, data.grayscale)
                done = 0
                try:
                    for block in pool.map(work, chunks):
                        array[done : done + len(block)] = block
                        done += len(block)
                        advance(len(block))
                except ConfigError:
                    pool.shutdown(cancel_futures=True)
                    raise
                array.flush()
                labels = np.repeat(np.arange(len(listing)), [len(files) for files in listing.values()])
                np.save(new / f"{split}_labels.npy", labels.astype(np.int64))
        (new / "about.json").write_text(json.dumps({"classes": list(train), "fingerprint": ""}))
        fingerprint = _from_cache(new).fingerprinted().fingerprint
        (new / "about.json").write_text(json.dumps({"classes": list(train), "fingerprint": fingerprint}))
        for old in cache.iterdir():
            if old != Path(temporary):
                shutil.rmtree(old, ignore_errors=True)
        new.replace(cache / content)


def _decode_some(
    first: Path, shape: tuple[int, ...], image_size: int | None, grayscale: bool, paths: list[Path]
) -> Bytes:
    block = np.empty((len(paths), *shape), np.uint8)
    for i, path in enumerate(paths):
        image = decode(path, image_size, grayscale)
        if image.shape != shape:
            sizes = f"{first} is {shape[1]}x{shape[0]}, {path} is {image.shape[1]}x{image.shape[0]}"
            raise ConfigError(f"data.image_size=null: the images have several sizes ({sizes}). Give data.image_size=N.")
        block[i] = image
    return block


# --- single images


def decode(path: Path, image_size: int | None, grayscale: bool) -> Bytes:
    """An image file as (height, width, channels), 0 to 255.

    Raises:
        ConfigError: it can't be read; the message names it.
    """
    try:
        with Image.open(path) as file:
            return _fit(ImageOps.exif_transpose(file), image_size, grayscale)
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such image.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise ConfigError(f"{path}: not a readable image.") from None


def _fit(image: Image.Image, image_size: int | None, grayscale: bool) -> Bytes:
    if image.mode.startswith("I"):  # 16-bit grey: Pillow would clip it at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = image.convert("RGB")
    if grayscale:
        image = image.convert("L")
    if image_size is not None and image.size != (image_size, image_size):
        image = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
    array = np.asarray(image)
    return array[..., None] if grayscale else array


def fitted(images: ImageSet, data: Data) -> ImageSet:
    """The same images in the size and with the channels that `data` asks for."""
    if data.image_size is None and not data.grayscale:
        return images

    def fit(array: Bytes) -> Bytes:
        grey = data.grayscale or array.shape[3] == 1
        frames = array[..., 0] if array.shape[3] == 1 else array
        return np.stack([_fit(Image.fromarray(frame), data.image_size, grey) for frame in frames])

    return replace(images, train=fit(images.train), test=fit(images.test))


def check_space(folder: Path, needed: int) -> None:
    """Raises OSError if `folder` has less than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(f"{needed / 1e6:,.0f} MB are needed in {folder}, {free / 1e6:,.0f} MB are free")


def root_of(data: Data, option: str) -> Path:
    """`data.root` as an absolute path; `option` is what was typed as `data=`."""
    if data.root is None:
        raise ConfigError(f"data.root=null: data={option} needs data.root=DIR.")
    return Path(data.root).expanduser().absolute()
