"""Bundles: the records and plans of a folder of runs in one compressed file, with a manifest of their hashes."""

import contextlib
import hashlib
import io
import json
import lzma
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path, PurePosixPath

from cnnbench.errors import ConfigError
from cnnbench.results.records import SCHEMA_VERSION
from cnnbench.runtime import files

MANIFEST = "manifest.json"
"""Its own list of its files, with their sizes and SHA-256 hashes, and the versions that wrote it."""

_MOST_FILES = 200_000
_MOST_BYTES = 1 << 31
"""Of all files together, unpacked: more is an attack on the disk."""

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The date of all files, so that equal contents are equal bundles; the oldest that ZIP has."""


def write(folder: Path, path: Path) -> int:
    """Puts all that `cnnbench compare` reads of a folder into one file: no weights, no logs.

    Args:
        folder: a run, or a folder of runs.
        path: the bundle, `.tar.xz` or `.zip`; equal contents give equal bytes.

    Returns:
        The number of records in it.

    Raises:
        ConfigError: the folder isn't there or has no records, or the file's name has another suffix.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such folder.")
    if not path.name.endswith((".tar.xz", ".zip")):
        raise ConfigError(f"out={path}: must end in .tar.xz or .zip.")
    names = [each.relative_to(folder) for each in sorted(folder.rglob("*.json")) if each.is_file()]
    names = [each for each in names if each.name != MANIFEST and not any(part.startswith(".") for part in each.parts)]
    contents = {each.as_posix(): (folder / each).read_bytes() for each in names}
    records = sum(each.name == "record.json" for each in names)
    if not records:
        raise ConfigError(f"{folder}: no records there (runs/NAME/RUN/record.json).")
    told = {name: {"size": len(text), "sha256": hashlib.sha256(text).hexdigest()} for name, text in contents.items()}
    manifest = {"cnnbench": version("cnnbench"), "schema_version": SCHEMA_VERSION, "files": told}
    contents = {MANIFEST: json.dumps(manifest, indent=1).encode()} | contents
    packed = io.BytesIO()
    (_zip if path.suffix == ".zip" else _tar)(packed, contents)
    files.write_whole(path, lambda file: file.write(packed.getbuffer()))
    return records


def _tar(packed: io.BytesIO, contents: dict[str, bytes]) -> None:
    with tarfile.open(fileobj=packed, mode="w:xz", format=tarfile.PAX_FORMAT, preset=9) as archive:
        for name, text in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))


def _zip(packed: io.BytesIO, contents: dict[str, bytes]) -> None:
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, text in contents.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), text, zipfile.ZIP_DEFLATED)


@contextlib.contextmanager
def unpack(path: Path) -> Iterator[Path]:
    """A temporary folder with the content of a bundle. One without a manifest is read too, its hashes unchecked.

    Raises:
        ConfigError: it isn't there or damaged, a file in it leaves the folder or isn't what the manifest says, or it is
            too large.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file.")
    try:
        contents = dict(_zipped(path) if path.suffix == ".zip" else _tarred(path))
    except (OSError, EOFError, tarfile.TarError, lzma.LZMAError, zipfile.BadZipFile, NotImplementedError, RuntimeError):
        raise ConfigError(f"{path}: is damaged, or no {'ZIP' if path.suffix == '.zip' else 'tar.xz'} file.") from None
    _check_manifest(path, contents)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, path.name.partition(".")[0] or "bundle")
        for name, text in contents.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(text)
        yield folder


def _tarred(path: Path) -> Iterator[tuple[str, bytes]]:
    total = 0
    with tarfile.open(path, "r:xz") as archive:
        for number, entry in enumerate(archive):
            if entry.isdir():
                continue
            total += entry.size
            _check(path, entry.name, number, total, regular=entry.isfile())
            file = archive.extractfile(entry)
            yield entry.name.removeprefix("./"), file.read() if file else b""


def _zipped(path: Path) -> Iterator[tuple[str, bytes]]:
    total = 0
    with zipfile.ZipFile(path) as archive:
        for number, entry in enumerate(archive.infolist()):
            if entry.is_dir():
                continue
            total += entry.file_size
            link = entry.external_attr >> 28 == 0xA
            _check(path, entry.filename, number, total, regular=not link)
            with archive.open(entry) as file:
                yield entry.filename, file.read(entry.file_size + 1)[: entry.file_size]


def _check(path: Path, name: str, number: int, total: int, regular: bool) -> None:
    """Raises a ConfigError if a file of an archive must not be unpacked."""
    place = PurePosixPath(name)
    if not regular or place.is_absolute() or ".." in place.parts or "\\" in name or "\0" in name or ":" in name:
        raise ConfigError(f"{path}: {name!r} in it would leave the folder, or is a link. Nothing was unpacked.")
    if place.suffix != ".json":
        raise ConfigError(f"{path}: {name!r} in it is no record. A bundle holds .json files alone.")
    if number >= _MOST_FILES or total > _MOST_BYTES:
        raise ConfigError(f"{path}: has over {_MOST_FILES:,} files, or over {_MOST_BYTES >> 20:,} MB unpacked.")


def _check_manifest(path: Path, contents: dict[str, bytes]) -> None:
    text = contents.pop(MANIFEST, None)
    if text is None:
        return
    try:
        told = {str(name): str(of["sha256"]) for name, of in json.loads(text)["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ConfigError(f"{path}: its {MANIFEST} is damaged.") from None
    found = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    if wrong := [name for name in {**told, **found} if told.get(name) != found.get(name)]:
        raise ConfigError(f"{path}: {wrong[0]} is not the file that its {MANIFEST} names.")
