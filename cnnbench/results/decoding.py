"""JSON files as typed dataclasses, each value checked against its field's type. (imports no torch)"""

import json
import sys
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from cnnbench.errors import ConfigError

DEEPEST = 30
"""Lists and mappings inside each other, where a type leaves open what is in it."""

_LARGEST = sys.float_info.max
_WORDS = {
    int: "a whole number", float: "a number", str: "text", bool: "true or false", NoneType: "null", list: "a list",
    dict: "a mapping",
}  # fmt: skip


def read(path: Path, kind: type, versions: tuple[int, ...]) -> Any:
    """The dataclass that a JSON file holds.

    Args:
        path: the file.
        kind: the dataclass.
        versions: the values of `schema_version` that can be read.

    Raises:
        ValueError: the file can't be read, or is damaged, or of another version; one line that names it.
    """
    if path.exists() and not path.is_file():  # a pipe might never end
        raise ValueError(f"{path}: not a regular file.")
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: can't be read ({error.strerror}).") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a whole JSON file ({error}).") from None
    version = found.get("schema_version") if isinstance(found, dict) else None
    if version not in versions:
        told = " and ".join(map(str, versions))
        raise ValueError(f"{path}: schema_version {version!r:.60}; this cnnbench reads {told}.")
    try:
        return decode(kind, found)
    except (ValueError, ConfigError) as error:
        told = " ".join(str(error).split())  # a key may be of several lines
        raise ValueError(f"{path}: edited or damaged ({told.removesuffix('.')}).") from None


def decode(kind: Any, value: Any, name: str = "") -> Any:
    """A value of JSON as one of the type `kind`: a dataclass, or what the fields of one may be.

    A key that a dataclass hasn't is passed over. One that is missing takes the field's default.

    Args:
        kind: the type.
        value: what was in a JSON file.
        name: the value's, for the message.

    Raises:
        ValueError: it isn't one; the message says where, in one line.
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
        told = _fields(kind)
        if missing := [key for key, (_, needed) in told.items() if needed and key not in value]:
            raise ValueError(f"{name or 'it'}: without {', '.join(missing)}")
        head = f"{name}." if name else ""
        return kind(**{key: decode(of, value[key], head + key) for key, (of, _) in told.items() if key in value})
    return _anything(value, name)


@cache
def _parts(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    return get_origin(kind), get_args(kind)


@cache
def _fields(kind: type) -> dict[str, tuple[Any, bool]]:
    """By name the type of each field, and whether it has to be there."""
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
