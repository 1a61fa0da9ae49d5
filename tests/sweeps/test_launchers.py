"""Runs through Hydra's launcher plugins: the recipes of docs/more_machines.md."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import all_records, without_times
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from cnnbench.config.compose import CONF, config_source
from cnnbench.results import records
from cnnbench.sweeps.launchers import _Runs

ROOT = CONF.parent
SMALL = "data=digits data.limit=200 epochs=1"

BROKEN = """
import os, signal
from cnnbench.models import PlainCNN
class Broken(PlainCNN):
    def forward(self, x):
        if not x.is_meta and self.training:
            for file in ("break", "kill"):
                try:
                    os.unlink(file)
                except FileNotFoundError:
                    continue
                if file == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise RuntimeError("a bug in my model")
        return super().forward(x)
"""


def recipe(engine: str) -> str:
    """What docs/more_machines.md says after `cnnbench`."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "more_machines.md").read_text(), re.DOTALL)
    (block,) = (block for block in blocks if f"hydra/launcher={engine} " in block and "uv sync" in block)
    return block.replace("\\\n", " ").split("\ncnnbench ")[1].strip()


def environment(here: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(here), str(ROOT)])}


def cnnbench(here: Path, words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cnnbench", *shlex.split(words)]
    return subprocess.run(command, cwd=here, env=environment(here), capture_output=True, text=True, check=False)


def found(here: Path, name: str) -> list[dict]:
    return all_records(here / "runs" / name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "needs"), [("submitit_local", "hydra_submitit_launcher"), ("ray", "hydra_ray_launcher")]
)
class TestLocally:
    @pytest.fixture(autouse=True)
    def plugin(self, needs: str, here: Path) -> None:
        pytest.importorskip(f"hydra_plugins.{needs}")
        (here / "broken.py").write_text(BROKEN)

    def test_the_recipe_gives_the_same_records(self, here: Path, engine: str) -> None:
        words = recipe(engine)
        result = cnnbench(here, words)
        assert result.returncode == 0, result.stderr
        assert result.stderr.splitlines()[0] == "4 runs"
        assert len(result.stderr.splitlines()) == 5  # and nothing of the engine's
        assert sorted(path.name for path in here.iterdir()) == ["broken.py", "runs"]
        here_words = f"{re.sub('hydra/launcher=[a-z_]+( workers=2)?', '', words)} name=here hardware.threads=1"
        assert cnnbench(here, here_words).returncode == 0
        runs = [
            {r["run_id"]: r["history"][-1]["val_acc"] for r in map(without_times, found(here, name))}
            for name in ("default", "here")
        ]
        assert len(runs[0]) == 4
        assert runs[0] == pytest.approx(runs[1])

    def test_failed_and_diverged_runs_end_no_others(self, here: Path, engine: str) -> None:
        words = f"-m hydra/launcher={engine} {SMALL} model._target_=broken.Broken optimizer=sgd lr=0.05,1e9 seed=0,1"
        (here / "break").touch()
        result = cnnbench(here, f"{words} workers=2")
        assert result.returncode == 1
        assert "Traceback" not in result.stderr
        statuses = sorted(record["status"] for record in found(here, "default"))
        assert statuses in (["diverged", "diverged", "done", "failed"], ["diverged", "done", "done", "failed"])
        assert "a bug in my model" in result.stderr
        before = {path: path.stat().st_mtime_ns for path in records.find(here / "runs")}
        logs = list((here / "runs/default/.launcher").rglob("*"))
        again = cnnbench(here, f"{words} workers=2")
        assert again.returncode == 1
        assert again.stderr.count("already") == 4
        assert list((here / "runs/default/.launcher").rglob("*")) == logs  # nothing was launched
        assert {path: path.stat().st_mtime_ns for path in records.find(here / "runs")} == before
        cnnbench(here, f"{words} workers=2 retry=true")
        assert "failed" not in {record["status"] for record in found(here, "default")}

    def test_a_killed_run_ends_no_others(self, here: Path, engine: str) -> None:
        retries = "+hydra.launcher.ray.remote.max_retries=0" if engine == "ray" else ""
        words = f"-m hydra/launcher={engine} {retries} {SMALL} model._target_=broken.Broken seed=0,1,2 workers=2"
        (here / "kill").touch()
        result = cnnbench(here, words)
        assert result.returncode == 1, result.stderr
        assert "its process failed" in result.stderr
        assert "Traceback" not in result.stderr
        assert sorted(record["status"] for record in found(here, "default")) == ["done", "done", "interrupted"]
        again = cnnbench(here, words)
        assert again.returncode == 0, again.stderr
        assert again.stderr.count("already done") == 2

    @pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_ctrl_c_keeps_what_there_is(self, here: Path, engine: str, signum: int, code: int) -> None:
        if (engine, signum) == ("ray", signal.SIGTERM):
            pytest.xfail("the exit code is 1, not 143")
        words = f"-m hydra/launcher={engine} data=digits epochs=400 seed=0,1 workers=2"
        process = subprocess.Popen(
            [sys.executable, "-m", "cnnbench", *words.split()],
            cwd=here, env=environment(here), stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if (here / "runs").exists() and sum(bool(r["history"]) for r in found(here, "default")) == 2:
                break
            time.sleep(0.2)
        process.send_signal(signum)
        _, err = process.communicate(timeout=120)
        assert (process.returncode, "Traceback" in err) == (code, False)
        for record in found(here, "default"):
            assert record["status"] == "interrupted"
            (last,) = (here / "runs/default" / record["run_id"]).glob("last.ckpt")
            before = len(record["history"]), last.stat().st_mtime_ns
        time.sleep(2)
        assert before == (len(found(here, "default")[-1]["history"]), last.stat().st_mtime_ns)  # nobody trains on


def test_slurm_is_composed_with_its_keys() -> None:
    """No Slurm here: this is as far as it was tried."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    words = shlex.split(recipe("submitit_slurm"))[1:]
    with config_source(None) as composer:
        assert len(composer.jobs(words, multirun=True)) == 4
        engine = composer.engine(words)
        assert engine is not None
    assert engine.name == "submitit_slurm"
    asked = engine.config.hydra.launcher
    assert (asked.partition, asked.gpus_per_node, asked.timeout_min, asked.array_parallelism) == ("gpu", 1, 240, 16)
    assert asked.submitit_folder == f"{Path.cwd()}/runs/default/.launcher/.submitit/%j"


def test_without_slurm_it_is_one_line(command, here: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    result = command(f"-m hydra/launcher=submitit_slurm {SMALL} seed=0,1")
    assert result.code == 2
    assert "hydra/launcher=submitit_slurm: " in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("hydra/launcher=slrum", "Allowed: basic, submitit_local, submitit_slurm, ray"),
        ("hydra/launcher=submitit_local", "pip install 'cnnbench[slurm]'"),
        ("hydra/launcher=submitit_slurm", "pip install 'cnnbench[slurm]'"),
        ("hydra/launcher=ray", "pip install 'cnnbench[ray]'"),
    ],
)
def test_a_launcher_that_is_not_there(command, here: Path, monkeypatch, words: str, says: str) -> None:
    loader = "hydra._internal.config_loader_impl.ConfigLoaderImpl.get_group_options"
    monkeypatch.setattr(loader, lambda self, group, *_: ["basic"])
    result = command(f"-m {words} {SMALL} seed=0,1")
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert says in result.err
    assert list(here.iterdir()) == []


def test_a_key_that_the_launcher_does_not_have(command, here: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    result = command(f"-m hydra/launcher=submitit_local hydra.launcher.partitoin=x {SMALL} seed=0,1")
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert "partitoin" in result.err
    assert list(here.iterdir()) == []


def test_a_run_whose_time_is_up_is_gone_on_with(here: Path, monkeypatch) -> None:
    """submitit's signal, amid a run; what Slurm does with it was not tried."""
    from cnnbench.sweeps import run

    with config_source(None) as composer:
        jobs = composer.jobs(shlex.split("data=digits epochs=3"), multirun=False)
    monkeypatch.setattr(HydraConfig, "get", lambda: OmegaConf.create({"job": {"num": 0}}))
    real = run._Keep.on_train_epoch_end

    def timed_out(self, *arguments) -> None:
        signal.raise_signal(signal.SIGUSR2)
        real(self, *arguments)

    runs = _Runs(jobs, here, None)
    before = signal.getsignal(signal.SIGUSR2)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(run._Keep, "on_train_epoch_end", timed_out)
            code, word, _ = runs(OmegaConf.create())
        assert (code, word) == (1, "")
        (record,) = found(here, "default")
        assert (record["status"], len(record["history"])) == ("interrupted", 1)
        assert runs(OmegaConf.create())[0] == 0
    finally:
        signal.signal(signal.SIGUSR2, before)
    (record,) = found(here, "default")
    assert (record["status"], len(record["history"])) == ("done", 3)
