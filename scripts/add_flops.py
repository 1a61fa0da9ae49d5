"""Adds the operations of the network to records that were written before they had this number.

    python scripts/add_flops.py runs/NAME

The number follows from the config alone; nothing else in a record changes.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import IO

import torch

from cnnbench.config.schema import Regularizer
from cnnbench.config.targets import build
from cnnbench.results import records
from cnnbench.runtime import files
from cnnbench.training import initialisation, regularizers
from cnnbench.training.operations import flops


def main() -> None:
    """Goes through the records below a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for path in records.find(parser.parse_args().folder):
        found = json.loads(path.read_text())
        if found.get("flops") is not None:
            continue
        spec = (found["search"] or {}).get("model") or found["config"]["model"]
        spec = regularizers.put_in(Regularizer(**found["config"]["regularizer"]), initialisation.own_keys(spec))
        shape = tuple(found["data"]["shape"])
        with torch.device("meta"):
            network = build("model", spec, shape, len(found["data"]["classes"]))
        found["flops"] = flops(network, shape)
        text = json.dumps(found, indent=1).encode()
        files.write_whole(path, partial(_write, text))
        print(f"{path.parent.name}: {found['flops']:,}")


def _write(text: bytes, file: IO[bytes]) -> None:
    file.write(text)


if __name__ == "__main__":
    main()
