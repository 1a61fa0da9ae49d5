"""Writes docs/configuration.md from conf/ and the docstrings in cnnbench/.

python scripts/configuration_page.py
"""

import argparse
import ast
import itertools
import re
import textwrap
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args
from unittest.mock import patch

import yaml

from cnnbench.analysis import grouping, tuning
from cnnbench.config import schema
from cnnbench.config.keys import CONF, GROUPS
from cnnbench.config.schema import Config
from cnnbench.config.spaces import space_of

PAGE = Path(__file__).parent.parent / "docs" / "configuration.md"

TYPES = {
    "int": "whole number", "float": "number", "str": "text", "bool": "true or false", "list[int]": "whole numbers",
    "list[str]": "words", "dict[str, Any]": "a class and its arguments", "dict[str, str]": "words by group",
    "dict[str, list[str]]": "lists of overrides by name", "Any": "whole number, [height,width] or null",
}  # fmt: skip

HEAD = """\
# Configuration

<!-- Written by `python scripts/configuration_page.py` from conf/ and cnnbench/. Change those, then run it again. -->

A run is described by one config. Each of its groups (`optimizer`, `data`, ...) takes an option, which is a file under
`conf/`; each key takes a value. On the command line `GROUP=OPTION` takes another option, `KEY=VALUE` sets a key, and
`GROUP.KEY=VALUE` a key inside a group. The command line wins over an experiment's file, and that file over the options.
`--cfg job` prints the resulting config and runs nothing:

    cnnbench optimizer=momentum lr=0.05 optimizer.momentum=0.8 --cfg job

Several values of a key or group are a sweep, which needs `-m`: each combination is a run. A list is written in
brackets, text with blanks or commas in quotes, and `null` is nothing:

    cnnbench -m optimizer=sgd,adam seed=0,1,2 stop=early stop.patience=3
    cnnbench "regularizer=[l2,dropout]" data.limit=null

An option of your own is a file `DIR/GROUP/NAME.yaml`, given by `--config-dir DIR`. The grammar is
[Hydra's](https://hydra.cc/docs/advanced/override_grammar/basic/).

"Document 3, 4.2" is section 4.2 of the fourth of five tutorials on CNNs whose experiments are built in:
[documents.md](documents.md).
"""

EXPERIMENTS = """\
`experiment=NAME` is a sweep with all its settings. The command line can still set each key to something else, swept
ones too. `size=small` cuts it down.
"""

TUNE = """\
Typed after `cnnbench tune`, together with any of the keys and groups above. Several values of one of those, such as
`optimizer=sgd,adam`, are the contestants.
"""

SPACES = """\
A space holds the values that may be tried: `KEY: {low: 1e-4, high: 0.1, log: true}` is a range (of whole numbers if
both ends are), `KEY: [64, 128]` a list. An optimizer without a file here gets three decades of `lr` around its own.
"""

OPEN = (
    "The keys next to a `_target_` are arguments of the class or function that it names. Each of its arguments can be "
    "set; any other key is refused."
)


def documented(source: Path) -> dict[str, dict[str, str]]:
    """The docstring below each name of a module (under \"\") and of each of its classes."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    module = ast.parse(source.read_text())
    owners: list[ast.Module | ast.ClassDef] = [module]
    for owner in (*owners, *(node for node in module.body if isinstance(node, ast.ClassDef))):
        for node, below in zip(owner.body, owner.body[1:], strict=False):
            target = getattr(node, "target", None) or getattr(node, "targets", [None])[0]
            text = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else None
            if isinstance(target, ast.Name) and isinstance(text, str):
                found[getattr(owner, "name", "")][target.id] = one_line(text)
    return found


def allowed() -> dict[str, list[str]]:
    """What each key must be, in the words of the checks themselves."""
    found: dict[str, list[str]] = defaultdict(list)

    def note(legal: bool, key: str, value: Any, must_be: str) -> None:
        if must_be not in found[key]:
            found[key].append(must_be)

    with patch.object(schema, "_check", note):
        lists: dict[str, Any] = {
            "filters": [1],
            "kernel_size": [1],
            "stride": [1],
            "padding": ["same"],
            "pooling": ["max"],
        }
        schema.Search(method="joint", **lists)
        schema.Claim()
        Config()
    return found


def one_line(text: str) -> str:
    """Without line breaks."""
    return " ".join(text.split())


def escaped(text: str) -> str:
    """Text of a comment as Markdown shows it; what stands between backticks stays."""
    parts = text.split("`")
    parts[::2] = (re.sub(r"[<*]|(?<!\w)_|_(?!\w)", r"\\\g<0>", part) for part in parts[::2])
    return "`".join(parts)


def wrapped(text: str, indent: str = "") -> str:
    """At most 118 wide, which leaves room to indent. No line begins with a sign, which would be a list."""
    text = re.sub(r" (?=[-+*] )", "\0", text)
    lines = textwrap.wrap(text, 118, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines).replace("\0", " ")


def written(value: Any) -> str:
    """As in YAML, in one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return text.removesuffix("...\n").strip()


DOCS = documented(Path(schema.__file__))
ALLOWED = allowed()


def key_entry(name: str, kind: Any, default: Any, meaning: str, must: Sequence[str] = ()) -> str:
    """A key as an item of a list."""
    text = kind.__name__ if type(kind) is type else str(kind).replace("typing.", "")
    words = TYPES[text.removesuffix(" | None")] + (" or null" if text.endswith("| None") else "")
    words = words.replace(" or false or", ", false or")
    default = "" if default is MISSING else f", default `{written(default)}`"
    bounds = f" Must be {'; '.join(must)}." if must else ""
    return wrapped(f"- **`{name}`** ({words}{default}). {escaped(meaning)}{bounds}", "  ")


