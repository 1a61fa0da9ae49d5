"""Mutated records, plans, command lines, YAML files, images, archives and checkpoints, and hostile names.

    python scripts/fuzz.py --records 2000 --words 2000 --yaml 2000 --images 20000 --archives 2000 --checkpoints 500 \\
        --names 200

Deterministic by --seed. Each input is read as the commands read it; what is raised must be an error of cnnbench's own,
which a command prints in one line. Many inputs carry a command that would write a file called `pwned`. Inputs that
raise anything else, or run their command, are kept in --keep.
"""

import argparse
import contextlib
import csv
import gzip
import io
import json
import os
import pickle
import random
import re
import sys
import tarfile
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.io import savemat

from cnnbench.cli import main
from cnnbench.config.keys import CONF, GROUPS
from cnnbench.config.schema import Data
from cnnbench.data import archives, images
from cnnbench.errors import CnnbenchError
from cnnbench.results import records

VALUES = [
    *("0", "1", "-1", "0.5", "1e-3", "1e400", "nan", "inf", "-inf", "null", "true", "abc", "[1,2]", "[nan]", "{a:1}"),
    *("a,b", "''", "é", "../../x", "~", "${oc.env:HOME}", "\x1b[2J", "1" + "0" * 400, "x" * 300, "\udcff"),
]
ESCAPE = "\x1b[2J\x1b]0;title\x07"
CODE: list[Any] = [
    {"_target_": "os.system", "command": "touch pwned"},
    {"_target_": "subprocess.Popen", "args": ["touch", "pwned"]},
    "$(touch pwned)",
    "'; touch pwned; '",
]
"""What would write a file if it were built or typed."""
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
    return rng.choice([None, True, 0, -1, 1.5, 10**400, float("nan"), "", ESCAPE, "../x", [], {}, [[[[]]]], "1", *CODE])


def record_inputs(count: int, rng: random.Random, here: Path) -> Iterator[tuple[bytes, Callable[[], object]]]:
    """Records and plans, read as `list`, `show`, `compare` and `predict` read them."""
    run_main("data=digits epochs=2 data.limit=100 name=base")
    (path,) = Path("runs/base").glob("*/record.json")
    whole = path.read_bytes()
    folder = here / "mutants"
    target = folder / "mutant" / "record.json"
    target.parent.mkdir(parents=True)
    plans = [folder / name for name in ("ladder.json", "tuning.json", "seeds.json")]

    def read() -> None:
        for words in (f"list {folder}", f"show {target.parent}", f"predict {target.parent} x.png"):
            run_main(words)
        run_main(f"compare {folder} out=report --dry-run")
        _ = records.read(target).as_json()

    for i in range(count):
        content = json.dumps(changed(json.loads(whole), rng)).encode() if i % 2 else mutated(whole, rng)
        target.write_bytes(content)
        plan = rng.choice(plans)
        plan.write_text(json.dumps(changed({"schema_version": 1, "rungs": [{"name": "a", "runs": []}]}, rng)))
        yield content, read
        plan.unlink()


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
        yield " ".join(words).encode("utf-8", "surrogateescape"), partial(run_main, words, lines=1)


def yaml_inputs(count: int, rng: random.Random, here: Path) -> Iterator[tuple[bytes, Callable[[], object]]]:
    """Files of a user's own configs."""
    sources = sorted(CONF.rglob("*.yaml"))
    for _ in range(count):
        source = rng.choice(sources)
        group = source.parent.name
        target = here / "mine" / group / "mutant.yaml"
        target.parent.mkdir(parents=True, exist_ok=True)
        content = mutated(source.read_bytes(), rng)
        if rng.random() < 0.1:
            content += b"\nx: !!python/object/apply:os.system [touch pwned]\n"
        target.write_bytes(content)
        yield content, partial(run_main, f"--config-dir mine {group}=mutant --cfg job", lines=1)
        target.unlink()


