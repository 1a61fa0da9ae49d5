"""The set of all images as arrays, the readers' common parts, and scikit-learn's digits.

A reader is a function from `schema.Data` to an `ImageSet`. A YAML file of the group `data` names it as `_target_`.
The module imports no torch.
"""

import errno
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import distribution
from pathlib import Path
from typing import get_type_hints

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from cnnbench.config.schema import Data
from cnnbench.config.targets import locate
from cnnbench.errors import ConfigError
from cnnbench.runtime.files import check_regular
from cnnbench.runtime.memory import free_memory
from cnnbench.runtime.text import is_name

Bytes = NDArray[np.uint8]
Labels = NDArray[np.int64]
Size = int | list[int] | None
"""Height and width of images in pixels: one number for both, [height, width], or None for those of the files."""


@dataclass(frozen=True)
class ImageSet:
    """All images of a data set."""

    train: Bytes
    """(images, height, width, channels), 0 to 255."""
    train_labels: Labels
    """(images,), indices into `classes`."""
    test: Bytes
    """(images, height, width, channels), 0 to 255. There may be none."""
    test_labels: Labels
    """(images,), indices into `classes`."""
    classes: tuple[str, ...]
    """Names of the classes."""
    fingerprint: str = ""
    """A hash of pixels, labels, class names and `validation`."""
    validation: Labels | None = None
    """Positions of those training images that the data set sets aside for validation; None leaves that to each run."""
    note: str = ""
    """What the reader found by itself, in words."""

    def fingerprinted(self) -> "ImageSet":
        """A copy with its fingerprint filled in."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for array in (self.train, self.train_labels, self.test, self.test_labels):
            digest.update(str(array.shape).encode())
            digest.update(np.ascontiguousarray(array).data)
        if self.validation is not None:
            digest.update(f"validation {self.validation.tolist()}".encode())
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
    check_names(images.classes, data)
    if images.validation is not None and data.val in ("split", "test"):  # they are training images like all others
        images = replace(images, validation=None, fingerprint=_changed(images, "without validation"))
    return _rotated(images) if data.labels == "rotation" else images


def check_names(classes: Iterable[str], data: Data) -> None:
    """Checks that no class's name could command the terminal or break a line.

    Raises:
        ConfigError: one does.
    """
    for name in classes:
        if not is_name(name):
            raise ConfigError(
                f"data.root={data.root}: class {name!r} has a line break or another control character in its name."
            )


def _changed(images: ImageSet, how: str) -> str:
    """The fingerprint of images that were changed in a way that these words describe."""
    return hashlib.sha256(f"{images.fingerprint} {how}".encode()).hexdigest()[:16]


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

    validation = images.validation
    if validation is not None:
        validation = np.concatenate([validation + k * len(images.train) for k in range(4)])
    angles, fingerprint = ("0", "90", "180", "270"), _changed(images, "rotation")
    return ImageSet(*rotate(images.train), *rotate(images.test), angles, fingerprint, validation, images.note)


def limited(
    labels: Labels, validation: Labels | None, tests: int, limit: int, classes: Sequence[str]
) -> tuple[Labels, Labels]:
    """The images that `data.limit` leaves, the same for every seed.

    Args:
        labels: of the training images.
        validation: positions of those that are for validation, which keep their share; or None.
        tests: the number of test images.
        limit: the largest number of training images, and of test images.
        classes: names of the classes, for the message.

    Returns:
        Positions of training images and of test images, in order.

    Raises:
        ConfigError: a class would get no training image, or none would be left for validation.
    """
    rng = np.random.default_rng(0)
    held_out = np.isin(np.arange(len(labels)), [] if validation is None else validation)
    strata = 2 * labels + held_out
    names, sizes = np.unique(strata, return_counts=True)
    quota, trained = quotas(sizes, limit), names % 2 == 0
    lost = [f"'{classes[names[i] // 2]}' (training images: {sizes[i]})" for i in np.flatnonzero((quota < 1) & trained)]
    if held_out.any() and not quota[~trained].any():
        lost.append(f"the {held_out.sum()} validation images")
    if lost:
        few = f"{limit} images are too few for {len(np.unique(labels))} classes"
        raise ConfigError(f"data.limit={limit}: {few}: none would be left of {lost[0]}.")
    train = drawn(strata, quota, rng) if limit < len(labels) else np.arange(len(labels))
    return train, np.sort(rng.permutation(tests)[:limit]) if limit < tests else np.arange(tests)


def quotas(sizes: Labels, count: int) -> Labels:
    """How many of `count` images each class gives, by its share of all (largest remainders); at most all of them."""
    if count >= sizes.sum():
        return sizes.copy()
    shares = sizes * (count / sizes.sum())
    quota: Labels = np.floor(shares).astype(np.int64)
    quota[np.argsort(quota - shares, kind="stable")[: count - quota.sum()]] += 1
    return quota


def drawn(labels: Labels, quota: Labels, rng: np.random.Generator) -> Labels:
    """Draws `quota` positions of each label, in the order of the labels, and sorts them all."""
    positions = [
        rng.permutation(np.flatnonzero(labels == label))[:n] for label, n in zip(np.unique(labels), quota, strict=True)
    ]
    return np.sort(np.concatenate(positions))


def digits(data: Data) -> ImageSet:
    """scikit-learn's 1,797 handwritten digits (Alpaydin and Kaynak 1998), 8x8 grey.

    Every fifth image of a class is a test image.
    """
    # To import scikit-learn for its `load_digits` takes a second.
    file = Path(str(distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")))
    rows = np.loadtxt(file, np.int64, delimiter=",")  # 64 pixels from 0 to 16, then the digit
    images = (rows[:, :64].reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8)[..., None]
    labels = rows[:, 64]
    is_test = np.zeros(len(images), bool)
    for digit in range(10):
        is_test[np.flatnonzero(labels == digit)[4::5]] = True
    classes = tuple(str(digit) for digit in range(10))
    return fitted(
        ImageSet(images[~is_test], labels[~is_test], images[is_test], labels[is_test], classes), data
    ).fingerprinted()


def decode(path: Path, image_size: Size, grayscale: bool) -> Bytes:
    """Reads an image file.

    Args:
        path: the file.
        image_size: height and width to scale to; None keeps the file's.
        grayscale: one channel instead of three.

    Returns:
        Bytes (height, width, channels).

    Raises:
        ConfigError: the file is missing or not a readable image; the message names it.
    """
    try:
        check_regular(path)
        with Image.open(path) as file:
            return _fit(ImageOps.exif_transpose(file), image_size, grayscale)
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such image.") from None
    except Exception:  # on damaged files Pillow's decoders raise anything
        raise ConfigError(f"{path}: not a readable image.") from None


def _fit(image: Image.Image, image_size: Size, grayscale: bool) -> Bytes:
    if image.mode.startswith("I"):  # 16-bit grey: Pillow would clip it at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = image.convert("RGB")
    if grayscale:
        image = image.convert("L")
    if image_size is not None:
        height, width = image_size if isinstance(image_size, list) else (image_size, image_size)
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
    array = np.asarray(image)
    return array[..., None] if grayscale else array


def fitted(images: ImageSet, data: Data) -> ImageSet:
    """Converts all images to the size and channels that `data` asks for.

    Raises:
        ConfigError: they wouldn't fit into memory.
    """
    if data.image_size is None and not data.grayscale:
        return images
    if data.image_size is not None:
        sides = data.image_size if isinstance(data.image_size, list) else [data.image_size] * 2
        count, channels = len(images.train) + len(images.test), 1 if data.grayscale else images.train.shape[3]
        # Each image is scaled with three channels, and stands in the list and in the stack for a moment.
        needed = 2 * count * channels * math.prod(sides) + 3 * math.prod(sides)
        if needed > (free := free_memory()):
            raise ConfigError(
                f"data.image_size={data.image_size}: {count:,} images of this size need {needed / 1e9:,.1f} GB of "
                f"memory, and {free / 1e9:,.1f} GB are free."
            )

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
        says = f"No space left on device: {needed / 1e6:,.1f} MB are needed, {free / 1e6:,.1f} MB are free"
        raise OSError(errno.ENOSPC, says, str(folder))


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
