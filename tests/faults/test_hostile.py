"""Hostile input: archives, images, caches, checkpoints, names and records that somebody else made."""

import gzip
import json
import os
import pickle
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import record, write_images
from made_records import made, write
from PIL import Image
from small_archives import write_cifar10, write_mnist, write_tar

from cnnbench.analysis.loading import compare_folders
from cnnbench.config.schema import Data
from cnnbench.data import archives, cache, images
from cnnbench.data.archives import _unpickled as unpickled
from cnnbench.errors import ConfigError
from cnnbench.report.exports import as_markdown

ESCAPE = "\x1b[2J\x1b]0;title\x07"


# --- archives


class Calls:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> Any:
        return self.reduced


def test_arrays_of_bytes_are_read_whatever_numpy_wrote_them() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for protocol in (0, 2, 4):
        content = pickle.dumps({"data": pixels, "labels": [1, 2], "names": ["a"]}, protocol)
        for name in (b"numpy._core.multiarray", b"numpy.core.multiarray"):
            if protocol < 4 or name == b"numpy._core.multiarray":  # protocol 4 counts the letters of a name
                found = unpickled(content.replace(b"numpy._core.multiarray", name))
                assert np.array_equal(found["data"].array, pixels)
                assert (found["labels"], found["names"]) == ([1, 2], ["a"])


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Calls(os.system, "touch pwned")),
        b"cnumpy.f2py.__main__\nndarray\n.",
        b"cnumpy.testing\nrundocs\n.",
        pickle.dumps(np.array([None, 1], dtype=object)),
        pickle.dumps(np.zeros(2, dtype=[("a", "O")])),
        pickle.dumps(np.zeros(2)),
        pickle.dumps(np.dtype("O")),
        b"\x80\x02]r\xff\xff\xff\x0f.",  # object number 268,435,455 of a table
    ],
    ids=["system", "module that runs", "another module", "objects", "structured", "floats", "dtype", "memory"],
)
def test_pickles_of_anything_else_are_refused(here: Path, content: bytes) -> None:
    with pytest.raises(pickle.UnpicklingError, match="it holds"):
        unpickled(content)
    assert not (here / "pwned").exists()


