"""The reader of your own images: folders, by class or by part and class, and CSV files of images and labels.

The module imports no torch.
"""

import csv
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from cnnbench.config.schema import Data
from cnnbench.data import cache
from cnnbench.data.images import Bytes, ImageSet, Labels, check_names, limited, root_of
from cnnbench.errors import ConfigError, nearest

_CACHE_FORMAT = 2  # raised when cached pixels would come out differently

PARTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""What the folder of each part may be called, in any case, and so may the part be in a CSV file."""

_COLUMNS = {
    "file": ("file", "filename", "path", "image"),
    "label": ("label", "class"),
    "split": ("split", "part", "set"),
}
"""What the columns of a CSV file may be called, in any case."""

_LAYOUTS = "train/<class>/ and test/<class>/, or <class>/ alone"


@dataclass(frozen=True, order=True)
class File:
    """An image file. Files are ordered by class, then by path."""

    label: str
    """The name of its class."""
    path: str
    """Below the folder that all of them lie in."""
    stamp: cache.Stamp
    part: str = ""
    """`train`, `val` or `test`; empty where its content will decide."""


def folder(data: Data) -> ImageSet:
    """Reads the images of a folder or of a CSV file, in every format that Pillow reads.

    `data.root` is one of these:

    - a folder of `train/<class>/*`, `val/<class>/*` and `test/<class>/*`, of which only the first must be there; the
      folders may have the other names in `PARTS`;
    - a folder of `<class>/*` alone, whose files are divided by a hash of their content: however many others are added
      or removed, none ever changes sides, and files of the same content are on the same side;
    - a CSV file whose first line names the columns `file` and `label` and perhaps `split`; without the last, files are
      divided by their content. Paths are relative to the CSV file.

    The images are decoded once into the user's cache folder, and read from there until a file changes. Grey, palette
    and transparent images become RGB. `data.image_size` scales them (bilinear; proportions are not kept); without it
    all must have the same size. With `data.limit` only the images that it leaves are decoded.

    Raises:
        ConfigError: the folder or file is missing, empty or has another layout, or an image can't be read.
        OSError: the cache's disk is full.
    """
    root = root_of(data, "folder")
    if root.is_dir():
        above, (files, note) = root, _in_folder(root)
    elif root.is_file():
        above, (files, note) = root.parent, _in_csv(root)
    else:
        raise ConfigError(f"data.root={data.root}: there is no such folder.")
    if not all(file.part for file in files):
        files, note = _divided(files, data, above), f"{note}, divided by the content of the files"
    check_names({file.label for file in files}, data)  # before all of them are decoded
    note += _check_classes(root, files)
    train = sorted(file for file in files if file.part != "test")
    test = sorted(file for file in files if file.part == "test")
    classes = {label: i for i, label in enumerate(sorted({file.label for file in train}))}

    def labels(files: list[File]) -> Labels:
        return np.array([classes[file.label] for file in files], np.int64)

    def held_out() -> Labels | None:
        positions = np.flatnonzero([file.part == "val" for file in train])
        return positions if len(positions) else None

    if data.limit is not None:
        chosen = limited(labels(train), held_out(), len(test), data.limit, list(classes))
        train, test = ([files[i] for i in positions] for files, positions in zip((train, test), chosen, strict=True))

    def images(pixels: dict[str, Bytes]) -> ImageSet:
        sides = pixels["train"], labels(train), pixels["test"], labels(test)
        return ImageSet(*sides, tuple(classes), validation=held_out(), note=note)

    listing = json.dumps([_CACHE_FORMAT, *(astuple(file) for file in (*train, *test))])
    pixels, fingerprint = cache.decoded(
        root,
        data,
        {"train": [above / file.path for file in train], "test": [above / file.path for file in test]},
        hashlib.sha256(listing.encode()).hexdigest()[:16],
        lambda pixels: images(pixels).fingerprinted().fingerprint,
    )
    return replace(images(pixels), fingerprint=fingerprint)


# --- layouts


def _in_folder(root: Path) -> tuple[list[File], str]:
    """The files of a folder, and its layout in words.

    Raises:
        ConfigError: it has another layout, or a class without images.
    """
    folders = _folders(root)
    parts: dict[str, Path] = {}
    for path in folders:
        if part := _known(path.name, PARTS):
            if part in parts:
                raise ConfigError(f"data.root={root}: holds both {parts[part].name}/ and {path.name}/. Keep one.")
            parts[part] = path
    by_part = "train" in parts and (len(parts) > 1 or _folders(parts["train"]))
    if by_part or (parts and len(parts) == len(folders)):  # else train/ is a class, as of vehicles
        return _by_part(root, folders, parts)
    files = {path.name: _files(root, path) for path in folders}
    classes = [name for name in files if files[name]]
    if len(classes) < 2:
        raise ConfigError(f"data.root={root}: {_instead(root, classes)}")
    left_out = _left_out(name for name in files if not files[name])
    return [file for name in classes for file in files[name]], f"folders of {len(classes)} classes{left_out}"


def _by_part(root: Path, folders: list[Path], parts: dict[str, Path]) -> tuple[list[File], str]:
    if "train" not in parts:
        holds = ", ".join(path.name for path in folders[:5])
        raise ConfigError(f"data.root={root}: there is no train/ in it (it holds {holds}).")
    found = []
    for part in (part for part in PARTS if part in parts):
        classes = _folders(parts[part])
        if not classes:
            raise ConfigError(f"data.root={root}: {parts[part].name}/ holds no class folders.")
        for path in classes:
            files = _files(root, path)
            if not files:
                raise ConfigError(f"data.root={root}: {parts[part].name}/{path.name} holds no images.")
            found += [replace(file, part=part) for file in files]
    names = [f"{parts[part].name}/" for part in PARTS if part in parts]
    left_out = _left_out(path.name for path in folders if path not in parts.values())
    return found, f"folders {', '.join(names)}{left_out}"


def _in_csv(path: Path) -> tuple[list[File], str]:
    """The files that a CSV file lists, and its layout in words.

    Raises:
        ConfigError: it is no CSV file of images, or lists something twice or that isn't there.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ConfigError(f"data.root={path}: neither a folder nor a CSV file of files and labels.") from None
    head = lines[0] if lines else ""
    rows = csv.reader(lines, delimiter=max(",;\t", key=head.count))
    columns: dict[str, int] = {}
    for i, name in enumerate(next(rows, [])):
        if known := _known(name, _COLUMNS):
            columns.setdefault(known, i)
    if not {"file", "label"} <= columns.keys():
        raise ConfigError(f"data.root={path}: the first line must name the columns file and label, not '{head:.80}'.")
    found: dict[str, File] = {}
    for row in filter(None, rows):
        where = f"data.root={path}, line {rows.line_num}"
        if len(row) <= max(columns.values()):
            raise ConfigError(f"{where}: has {len(row)} columns, fewer than the first line.")
        name, label = row[columns["file"]].strip(), row[columns["label"]].strip()
        part = _known(row[columns["split"]], PARTS) if "split" in columns else ""
        if "split" in columns and not part:
            raise ConfigError(f"{where}: '{row[columns['split']]}' is no part. Allowed: {', '.join(PARTS)}.")
        if not label or not (path.parent / name).is_file():
            raise ConfigError(f"{where}: {'no label' if not label else f'there is no image {name!r}'}.")
        if name in found:
            raise ConfigError(f"{where}: {name} stands there twice.")
        found[name] = File(label, name, _stamp(path.parent / name), part)
    if not found:
        raise ConfigError(f"data.root={path}: lists no images.")
    return list(found.values()), path.name


