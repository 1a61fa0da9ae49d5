"""Checkpoints: files of tensors and plain containers that survive a kill at any moment.

`torch.save` writes a zip archive with checksums. A checkpoint appears whole or not at all; until then the previous one
stays.
"""

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from cnnbench.errors import CheckpointError
from cnnbench.runtime import files


def write(path: Path, state: dict[str, Any], keep: Path | None = None) -> None:
    """Writes a checkpoint.

    Args:
        path: the file.
        state: tensors and plain containers.
        keep: the path under which the file's current content is kept, or None.

    Raises:
        OSError: the disk is full or can't be written; the current content is still there.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    if keep is not None and path.exists():
        # A second name for the old file instead of a move, so that `path` exists at every moment.
        spare = keep.with_name(f".{keep.name}")
        spare.unlink(missing_ok=True)
        os.link(path, spare)
        spare.replace(keep)
    files.write_whole(path, lambda file: file.write(buffer.getbuffer()))


def read(path: Path) -> dict[str, Any]:
    """Reads a checkpoint, or any other file of `torch.save`, its tensors on the CPU.

    Files of torch before 1.6 are no zip archives and have no checksums.

    Raises:
        CheckpointError: the file is missing, truncated, damaged or not a checkpoint.
    """
    try:
        files.check_regular(path)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise CheckpointError(f"{path}: damaged (checksum of {damaged})")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise CheckpointError(f"{path}: not a checkpoint, but a {type(state).__name__}")
    except CheckpointError:
        raise
    except Exception as error:  # on damaged files zipfile and torch raise anything
        reason = str(error).partition("\n")[0].partition(". ")[0] or "it is empty or cut off"
        raise CheckpointError(f"{path}: not a complete checkpoint ({reason})") from None
    return state
