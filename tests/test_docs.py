"""Is what the pages say true? Their commands are run, cut down by `REDUCED`; their links are followed.

A page is read from top to bottom in one folder, which looks like a clone to it. Of its code blocks

- those of commands (```bash, or indented and beginning with one of `PROGRAMS`) are run, line by line;
- one behind a paragraph that ends with the name of a file, as in `mine/optimizer/mine.yaml`, is written to that file;
- others are left alone.

What isn't run has a comment in front of its block that says why; readers don't see it:

    <!-- not run: needs a GPU -->                        the whole block
    <!-- pip, git not run: need the network -->          these programs in it
    <!-- only composed: README.md runs a tuning -->      its configs are composed as they stand, nothing is trained

DIR is a folder of images and photo.jpg one of them; RUN (and NAME) is the last run (folder) that fits the path.
"""

import argparse
import itertools
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import Result, write_images

from cnnbench.cli import commands as cli_commands
from cnnbench.cli import main
from cnnbench.config import composition
from cnnbench.report import figures
from cnnbench.sweeps import tuning

ROOT = Path(__file__).parent.parent
PAGES = {
    str(path.relative_to(ROOT)): path
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
}

REDUCED = {
    "data": "digits",  # but data=folder and data of the reader's own stay
    "data.limit": "100",
    "data.image_size": "32",
    "epochs": "2",
    "batch_size": "20",
    "scheduler.warmup": "1",
    "trials": "2",
    "seeds": "1",
}
"""What a command's values become before it is run. Of a sweep's values (optimizer=a,b,c seed=0,1,2) the first two are
run, all are composed. All else stays: model, optimizer, flags, workers, experiment. Figures are drawn once a page."""

ADDED = ("data=digits", "data.limit=100", "epochs=2", "batch_size=20")
"""What a training gets if it says nothing of it."""
ADDED_FOR = {
    "experiment=": ("seed=0",),
    "experiment=reach_92": ("seed=0,1",),
    "experiment=doc2_": ("data.image_size=32",),
    "experiment=doc4_": ("data.image_size=32",),
    "model=mnist_cnn": ("data.image_size=32",),
    "tune": ("trials=2", "seeds=1"),
}
"""What it also gets where it has a word that begins so, if it says nothing of it."""

TAKEN_FOR_GRANTED = {"docs/protocol.md": "-m optimizer=sgd,momentum seed=0,1"}
"""What a page's reader has run already."""

PROGRAMS = ("cd", "cnnbench", "git", "mkdir", "pip", "pytest", "python", "tar", "tensorboard", "uv")
EARLY = ("--dry-run", "--cfg", "--help", "--version")
DEPENDENT = ("compare", "list", "predict", "show")
"""Commands that need no config, but runs."""


@dataclass(frozen=True)
class Mark:
    line: int
    what: str
    programs: tuple[str, ...]
    """Which of the block's; none is all."""
    reason: str

    def covers(self, program: str) -> bool:
        return not self.programs or program in self.programs


@dataclass(frozen=True)
class Command:
    line: int
    variables: dict[str, str]
    """Set in front of it, as in `PYTHONPATH=. cnnbench`."""
    words: list[str]
    mark: Mark | None

    @property
    def level(self) -> str:
        """`run`, `only composed` or `not run`."""
        return self.mark.what if self.mark and self.mark.covers(self.words[0]) else "run"


@dataclass(frozen=True)
class Written:
    path: str
    content: str


# --- pages


def blocks(text: str) -> Iterator[tuple[int, str, list[str], str, Mark | None]]:
    """Each code block: its first line's number, language, lines, the paragraph before it, and its mark."""
    lines = text.splitlines()
    paragraph, mark, i = "", None, 0
    while i < len(lines):
        line = lines[i]
        indent = len(line) - len(line.lstrip())
        fence = line.strip().startswith("```")
        if fence or (indent >= 4 and line.strip() and (i == 0 or not lines[i - 1].strip())):
            start, language = i + fence, line.strip().removeprefix("```") if fence else ""
            i = start
            while i < len(lines) and (
                not lines[i].strip().startswith("```")
                if fence
                else lines[i].startswith(" " * indent) or not lines[i].strip()
            ):
                i += 1
            content = [each[indent:] for each in lines[start:i]]
            while content and not content[-1].strip():
                content.pop()
            yield start + 1, language, content, paragraph, mark
            paragraph, mark = "", None
            i += fence
        else:
            if found := re.fullmatch(r"<!-- (?:([\w, ]+) )?(not run|only composed):(.*)-->", line.strip()):
                assert mark is None, f"line {i + 1}: a mark without a block before this one"
                mark = Mark(i + 1, found[2], tuple((found[1] or "").replace(",", " ").split()), found[3].strip())
            elif line.strip():
                paragraph = f"{paragraph}\n{line}" if i and lines[i - 1].strip() else line
            i += 1
    assert mark is None, f"line {mark.line}: a mark without a block behind it"