def _instead(root: Path, classes: list[str]) -> str:
    """What is wrong with a folder that has no two folders of images, and what to type instead."""
    names = sorted(path.name for path in root.iterdir() if path.name[0] != ".")
    if lists := [name for name in names if name.lower().endswith(".csv")]:
        where = f"all images lie in {classes[0]}/" if classes else "holds no folders of images"
        return f"{where}. Type data.root={root / lists[0]} if that file has their labels."
    if classes:
        return f"all images lie in {classes[0]}/, so there is one class. Did you mean data.root={root / classes[0]}?"
    holds = f"it holds {', '.join(names[:5])}" if names else "it is empty"
    return f"holds no folders of images ({holds}). It must hold {_LAYOUTS}."


def _left_out(names: Iterable[str]) -> str:
    names = list(names)
    return f" (not read: {', '.join(f'{name}/' for name in names[:5])}{', ...' * (len(names) > 5)})" if names else ""


def _known(name: str, names: dict[str, tuple[str, ...]]) -> str:
    """The key under which a name stands in any case; empty if it is none of them."""
    return next((key for key, called in names.items() if name.strip().lower() in called), "")


def _folders(path: Path) -> list[Path]:
    return sorted(inner for inner in path.iterdir() if inner.is_dir() and inner.name[0] != ".")


def _files(root: Path, class_folder: Path) -> list[File]:
    """The image files below a class's folder."""
    extensions, walked, found = Image.registered_extensions(), set(), []
    for directory, inner, names in os.walk(class_folder, followlinks=True):
        if (real := os.path.realpath(directory)) in walked:  # a link to a folder above would never end
            inner.clear()
            continue
        walked.add(real)
        paths = (Path(directory, name) for name in names if name[0] != "." and Path(name).suffix.lower() in extensions)
        found += [
            File(class_folder.name, str(path.relative_to(root)), _stamp(path)) for path in paths if path.is_file()
        ]
    return found


def _stamp(path: Path) -> cache.Stamp:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


# --- parts


def _divided(files: list[File], data: Data, above: Path) -> list[File]:
    """The files with their parts, which a hash of each file's content decides.

    The hash is a number from 0 to 1. Below `data.test_fraction` it is a test image; the next `data.val_fraction` of the
    rest are validation images. So each class gives these shares of its images, give or take what chance does.
    """
    digests = cache.digests(above, {above / file.path: file.stamp for file in files})
    tests = data.test_fraction
    held_out = tests + (1 - tests) * data.val_fraction

    def part(file: File) -> str:
        share = int(digests[above / file.path][:16], 16) / 2**64
        return "test" if share < tests else "val" if share < held_out else "train"

    return [replace(file, part=part(file)) for file in files]


def _check_classes(root: Path, files: list[File]) -> str:
    """Checks that each class can be trained, and says in words what else is missing.

    Raises:
        ConfigError: a class has images, but none for training.
    """
    counts = {part: Counter(file.label for file in files if file.part == part) for part in PARTS}
    every, train = Counter(file.label for file in files), counts["train"]
    for name in sorted(every):
        if not train[name]:
            side = next(part for part in ("test", "val") if counts[part][name])
            raise ConfigError(
                f"data.root={root}: {side}/{name} has no train/{name}: none of the {every[name]} images of this class "
                f"is for training.{nearest(name, list(train))}"
            )
    said = "" if counts["test"] else "; no test images"
    for part, word in (("val", "validation"), ("test", "test")):
        missing = [name for name in sorted(every) if not counts[part][name]]
        if 0 < len(missing) < len(every):
            said += f"; no {word} image of {', '.join(missing[:5])}{', ...' * (len(missing) > 5)}"
    return said
