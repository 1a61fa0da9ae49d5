"""The scripts behind `docs/verdict_simulation.md`."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(script: str, *words: str) -> str:
    command = [sys.executable, ROOT / "scripts" / script, *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


def test_simulation() -> None:
    tables = [part for part in run("simulate_verdicts.py", "--tables", "40").split("\n\n") if part.startswith("|")]
    assert len(tables) == 7
    rows = [row.strip("|").split("|") for row in tables[0].splitlines()[2:]]
    assert len(rows) == 20
    assert all(0 <= float(cell) <= 100 for row in rows for cell in row[1:6])


def test_verdicts_on_subsets(tmp_path: Path) -> None:
    # Two optimizers a hundred standard deviations apart, and one that has hardly begun in its last epoch but one.
    file = tmp_path / "curves.csv"
    lines = ["problem,optimizer,lr,seed,epoch,train_acc,test_acc,test_loss"]
    for seed in range(6):
        for optimizer, accuracy in (("adam", 0.9), ("sgd", 0.8)):
            lines.append(f"digits,{optimizer},0.1,{seed},9,0,{0.1 + seed / 100},0")
            lines.append(f"digits,{optimizer},0.1,{seed},10,0,{accuracy + seed / 1000},0")
    file.write_text("\n".join(lines))
    printed = run("verdicts_on_subsets.py", str(file))
    assert "| digits | adam - sgd | +10.00 |" in printed
    assert "| digits | 3 | 20 | 100.0 | 0.0 | 0.0 | 0.0 |" in printed
    assert "| digits | 5 | 6 | 100.0 | 0.0 | 0.0 | 0.0 |" in printed
