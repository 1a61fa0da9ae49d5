"""A short form of `scripts/fuzz.py`."""

import subprocess
import sys
from pathlib import Path


def test_fuzz(here: Path) -> None:
    script = Path(__file__).parents[2] / "scripts" / "fuzz.py"
    counts = {"records": 30, "words": 30, "yaml": 20, "images": 300, "archives": 100, "checkpoints": 5, "names": 3}
    options = [word for kind, count in counts.items() for word in (f"--{kind}", str(count))]
    result = subprocess.run([sys.executable, str(script), *options], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1] == ", ".join(f"{kind} {count}" for kind, count in counts.items())
