"""Readers of published data sets, and the download of their archives.

The archives lie in `data.root`, under the names that torchvision gives them. A missing archive is downloaded, whole or
not at all. Its md5 sum is checked before anything is parsed. `data.md5` holds the sums of a data set's files, separated
by spaces, in the order in which the reader names the files; null checks nothing. The module imports no torch.
"""

import contextlib
import gzip
import hashlib
import http.client
import io
import math
import os
import pickle
import pickletools
import tarfile
import urllib.request
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cnnbench.config.schema import Data
from cnnbench.config.targets import MOVED
from cnnbench.data.images import Bytes, ImageSet, Labels, check_space, fitted, root_of
from cnnbench.errors import ConfigError
from cnnbench.runtime.files import remove_left_over
from cnnbench.runtime.progress import bar

_TORONTO = ("https://www.cs.toronto.edu/~kriz/",)
_MNIST = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/")
_ZALANDO = ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",)
_LARGEST = 1 << 30
"""Bytes of an archive when it is unpacked: one of a few megabytes may hold many gigabytes of zeros."""

_STANFORD = ("http://ufldl.stanford.edu/housenumbers/",)

_IDX_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
_DIGITS = tuple(str(digit) for digit in range(10))
_CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


# --- data sets


def cifar10(data: Data) -> ImageSet:
    """CIFAR-10 (Krizhevsky 2009): 50,000 + 10,000 images of 32x32 RGB, ten classes.

    Reads `data.root`/cifar-10-python.tar.gz.

    Raises:
        ConfigError: the archive is missing and can't be downloaded, its md5 sum is not `data.md5`, or its content is
            not CIFAR-10's.
    """
    (archive,) = _archives(data, "cifar10", _TORONTO, ("cifar-10-python.tar.gz",))
    train = tuple(f"cifar-10-batches-py/data_batch_{i}" for i in range(1, 6))
    meta, test = "cifar-10-batches-py/batches.meta", "cifar-10-batches-py/test_batch"
    return _cifar(data, archive, (meta, "label_names"), train, test, "labels")


def cifar100(data: Data) -> ImageSet:
    """CIFAR-100 (Krizhevsky 2009): 50,000 + 10,000 images of 32x32 RGB, its hundred fine classes.

    Reads `data.root`/cifar-100-python.tar.gz.

    Raises:
        ConfigError: the archive is missing and can't be downloaded, its md5 sum is not `data.md5`, or its content is
            not CIFAR-100's.
    """
    (archive,) = _archives(data, "cifar100", _TORONTO, ("cifar-100-python.tar.gz",))
    meta, train, test = (f"cifar-100-python/{name}" for name in ("meta", "train", "test"))
    return _cifar(data, archive, (meta, "fine_label_names"), (train,), test, "fine_labels")


def mnist(data: Data) -> ImageSet:
    """MNIST (LeCun, Cortes and Burges 1998): 60,000 + 10,000 handwritten digits of 28x28 grey.

    Reads four files in `data.root`: train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz,
    t10k-labels-idx1-ubyte.gz.

    Raises:
        ConfigError: a file is missing and can't be downloaded, its md5 sum is not the one in `data.md5`, or it is not a
            complete idx file.
    """
    return _idx_set(data, "mnist", _MNIST, _DIGITS)


def fashion_mnist(data: Data) -> ImageSet:
    """Fashion-MNIST (Xiao, Rasul and Vollgraf 2017): 60,000 + 10,000 pieces of clothing of 28x28 grey, ten classes.

    Reads four files in `data.root`, named as MNIST's: train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz,
    t10k-images-idx3-ubyte.gz, t10k-labels-idx1-ubyte.gz.

    Raises:
        ConfigError: a file is missing and can't be downloaded, its md5 sum is not the one in `data.md5`, or it is not a
            complete idx file.
    """
    return _idx_set(data, "fashion_mnist", _ZALANDO, _CLOTHES)


def svhn(data: Data) -> ImageSet:
    """SVHN, cropped digits (Netzer et al. 2011): 73,257 + 26,032 house number digits of 32x32 RGB; without "extra".

    Reads `data.root`/train_32x32.mat and test_32x32.mat, where the label 10 stands for the digit 0.

    Raises:
        ConfigError: a file is missing and can't be downloaded, its md5 sum is not the one in `data.md5`, or its content
            is not SVHN's.
    """
    train, test = _archives(data, "svhn", _STANFORD, ("train_32x32.mat", "test_32x32.mat"))
    return _image_set(data, train.parent, *_mat(train), *_mat(test), _DIGITS)


