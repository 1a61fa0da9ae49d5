"""The set of all images as arrays, the readers' common parts, and scikit-learn's digits.

A reader is a function from `schema.Data` to an `ImageSet`. A YAML file of the group `data` names it as `_target_`.
The module imports no torch.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_type_hints

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from cnnbench.config.schema import Data
from cnnbench.config.targets import locate
from cnnbench.errors import ConfigError

Bytes = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class ImageSet:
    """All images of a data set."""

    train: Bytes
    """(images, height, width, channels), 0 to 255."""
    train_labels: Labels
    """(images,), indices into `classes`."""
    test: Bytes
    """(images, height, width, channels), 0 to 255."""
    test_labels: Labels
    """(images,), indices into `classes`."""
    classes: tuple[str, ...]
    """Names of the classes."""
    fingerprint: str = ""
    """A hash of pixels, labels and class names."""

    def fingerprinted(self) -> "ImageSet":
        """A copy with its fingerprint filled in."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for array in (self.train, self.train_labels, self.test, self.test_labels):
            digest.update(str(array.shape).encode())
            digest.update(np.ascontiguousarray(array).data)
        return replace(self, fingerprint=digest.hexdigest()[:16])


def load(data: Data) -> ImageSet:
    """Reads the images that `data` names, in the size and with the channels that it asks for.

    Raises:
        ConfigError: the reader doesn't exist or doesn't return an `ImageSet`, or the images are missing or unreadable.
    """
    try:
        read: Callable[[Data], ImageSet] = locate(data._target_)
        reads = get_type_hints(read).get("return") is ImageSet
    except Exception:
        raise ConfigError(f"data._target_={data._target_}: there is no such function.") from None
    if not reads:
        raise ConfigError(f"data._target_={data._target_}: must be declared to return a cnnbench.data.images.ImageSet.")
    images = read(data)
    return _rotated(images) if data.labels == "rotation" else images


def _rotated(images: ImageSet) -> ImageSet:
    """Each image in four rotations, which are the new labels (Gidaris et al. 2018).

    Raises:
        ConfigError: the images are not square.
    """
    if images.train.shape[1] != images.train.shape[2]:
        raise ConfigError("data.labels=rotation: needs square images. Give data.image_size=N.")

    def rotate(array: Bytes) -> tuple[Bytes, Labels]:
        rotated = np.concatenate([np.rot90(array, k, axes=(1, 2)) for k in range(4)])
        return rotated, np.repeat(np.arange(4), len(array))

    fingerprint = hashlib.sha256(f"{images.fingerprint} rotation".encode()).hexdigest()[:16]
    return ImageSet(*rotate(images.train), *rotate(images.test), ("0", "90", "180", "270"), fingerprint)


def digits(data: Data) -> ImageSet:
    """scikit-learn's 1,797 handwritten digits (Alpaydin and Kaynak 1998), 8x8 grey.

    Every fifth image of a class is a test image.
    """
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


def decode(path: Path, image_size: int | None, grayscale: bool) -> Bytes:
    """Reads an image file.

    Args:
        path: the file.
        image_size: height and width to scale to, in pixels; None keeps the file's.
        grayscale: one channel instead of three.

    Returns:
        Bytes (height, width, channels).

    Raises:
        ConfigError: the file is missing or not a readable image; the message names it.
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
    """Converts all images to the size and channels that `data` asks for."""
    if data.image_size is None and not data.grayscale:
        return images

    def fit(array: Bytes) -> Bytes:
        grey = data.grayscale or array.shape[3] == 1
        frames = array[..., 0] if array.shape[3] == 1 else array
        return np.stack([_fit(Image.fromarray(frame), data.image_size, grey) for frame in frames])

    return replace(images, train=fit(images.train), test=fit(images.test))


def check_space(folder: Path, needed: int) -> None:
    """Checks that the disk of `folder` has `needed` bytes free.

    Raises:
        OSError: it has not.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(f"{needed / 1e6:,.0f} MB are needed in {folder}, {free / 1e6:,.0f} MB are free")


def root_of(data: Data, option: str) -> Path:
    """`data.root` as an absolute path.

    Args:
        data: the `data` group.
        option: its option, for the message.

    Raises:
        ConfigError: `data.root` is not set.
    """
    if data.root is None:
        raise ConfigError(f"data.root=null: data={option} needs data.root=DIR.")
    return Path(data.root).expanduser().absolute()
