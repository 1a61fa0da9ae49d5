"""The reader of a folder of images, and its cache of decoded images.

The module imports no torch.
"""

import functools
import hashlib
import json
import math
import os
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from filelock import FileLock
from PIL import Image
from platformdirs import user_cache_path

from cnnbench.config.schema import Data
from cnnbench.data.images import Bytes, ImageSet, check_space, decode, root_of
from cnnbench.errors import ConfigError, nearest
from cnnbench.runtime.progress import bar

_CACHE_FORMAT = 1  # raised when cached pixels would come out differently

Listing = dict[str, list[tuple[str, int, int, int]]]
"""The files of each class: path below the root, size in bytes, and times of the last change of content and of inode."""


def folder(data: Data) -> ImageSet:
    """Reads images from `data.root`: `train/<class>/*` and `test/<class>/*`, in every format that Pillow reads.

    They are decoded once into the user's cache folder, and read from there until a file of the folder changes. Grey,
    palette and transparent images become RGB. `data.image_size` scales them to a square (bilinear; proportions are not
    kept); without it all must have the same size.

    Raises:
        ConfigError: the folder is missing, empty or has other subfolders, or an image can't be read.
        OSError: the cache's disk is full.
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
    root_hash = hashlib.sha256(str(root).encode()).hexdigest()[:16]
    channels = "grey" if data.grayscale else "rgb"
    cache = user_cache_path("cnnbench") / "folder" / f"{root.name}-{root_hash}-{data.image_size or 'own'}-{channels}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache.with_name(f"{cache.name}.lock")):
        if not (cache / content).is_dir():
            _decode_all(root, train, test, data, cache, content)
        return _from_cache(cache / content)


def _listing(root: Path, split: str) -> Listing:
    """The image files below `root/split`, by class.

    Raises:
        ConfigError: there are no class folders, or one holds no images.
    """
    if not (root / split).is_dir():
        folders = sorted(path.name for path in root.iterdir() if path.is_dir())
        holds = f"it holds {', '.join(folders[:5])}" if folders else "it holds no folder"
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
    # Mapped copy-on-write, so that all processes of the machine share the pages.
    train, test = (np.load(path / f"{split}.npy", mmap_mode="c") for split in ("train", "test"))
    train_labels, test_labels = (np.load(path / f"{split}_labels.npy") for split in ("train", "test"))
    return ImageSet(train, train_labels, test, test_labels, tuple(about["classes"]), about["fingerprint"])


def _decode_all(root: Path, train: Listing, test: Listing, data: Data, cache: Path, content: str) -> None:
    """Decodes all images into `cache/content`, which appears whole or not at all, and removes older contents."""
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
    """Decodes some images in a worker process; each must have the `shape` of `first`."""
    block = np.empty((len(paths), *shape), np.uint8)
    for i, path in enumerate(paths):
        image = decode(path, image_size, grayscale)
        if image.shape != shape:
            sizes = f"{first} is {shape[1]}x{shape[0]}, {path} is {image.shape[1]}x{image.shape[0]}"
            raise ConfigError(f"data.image_size=null: the images have several sizes ({sizes}). Give data.image_size=N.")
        block[i] = image
    return block