@dataclass(frozen=True)
class _Published:
    """What is known of a data set without its archive."""

    files: tuple[str, ...]
    train: int
    test: int
    side: int
    channels: int
    classes: int = 10


_PUBLISHED: dict[str, _Published] = {
    f"{__name__}.{reader.__name__}": published
    for reader, published in (
        (cifar10, _Published(("cifar-10-python.tar.gz",), 50_000, 10_000, 32, 3)),
        (cifar100, _Published(("cifar-100-python.tar.gz",), 50_000, 10_000, 32, 3, classes=100)),
        (mnist, _Published(_IDX_FILES, 60_000, 10_000, 28, 1)),
        (fashion_mnist, _Published(_IDX_FILES, 60_000, 10_000, 28, 1)),
        (svhn, _Published(("train_32x32.mat", "test_32x32.mat"), 73_257, 26_032, 32, 3)),
    )
}


def stand_in(data: Data) -> ImageSet | None:
    """Black images as many and as large as a data set's whose archive isn't here, to check a config without a download.

    Returns:
        The images, which take no memory; None if the archive is here, or is not one of these data sets'.
    """
    known = _PUBLISHED.get(MOVED.get(data._target_, data._target_))
    if known is None or data.root is None:
        return None
    if all((root_of(data, known.files[0]) / name).exists() for name in known.files):
        return None
    turns, classes = (4, 4) if data.labels == "rotation" else (1, known.classes)
    side, channels = data.image_size or known.side, 1 if data.grayscale else known.channels

    def black(count: int) -> Bytes:
        return np.broadcast_to(np.uint8(0), (turns * count, side, side, channels))

    def each_class(count: int) -> Labels:
        return np.arange(turns * count, dtype=np.int64) % classes

    names = tuple(map(str, range(classes)))
    return ImageSet(black(known.train), each_class(known.train), black(known.test), each_class(known.test), names)


# --- formats


def _cifar(
    data: Data, archive: Path, names: tuple[str, str], train: tuple[str, ...], test: str, labels: str
) -> ImageSet:
    """Reads a tar file of pickles, as CIFAR-10 and CIFAR-100 come.

    Args:
        data: size and channels of the images to return.
        archive: the tar file.
        names: the member that holds the class names, and their key in it.
        train: the members that hold training images, in order.
        test: the member that holds the test images.
        labels: the key of the labels in `train` and `test`.
    """

    def pixels(batch: dict[str, Any]) -> Bytes:
        return np.ascontiguousarray(batch["data"].array.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))

    try:
        content = _pickles(archive, {names[0], *train, test})
        arrays = (
            np.concatenate([pixels(content[name]) for name in train]),
            np.concatenate([np.asarray(content[name][labels]) for name in train]),
            pixels(content[test]),
            np.asarray(content[test][labels]),
        )
        classes = tuple(str(name) for name in content[names[0]][names[1]])
    except Exception as error:  # damaged pickles raise anything
        raise _damaged(archive, "this data set's python archive", error) from None
    return _image_set(data, archive.parent, *arrays, classes)


def _pickles(archive: Path, members: set[str]) -> dict[str, Any]:
    """Unpickles `members` of a tar file."""
    contents = {}
    with tarfile.open(fileobj=io.BytesIO(_unpacked(archive))) as tar:
        for member in tar:
            if member.name in members and (file := tar.extractfile(member)) is not None:
                contents[member.name] = _unpickled(file.read())
    return contents


def _unpacked(archive: Path) -> bytes:
    """The content of a gzip file.

    Raises:
        OSError, EOFError, zlib.error: it is damaged, or has more than `_LARGEST` bytes.
    """
    with gzip.open(archive) as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise OSError(f"it has more than {_LARGEST >> 20:,} MB")
    return content


