"""Small archives in the formats of the published data sets."""

import gzip
import hashlib
import io
import os
import pickle
import struct
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.io import savemat

from cnnbench.config.schema import Data
from cnnbench.data.archives import cifar10, cifar100, fashion_mnist, mnist, svhn
from cnnbench.data.images import ImageSet

CONF = Path(__file__).parents[1] / "conf" / "data"

CIFAR_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
IDX_FILES = [f"{split}-{kind}-ubyte.gz" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


def write_tar(path: Path, contents: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, content in contents.items():
            blob = pickle.dumps(content, protocol=2)
            info = tarfile.TarInfo(name)
            info.size = len(blob)
            tar.addfile(info, io.BytesIO(blob))


def rows(count: int, first: int) -> np.ndarray:
    """A row is 1,024 red bytes, then green, then blue, each from the top left.

    Every image has one red, green and blue, but for the pixel at y=5, x=7, which is 200, 201, 202.
    """
    rows = np.zeros((count, 3072), np.uint8)
    for i in range(count):
        for channel in range(3):
            rows[i, 1024 * channel : 1024 * (channel + 1)] = first + 10 * i + channel
            rows[i, 1024 * channel + 5 * 32 + 7] = 200 + channel
    return rows


def write_cifar10(root: Path, evil: object = None) -> None:
    contents: dict[str, object] = {
        f"cifar-10-batches-py/data_batch_{i}": {"data": rows(2, 20 * i), "labels": [i, 9]} for i in (3, 1, 2, 5, 4)
    }
    contents["cifar-10-batches-py/test_batch"] = {"data": rows(3, 150), "labels": [8, 0, 7]}
    contents["cifar-10-batches-py/batches.meta"] = {"label_names": CIFAR_CLASSES, "num_vis": 3072}
    if evil is not None:
        contents["cifar-10-batches-py/data_batch_3"] = evil
    write_tar(root / "cifar-10-python.tar.gz", contents)


def write_cifar100(root: Path, evil: object = None) -> None:
    train = {"filenames": ["a.png"] * 4, "fine_labels": [99, 0, 42, 7], "coarse_labels": [19, 0, 8, 1]}
    contents: dict[str, object] = {
        "cifar-100-python/meta": {
            "fine_label_names": [f"fine {i}" for i in range(100)],
            "coarse_label_names": [f"coarse {i}" for i in range(20)],
        },
        "cifar-100-python/test": {"data": rows(2, 150), "fine_labels": [3, 98], "coarse_labels": [4, 5]},
        "cifar-100-python/train": train | {"data": rows(4, 20)} if evil is None else evil,
    }
    write_tar(root / "cifar-100-python.tar.gz", contents)


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes(), mtime=0))


def write_mnist(root: Path) -> None:
    """Pixel (y, x) of image i is 5 * y + x + i; test images begin at i = 50."""
    y, x = np.mgrid[:28, :28]
    for split, first, labels in (("train", 0, [5, 0, 4]), ("t10k", 50, [9, 2])):
        images = np.stack([5 * y + x + first + i for i in range(len(labels))])
        write_idx(root / f"{split}-images-idx3-ubyte.gz", images)
        write_idx(root / f"{split}-labels-idx1-ubyte.gz", np.array(labels))


def write_svhn(root: Path) -> None:
    """Pixel (y, x, channel) of image i is 3 * y + x + 40 * channel + i; test images begin at i = 30."""
    root.mkdir(parents=True, exist_ok=True)
    y, x, channel = np.mgrid[:32, :32, :3]
    for split, first, labels in (("train", 0, [1, 10, 9, 2]), ("test", 30, [10, 5])):
        images = np.stack([3 * y + x + 40 * channel + first + i for i in range(len(labels))], axis=3)
        labels_column = np.array(labels, np.uint8)[:, None]
        content = {"X": images.astype(np.uint8), "y": labels_column}
        savemat(root / f"{split}_32x32.mat", content, do_compression=True)


@dataclass
class Kind:
    name: str
    read: Callable[[Data], ImageSet]
    write: Callable[[Path], None]
    files: list[str]

    def md5(self, root: Path) -> str:
        return " ".join(hashlib.md5((root / file).read_bytes()).hexdigest() for file in self.files)


KINDS = [
    Kind("cifar10", cifar10, write_cifar10, ["cifar-10-python.tar.gz"]),
    Kind("cifar100", cifar100, write_cifar100, ["cifar-100-python.tar.gz"]),
    Kind("mnist", mnist, write_mnist, IDX_FILES),
    Kind("fashion_mnist", fashion_mnist, write_mnist, IDX_FILES),
    Kind("svhn", svhn, write_svhn, ["train_32x32.mat", "test_32x32.mat"]),
]


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, ("unpickled",))
