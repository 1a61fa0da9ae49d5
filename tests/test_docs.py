"""Commands on the pages are run, cut down; their files are written, their links followed.

A page is read from top to bottom in one folder, which looks like a clone to it. A comment before a block of commands
says why it is not run; `pages.py` has its form. DIR is a folder of images, photo.jpg one of them, and RUN the newest
run of the folder that is named before it.
"""

import itertools
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import write_images
from pages import Command, File, anchors, inline_commands, links, steps

from cnnbench.cli.commands import COMMANDS
from cnnbench.config import composition
from cnnbench.config.composition import Composer, Job

ROOT = Path(__file__).parent.parent
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
}
SKIPPED = ("cd", "git", "pip", "pytest", "uv")
"""Programs that need the network, or that run this very test."""

SHOWN = {
    "train": r"test accuracy \d|Accuracy  |\d runs$|^optimizer:", "tune": r"^runs/\S+/report.html",
    "compare": "Verdicts", "list": " done ", "predict": r": (\w+ [\d.]+%, )+", "preview": "preview.png", "show": "Epochs",
    "cache": r"cnnbench/folder: [\d.]+ MB", "export": r"images get the same class|: \d+ runs", "bundle": r": \d+ records", "import": r": \d+ runs, \d+ rows",
}  # fmt: skip
"""What each command prints, among other things."""


def cut(job: Job) -> Job:
    """The same run on at most 100 images, for two epochs, in this process."""
    config = job.config
    if "archives" in config.data._target_:
        config.data = replace(config.data, _target_="cnnbench.data.images.digits", root=None, md5=None)
    config.data = replace(config.data, limit=100, image_size=32)
    config.epochs, config.update.batch_size, config.workers = 2, 20, 1
    config.clip = config.clip or 1.0  # whatever learning rate a tuning picks after so few steps
    if "warmup" in config.scheduler:
        config.scheduler["warmup"] = 1
    return job


@pytest.fixture
def clone(here: Path, monkeypatch: pytest.MonkeyPatch, no_figures: None) -> None:
    """Where a page's reader is. Of what is swept the first two values of each key are taken."""
    for name in ("docs", "scripts"):
        (here / name).symlink_to(ROOT / name)
    write_images(here / "DIR", {"red": 30, "green": 30, "blue": 30}, size=32)
    shutil.copy(here / "DIR/test/red/0000.png", here / "photo.jpg")
    monkeypatch.syspath_prepend(here)
    product, compose_job = itertools.product, Composer._job
    monkeypatch.setattr(
        composition, "itertools", SimpleNamespace(product=lambda *keys: product(*(k[:2] for k in keys)))
    )
    monkeypatch.setattr(Composer, "_job", lambda *given: cut(compose_job(*given)))


def ready(word: str) -> str:
    """A word as it is typed here: `runs/default/RUN` is the folder of the last run, and a tuning is short."""
    if match := re.search(r"(runs/\w+)/RUN\b", word):
        last = max(Path(match[1]).glob("*/record.json"), key=lambda path: path.stat().st_mtime_ns)
        return word.replace(match[0], str(last.parent))
    return re.sub(r"^(trials|tunings|seeds)=\d+$", r"\1=2", word)


def cnnbench(command, words: list[str]) -> str:
    """What the command prints; it has to succeed."""
    result = command(shlex.join(words))
    assert result.code == 0, result.err
    return result.out


@pytest.mark.usefixtures("clone")
@pytest.mark.parametrize("page", PAGES)
def test_commands(page: str, command, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in steps(PAGES[page]):
        if isinstance(step, File):
            step.write()
            continue
        print(f"{page}:{step.line}: {shlex.join(step.words)}")  # seen where it fails
        if step.level == "not run" or step.words[0] in SKIPPED:
            continue
        if step.level == "only composed":
            cnnbench(command, [*step.words[1:], "--cfg", "job"])
            continue
        program, *words = map(ready, step.words)
        if program == "cnnbench":
            out = cnnbench(command, words)
            shown = SHOWN[words[0] if words[0] in COMMANDS else "train"]
            assert json.loads(out) if "--json" in words else re.search(shown, out, re.MULTILINE), out
        elif program == "python":
            monkeypatch.setattr(sys, "argv", words)
            runpy.run_path(words[0], run_name="__main__")
        elif program == "tensorboard":  # test_tensorboard.py looks at what it shows
            assert list(Path(words[-1]).rglob("events.out.tfevents.*"))
        else:
            subprocess.run([program, *words], check=True)


@pytest.mark.usefixtures("clone")
@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if inline_commands(text)])
def test_commands_within_sentences(page: str, command, monkeypatch: pytest.MonkeyPatch) -> None:
    # one run of each sweep
    monkeypatch.setattr(composition, "itertools", SimpleNamespace(product=lambda *keys: [tuple(k[0] for k in keys)]))
    for step in steps(PAGES[page]):
        if isinstance(step, File):
            step.write()
    for words in (typed.replace("NAME", "quickstart").split() for typed in inline_commands(PAGES[page])):
        if words[0] not in ("compare", "export", "list", "predict", "show"):  # these need runs
            cnnbench(command, [*words, "--cfg", "job"])


def test_every_command_is_run_on_some_page() -> None:
    found = [step for text in PAGES.values() for step in steps(text) if isinstance(step, Command)]
    assert {step.words[1] for step in found if step.words[0] == "cnnbench" and step.level == "run"} >= {"-m", *COMMANDS}


@pytest.mark.parametrize("page", PAGES)
def test_links(page: str) -> None:
    for target in links(PAGES[page]):
        name, _, anchor = target.partition("#")
        there = ((ROOT / page).parent / name).resolve() if name else ROOT / page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there.read_text()), target


def test_a_page_is_read_as_it_is_meant() -> None:
    page = """\
# A `heading`, with marks
Put into `mine/a.yaml`

    lr: 1

and run (`conf/b.yaml` is not written; [a link](#there)):

<!-- not run: needs a GPU -->

    pip install uv && uv run cnnbench lr=1 \\
      epochs=2  # all of it

```bash
PYTHONPATH=. cnnbench list
```
```text
cnnbench is left alone, unlike
```
`cnnbench show
RUN` and <a href="elsewhere.md">that</a>.
"""
    assert list(steps(page)) == [
        File(Path("mine/a.yaml"), "lr: 1\n"),
        Command(10, ["pip", "install", "uv"], "not run"),
        Command(10, ["cnnbench", "lr=1", "epochs=2"], "not run"),
        Command(13, ["cnnbench", "list"], "run"),
    ]
    assert (inline_commands(page), links(page)) == ({"show RUN"}, ["#there", "elsewhere.md"])
    assert anchors(page) == {"a-heading-with-marks"}


@pytest.mark.parametrize("after", ["", "    lr: 1\n", "<!-- not run: twice -->\n\n    pip install uv\n"])
def test_a_mark_that_is_not_before_commands_is_a_mistake(after: str) -> None:
    with pytest.raises(AssertionError, match="before"):
        list(steps(f"<!-- not run: needs a GPU -->\n\n{after}"))
