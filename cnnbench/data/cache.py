"""The cache of decoded images: a folder in which the images of each `data.root` lie as arrays.

An image file is decoded once for each size and number of channels, and read from there until its folder changes. The
module imports no torch.
"""

import contextlib
import functools
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread

import numpy as np
from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from cnnbench.config.schema import Data
from cnnbench.data.images import Bytes, Size, check_space, decode
from cnnbench.errors import CnnbenchError, ConfigError
from cnnbench.results import decoding
from cnnbench.runtime import files
from cnnbench.runtime.progress import bar

_DECODING = "decoding-"
_OURS = re.compile(rf"[0-9a-f]{{16}}|{_DECODING}.*")
"""Names inside the folder of one `data.root`: a hash, or what is being decoded. If the folder is a link to another one,
what else lies there is somebody's."""

Stamp = tuple[int, int, int]
"""Size of a file in bytes, and times of the last change of its content and of its inode, in nanoseconds."""


@dataclass(kw_only=True)
class About:
    """What is said of decoded images beside them, in `about.json`."""

    schema_version: int = field(default=2, init=False)
    root: str
    """The `data.root` that they come from."""
    fingerprint: str
    """That of the `ImageSet`."""
    stamps: dict[str, tuple[int, int]]
    """Of each array's file its size in bytes and the time of its last change in nanoseconds."""


@dataclass(kw_only=True)
class Digests:
    """Hashes of the bytes of image files, as they lie in the cache."""

    schema_version: int = field(default=1, init=False)
    files: dict[str, tuple[Stamp, str]] = field(default_factory=dict)
    """By path: the state of the file when it was read, and the hash."""


@dataclass
class Entry:
    """The decoded images of a `data.root`, in one size and with one number of channels."""

    root: str
    images: int
    shape: tuple[int, int, int]
    """Height, width, channels."""
    size: int
    """Bytes on the disk."""


def place() -> Path:
    """The folder of the cache, inside the user's cache folder."""
    return user_cache_path("cnnbench") / "folder"


def _name(root: Path) -> str:
    return f"{root.name}-{hashlib.sha256(str(root).encode()).hexdigest()[:16]}"


# --- reading


def decoded(
    root: Path,
    data: Data,
    parts: Mapping[str, list[Path]],
    content: str,
    fingerprint: Callable[[dict[str, Bytes]], str],
) -> tuple[dict[str, Bytes], str]:
    """The pixels of image files, decoded now unless that was done before.

    Args:
        root: `data.root` as an absolute path.
        data: size and channels of the images.
        parts: the files, by name of the array that they become.
        content: a hash of everything that the images depend on; another one replaces what is cached.
        fingerprint: computes the fingerprint of the arrays, which is cached with them.

    Returns:
        Bytes (images, height, width, channels) of each part, and the fingerprint.

    Raises:
        ConfigError: a file is not a readable image, or the images have several sizes.
        OSError: the cache's disk is full.
    """
    size = "own" if data.image_size is None else "x".join(map(str, np.ravel(data.image_size)))
    limit = "" if data.limit is None else f"-limit{data.limit}"
    cache = place() / f"{_name(root)}-{size}-{'grey' if data.grayscale else 'rgb'}{limit}"
    cache.mkdir(parents=True, exist_ok=True)

    def arrays(folder: Path) -> dict[str, Bytes]:  # mapped copy-on-write: all processes share the pages
        return {part: np.load(folder / f"{part}.npy", mmap_mode="c") for part in parts}

    with FileLock(cache.with_name(f"{cache.name}.lock")):
        if (about := _whole(cache / content)) is None:
            with tempfile.TemporaryDirectory(dir=cache, prefix=_DECODING) as temporary:
                new = Path(temporary) / content
                new.mkdir()
                _decode_all(parts, data, new)
                about = About(root=str(root), fingerprint=fingerprint(arrays(new)), stamps=_stamps(new))
                text = json.dumps(asdict(about)).encode()
                files.write_whole(new / "about.json", lambda file: file.write(text))
                for old in cache.iterdir():
                    if old != Path(temporary) and _OURS.fullmatch(old.name):
                        _remove(old)
                new.replace(cache / content)
        return arrays(cache / content), about.fingerprint


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _whole(folder: Path) -> About | None:
    """What a folder of decoded images says of itself; None if it is not there, damaged or was changed since."""
    with contextlib.suppress(ValueError, OSError):
        about: About = decoding.read(folder / "about.json", About, (2,))
        if about.stamps == _stamps(folder) and re.fullmatch("[0-9a-f]{16}", about.fingerprint):
            return about
    return None


