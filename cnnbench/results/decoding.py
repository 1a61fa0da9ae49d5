"""JSON files as typed dataclasses, each value checked against the type of its field."""

import errno
import json
import sys
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from cnnbench.errors import ConfigError
from cnnbench.runtime import files
from cnnbench.runtime.memory import free_memory
from cnnbench.runtime.text import legible

_Plan = TypeVar("_Plan")

DEEPEST = 30
"""How many lists and mappings may lie inside each other where the type is `Any`."""

_SMALL = 10_000_000
"""Bytes of a file whose values fit into any memory."""

_LARGEST = sys.float_info.max
_WORDS = {
    int: "a whole number", float: "a number", str: "text", bool: "true or false", NoneType: "null", list: "a list",
    dict: "a mapping",
}  # fmt: skip


def read(path: Path, kind: type, versions: tuple[int, ...]) -> Any:
    """Reads a JSON file as a dataclass.

    Args:
        path: the file.
        kind: the dataclass.
        versions: the values of `schema_version` that are accepted.

    Raises:
        ValueError: the file can't be read, is damaged, or has another version; one line that names the file.
    """
    name = legible(str(path))
    try:
        content = _legible(json.loads(_bytes(path)))
    except OSError as error:
        raise ValueError(f"{name}: can't be read ({error.strerror}).") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: not a whole JSON file ({error}).") from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version not in versions:
        accepted = " and ".join(map(str, versions))
        raise ValueError(f"{name}: schema_version {version!r:.60}; this cnnbench reads {accepted}.")
    try:
        return decode(kind, content)
    except (ValueError, ConfigError) as error:
        problem = " ".join(str(error).split())  # a key may have several lines
        raise ValueError(f"{name}: edited or damaged ({problem.removesuffix('.')}).") from None


def _bytes(path: Path) -> bytes:
    """The content of a file, unless it is a pipe or its values would fill the memory.

    Raises:
        OSError: it can't be read.
    """
    files.check_regular(path)
    size = path.stat().st_size
    if size < _SMALL:
        return path.read_bytes()
    free = free_memory()
    if 10 * size < free:
        content = path.read_bytes()
        # An empty list takes 64 bytes and a mapping of one key 240, and `_legible` copies them.
        if 10 * size + 130 * content.count(b"[") + 500 * content.count(b"{") < free:
            return content
    raise OSError(errno.ENOMEM, f"{size / 1e6:,.0f} MB, whose values don't fit into memory")


def _legible(value: Any) -> Any:
    """The content of a file with all text, keys too, safe for a terminal."""
    if isinstance(value, str):
        return legible(value)
    if isinstance(value, list):
        return [_legible(each) for each in value]
    return {legible(key): _legible(each) for key, each in value.items()} if isinstance(value, dict) else value


def read_plan(path: Path, kind: type[_Plan], versions: tuple[int, ...]) -> _Plan | None:
    """The plan of a tuning, a ladder or of added seeds, a dataclass; None if there is no such file.

    Raises:
        ConfigError: the file is damaged, or was written by another version.
    """
    if not path.exists():
        return None
    try:
        plan: _Plan = read(path, kind, versions)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return plan


def decode(kind: Any, value: Any, name: str = "") -> Any:
    """Turns a value from JSON into one of the type `kind`: a dataclass, or any type that its fields may have.

    Keys that the dataclass doesn't have are ignored. Missing keys take the field's default.

    Args:
        kind: the type.
        value: the value from JSON.
        name: its full name, for the message.

    Raises:
        ValueError: the value has another type; one line that says where.
    """
    if kind in _WORDS:
        return _checked(kind, value, name)
    origin, arguments = _parts(kind)
    if origin is UnionType:
        errors = []
        for each in arguments:
            try:
                return decode(each, value, name)
            except ValueError as error:
                errors.append(error)
        raise errors[0]
    if origin is dict:
        return {key: decode(arguments[1], each, f"{name}.{key}") for key, each in _checked(dict, value, name).items()}
    if origin is list or origin is tuple:
        count = len(_checked(list, value, name))
        kinds = arguments if origin is tuple and ... not in arguments else arguments[:1] * count
        if len(kinds) != count:
            raise ValueError(f"{name}: {value!r:.60} must be a list of {len(kinds)}")
        return origin(decode(kinds[i], item, f"{name}[{i}]") for i, item in enumerate(value))
    if is_dataclass(kind) and isinstance(kind, type):
        _checked(dict, value, name)
        types = _fields(kind)
        if missing := [key for key, (_, needed) in types.items() if needed and key not in value]:
            raise ValueError(f"{name or 'it'}: without {', '.join(missing)}")
        head = f"{name}." if name else ""
        return kind(**{key: decode(of, value[key], head + key) for key, (of, _) in types.items() if key in value})
    return _anything(value, name)


@cache
def _parts(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    return get_origin(kind), get_args(kind)


@cache
def _fields(kind: type) -> dict[str, tuple[Any, bool]]:
    """The type of each field by name, and whether the field is required."""
    hints = get_type_hints(kind)
    without = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    return {field.name: (hints[field.name], field.name in without) for field in fields(kind) if field.init}


def _checked(kind: type, value: Any, name: str) -> Any:
    fits = type(value) is kind or (kind is float and type(value) is int)
    if fits and (kind is float or kind is int):  # Python's JSON knows NaN, Infinity, and numbers such as 10^400
        fits = -_LARGEST <= value <= _LARGEST
    if not fits:
        raise ValueError(f"{name or 'it'}: {value!r:.60} must be {_WORDS[kind]}")
    return value


def _anything(value: Any, name: str, depth: int = 0) -> Any:
    if isinstance(value, dict | list):
        if depth == DEEPEST:
            raise ValueError(f"{name}: more than {DEEPEST} lists and mappings inside each other")
        for each in value.values() if isinstance(value, dict) else value:
            _anything(each, name, depth + 1)
    elif type(value) is int or type(value) is float:
        _checked(float, value, name)
    return value
