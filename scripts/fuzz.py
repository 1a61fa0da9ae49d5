"""Mutated records, command lines, YAML files, images, archives and checkpoints: never a traceback, never foreign code.

    python scripts/fuzz.py --records 2000 --words 2000 --yaml 2000 --images 20000 --archives 2000 --checkpoints 500

Deterministic by --seed. Each input is read as the commands read it; what is raised must be an error of cnnbench's own,
which a command prints in one line. Inputs that raise anything else are kept in --keep.
"""

import argparse
import contextlib
import io
import json
import os
import pickle
import random
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cnnbench.cli import main
from cnnbench.config.keys import CONF, GROUPS
from cnnbench.data import archives, images
from cnnbench.errors import CnnbenchError
from cnnbench.results import records

VALUES = [
    *("0", "1", "-1", "0.5", "1e-3", "1e400", "nan", "inf", "-inf", "null", "true", "abc", "[1,2]", "[nan]", "{a:1}"),
    *("a,b", "''", "é", "../../x", "~", "${oc.env:HOME}", "\x1b[2J", "1" + "0" * 400, "x" * 300, "\udcff"),
]
KEYS = [
    *("lr", "epochs", "batch_size", "clip", "seed", "seeds", "name", "runs_dir", "margin", "select", "test", "workers"),
    *("optimizer.lr", "optimizer.eps", "optimizer.betas", "optimizer._target_", "model._target_", "model.dense"),
    *("model.dropout", "model.init_from", "model.freeze", "model.widths", "data.limit", "data.val", "data.image_size"),
    *("data.val_fraction", "data.root", "augment.crop", "augment.cutout", "regularizer.l2", "scheduler.gamma"),
    *("hardware.threads", "hardware.precision", "update.max_step", "stop.patience", "average.decay", "loss.name"),
    *("hydra", "hydra/launcher", "hydra.mode", "claims", "ladder", "nonsense", "evaluation.tta", "checkpoint.every"),
]
FORMATS = ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO", "TGA", "DDS", "PCX", "SGI", "AVIF", "JPEG2000"]


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Bytes with a few of them changed, removed, repeated or inserted."""
    found = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        i = rng.randrange(len(found) + 1)
        how = rng.randrange(5)
        if how == 0 and found:
            found[i % len(found)] = rng.choice((0, 255, rng.randrange(256)))
        elif how == 1:
            del found[i : i + rng.choice((1, 2, 8, 100))]
        elif how == 2:
            found[i:i] = found[i : i + rng.choice((1, 4, 50))]
        elif how == 3:
            found[i:i] = rng.randbytes(rng.choice((1, 2, 4)))
        else:
            del found[i:]
    return bytes(found)


def changed(value: Any, rng: random.Random) -> Any:
    """JSON with one value or key exchanged for another kind."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        if rng.random() < 0.2:
            return {k: v for k, v in value.items() if k != key}
        return value | {key: changed(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.85:
        i = rng.randrange(len(value))
        return [*value[:i], changed(value[i], rng), *value[i + 1 :]]
    return rng.choice([None, True, 0, -1, 1.5, 10**400, float("nan"), "", "\x1b[2J", "../x", [], {}, [[[[]]]], "1"])


def record_inputs(count: int, rng: random.Random, here: Path) -> Iterator[tuple[bytes, Callable[[], object]]]:
    """Records, read as `list`, `show` and `compare` read them."""
    run_main("data=digits epochs=2 data.limit=100 name=base")
    (path,) = Path("runs/base").glob("*/record.json")
    whole = path.read_bytes()
    target = here / "mutant" / "record.json"
    target.parent.mkdir()

    def read() -> None:
        found = records.read(target)
        run_main(f"show {target.parent}")
        run_main(f"compare {target.parent} out=report --dry-run")
        _ = found.as_json()

    for i in range(count):
        content = json.dumps(changed(json.loads(whole), rng)).encode() if i % 2 else mutated(whole, rng)
        target.write_bytes(content)
        yield content, read


def word_inputs(count: int, rng: random.Random, here: Path) -> Iterator[tuple[bytes, Callable[[], object]]]:
    """Command lines, with `--cfg job` or `--dry-run`."""
    options = {group: sorted(path.stem for path in (CONF / group).glob("*.yaml")) for group in GROUPS}
    for _ in range(count):
        words = ["data=digits"]
        for _ in range(rng.randrange(3)):
            group = rng.choice([g for g in GROUPS if g not in ("experiment", "data")])
            words.append(f"{group}={rng.choice(options[group])}")
        words += [f"{rng.choice(['', '', '+', '++', '~'])}{rng.choice(KEYS)}={rng.choice(VALUES)}" for _ in range(2)]
        words.append(rng.choice(["--cfg", "--cfg", "--dry-run"]))
        words += ["job"] if words[-1] == "--cfg" else []
        yield " ".join(words).encode("utf-8", "surrogateescape"), partial(run_main, words)


def yaml_inputs(count: int, rng: random.Random, here: Path) -> Iterator[tuple[bytes, Callable[[], object]]]:
    """Files of a user's own configs."""
    sources = sorted(CONF.rglob("*.yaml"))
    for _ in range(count):
        source = rng.choice(sources)
        group = source.parent.name
        target = here / "mine" / group / "mutant.yaml"
        target.parent.mkdir(parents=True, exist_ok=True)
        content = mutated(source.read_bytes(), rng)
        target.write_bytes(content)
        yield content, partial(run_main, f"--config-dir mine {group}=mutant --cfg job")
        target.unlink()


def image_inputs(count: int, rng: random.Random, here: Path) -> Iterator[tuple[bytes, Callable[[], object]]]:
    """Image files in all formats that Pillow writes here."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    wholes = {}
    for kind in (
        "PNG",
        "JPEG",
        "GIF",
        "BMP",
        "TIFF",
        "WEBP",
        "PPM",
        "ICO",
        "TGA",
        "DDS",
        "PCX",
        "SGI",
        "AVIF",
        "JPEG2000",
    ):
        file = io.BytesIO()
        with contextlib.suppress(OSError, KeyError, ValueError):
            picture.save(file, kind, **({"exif": exif} if kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF") else {}))
            wholes[kind] = file.getvalue()
    target = here / "mutant.png"
    for _ in range(count):
        content = mutated(wholes[rng.choice(sorted(wholes))], rng)
        target.write_bytes(content)
        yield content, lambda: images.decode(target, 8, rng.random() < 0.3)


def archive_inputs(count: int, rng: random.Random, here: Path) -> Iterator[tuple[bytes, Callable[[], object]]]:
    """Pickles as CIFAR's archives hold them. The reader turns what is raised here into one line."""
    batch = {"data": np.arange(3072, dtype=np.uint8).reshape(1, 3072), "labels": [1], "names": ["a"]}
    wholes = [pickle.dumps(batch, protocol) for protocol in (0, 1, 2, 3, 4, 5)]
    wholes.append(pickle.dumps(np.zeros(2, dtype=[("a", "O")]), 2))

    def read(content: bytes) -> None:
        with contextlib.suppress(Exception):  # cifar10() makes one line of it; a crash or code would show
            archives._unpickled(content)

    for _ in range(count):
        content = mutated(rng.choice(wholes), rng)
        yield content, partial(read, content)


def checkpoint_inputs(count: int, rng: random.Random, here: Path) -> Iterator[tuple[bytes, Callable[[], object]]]:
    """Checkpoints, read as `predict` and `model.init_from=` read them."""
    from cnnbench.training import prediction

    run_main("data=digits epochs=1 data.limit=100 name=weights")
    (run,) = (path.parent for path in Path("runs/weights").glob("*/record.json"))
    whole = (run / "best.ckpt").read_bytes()
    for _ in range(count):
        content = mutated(whole, rng)
        (run / "best.ckpt").write_bytes(content)
        yield content, lambda: prediction.load(run)


def run_main(words: str | list[str]) -> None:
    """A command, whose exit code must be a documented one; what it prints is looked at for commands to the terminal."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words.split() if isinstance(words, str) else words)
    if code not in (0, 1, 2):
        raise AssertionError(f"exit code {code}")
    if "\x1b[2J" in out.getvalue() + err.getvalue():
        raise AssertionError("a command to the terminal was printed")


KINDS = {
    "records": record_inputs, "words": word_inputs, "yaml": yaml_inputs, "images": image_inputs,
    "archives": archive_inputs, "checkpoints": checkpoint_inputs,
}  # fmt: skip


def fuzz(counts: dict[str, int], seed: int, keep: Path) -> Counter[str]:
    """Tries all inputs; returns how many of each kind were tried, and how many raised something foreign."""
    found: Counter[str] = Counter()
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        os.environ["XDG_CACHE_HOME"] = place
        try:
            for kind, count in counts.items():
                for content, attempt in KINDS[kind](count, random.Random(f"{kind} {seed}"), Path(place)):
                    found[kind] += 1
                    try:
                        attempt()
                    except CnnbenchError:
                        pass
                    except Exception:
                        found[f"{kind}: not ours"] += 1
                        keep.mkdir(parents=True, exist_ok=True)
                        name = f"{kind}-{found[kind]}"
                        (keep / name).write_bytes(content)
                        (keep / f"{name}.txt").write_text(traceback.format_exc())
                if Path("pwned").exists():
                    found["code executed"] += 1
        finally:
            os.chdir(before)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for each in KINDS:
        parser.add_argument(f"--{each}", type=int, default=0, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzzed"), help="folder for inputs that raise anything else")
    given = parser.parse_args()
    result = fuzz(
        {kind: getattr(given, kind) for kind in KINDS if getattr(given, kind)}, given.seed, given.keep.resolve()
    )
    print(", ".join(f"{kind} {count:,}" for kind, count in result.items()))
    sys.exit(any(":" in kind or "code" in kind for kind in result))