def image_inputs(count: int, rng: random.Random, here: Path) -> Iterator[tuple[bytes, Callable[[], object]]]:
    """Image files in all formats that Pillow writes here."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    wholes = {}
    for kind in FORMATS:
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
    """Archives of CIFAR-10 with mutated pickles, or mutated as a whole, and those of MNIST and SVHN."""
    batch = {"data": np.zeros((10, 3072), np.uint8), "labels": [*range(10)], "names": ["a"]}
    meta = pickle.dumps({"label_names": [*"abcdefghij"]}, 2)
    wholes = [pickle.dumps(batch, protocol) for protocol in (0, 1, 2, 3, 4, 5)]
    wholes += [
        pickle.dumps(np.zeros(2, dtype=[("a", "O")]), 2),
        pickle.dumps(_Command(), 2),
        pickle.dumps([_Command()]),
    ]
    parts = ("test_batch", *(f"data_batch_{i}" for i in range(1, 6)))
    images, labels = bytes((0, 0, 8, 3, 0, 0, 0, 10, 0, 0, 0, 8, 0, 0, 0, 8)) + bytes(640), bytes(range(10))
    idx = {"images-idx3": images, "labels-idx1": bytes((0, 0, 8, 1, 0, 0, 0, 10)) + labels}
    mat = io.BytesIO()
    savemat(mat, {"X": np.zeros((32, 32, 3, 10), np.uint8), "y": np.arange(1, 11)[:, None]}, do_compression=True)
    data = Data(root=str(here))
    for i in range(count):
        damaged = i % 4 == 0  # the archive itself; else one of its pickles
        if i % 8 == 2:
            files = {
                f"{part}-{kind}-ubyte.gz": gzip.compress(idx[kind], 1) for part in ("train", "t10k") for kind in idx
            }
            name, read = rng.choice(sorted(files)), archives.mnist
            files[name] = gzip.compress(mutated(gzip.decompress(files[name]), rng), 1)
        elif i % 8 == 6:
            files = dict.fromkeys(("train_32x32.mat", "test_32x32.mat"), mat.getvalue())
            name, read = "train_32x32.mat", archives.svhn
            files[name] = mutated(files[name], rng)
        else:
            broken = rng.choice(parts)
            pickles = dict.fromkeys(parts, wholes[2]) | {"batches.meta": meta}
            pickles[broken] = wholes[2] if damaged else mutated(rng.choice(wholes), rng)
            name, read = "cifar-10-python.tar.gz", archives.cifar10
            files = {name: _tar(pickles, rng if damaged else None)}
        for each, content in files.items():
            (here / each).write_bytes(content)
        yield files[name], partial(read, data)


def _tar(pickles: dict[str, bytes], rng: random.Random | None) -> bytes:
    """A gzip tar file as CIFAR-10's; mutated if there is a `rng`."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in pickles.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    content = file.getvalue()
    if rng is None or rng.random() < 0.5:
        return gzip.compress(content if rng is None else mutated(content, rng), 1)
    return mutated(gzip.compress(content, 1), rng)


class _Command:
    """Whoever unpickles it by Python's own rules runs its command."""

    def __reduce__(self) -> Any:
        return os.system, ("touch pwned",)


def checkpoint_inputs(count: int, rng: random.Random, here: Path) -> Iterator[tuple[bytes, Callable[[], object]]]:
    """Checkpoints, read as `predict` and `model.init_from=` read them."""
    from cnnbench.training import prediction

    run_main("data=digits epochs=1 data.limit=100 name=weights")
    (run,) = (path.parent for path in Path("runs/weights").glob("*/record.json"))
    whole = (run / "best.ckpt").read_bytes()
    state = torch.load(run / "best.ckpt", weights_only=True)
    foreign = [_Command(), {"model": _Command()}, {"x": 1}, {"model": {"x": 1}}, [1], 3, None, state | {"model": None}]

    def saved(content: object) -> bytes:
        file = io.BytesIO()
        torch.save(content, file, _use_new_zipfile_serialization=rng.random() < 0.7)
        return file.getvalue()

    def read() -> None:
        with contextlib.suppress(CnnbenchError):
            prediction.load(run)
        run_main("data=digits epochs=1 data.limit=100 model.init_from=w.pt --dry-run", lines=1)

    for _ in range(count):
        content = mutated(whole, rng) if rng.random() < 0.5 else saved(changed(rng.choice(foreign), rng))
        if rng.random() < 0.1:
            content = saved(rng.choice(foreign))
        (run / "best.ckpt").write_bytes(content)
        (here / "w.pt").write_bytes(content)
        yield content, read


