"""docs/architecture.md says what the code says: each module with its question, and which ones import no torch."""

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "cnnbench"

WITHOUT_TORCH = ("cli.py", "compose.py", "progress.py", "schema.py", "workers.py")
"""Besides those whose first line says so."""


def questions() -> dict[str, str]:
    """The first line of each module's docstring, by path below the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        found[path.relative_to(PACKAGE).as_posix()] = docstring.partition("\n")[0]
    return found


def test_the_table_has_every_module_with_its_question() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (section,) = re.findall(r"^## The modules$(.*?)^## ", page, re.DOTALL | re.MULTILINE)
    rows = re.findall(r"^\| `([\w/]+\.py)` \| (.*) \|$", section, re.MULTILINE)
    assert len(rows) == len(dict(rows))
    assert dict(rows) == questions()


def test_what_says_so_imports_no_torch() -> None:
    claiming = [path for path, question in questions().items() if "no torch" in question]
    assert {"compare.py", "record.py", "report.py", "trials.py"} <= set(claiming)
    names = [f"cnnbench.{path.removesuffix('.py')}" for path in (*claiming, *WITHOUT_TORCH)]
    program = "import importlib, sys\n"
    program += f"for name in {names}:\n    importlib.import_module(name)\n    assert 'torch' not in sys.modules, name"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
