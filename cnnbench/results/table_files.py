"""Tables of results in files of other programs: CSV, Parquet and lines of JSON."""

import io
import sys
from collections.abc import Sequence
from pathlib import Path

import polars as pl
from polars.exceptions import PolarsError

from cnnbench.errors import ConfigError

STANDARD_INPUT = "-"

FILE = "file"
"""The column that says which of several files a row is from."""

_MISSING = ["", "NA", "N/A", "null", "None"]


def read(names: Sequence[str]) -> pl.DataFrame:
    """One table of all files: the columns of each, missing (null) where a file hasn't got them.

    Args:
        names: files, or `-` for CSV from standard input. With several files there is a column `file`.

    Raises:
        ConfigError: a file isn't there, is empty, or can't be read.
    """
    frames = [_read(name) for name in names]
    if len(frames) > 1:
        frames = [frame.with_columns(pl.lit(name).alias(FILE)) for name, frame in zip(names, frames, strict=True)]
    try:
        frame = pl.concat(frames, how="diagonal_relaxed")
    except PolarsError as error:
        raise ConfigError(f"{', '.join(names)}: can't be put into one table ({_first_line(error)}).") from None
    if frame.is_empty():
        raise ConfigError(f"{', '.join(names)}: holds no rows.")
    return frame


def _read(name: str) -> pl.DataFrame:
    path = Path(name).expanduser()
    try:
        content = sys.stdin.buffer.read() if name == STANDARD_INPUT else path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{name}: can't be read ({error.strerror}).") from None
    shown = "standard input" if name == STANDARD_INPUT else name
    if not content.strip():
        raise ConfigError(f"{shown}: is empty.")
    try:
        if path.suffix.lower() == ".parquet":
            return pl.read_parquet(io.BytesIO(content))
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            at = f"byte {error.start:,} is 0x{content[error.start]:02x}"
            raise ConfigError(f"{shown}: is not UTF-8 text ({at}). Save it with the encoding UTF-8.") from None
        if path.suffix.lower() in (".jsonl", ".ndjson"):
            return pl.read_ndjson(io.StringIO(text), infer_schema_length=None)
        _check_delimiter(shown, text)
        frame = pl.read_csv(io.StringIO(text), infer_schema_length=None, null_values=_MISSING)
        return frame.with_columns(_with_nan(column) for column in frame if column.dtype == pl.String)
    except PolarsError as error:
        raise ConfigError(f"{shown}: can't be read as a table ({_first_line(error)}).") from None


def _with_nan(column: pl.Series) -> pl.Series:
    """A column of numbers and `nan` or `inf`, which polars takes for text, as numbers; any other as it is."""
    numbers = column.cast(pl.Float64, strict=False)
    return numbers if numbers.null_count() == column.null_count() else column


def _check_delimiter(name: str, text: str) -> None:
    head = text.lstrip().partition("\n")[0].strip()
    if "," in head:
        return
    for sign, called in ((";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")):
        if sign in head:
            raise ConfigError(f"{name}: its columns are separated by {called}, must be by commas: {head[:60]!r}.")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