PIECES = [
    *("a", "=cmd|x", "+1", "@x", "<script>", "</td><img src=x onerror=y>", "![x](http://x)", "[/b]", "[red]", "|"),
    *("\\", "\x1b[2J", "\x1b]52;c;eA==\x07", "\x9b2J", "\u2028", "\u202e", "$x^{2", "%", "#", "&", "_", "\n", "\t"),
    *("\r", "é", "图", "$(touch pwned)", "`touch pwned`", "'; touch pwned; '", "\udcff", "{", "}", '"', "'"),
]
"""What hostile names are made of: HTML, Markdown, LaTeX, CSV formulas, commands to the terminal and to the shell."""


def name_inputs(count: int, rng: random.Random, here: Path) -> Iterator[tuple[bytes, Callable[[], object]]]:
    """Names of classes, options, runs, folders and files, followed into the screen, all reports and exports."""
    run_main("data=digits epochs=1 data.limit=100 seed=0,1 -m name=base")
    wholes = [json.loads(path.read_text()) for path in sorted(Path("runs/base").glob("*/record.json"))]
    for i in range(count):
        name = "".join(rng.choices(PIECES, k=rng.randrange(1, 6)))
        folder = Path(f"named{i}-{name.replace('/', '')}")
        for j, whole in enumerate(wholes):
            run = json.loads(json.dumps(whole))
            run["data"] |= {"classes": [f"{name}{k}" for k in range(10)], "name": name, "note": name}
            run["choices"] |= {"optimizer": f"{name}{j}", "model": name}
            run["config"]["data"]["root"], run["config_dir"], run["error"] = name, name, name
            run["overrides"], run["python_path"] = [f"lr={name}", name], name
            (folder / f"run{j}").mkdir(parents=True)
            (folder / f"run{j}" / "record.json").write_text(json.dumps(run))
        table = Path(f"{folder.name}.csv")
        rows = [f'"{name.replace(chr(34), "")}{k % 2}",{k},{k / 10}' for k in range(4)]
        table.write_text("\n".join(["optimizer,seed,acc", *rows]), errors="surrogateescape")
        yield name.encode("utf-8", "surrogateescape"), partial(_follow, folder, table)


def _follow(folder: Path, table: Path) -> None:
    for words in (["list", folder], ["show", folder / "run0"], ["export", folder, "--format", "csv"]):
        run_main([str(word) for word in words])
    run_main(["compare", str(folder), f"out={folder}"])
    run_main(["compare", str(table), "out=of_table"])
    for path in (each for place in (folder, Path("of_table")) for each in place.glob("*.*")):
        if path.suffix not in (".md", ".csv", ".tex", ".html"):
            continue
        text = path.read_text()
        elements = ("<script>", "<img src=x") if path.suffix in (".md", ".html") else ()
        markup = any(element in text.replace("<script>\n", "") for element in elements)
        picture = path.suffix == ".md" and "](http" in text
        formula = path.suffix == ".csv" and any(
            cell[:1] in ("=", "+", "@") for row in csv.reader(io.StringIO(text)) for cell in row
        )
        if UNSAFE.search(text) or markup or picture or formula:
            raise AssertionError(f"{path.name}: markup {markup}, picture {picture}, formula {formula}")


UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def run_main(words: str | list[str], lines: int | None = None) -> None:
    """A command, whose exit code must be a documented one; what it prints is looked at for commands to the terminal.

    Args:
        words: what is typed.
        lines: how many lines its message has if it refuses the words with exit code 2; None for any number.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words.split() if isinstance(words, str) else words)
    if code not in (0, 1, 2):
        raise AssertionError(f"exit code {code}")
    if UNSAFE.search(out.getvalue() + err.getvalue()):
        raise AssertionError("a command to the terminal was printed")
    if lines is not None and (code == 1 or (code == 2 and err.getvalue().count("\n") != lines)):
        raise AssertionError(f"exit code {code}, and not {lines} line: {err.getvalue()!r:.300}")


KINDS = {
    "records": record_inputs, "words": word_inputs, "yaml": yaml_inputs, "images": image_inputs,
    "archives": archive_inputs, "checkpoints": checkpoint_inputs, "names": name_inputs,
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
                        Path("pwned").unlink()
                        keep.mkdir(parents=True, exist_ok=True)
                        (keep / f"{kind}-{found[kind]}-executed").write_bytes(content)
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
