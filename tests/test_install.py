"""The wheel, built from this checkout and used where there is no checkout."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from cnnbench.config.keys import CONF

ROOT = Path(__file__).parent.parent


def run(*command: str | Path, **kwargs: object) -> str:
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, **kwargs)  # type: ignore[call-overload]
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment's bin folder; torch and the like are lent by the environment of the tests."""
    place = tmp_path_factory.mktemp("install")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", place, ROOT)
    (wheel,) = place.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        assert "cnnbench/report/report.html.j2" in content.namelist()
        packed = {name for name in content.namelist() if name.startswith("cnnbench/conf/")}
    configs = {f"cnnbench/conf/{path.relative_to(CONF).as_posix()}" for path in CONF.rglob("*.yaml")}
    assert packed == configs
    assert len(configs) >= 20
    run(sys.executable, "-m", "venv", "--without-pip", place / "env")
    python = place / "env" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    (library,) = (place / "env" / "lib").glob("python*/site-packages")
    (library / "lent.pth").write_text(sysconfig.get_path("purelib"))
    return place / "env" / "bin"


def test_the_wheel_works_from_any_folder(installed: Path, tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    where = run(installed / "python", "-c", "import cnnbench; print(cnnbench.__file__)", cwd=tmp_path, env=environment)
    assert Path(where.strip()).is_relative_to(installed.parent)
    (tmp_path / "mine" / "optimizer").mkdir(parents=True)
    (tmp_path / "mine" / "optimizer" / "mine.yaml").write_text("_target_: torch.optim.AdamW\nlr: 0.01\n")
    out = run(
        installed / "cnnbench", "--config-dir", "mine", "data=digits", "epochs=1", "optimizer=mine",
        cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert "with mine, lr 0.01, on digits" in out
    assert list(tmp_path.glob("runs/default/mine-lr0.01-seed0-*/record.json"))