def steps(text: str) -> Iterator[Command | Written]:
    """What a reader does, in order."""
    for start, language, content, paragraph, mark in blocks(text):
        names = re.findall(r"`([\w./-]+\.(?:yaml|py))`[^`]*$", paragraph)
        begins = content[0].removeprefix("PYTHONPATH=. ").split()[0] if content and content[0].strip() else ""
        if language == "bash" or (not language and begins in PROGRAMS):
            found = list(commands(start, content, mark))
            used = {command.words[0] for command in found}
            assert mark is None or set(mark.programs) <= used, f"line {mark.line}: marks what is not in the block"
            yield from found
        else:
            assert mark is None, f"line {start}: a mark in front of a block that holds no commands"
            if names:
                yield Written(names[-1], "\n".join(content) + "\n")


def commands(start: int, lines: list[str], mark: Mark | None) -> Iterator[Command]:
    """A command for each program; `a && b` are two, and `uv run a` is a."""
    joined, first = "", start
    for number, line in enumerate(lines, start):
        first = first if joined else number
        joined += line.removesuffix("\\")
        if line.endswith("\\"):
            continue
        for part in joined.split("&&"):
            words = shlex.split(part, comments=True)
            words = words[2:] if words[:2] == ["uv", "run"] else words
            variables = {}
            while words and re.match(r"[A-Z_]+=", words[0]):
                name, _, variables[name] = words.pop(0).partition("=")
            if words:
                yield Command(first, variables, words, mark)
        joined = ""


def prose(text: str) -> str:
    """The page without its code blocks."""
    inside = {n for start, _, lines, *_ in blocks(text) for n in range(start, start + len(lines))}
    return "\n".join("" if n in inside else line for n, line in enumerate(text.splitlines(), 1))


# --- a reader


