"""How is the state of a run kept, so that a kill at any moment costs nothing?

A checkpoint is what `torch.save` writes: a zip archive whose parts carry checksums. It appears whole or not at all, and
the one before it stays until then.
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
    """Writes `state` (tensors and plain containers).

    Args:
        path: the file.
        state: what is kept.
        keep: the name that the file's present content gets.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    if keep is not None and path.exists():
        # A second name first, so that `path` never lacks.
        spare = keep.with_name(f".{keep.name}")
        spare.unlink(missing_ok=True)
        os.link(path, spare)
        spare.replace(keep)
    files.write_whole(path, lambda file: file.write(buffer.getbuffer()))


def read(path: Path) -> dict[str, Any]:
    """Reads a checkpoint, its tensors on the processor.

    Raises:
        CheckpointError: a checksum is wrong, or the file is missing, cut or no checkpoint.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
        if wrong is not None:
            raise CheckpointError(f"{path}: damaged (checksum of {wrong})")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # whatever a damaged file makes zip and torch say
        raise CheckpointError(f"{path}: not a whole checkpoint ({str(error).splitlines()[0]})") from None
    return state
