"""A short form of `scripts/soak.py`: real kills of real processes."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_soak() -> None:
    script = Path(__file__).parents[2] / "scripts" / "soak.py"
    command = [sys.executable, str(script), "--kills", "3"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "3 kills survived" in result.stdout
    assert "differences: none" in result.stdout
    assert "touched again: none; torn files left over: none" in result.stdout