def keys_of(node: Any, prefix: str = "") -> list[str]:
    """The keys of a dataclass, with those of its parts after them; groups are left out."""
    entries = []
    for field in fields(node):
        if node is Config and field.name in GROUPS:
            continue
        default = field.default if field.default_factory is MISSING else field.default_factory()
        name, meaning = f"{prefix}{field.name}", DOCS[node.__name__].get(field.name, "")
        if is_dataclass(field.type):
            entries.append(wrapped(f"- **`{name}`**. {one_line(field.type.__doc__ or '')}", "  "))
            entries += [textwrap.indent(entry, "  ") for entry in keys_of(field.type, f"{name}.")]
        elif get_args(field.type) == (schema.Claim,):
            entries.append(wrapped(f"- **`{name}`** (a list, default `[]`). {meaning} Keys of each:", "  "))
            entries += [textwrap.indent(entry, "  ") for entry in keys_of(schema.Claim, f"{name}.")]
        else:
            default = MISSING if default == "???" else default
            entries.append(key_entry(name, field.type, default, meaning, ALLOWED.get(name, ())))
    return entries


def comment(path: Path) -> str:
    """The comment before a file's first key."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), path.read_text().splitlines())
    return escaped(" ".join(line.removeprefix("# ") for line in lines if "@package" not in line))


def option(path: Path, default: str) -> str:
    """An option as an item of a list: what it is, and what it sets."""
    values = yaml.safe_load(path.read_text())
    bases = [base for base in values.pop("defaults", []) if isinstance(base, str)]
    sets = [f"`{key}: {written(value)}`" for key, value in values.items() if key != "md5"]  # as long as it is dull
    base = f"As `{bases[0]}`, with " if bases else "Sets "
    head = f"- **`{path.stem}`**{' (default)' if path.stem == default else ''}. {comment(path)}"
    return wrapped(f"{head} {base}{', '.join(sets)}." if sets else head, "  ")


def experiment(path: Path) -> str:
    """An experiment as an item of a list, with what it sweeps."""
    values = yaml.safe_load(path.read_text())
    params = values["hydra"]["sweeper"]["params"] if "hydra" in values else {}
    sweep = f" Sweeps `{' '.join(f'{key}={value}' for key, value in params.items())}`." if params else ""
    rungs = "; ".join(f"{name} (`{' '.join(words)}`)" for name, words in values.get("ladder", {}).items())
    ladder = f" Its ladder: {rungs}." if rungs else ""
    parts = "; ".join(f"{name} (`{' '.join(words)}`)" for name, words in values.get("leave_out", {}).items())
    omissions = f" Leaves out, one at a time: {parts}." if parts else ""
    return wrapped(f"- **`{path.stem}`**. {comment(path)}{sweep}{ladder}{omissions}", "  ")


def group_section(group: str, default: str) -> list[str]:
    """What a group is, its options, and its keys."""
    paths = sorted((CONF / group).glob("*.yaml"))
    (kind,) = (field.type for field in fields(Config) if field.name == group)
    closed = is_dataclass(kind)
    about = (kind.__doc__ or "").split("\n\n") if closed else [DOCS["Config"][group], OPEN]
    lines = [f"### {group}", "", *(f"{wrapped(escaped(one_line(each)))}\n" for each in about), "Options:", ""]
    lines += [option(path, default) for path in paths]
    return [*lines, "", *(["Keys:", "", *keys_of(kind, f"{group}."), ""] if closed else [])]


def settings_of_compare() -> list[str]:
    """From the docstring of `grouping.compare`."""
    text = (grouping.compare.__doc__ or "").split("Args:")[1].split("Raises:")[0]
    found = re.findall(r"^ {8}(\w+): (.*?)(?=^ {8}\w|\Z)", text, re.MULTILINE | re.DOTALL)
    return [
        wrapped(f"- **`{name}`**. {meaning[0].upper()}{one_line(meaning[1:])}", "  ")
        for name, meaning in found
        if name not in ("runs", "ladder", "margin", "share", "tuning")
    ]


def spaces() -> list[str]:
    """The files of `conf/space/`, each with what it lets vary."""
    lines = ["| space | key | from, to |", "|---|---|---|"]
    for path in sorted((CONF / "space").glob("*.yaml")):
        space = space_of(path.name, yaml.safe_load(path.read_text()))
        lines += [f"| `{path.stem}` | `{key}` | {axis} |" for key, axis in space.items()]
    return lines


def page() -> str:
    """The whole of docs/configuration.md."""
    chosen: dict[str, str] = {}
    for entry in yaml.safe_load((CONF / "config.yaml").read_text())["defaults"]:
        chosen |= entry if isinstance(entry, dict) else {}
    ledger = documented(Path(tuning.__file__))
    order = [
        key_entry(field.name, field.type, field.default, ledger["Order"][field.name].replace("`SAMPLERS`", "below"))
        for field in fields(tuning.Order) if field.name != "words"
    ]  # fmt: skip
    lines = [HEAD, "## Keys", "", *keys_of(Config), "", "## Groups", ""]
    for group in GROUPS:
        if group != "experiment":
            lines += group_section(group, chosen[group])
    lines += ["## Experiments", "", EXPERIMENTS]
    lines += [experiment(path) for path in sorted((CONF / "experiment").glob("*.yaml"))]
    lines += [
        "",
        "## Settings of compare",
        "",
        "Typed after `cnnbench compare` and its folders.",
        "",
        *settings_of_compare(),
        "",
    ]
    lines += ["## Settings of tune", "", TUNE, *order, "", wrapped(f"Samplers: {ledger['']['SAMPLERS']}"), ""]
    return "\n".join([*lines, SPACES, *spaces(), ""])


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    PAGE.write_text(page())
    print(PAGE)