@pytest.mark.parametrize("option", ["cifar10", "mnist"])
def test_archives_that_would_fill_the_memory(command, here: Path, monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    {"cifar10": write_cifar10, "mnist": write_mnist}[option](here)
    for path in here.glob("*.gz"):
        with gzip.open(path, "ab", compresslevel=1) as file:
            for _ in range(3):
                file.write(bytes(1 << 20))
    monkeypatch.setattr(archives, "_LARGEST", 2 << 20)
    result = command(f"data={option} data.root={here} data.md5=null epochs=1")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert "it has more than 2 MB" in result.err


def test_class_names_of_an_archive_are_checked_too(command, here: Path) -> None:
    names = {"cifar-10-batches-py/batches.meta": {"label_names": [*"abcdefghi", f"j{ESCAPE}"]}}
    batch = {"data": np.zeros((20, 3072), np.uint8), "labels": [*range(10)] * 2}
    parts = [f"cifar-10-batches-py/{name}" for name in ("test_batch", *(f"data_batch_{i}" for i in range(1, 6)))]
    write_tar(here / "cifar-10-python.tar.gz", names | dict.fromkeys(parts, batch))
    result = command(f"data=cifar10 data.root={here} data.md5=null epochs=1")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert "has a line break or another control character in its name" in result.err


# --- images


def test_whatever_a_decoder_raises_is_one_line(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.png").write_bytes(b"x")
    for error in (RuntimeError("a"), NotImplementedError(), struct_error(), IndexError(), SyntaxError("b")):

        def broken(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(Image, "open", broken)
        with pytest.raises(ConfigError, match=r"a\.png: not a readable image"):
            images.decode(Path("a.png"), None, False)


def struct_error() -> Exception:
    import struct

    return struct.error("unpack requires a buffer of 4 bytes")


def test_pipes_and_endless_links_are_left_out(command, here: Path) -> None:
    write_images(here / "DIR", {"red": 10, "blue": 10})
    first = record_of(command, "a")
    os.mkfifo(here / "DIR" / "train" / "red" / "pipe.png")
    (here / "DIR" / "train" / "red" / "again").symlink_to(".")
    (here / "DIR" / "train" / "blue" / "up").symlink_to("../blue", target_is_directory=True)
    assert record_of(command, "b")["data"]["fingerprint"] == first["data"]["fingerprint"]


def record_of(command, name: str, words: str = "") -> dict[str, Any]:
    result = command(f"data=folder data.root=DIR epochs=1 batch_size=4 name={name} {words}")
    assert result.code == 0, result.err
    return record(Path("runs") / name)


@pytest.mark.parametrize("name", ["a\nb", "a" + ESCAPE, "a\tb", "a\udcff"], ids=["line", "escape", "tab", "bytes"])
def test_a_class_whose_name_commands_the_terminal(command, here: Path, name: str) -> None:
    write_images(here / "DIR", {"red": 6, name: 6})
    result = command("data=folder data.root=DIR epochs=1")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert "has a line break or a" in result.err
    assert "\x1b" not in result.err


def test_memory_is_estimated_before_it_is_taken(command, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "free_memory", lambda: 1e6)
    result = command("data=digits data.image_size=100")
    assert result.code == 2
    # twice 1,797 grey images of 10,000 bytes, and three channels of one
    assert "1,797 images of this size need 0.0 GB of memory, and 0.0 GB are free" in result.err
    assert "must be a whole number from 1 to 10,000" in command("data=digits data.image_size=100000").err
    assert command("data=digits data.image_size=10 --dry-run").code == 0


# --- the cache


def decoded(here: Path) -> Path:
    (about,) = (here.parent / "cache").rglob("about.json")
    return about.parent


@pytest.mark.parametrize(
    "how", ["zeroed", "truncated", "no about", "broken about", "path in about", "emptied", "a file"]
)
def test_a_damaged_cache_is_decoded_again(command, here: Path, how: str) -> None:
    write_images(here / "DIR", {"red": 10, "blue": 10})
    first = record_of(command, "a")
    folder = decoded(here)
    pixels = (folder / "train.npy").read_bytes()
    if how == "zeroed":
        (folder / "train.npy").write_bytes(pixels[:128] + bytes(len(pixels) - 128))
    elif how == "truncated":
        (folder / "train.npy").write_bytes(pixels[:200])
    elif how == "no about":
        (folder / "about.json").unlink()
    elif how == "broken about":
        (folder / "about.json").write_text("{")
    elif how == "path in about":
        about = json.loads((folder / "about.json").read_text())
        (folder / "about.json").write_text(json.dumps(about | {"fingerprint": "../../../x"}))
    elif how == "a file":
        shutil.rmtree(folder)
        folder.write_text("x")
    else:
        (folder / "train.npy").unlink()
    assert command("cache").code == 0
    second = record_of(command, "b")
    assert second["history"][0]["train_loss"] == first["history"][0]["train_loss"]
    assert (decoded(here) / "train.npy").read_bytes() == pixels


def test_a_cache_that_is_a_link_empties_no_other_folder(command, here: Path) -> None:
    write_images(here / "DIR", {"red": 10, "blue": 10})
    first = record_of(command, "a")
    inside = decoded(here)
    other = here / "other"
    (other / "thesis").mkdir(parents=True)
    (other / "thesis" / "chapter.tex").write_text("years of work")
    shutil.rmtree(inside.parent)
    inside.parent.symlink_to(other)
    second = record_of(command, "b")
    assert second["history"][0]["train_loss"] == first["history"][0]["train_loss"]
    assert command("cache --clear").code == 0
    assert (other / "thesis" / "chapter.tex").read_text() == "years of work"


def test_decoding_says_when_a_process_was_killed(command, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(here / "DIR", {"red": 10, "blue": 10})
    monkeypatch.setattr(cache, "_decode_some", dies)
    result = command("data=folder data.root=DIR epochs=1")
    assert (result.code, len(result.err.splitlines())) == (1, 2)  # the first says what is decoded
    assert "a process that decodes images was killed" in result.err


def dies(*_: object) -> None:
    os._exit(9)


def test_the_decoders_end_with_their_parent(here: Path) -> None:
    code = (
        "import os, sys, time\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from multiprocessing import get_context\n"
        "from cnnbench.data.cache import _end_with_parent\n"
        "if __name__ == '__main__':\n"
        "    pool = ProcessPoolExecutor(1, get_context('spawn'), _end_with_parent)\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    Path("parent.py").write_text(code)
    worker = int(subprocess.run([sys.executable, "parent.py"], capture_output=True, text=True).stdout)
    import time

    for _ in range(100):
        if not Path(f"/proc/{worker}").exists():
            return
        time.sleep(0.05)
    pytest.fail("the worker is still there")


# --- checkpoints


FOREIGN: dict[str, Any] = {
    "other keys": {"x": 1}, "a number": {"model": 3}, "other weights": {"model": {"x": torch.zeros(2)}}, "a list": [1],
}  # fmt: skip


def test_foreign_checkpoints(command, here: Path) -> None:
    command("data=digits epochs=1")
    (run,) = (path.parent for path in here.glob("runs/default/*/record.json"))
    best, last = (torch.load(run / name, weights_only=True) for name in ("best.ckpt", "last.ckpt"))
    Image.new("L", (8, 8)).save("x.png")
    for content in (*FOREIGN.values(), {"model": {key: torch.zeros(1) for key in best["model"]}}):
        torch.save(content, run / "best.ckpt")
        result = command(f"predict {run} x.png")
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
        assert "best.ckpt" in result.err
    torch.save(best, run / "best.ckpt")
    whole = record(here)
    nested = last | {"lightning": {"state_dict": {"a": 1}}}
    for content in ({"x": 1}, dict.fromkeys(last, 1), last | {"module": {"a": 1}}, nested):
        (run / "record.json").write_text(json.dumps(whole | {"status": "interrupted", "test": None}))
        torch.save(content, run / "last.ckpt")
        result = command("data=digits epochs=1")
        assert (result.code, record(here)["status"]) == (0, "done"), result.err
        assert "resuming from the checkpoint before it" in result.err


def test_a_class_in_a_record_is_checked_before_it_is_made(command, here: Path) -> None:
    command("data=digits epochs=1")
    (path,) = here.glob("runs/default/*/record.json")
    found = json.loads(path.read_text())
    for spec in ({"_target_": "os.system"}, {"_target_": "subprocess.Popen", "args": ["touch", "pwned"]}):
        path.write_text(json.dumps(found | {"config": found["config"] | {"model": spec}}))
        for words in (f"predict {path.parent} x.png", f"export {path.parent}"):
            result = command(words)
            assert (result.code, result.err.count("\n")) == (2, 1)
            assert "must be a torch.nn.modules.module.Module" in result.err
    assert not (here / "pwned").exists()
    for changes, says in (
        ({"regularizer": None}, "config.regularizer: None must be a mapping"),
        ({"regularizer": {"l2": "x"}}, "config.regularizer.l2: 'x' must be a number"),
        ({"model": {"_target_": None}}, "its record names no network"),
    ):
        path.write_text(json.dumps(found | {"config": found["config"] | changes}))
        result = command(f"predict {path.parent} x.png")
        assert (result.code, result.err.count("\n"), says in result.err) == (2, 1, True), result.err
    path.write_text(json.dumps(found | {"config": found["config"] | {"regularizer": {"unknown": 1}}}))
    assert "x.png: there is no such image" in command(f"predict {path.parent} x.png").err


@pytest.mark.parametrize("kind", ["empty", "pipe"])
def test_a_checkpoint_that_is_empty_or_a_pipe(command, here: Path, kind: str) -> None:
    command("data=digits epochs=1")
    (run,) = (path.parent for path in here.glob("runs/default/*/record.json"))
    Image.new("L", (8, 8)).save("x.png")
    whole, best = record(here), (run / "best.ckpt").read_bytes()

    def spoil(path: Path) -> None:
        path.unlink()
        path.touch() if kind == "empty" else os.mkfifo(path)

    (run / "record.json").write_text(json.dumps(whole | {"status": "interrupted", "test": None}))
    spoil(run / "last.ckpt")
    result = command("data=digits epochs=1")
    assert (result.code, record(here)["status"]) == (0, "done"), result.err
    assert "resuming from the checkpoint before it" in result.err
    spoil(run / "best.ckpt")
    result = command(f"predict {run} x.png")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    says = {"empty": "it is empty or cut off", "pipe": "not a regular file"}[kind]
    assert "best.ckpt: not a complete checkpoint" in result.err
    assert says in result.err
    (run / "best.ckpt").unlink()
    (run / "best.ckpt").write_bytes(best)
    os.mkfifo("pipe.png")
    assert "pipe.png: not a readable image" in command(f"predict {run} pipe.png").err


# --- records


def test_a_record_that_would_fill_the_memory_hides_no_other(command, here: Path, monkeypatch) -> None:
    write(here / "runs", made("optimizer=adam", (0.5, 0.7), 0.6))
    (here / "runs" / "large").mkdir()
    path = here / "runs" / "large" / "record.json"
    path.write_text("[" + "[]," * 4_000_000 + "[]]")
    monkeypatch.setattr("cnnbench.results.decoding.free_memory", lambda: 600e6)  # 12 MB; 4 million lists take 520
    result = command("list runs")
    assert (result.code, "adam" in result.out) == (0, True)
    assert "record.json: can't be read (12 MB, whose values don't fit into memory)" in result.err
    os.truncate(path, 100_000_000_000)  # which takes no room on the disk
    assert "(100,000 MB, whose values don't fit into memory)" in command("list runs").err


# --- names and output


def test_names_reach_no_output_as_commands(command, here: Path, no_figures: None) -> None:
    runs = [made(f"optimizer=adam seed={seed}", (0.5, 0.7), 0.6) for seed in (0, 1)]
    for run in runs:
        run["data"]["classes"] = [f"<script>{ESCAPE}", "=HYPERLINK(1)"]
        run["choices"]["optimizer"] = f"=cmd|<script>{ESCAPE}"
        run["error"] = ESCAPE
    folder = write(here / "mk[/b]", *runs)
    for words in (f"list {folder}", f"show {next(folder.iterdir())}", f"compare {folder}"):
        result = command(words)
        assert result.code == 0, result.err
        assert "\x1b[2J" not in result.out + result.err
        assert "\x07" not in result.out + result.err
    written = {
        name: (folder / name).read_text()
        for name in ("comparison.md", "comparison.csv", "comparison.tex", "report.html")
    }
    assert not any("\x1b" in text for text in written.values())
    assert "<script>" not in written["comparison.md"] + written["report.html"].replace("<script>\n", "")
    assert ",'=cmd" in written["comparison.csv"]


def test_names_of_files_and_folders_reach_no_terminal_as_commands(command, here: Path, no_figures: None) -> None:
    runs = [made(f"optimizer={name} seed=0", (0.5, 0.7), 0.6) for name in ("adam", "sgd")]
    folder = write(here / f"of{ESCAPE}", *runs)
    (folder / runs[0]["run_id"]).rename(folder / f"first{ESCAPE}")
    (folder / f"broken{ESCAPE}").mkdir()
    (folder / f"broken{ESCAPE}" / "record.json").write_text("{")
    Path(f"table{ESCAPE}.csv").write_text("optimizer,seed,acc\nadam,0,0.5\nadam,1,0.6\nsgd,0,0.7\nsgd,1,0.8\n")
    main_words = (["list", str(folder)], ["compare", str(folder)], ["show", str(folder)], ["bundle", str(folder)])
    for words in (*main_words, ["export", str(folder), "--format", "csv"], ["compare", f"table{ESCAPE}.csv"]):
        result = command(shlex.join(words))
        assert "Traceback" not in result.err
        assert "\x1b" not in result.out + result.err, words
    written = [path.read_text() for path in here.glob("compared/*/*") if path.suffix != ".png"]
    assert len(written) == 4
    assert not any("\x1b" in text for text in written)


def test_predict_names_hostile_files_as_plain_text(command, here: Path) -> None:
    command("data=digits epochs=1")
    (run,) = (path.parent for path in here.glob("runs/default/*/record.json"))
    Image.new("L", (8, 8)).save("good.png")
    Path("good.png").rename(f"good{ESCAPE}.png")
    Path(f"bad{ESCAPE}.png").write_text("x")
    result = command(f"predict {run} .")
    assert (result.code, result.out.count("good"), result.err.count("not a readable image")) == (1, 1, 1)
    assert "\x1b" not in result.out + result.err


def test_markdown_loads_no_picture_and_follows_no_link(here: Path) -> None:
    runs = [made(f"optimizer={name} seed=0", (0.5, 0.7), 0.6) for name in ("adam", "sgd")]
    runs[0]["choices"]["optimizer"] = "![x](http://evil/x.png)[y](javascript:z)\n# title"
    comparisons, tuning = compare_folders([write(here / "runs", *runs)])
    text = as_markdown(comparisons, tuning)
    assert "evil" in text
    assert "](" not in text
    assert "\n# title" not in text


def test_a_class_that_is_not_there_is_one_line(here: Path) -> None:
    words = [sys.executable, "-m", "cnnbench", "data=digits", "optimizer._target_=torch.optim.Adamx", "--dry-run"]
    result = subprocess.run(words, capture_output=True, text=True)  # pytest keeps loggers' lines from `capfd`
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "cnnbench: optimizer._target_=torch.optim.Adamx: there is no such class.\n"


def test_a_terminal_without_unicode(here: Path) -> None:
    write(here / "runs", made("optimizer=adam seed=0", (0.5, 0.7), 0.6), made("optimizer=sgd seed=0", (0.3, 0.4), 0.3))
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    for words in (["compare", "runs"], ["list", "runs"]):
        result = subprocess.run([sys.executable, "-m", "cnnbench", *words], capture_output=True, env=environment)
        assert (result.returncode, result.stderr) == (0, b"")
    shutil.rmtree(here / "runs")


@pytest.mark.parametrize(
    "words", ["optimizer.eps=inf", "scheduler=step scheduler.gamma=nan", "optimizer.betas=[0.9,inf]"]
)
def test_numbers_that_no_record_can_hold(command, here: Path, words: str) -> None:
    result = command(f"data=digits epochs=1 {words}")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert "must be a finite number" in result.err
    assert list(here.iterdir()) == []


BOMB = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("5", "must hold keys with values, not a single value"),
        ("[" * 5000 + "]" * 5000, "too many lists and mappings inside each other"),
        (BOMB, "its aliases (*name) make more than 100,000 values of it"),
        ("a: &a [*a]", "too many lists and mappings inside each other"),
        ("a: [1\nb: }", "line 2: not valid YAML"),
    ],
    ids=["a number", "deep", "aliases", "endless", "syntax"],
)
def test_a_users_yaml_file(command, here: Path, content: str, says: str) -> None:
    path = here / "mine" / "optimizer" / "x.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    result = command("--config-dir mine data=digits optimizer=x --dry-run")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert f"x.yaml{', ' if says.startswith('line') else ': '}{says}" in result.err


def test_a_users_yaml_file_that_is_a_pipe(command, here: Path) -> None:
    (here / "mine" / "optimizer").mkdir(parents=True)
    os.mkfifo(here / "mine" / "optimizer" / "x.yaml")
    result = command("--config-dir mine data=digits optimizer=sgd --dry-run")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "x.yaml: can't be read (not a regular file)" in result.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("lr=" + "[" * 500 + "]" * 500, "recursion depth"),
        ("+a=" + "{a:" * 300 + "1" + "}" * 300, "recursion depth"),
        ("-m seed=range(100000000)", "seed=range(100000000): 100,000,000 runs. A sweep has at most 100,000."),
        ("-m seed=range(1000) epochs=range(1,1001)", "1,000,000 runs"),  # 1,000 x 1,000
        (f"runs_dir={'x' * 300}", "File name too long"),
    ],
    ids=["lists", "mappings", "range", "product", "name"],
)
def test_words_beyond_all_bounds(command, here: Path, words: str, says: str) -> None:
    result = command(f"data=digits {words} --dry-run")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert says in result.err


def test_the_data_of_digits_is_as_before() -> None:
    assert images.load(Data(_target_="cnnbench.data.images.digits")).fingerprint == "5211cc2b3c35484a"