def _stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of each array, in bytes and nanoseconds."""
    states = {path.name: path.stat() for path in sorted(folder.glob("*.npy"))}
    return {name: (state.st_size, state.st_mtime_ns) for name, state in states.items()}


def _decode_all(parts: Mapping[str, list[Path]], data: Data, folder: Path) -> None:
    """Decodes all images into one array for each part, on all cores."""
    total = sum(map(len, parts.values()))
    first = next(path for paths in parts.values() for path in paths)
    shape = decode(first, data.image_size, data.grayscale).shape
    check_space(folder, total * math.prod(shape))
    work = functools.partial(_decode_some, first, shape, data.image_size, data.grayscale)
    with (
        ProcessPoolExecutor(mp_context=get_context("spawn"), initializer=_end_with_parent) as pool,
        bar(f"Decoding {total:,} images, once", total) as advance,
    ):
        for part, paths in parts.items():
            name = folder / f"{part}.npy"
            array = np.lib.format.open_memmap(name, "w+", np.uint8, (len(paths), *shape))
            _reserve(name)
            done = 0
            try:
                for block in pool.map(work, (paths[start : start + 256] for start in range(0, len(paths), 256))):
                    array[done : done + len(block)] = block
                    done += len(block)
                    advance(len(block))
            except ConfigError:
                pool.shutdown(cancel_futures=True)
                raise
            except BrokenProcessPool:
                raise CnnbenchError("a process that decodes images was killed: is there too little memory?") from None
            array.flush()
            with name.open("rb") as file:
                os.fsync(file.fileno())


def _reserve(path: Path) -> None:
    """Takes the disk's room for all of a file: a disk that is full later would kill the process without a word.

    Raises:
        OSError: there is too little room.
    """
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _end_with_parent() -> None:
    """Ends this process when the one that started it is gone; else it would wait for work for ever."""
    parent = parent_process()
    assert parent is not None, "a worker has one"

    def wait() -> None:
        parent.join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()


def _decode_some(first: Path, shape: tuple[int, ...], image_size: Size, grayscale: bool, paths: list[Path]) -> Bytes:
    """Decodes some images in a worker process; each must have the `shape` of `first`."""
    block = np.empty((len(paths), *shape), np.uint8)
    for i, path in enumerate(paths):
        image = decode(path, image_size, grayscale)
        if image.shape != shape:
            sizes = f"{first} is {shape[1]}x{shape[0]}, {path} is {image.shape[1]}x{image.shape[0]}"
            raise ConfigError(f"data.image_size=null: the images have several sizes ({sizes}). Give data.image_size=N.")
        block[i] = image
    return block


def digests(root: Path, stamps: Mapping[Path, Stamp]) -> dict[Path, str]:
    """A hash of each file's bytes, computed once and then again when the file changes.

    Args:
        root: `data.root` as an absolute path.
        stamps: the files.
    """
    cache = place() / f"{_name(root)}.digests.json"
    cache.parent.mkdir(parents=True, exist_ok=True)
    known = Digests()
    with contextlib.suppress(ValueError):  # none yet, or damaged
        known = decoding.read(cache, Digests, (1,))
    new = [path for path, stamp in stamps.items() if known.files.get(str(path), ((), ""))[0] != stamp]
    if new:
        with ThreadPoolExecutor() as pool, bar(f"Reading {len(new):,} files, once", len(new)) as advance:
            for path, digest in zip(new, pool.map(_digest, new), strict=True):
                known.files[str(path)] = stamps[path], digest
                advance(1)
        text = json.dumps(asdict(known))
        files.write_whole(cache, lambda file: file.write(text.encode()))
    return {path: known.files[str(path)][1] for path in stamps}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- listing and clearing


def entries() -> list[Entry]:
    """What the cache holds, by `data.root`."""
    found = []
    for path in place().glob("*/*/about.json"):
        if (about := _whole(path.parent)) is None:  # the next run decodes these again
            continue
        arrays = [np.load(array, mmap_mode="r") for array in path.parent.glob("*.npy")]
        root, size = about.root, _size(path.parent)
        found.append(Entry(root, sum(map(len, arrays)), arrays[0].shape[1:], size))
    return sorted(found, key=lambda entry: (entry.root, entry.shape))


def clear() -> tuple[int, list[str]]:
    """Removes what the cache holds, except what another process is decoding into right now.

    Returns:
        The number of bytes that were freed, and the names of folders that are in use.
    """
    before, busy = size(), []
    for path in place().glob("*"):
        if path.is_dir():
            try:
                with FileLock(path.with_name(f"{path.name}.lock"), blocking=False):
                    _remove(path)
            except Timeout:
                busy.append(path.name)
        elif path.suffix == ".json":
            path.unlink()
    return before - size(), busy


def size() -> int:
    """Bytes of all that the cache holds."""
    return _size(place())


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