def _unpickled(content: bytes) -> Any:
    """Arrays of bytes and plain containers from a pickle.

    Raises:
        UnpicklingError: it holds anything else, or would take much more memory than it has bytes.
    """
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in ("PUT", "LONG_BINPUT") and int(argument or 0) > len(
            content
        ):  # the table of objects grows so far
            raise pickle.UnpicklingError("it holds more objects than bytes")
    return _ArraysOnly(io.BytesIO(content), encoding="latin1").load()


class _Bytes:
    """What stands in a pickle for an array of bytes. NumPy's own classes would take any memory for an object."""

    array: Bytes

    def __setstate__(self, state: tuple[int, tuple[int, ...], "_ByteType", bool, bytes | str]) -> None:
        _, shape, kind, fortran, content = state
        if not isinstance(kind, _ByteType) or fortran:
            raise pickle.UnpicklingError("it holds an array of another kind")
        text = content.encode("latin1") if isinstance(content, str) else content
        self.array = np.frombuffer(text, np.uint8).reshape(shape)


class _ByteType:
    """What stands in a pickle for `numpy.dtype("u1")`."""

    def __init__(self, name: str, *_: object) -> None:
        if name not in ("u1", "|u1"):
            raise pickle.UnpicklingError(f"it holds an array of {name}")

    def __setstate__(self, state: object) -> None:
        """Leaves out the byte order, which a byte has not."""


