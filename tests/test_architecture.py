"""docs/architecture.md says what the code says, and what must not import torch does not."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import cnnbench
from cnnbench.config import targets
from cnnbench.config.keys import CONF

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "cnnbench"
WITHOUT_TORCH = (
    "errors",
    "runtime",
    "config",
    "results",
    "analysis",
    "report",
    "cli",
    "data/images",
    "data/folder",
    "data/archives",
    "data/cache",
)
"""Importing them imports no torch. import-linter checks the same for what they import at any time (.ci/run)."""


def first_lines() -> dict[str, str]:
    """The first line of each module's docstring, by path below the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        found[path.relative_to(PACKAGE).as_posix()] = docstring.partition("\n")[0]
    return found


def test_the_table_has_every_module_with_what_it_holds() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (section,) = re.findall(r"^## The modules$(.*?)^## ", page, re.DOTALL | re.MULTILINE)
    rows = re.findall(r"^\| `([\w/]+\.py)` \| (.*) \|$", section, re.MULTILINE)
    assert len(rows) == len(dict(rows))
    assert dict(rows) == {path: line for path, line in first_lines().items() if path != "__main__.py"}


def test_a_module_says_what_it_holds_in_a_plain_sentence() -> None:
    assert [path for path, line in first_lines().items() if not line.endswith(".") or "?" in line] == []


def test_what_needs_no_torch_imports_none() -> None:
    names = [path.removesuffix(".py").replace("/", ".") for path in first_lines() if path.startswith(WITHOUT_TORCH)]
    assert len(names) > 25
    program = "import importlib, sys\n"
    program += f"for name in {names}:\n    importlib.import_module('cnnbench.' + name.removesuffix('.__init__'))\n"
    program += "    assert 'torch' not in sys.modules, name\n"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_public_api_is_there() -> None:
    assert [name for name in cnnbench.__all__ if getattr(cnnbench, name) is None] == []
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = cnnbench.lod


def test_the_public_targets_are_those_of_the_yaml_files() -> None:
    named = set()
    for path in CONF.rglob("*.yaml"):
        named |= set(re.findall(r"_target_: (cnnbench\.\S+)", path.read_text(encoding="utf-8")))
        assert yaml.safe_load(path.read_text(encoding="utf-8")) is not None or path.name == "none.yaml"
    assert named == set(targets.PUBLIC)
    for name in targets.PUBLIC:
        module, _, attribute = name.rpartition(".")
        assert getattr(importlib.import_module(module), attribute)


def test_former_names_still_work_and_change_no_identity() -> None:
    assert set(targets.MOVED.values()) <= set(targets.PUBLIC)
    for former, name in targets.MOVED.items():
        assert targets.locate(former) is targets.locate(name)
        assert targets.identity_of(name) == former == targets.identity_of(former)