class Reader:
    """Does what a page says, in a folder of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._patch, self._capfd = monkeypatch, capfd

    def prepare(self) -> None:
        """What every page takes for granted."""
        for name in ("docs", "scripts"):
            Path(name).symlink_to(ROOT / name)
        write_images(Path("DIR"), {"red": 30, "green": 30, "blue": 30}, size=32)
        Path("photo.jpg").write_bytes(Path("DIR/test/red/0000.png").read_bytes())

    def write(self, file: Written) -> None:
        path = Path(file.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.content)

    def do(self, command: Command) -> None:
        """Runs or composes it, as its mark has it, and looks at what comes out."""
        for name, value in command.variables.items():
            self._patch.setenv(name, value)
            if name == "PYTHONPATH":
                for path in value.split(os.pathsep):
                    self._patch.syspath_prepend(Path(path).resolve())
        program, *words = (last_run(word) for word in command.words)
        if program == "cnnbench":
            if command.level == "only composed":
                self.compose(words)
            elif words != [first_two(word) for word in words]:  # the values that are left out
                self.look_up(words)
            if command.level == "run":
                self.run(reduced(words))
        else:
            self.other(program, words)

    def cnnbench(self, words: list[str]) -> Result:
        self._capfd.readouterr()
        code = main(words)
        if Path("runs").exists() and any(Path("runs").glob("*/curves.png")):
            self._patch.setattr(figures, "draw", lambda *comparison: [])
        result = Result(code, *self._capfd.readouterr())
        assert result.code == 0, result.err
        return result

    def run(self, words: list[str]) -> None:
        result = self.cnnbench(words)
        kind, out = kind_of(words), result.out
        if kind in ("train", "sweep", "tune"):
            lines = {"train": r"^test accuracy [\d.]+%", "sweep": r"^ *Accuracy", "tune": r"^runs/\S+/report.html"}
            assert re.search(lines[kind], out, re.MULTILINE), out
            *_, last = (line for line in out.splitlines() if line.startswith("runs/"))
            folder = Path(last.split()[0])
            assert all(r["status"] == "done" for r in map(read, folder.rglob("record.json")))
        elif kind == "preview":
            assert Path("preview.png").stat().st_size > 0
        elif "--json" in words:
            assert json.loads(out)
        else:
            what = {
                "compare": r"^ *Verdicts", "list": r" done ", "show": r"^ *Epochs", "predict": r"^\S+: (\w+ [\d.]+%, )+",
                "--dry-run": r"^\d+ runs?$", "--cfg": "^optimizer:$", "--help": "^Groups", "--version": r"^cnnbench \d",
            }  # fmt: skip
            assert re.search(what[kind], out, re.MULTILINE), out

    def compose(self, words: list[str]) -> None:
        """What a command names is composed and checked; of one without configs, its options are."""
        kind = kind_of(words)
        with self._patch.context() as patch:
            if kind == "tune":
                patch.setattr(cli_commands, "_images", lambda jobs: [])
                patch.setattr(cli_commands, "_import_beside", lambda: None)
                patch.setattr(tuning, "tune", lambda *plan: 0)
                self.cnnbench(words)
            elif kind in DEPENDENT:
                assert words[1:] == [] or parses(patch, lambda: main(words))
            elif kind == "sweep":
                self.look_up(words)
            elif kind in EARLY:
                self.cnnbench(words)
            else:
                self.cnnbench([*(words[1:] if kind == "preview" else words), "--dry-run"])

    def look_up(self, words: list[str]) -> None:
        """Every key and option of a sweep or tuning is looked up, and its first two configs are composed."""
        own = ("tune", *(f"{key}=" for key in ("trials", "seeds", "sampler", "space")))
        typed = [word for word in words if not (words[0] == "tune" and word.startswith(own))]
        with self._patch.context() as patch:
            product = itertools.product
            few = SimpleNamespace(product=lambda *values: itertools.islice(product(*values), 2))
            patch.setattr(composition, "itertools", few)
            self.cnnbench(["-m", *typed, "--cfg", "job"])

    def other(self, program: str, words: list[str]) -> None:
        if program in ("mkdir", "tar"):
            subprocess.run([program, *words], check=True)
        elif program == "python" and words[0].startswith("scripts/"):  # they measure for minutes
            self._patch.setattr(sys, "argv", words)
            with self._patch.context() as patch:
                assert parses(patch, lambda: runpy.run_path(words[0], run_name="__main__")), words
        elif program == "python":
            self._patch.setattr(sys, "argv", words)
            runpy.run_path(words[0], run_name="__main__")
        elif program == "tensorboard":
            from tensorboard import program as board

            board.TensorBoard().configure(argv=[program, *words])  # what it shows: test_tensorboard.py
            logdir = Path(words[words.index("--logdir") + 1])
            assert list(logdir.rglob("events.out.tfevents.*"))
        else:
            pytest.fail(f"{program} can't be run here: mark it")


class Parsed(BaseException):
    """The words of a command were understood."""


def parses(patch: pytest.MonkeyPatch, work: object) -> bool:
    """Does `work` get past its argument parser without an error? It ends there."""
    parse = argparse.ArgumentParser.parse_intermixed_args

    def and_stop(self: argparse.ArgumentParser, *args: object) -> None:
        parse(self, *args)  # type: ignore[call-overload]
        raise Parsed

    for name in ("parse_args", "parse_intermixed_args"):
        patch.setattr(argparse.ArgumentParser, name, and_stop)
    try:
        work()  # type: ignore[operator]
    except Parsed:
        return True
    return False


def kind_of(words: list[str]) -> str:
    """The sub-command, an option that ends the command early, `sweep` or `train`."""
    early = [word for word in words if word in EARLY]
    if words[0] in cli_commands.COMMANDS or early:
        return words[0] if words[0] in cli_commands.COMMANDS else early[0]
    return "sweep" if "-m" in words or any(word.startswith("experiment=") for word in words) else "train"


def reduced(words: list[str]) -> list[str]:
    """The command as it is run here."""
    if kind_of(words) in DEPENDENT:
        return words
    found, named = [], {word.partition("=")[0] for word in words}
    for word in words:
        key, _, value = word.partition("=")
        stays = key == "data" and (value == "folder" or not (ROOT / "conf/data" / f"{value}.yaml").exists())
        stays = stays or key not in REDUCED or "," in value
        found.append(first_two(word) if stays else f"{key}={REDUCED[key]}")
    due = [*ADDED, *(w for start, more in ADDED_FOR.items() if any(w.startswith(start) for w in words) for w in more)]
    return [*found, *(word for word in due if word.partition("=")[0] not in named)]


def first_two(word: str) -> str:
    """`seed=0,1,2` as `seed=0,1`; a list in brackets is one value."""
    return word if "[" in word else ",".join(word.split(",")[:2])


def last_run(word: str) -> str:
    """`runs/default/RUN` as the newest folder there is."""
    key, equals, path = word.rpartition("=")
    if not re.search(r"(^|/)(RUN|NAME)(/|$)", path):
        return word
    found = [folder for folder in Path().glob(re.sub(r"\b(RUN|NAME)\b", "[!.]*", path)) if folder.is_dir()]
    assert found, f"{word}: there is none"
    return f"{key}{equals}{max(found, key=lambda folder: folder.stat().st_mtime_ns)}"


def read(path: Path) -> dict[str, object]:
    return json.loads(path.read_text())


@pytest.fixture
def reader(here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Reader]:
    before, modules = torch.get_num_threads(), set(sys.modules)
    torch.set_num_threads(1)
    yield Reader(monkeypatch, capfd)
    torch.set_num_threads(before)
    for name in set(sys.modules) - modules:  # the page's own
        if str(here) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.parametrize("page", PAGES)
def test_commands(reader: Reader, page: str) -> None:
    if list(steps(PAGES[page].read_text())):
        reader.prepare()
    if page in TAKEN_FOR_GRANTED:
        reader.run(reduced(shlex.split(TAKEN_FOR_GRANTED[page])))
    for step in steps(PAGES[page].read_text()):
        if isinstance(step, Written):
            reader.write(step)
        elif step.level != "not run":
            try:
                reader.do(step)
            except (Exception, SystemExit) as error:
                raise AssertionError(f"{page}:{step.line}: {shlex.join(step.words)}") from error


@pytest.mark.parametrize("page", PAGES)
def test_commands_within_sentences(reader: Reader, page: str) -> None:
    text = PAGES[page].read_text()
    for step in steps(text):
        if isinstance(step, Written):
            reader.write(step)
    for words in {" ".join(found.split()) for found in re.findall(r"`cnnbench ([^`]+)`", prose(text))}:
        typed = words.replace("experiment=NAME", "experiment=quickstart")
        try:
            reader.compose(shlex.split(typed))
        except AssertionError as error:
            raise AssertionError(f"{page}: cnnbench {words}") from error


def test_what_is_not_run_says_why() -> None:
    marks = {
        (page, step.mark)
        for page, path in PAGES.items()
        for step in steps(path.read_text())
        if isinstance(step, Command) and step.mark
    }
    for page, mark in sorted(marks, key=lambda pair: (pair[0], pair[1].line)):
        print(f"{page}:{mark.line}: {', '.join(mark.programs)} {mark.what}: {mark.reason}")
        assert len(mark.reason) > 5, f"{page}:{mark.line}: no reason"
        assert set(mark.programs) <= set(PROGRAMS), f"{page}:{mark.line}"


def test_every_command_is_run_somewhere() -> None:
    run = {
        kind_of(step.words[1:])
        for path in PAGES.values()
        for step in steps(path.read_text())
        if isinstance(step, Command) and step.level == "run" and step.words[0] == "cnnbench"
    }
    assert run >= {"train", "sweep", *cli_commands.COMMANDS}


def anchors(path: Path) -> set[str]:
    """The headings as GitHub names them."""
    headings = re.findall(r"^#+ (.*)$", prose(path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links(page: str) -> None:
    path = PAGES[page]
    text = prose(path.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text):
        if re.match(r"\w+:", target):
            continue
        name, _, anchor = target.partition("#")
        there = (path.parent / name).resolve() if name else path
        assert there.exists(), f"{page}: {target}"
        assert not anchor or anchor in anchors(there), f"{page}: {target}"


def test_a_page_is_read_as_it_is_meant() -> None:
    page = """\