def _encoded(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it holds text in {encoding}")
    return text.encode("latin1")


class _ArraysOnly(pickle.Unpickler):
    """Unpickles arrays of bytes and plain containers, as the published archives hold them, and nothing else."""

    _stand_ins: ClassVar = {
        ("numpy.core.multiarray", "_reconstruct"): lambda *_: _Bytes(),
        ("numpy._core.multiarray", "_reconstruct"): lambda *_: _Bytes(),
        ("numpy", "ndarray"): _Bytes,
        ("numpy", "dtype"): _ByteType,
        ("_codecs", "encode"): _encoded,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._stand_ins:
            raise pickle.UnpicklingError(f"it holds {module}.{name}")
        return self._stand_ins[module, name]


def _idx_set(data: Data, option: str, servers: Sequence[str], classes: tuple[str, ...]) -> ImageSet:
    train, train_labels, test, test_labels = _archives(data, option, servers, _IDX_FILES)
    return _image_set(
        data,
        train.parent,
        _idx(train, 3)[..., None],
        _idx(train_labels, 1),
        _idx(test, 3)[..., None],
        _idx(test_labels, 1),
        classes,
    )


def _idx(archive: Path, dimensions: int) -> Bytes:
    """Reads a gzip idx file of unsigned bytes: magic number 0, 0, 8, `dimensions`; each size, big-endian; the bytes."""
    kind = f"a gzip idx{dimensions} file of bytes"
    try:
        content = _unpacked(archive)
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(archive, kind, error) from None
    start = 4 + 4 * dimensions
    if len(content) < start or content[:4] != bytes((0, 0, 8, dimensions)):
        raise _damaged(archive, kind, f"it begins with {content[:4].hex(' ')}")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", dimensions, offset=4))
    if len(content) - start != math.prod(shape):
        sizes = "x".join(str(size) for size in shape)
        raise _damaged(archive, kind, f"it announces {sizes} bytes and holds {len(content) - start}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def _mat(archive: Path) -> tuple[Bytes, NDArray[Any]]:
    """Reads images (n, 32, 32, 3) and digits (n,) from a MATLAB file that holds X (32, 32, 3, n) and y (n, 1)."""
    from scipy.io import loadmat

    try:
        content = loadmat(archive, variable_names=("X", "y"))
        images = np.ascontiguousarray(content["X"].transpose(3, 0, 1, 2))
        labels = content["y"].reshape(-1)
    except Exception as error:  # damaged files raise anything
        raise _damaged(archive, "SVHN's MATLAB file", error) from None
    return images, np.where(labels == 10, 0, labels)


def _image_set(
    data: Data,
    root: Path,
    train: NDArray[Any],
    train_labels: NDArray[Any],
    test: NDArray[Any],
    test_labels: NDArray[Any],
    classes: tuple[str, ...],
) -> ImageSet:
    """Makes an `ImageSet` of arrays, in the size and with the channels that `data` asks for.

    Without md5 sums a file may hold anything, so the arrays are checked.

    Raises:
        ConfigError: the images are not bytes (n, height, width, channels), or there are not n labels of `classes`.
    """
    for split, images, labels in (("training", train, train_labels), ("test", test, test_labels)):
        if images.dtype != np.uint8 or images.ndim != 4 or labels.shape != images.shape[:1] or not len(images):
            raise ConfigError(
                f"data.root={root}: the {split} images are {images.dtype} {images.shape}, their labels {labels.shape}. "
                f"Allowed: bytes (images, height, width, channels) with one label for each image."
            )
        if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= len(classes):
            raise ConfigError(f"data.root={root}: the {split} labels are not all from 0 to {len(classes) - 1}.")
    whole = ImageSet(train, train_labels.astype(np.int64), test, test_labels.astype(np.int64), classes)
    return fitted(whole, data).fingerprinted()


def _damaged(archive: Path, kind: str, reason: object) -> ConfigError:
    return ConfigError(f"data.root={archive.parent}: {archive.name} is damaged, or is not {kind} ({reason}).")


# --- files


def _archives(data: Data, option: str, servers: Sequence[str], names: Sequence[str]) -> list[Path]:
    """Finds the files `names` in `data.root`, downloads those that are missing, and checks all md5 sums.

    Args:
        data: the folder and the sums.
        option: the option of the group `data`, for messages.
        servers: addresses of folders that hold the files, tried in order.
        names: the files, in the order of their sums in `data.md5`.

    Raises:
        ConfigError: a file is missing and can't be downloaded, or its md5 sum is another.
    """
    root = root_of(data, option)
    sums: list[str | None] = [None] * len(names) if data.md5 is None else [*data.md5.split()]
    if len(sums) != len(names):
        raise ConfigError(
            f"data.md5={data.md5}: must be {len(names)} md5 sum{'s separated by spaces' * (len(names) > 1)} "
            f"({', '.join(names)}), or null for no check."
        )
    archives = [root / name for name in names]
    for archive, md5 in zip(archives, sums, strict=True):
        if not archive.exists():
            _download(servers, archive, md5)
        elif md5 is not None and (actual := _md5(archive)) != md5.lower():
            raise ConfigError(
                f"data.md5={md5}: {archive} has md5 {actual}: it is damaged, or not the official archive. "
                f"Delete it to download it again, or set data.md5 to its sum if you trust it."
            )
    return archives


def _md5(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()
    except OSError as error:
        raise ConfigError(f"data.root={path.parent}: {path.name} can't be read ({error.strerror}).") from None


def _download(servers: Sequence[str], archive: Path, md5: str | None) -> None:
    """Downloads `archive` from the first server that has it.

    Raises:
        ConfigError: no server has it, or it can't be written; no partial file remains.
    """
    reasons = []
    for server in servers:
        try:
            return _fetch(f"{server}{archive.name}", archive, md5)
        except (OSError, http.client.HTTPException) as error:
            reasons.append(str(getattr(error, "reason", None) or getattr(error, "strerror", None) or error))
    raise ConfigError(
        f"data.root={archive.parent}: {archive.name} is missing and can't be downloaded "
        f"({'; '.join(dict.fromkeys(reasons))}). "
        f"Put the archive into that folder, or use data=digits, or your own images with data=folder data.root=DIR."
    )


def _fetch(url: str, archive: Path, md5: str | None) -> None:
    part = archive.with_name(f".{archive.name}.{os.getpid()}.part")
    created = [folder for folder in archive.parents if not folder.exists()]
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            size = int(response.headers.get("Content-Length") or 0) or None
            archive.parent.mkdir(parents=True, exist_ok=True)
            remove_left_over(archive.parent, f".{archive.name}.*.part")
            check_space(archive.parent, size or 0)
            with part.open("wb") as file, bar(f"Downloading {url}", size) as advance:
                while block := response.read(1 << 18):
                    file.write(block)
                    advance(len(block))
        if size is not None and part.stat().st_size != size:
            raise OSError(f"the connection ended after {part.stat().st_size} of {size} bytes")
        if md5 is not None and (actual := _md5(part)) != md5.lower():
            raise OSError(f"{url} has md5 {actual} instead of data.md5={md5}")
        part.replace(archive)
    finally:
        part.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # a folder that holds something stays, and so do its parents
            for folder in created:
                folder.rmdir()
