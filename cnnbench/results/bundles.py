"""Bundles: the records and plans of a folder of runs in one compressed file, with a manifest of their hashes."""

import contextlib
import hashlib
import io
import json
import lzma
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from importlib.metadata import version
from pathlib import Path, PurePosixPath

from cnnbench.errors import ConfigError
from cnnbench.results.records import SCHEMA_VERSION
from cnnbench.runtime import files

MANIFEST = "manifest.json"
"""Its own list of its files, with their sizes and SHA-256 hashes, and the versions that wrote it."""

_MOST_FILES = 200_000
_MOST_BYTES = 1 << 29
"""Of all files together, unpacked: more is an attack on memory and disk."""

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The date of all files, so that equal contents are equal bundles; the oldest that ZIP has."""


def write(folder: Path, path: Path, plans: Collection[str]) -> int:
    """Puts all that `cnnbench compare` reads of a folder into one file: no weights, no logs.

    Args:
        folder: a run, or a folder of runs.
        path: the bundle, `.tar.xz` or `.zip`; equal contents give equal bytes.
        plans: the names of what else is read besides records. Loggers and users keep other JSON files beside these.

    Returns:
        The number of records in it.

    Raises:
        ConfigError: the folder isn't there or has no records, or the file's name has another suffix or is that of a
            file that is no bundle.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such folder.")
    if not path.name.endswith((".tar.xz", ".zip")):
        raise ConfigError(f"out={path}: must end in .tar.xz or .zip.")
    names = [each.relative_to(folder) for each in sorted(folder.rglob("*.json")) if each.is_file()]
    wanted = ("record.json", *plans)
    names = [each for each in names if each.name in wanted and not any(part.startswith(".") for part in each.parts)]
    contents = {each.as_posix(): (folder / each).read_bytes() for each in names}
    records = sum(each.name == "record.json" for each in names)
    if not records:
        raise ConfigError(f"{folder}: no records there (runs/NAME/RUN/record.json).")
    if len(contents) >= _MOST_FILES or sum(map(len, contents.values())) >= _MOST_BYTES // 2:
        raise ConfigError(f"{folder}: too much for one bundle ({_MOST_FILES:,} files, {_MOST_BYTES >> 21:,} MB).")
    if path.exists() and MANIFEST not in _contents(path):
        raise ConfigError(f"{path}: is there already, and is no bundle. Take another name with out=FILE.")
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
    contents = _contents(path)
    _check_manifest(path, contents)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, path.name.partition(".")[0] or "bundle")
        for name, text in contents.items():
            try:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(text)
            except OSError as error:  # two names that exclude each other, or one that is too long
                raise ConfigError(f"{path}: {name[:99]!r} in it can't be unpacked ({error.strerror}).") from None
        yield folder


_DAMAGED = (
    EOFError, NotImplementedError, OSError, RuntimeError, ValueError, lzma.LZMAError, tarfile.TarError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def _contents(path: Path) -> dict[str, bytes]:
    """The files of an archive by their names.

    Raises:
        ConfigError: it is damaged, or holds what must not be unpacked.
    """
    try:
        return dict(_zipped(path) if path.suffix == ".zip" else _tarred(path))
    except _DAMAGED:
        raise ConfigError(f"{path}: is damaged, or no {'ZIP' if path.suffix == '.zip' else 'tar.xz'} file.") from None


def _tarred(path: Path) -> Iterator[tuple[str, bytes]]:
    with lzma.open(path) as packed:  # unpacked here, since tarfile reads headers of any length into memory
        whole = packed.read(_MOST_BYTES + 1)
    _check_size(path, 0, len(whole))
    with tarfile.open(fileobj=io.BytesIO(whole), mode="r:") as archive:
        for number, entry in enumerate(archive):
            _check_size(path, number, 0)
            if entry.isdir():
                continue
            _check(path, entry.name, regular=entry.isfile())
            file = archive.extractfile(entry)
            yield entry.name.removeprefix("./"), file.read() if file else b""


def _zipped(path: Path) -> Iterator[tuple[str, bytes]]:
    total = 0
    with zipfile.ZipFile(path) as archive:
        for number, entry in enumerate(archive.infolist()):
            total += entry.file_size
            _check_size(path, number, total)
            if entry.is_dir():
                continue
            _check(path, entry.filename, regular=entry.external_attr >> 28 != 0xA)  # a link
            with archive.open(entry) as file:
                yield entry.filename, file.read(entry.file_size + 1)[: entry.file_size]


def _check_size(path: Path, number: int, total: int) -> None:
    """Raises a ConfigError if an archive has too many files or bytes."""
    if number >= _MOST_FILES or total > _MOST_BYTES:
        raise ConfigError(f"{path}: has over {_MOST_FILES:,} files, or over {_MOST_BYTES >> 20:,} MB unpacked.")


def _check(path: Path, name: str, regular: bool) -> None:
    """Raises a ConfigError if a file of an archive must not be unpacked."""
    place = PurePosixPath(name)
    if not regular or place.is_absolute() or ".." in place.parts or "\\" in name or "\0" in name or ":" in name:
        raise ConfigError(f"{path}: {name!r} in it would leave the folder, or is a link. Nothing was unpacked.")
    if place.suffix != ".json":
        raise ConfigError(f"{path}: {name!r} in it is no record. A bundle holds .json files alone.")


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