Put into `mine/a.yaml`

    lr: 1

and run (`conf/b.yaml` is not written):

<!-- pip not run: needs the network -->

    pip install uv && uv run cnnbench lr=1 \\
      epochs=2  # all of it
    PYTHONPATH=. cnnbench list

```text
cnnbench is left alone
```
"""
    file, *found = steps(page)
    assert file == Written("mine/a.yaml", "lr: 1\n")
    assert [(c.line, c.level, c.words) for c in found] == [
        (9, "not run", ["pip", "install", "uv"]),
        (9, "run", ["cnnbench", "lr=1", "epochs=2"]),
        (11, "run", ["cnnbench", "list"]),
    ]
    assert found[-1].variables == {"PYTHONPATH": "."}
    small = "data=digits data.limit=100 epochs=2 batch_size=20"
    assert reduced(["-m", "optimizer=adam,sgd,lion", "seed=0,1,2", "epochs=50"]) == shlex.split(
        "-m optimizer=adam,sgd seed=0,1 epochs=2 data=digits data.limit=100 batch_size=20"
    )
    assert reduced(["tune", "seed=3", "data=folder", "data.root=DIR", "augment=[a,b,c]"]) == shlex.split(
        "tune seed=3 data=folder data.root=DIR augment=[a,b,c] data.limit=100 epochs=2 batch_size=20 trials=2 seeds=1"
    )
    assert reduced(["preview"]) == ["preview", *small.split()]
    for wrong in (
        "<!-- not run: why -->\n",
        "<!-- git not run: why -->\n\n    pip install uv\n",
        "<!-- not run: why -->\n\n    lr: 1\n",
    ):
        with pytest.raises(AssertionError, match="mark"):
            list(steps(wrong))
