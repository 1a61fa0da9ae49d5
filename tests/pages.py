"""Markdown pages as their readers see them: files to write, commands to type, links to follow."""

import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

PROGRAMS = ("cd", "cnnbench", "git", "mkdir", "pip", "PYTHONPATH=.", "python", "tar", "tensorboard", "uv")
"""What the first word of a block of commands can be."""

MARK = re.compile(r"<!-- (not run|only composed): (.{5,}) -->")
"""A comment before a block of commands. Readers don't see it; the tests do as it says."""


@dataclass(frozen=True)
class File:
    """A code block after a paragraph that ends with the name of a file, such as `mine/optimizer/mine.yaml`."""

    path: Path
    content: str

    def write(self) -> None:
        """Writes it below the current folder."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(self.content)


@dataclass(frozen=True)
class Command:
    """A command in a code block; `a && b` are two, and `uv run a` is a."""

    line: int
    """Where the block begins."""
    words: list[str]
    level: str
    """`run`, or what the mark before the block says: `only composed`, `not run`."""


def parse(text: str) -> list[Token]:
    """The page's parts, in order; those within a paragraph or a heading too."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    return [part for token in tokens for part in (token, *(token.children or ()))]


def steps(text: str) -> Iterator[File | Command]:
    """What a reader does, in order. Blocks that are neither files nor commands are left alone.

    Raises:
        AssertionError: a mark is not before a block of commands.
    """
    paragraph, level = "", "run"
    for token in parse(text):
        if token.type == "inline":
            paragraph = token.content
        elif token.type == "html_block" and (match := MARK.match(token.content)):
            assert level == "run", f"two marks before one block: {token.content}"
            level = match[1]
        elif token.type in ("fence", "code_block"):
            line = (token.map or [0])[0] + 1
            if token.info == "bash" or (not token.info and token.content.split()[0] in PROGRAMS):
                for part in re.split(r"&&|\n", token.content.replace("\\\n", " ")):
                    words = shlex.split(re.sub(r"^\s*(uv run|PYTHONPATH=\.) ", "", part), comments=True)
                    if words:
                        yield Command(line, words, level)
                level = "run"
            elif match := re.search(r"`([\w./-]+\.(?:csv|py|yaml))`[^`]*$", paragraph):
                yield File(Path(match[1]), token.content)
            assert level == "run", f"line {line}: '{level}' before a block without commands"
            paragraph = ""
    assert level == "run", f"'{level}' before no block"


def inline_commands(text: str) -> set[str]:
    """What stands after `cnnbench` in the commands within sentences."""
    codes = {token.content for token in parse(text) if token.type == "code_inline"}
    return {code.removeprefix("cnnbench ") for code in codes if code.startswith("cnnbench ")}


def links(text: str) -> list[str]:
    """Targets of links and images, also of HTML's; not those elsewhere on the web."""
    tokens = parse(text)
    found = [str(target) for token in tokens for key, target in token.attrs.items() if key in ("href", "src")]
    html = "".join(token.content for token in tokens if token.type.startswith("html_"))
    return [target for target in (*found, *re.findall(r'(?:src|href)="([^"]+)"', html)) if "://" not in target]


def anchors(text: str) -> set[str]:
    """The headings as GitHub names them."""
    pairs = itertools.pairwise(parse(text))
    headings = [content.content for opening, content in pairs if opening.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
