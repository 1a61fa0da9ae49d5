"""Runs on submitit, Slurm and Ray: the recipes of docs/more_machines.md."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import slurm as slurms
from conftest import all_records, without_times

from cnnbench.config.composition import config_source
from cnnbench.config.engines import Engine, SubmititLocal
from cnnbench.config.keys import CONF
from cnnbench.data.images import load
from cnnbench.results import records
from cnnbench.runtime.progress import Sweep
from cnnbench.sweeps.launchers import _as_job, _Run, elsewhere

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
    words = block.replace("\\\n", " ").split("\ncnnbench ")[1].strip()
    # What the Slurm of the tests has: no GPUs, and another partition.
    return re.sub("hydra.launcher.(gpus_per_node|cpus_per_task)=[0-9]+ ", "", words).replace("=gpu ", "=debug ")


def environment(here: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(here), str(ROOT)])}


def cnnbench(here: Path, words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cnnbench", *shlex.split(words)]
    return subprocess.run(command, cwd=here, env=environment(here), capture_output=True, text=True, check=False)


def started(here: Path, words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cnnbench", *words.split()],
        cwd=here, env=environment(here), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def found(here: Path, name: str) -> list[dict]:
    return all_records(here / "runs" / name)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if absent := slurms.missing():
        pytest.skip(f"needs Slurm: {', '.join(absent)} not found")
    with slurms.cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster.conf


def wait_for_epochs(here: Path, process: subprocess.Popen[str], runs: int) -> None:
    """Waits until so many runs have finished an epoch."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (here / "runs").exists() and sum(bool(r["history"]) for r in found(here, "default")) == runs:
            return
        time.sleep(0.2)
    raise AssertionError("no epoch came to its end")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["submitit_local", "submitit_slurm", "ray"])
class TestEngines:
    @pytest.fixture(autouse=True)
    def ready(self, engine: str, here: Path, monkeypatch, request) -> None:
        pytest.importorskip(engine.partition("_")[0])
        if engine == "submitit_slurm":
            monkeypatch.setenv("SLURM_CONF", request.getfixturevalue("slurm"))
        (here / "broken.py").write_text(BROKEN)

    def test_the_recipe_gives_the_same_records(self, here: Path, engine: str) -> None:
        words = f"{recipe(engine)} hardware.threads=1"
        result = cnnbench(here, words)
        assert result.returncode == 0, result.stderr
        assert result.stderr.splitlines()[1] == "4 runs"
        told = [line for line in result.stderr.splitlines() if not re.search("queued$|: epoch ", line)]
        assert len(told) == 6  # and nothing of the engine's
        assert sorted(path.name for path in here.iterdir()) == ["broken.py", "runs"]
        here_words = f"{re.sub(r'(hydra[./]launcher|workers)[^ ]*', '', words)} name=here"
        assert cnnbench(here, here_words).returncode == 0
        runs = [
            {r["run_id"]: (r["history"], r["best"], r["test"]) for r in map(without_times, found(here, name))}
            for name in ("default", "here")
        ]
        assert len(runs[0]) == 4
        assert runs[0] == runs[1]

    def test_failed_and_diverged_runs_end_no_others(self, here: Path, engine: str) -> None:
        words = f"-m hydra/launcher={engine} {SMALL} model._target_=broken.Broken optimizer=sgd lr=0.05,1e9 seed=0,1"
        (here / "break").touch()
        result = cnnbench(here, f"{words} workers=2")
        assert result.returncode == 1
        assert "Traceback" not in result.stderr
        statuses = sorted(record["status"] for record in found(here, "default"))
        assert statuses in (["diverged", "diverged", "done", "failed"], ["diverged", "done", "done", "failed"])
        (line,) = (line for line in result.stderr.splitlines() if "a bug in my model" in line)
        if engine != "ray":
            (log,) = re.findall("; its log is (.*)", line)
            assert Path(log).exists()
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
        words = f"-m hydra/launcher={engine} {SMALL} model._target_=broken.Broken seed=0,1,2 workers=2"
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
        words = f"-m hydra/launcher={engine} data=digits epochs=400 seed=0,1 workers=2"
        process = started(here, words)
        wait_for_epochs(here, process, 2)
        process.send_signal(signum)
        _, err = process.communicate(timeout=120)
        assert (process.returncode, "Traceback" in err) == (code, False)
        for record in found(here, "default"):
            assert record["status"] == "interrupted"
            (last,) = (here / "runs/default" / record["run_id"]).glob("last.ckpt")
            before = len(record["history"]), last.stat().st_mtime_ns
        time.sleep(2)
        assert before == (len(found(here, "default")[-1]["history"]), last.stat().st_mtime_ns)  # nobody trains on


@pytest.mark.slow
class TestSlurm:
    """What Slurm itself does to a job; sent to the job of the first run, which is number 0 of the array."""

    @pytest.fixture(autouse=True)
    def ready(self, slurm: str, monkeypatch) -> None:
        pytest.importorskip("submitit")
        monkeypatch.setenv("SLURM_CONF", slurm)

    @staticmethod
    def array() -> str:
        command = ["squeue", "--me", "--noheader", "--format=%F"]
        (number,) = {*subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[:1]}
        return number

    def test_scancel_costs_one_run(self, here: Path) -> None:
        words = "-m hydra/launcher=submitit_slurm data=digits epochs=30 seed=0,1"
        process = started(here, words)
        wait_for_epochs(here, process, 2)
        subprocess.run(["scancel", f"{self.array()}_0"], check=True)
        _, err = process.communicate(timeout=120)
        assert (process.returncode, "Traceback" in err) == (1, False)
        statuses = {r["config"]["seed"]: (r["status"], len(r["history"])) for r in found(here, "default")}
        assert statuses[1] == ("done", 30)
        assert statuses[0][0] == "interrupted"
        assert 0 < statuses[0][1] < 30
        again = cnnbench(here, words)
        assert (again.returncode, again.stderr.count("already done")) == (0, 1)

    def test_a_run_whose_time_is_up_is_submitted_again(self, here: Path) -> None:
        words = "-m hydra/launcher=submitit_slurm hydra.launcher.max_num_timeout=1 data=digits epochs=30 seed=0,1"
        process = started(here, words)
        wait_for_epochs(here, process, 2)
        subprocess.run(["scancel", "--signal=USR2", f"{self.array()}_0"], check=True)  # as Slurm does it
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert [len(r["history"]) for r in found(here, "default")] == [30, 30]
        assert len(list((here / "runs/default/.launcher").rglob("*_result.pkl"))) == 3


@pytest.mark.slow
def test_each_run_is_seen_when_it_has_ended_and_the_others_are_stopped(here: Path, monkeypatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PYTHONPATH", environment(here)["PYTHONPATH"])
    with config_source(None) as composer:
        jobs = composer.jobs(shlex.split("data=digits epochs=1,400"), multirun=True)
    images = load(jobs[0].config.data)
    tasks = deque((job, images) for job in jobs)
    folder = str(here / "logs" / "%j")
    runs = elsewhere(tasks, 2, Engine("submitit_local", SubmititLocal(submitit_folder=folder)), Sweep(2, 401, True))
    ended = next(runs)
    assert (ended.task[0].config.epochs, ended.exit_code) == (1, 0)
    runs.close()
    assert sorted(r["status"] for r in found(here, "default")) == ["done", "interrupted"]


def engine_of(words: str) -> Engine:
    with config_source(None) as composer:
        engine = composer.engine(shlex.split(words))
    assert engine is not None
    return engine


def test_slurm_is_composed_with_its_keys() -> None:
    pytest.importorskip("submitit")
    settings = engine_of(
        "hydra/launcher=submitit_slurm hydra.launcher.partition=gpu +hydra.launcher.gpus_per_node=1 name=mine "
        "hydra.launcher.timeout_min=240 'hydra.launcher.setup=[module load a,module load b]' hydra.launcher.mem_gb=1.5 "
        "hydra.launcher.additional_parameters.nodelist=here"
    ).settings
    assert asdict(settings) == {
        "submitit_folder": "runs/mine/.launcher/%j",
        "name": "cnnbench",
        "timeout_min": 240,
        "max_num_timeout": 0,
        "nodes": 1,
        "tasks_per_node": 1,
        "cpus_per_task": None,
        "gpus_per_node": 1,
        "mem_gb": 1.5,
        "stderr_to_stdout": False,
        "partition": "gpu",
        "qos": None,
        "account": None,
        "comment": None,
        "constraint": None,
        "exclude": None,
        "gres": None,
        "cpus_per_gpu": None,
        "gpus_per_task": None,
        "mem_per_gpu": None,
        "mem_per_cpu": None,
        "array_parallelism": 256,
        "signal_delay_s": 120,
        "setup": ["module load a", "module load b"],
        "additional_parameters": {"nodelist": "here"},
    }


def test_ray_is_composed_with_its_keys() -> None:
    pytest.importorskip("ray")
    settings = engine_of(
        "hydra/launcher=ray +hydra.launcher.ray.remote.num_gpus=0.5 hydra.launcher.ray.remote.num_cpus=4 "
        "hydra.launcher.ray.init.address=auto"
    ).settings
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    assert asdict(settings) == {
        "ray": {
            "init": {"address": "auto", **quiet},
            "remote": {"num_cpus": 4, "num_gpus": 0.5, "max_retries": 0},
        }
    }


def test_an_installed_plugin_of_hydras_changes_nothing(here: Path) -> None:
    pytest.importorskip("submitit")
    plugin = here / "hydra_plugins" / "somebodys"
    plugin.mkdir(parents=True)
    (plugin / "__init__.py").write_text(
        "from hydra.core.config_store import ConfigStore\n"
        "ConfigStore.instance().store(group='hydra/launcher', name='submitit_slurm', node={'_target_': 'some.Launcher'})"
    )
    words = f"-m hydra/launcher=submitit_slurm hydra.launcher.partition=x {SMALL} seed=0,1 --dry-run"
    result = cnnbench(here, words)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "2 runs\nseed=0\nseed=1\n"


def test_without_slurm_it_is_one_line(command, here: Path, monkeypatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(here))
    result = command(f"-m hydra/launcher=submitit_slurm {SMALL} seed=0,1")
    assert result.code == 2
    assert result.err.splitlines()[2:] == [  # after the data and the number of runs
        "cnnbench: hydra/launcher=submitit_slurm: sbatch, srun, squeue, scancel, scontrol: no such command here. "
        "Start it on a machine from which Slurm's jobs are submitted."
    ]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("hydra/launcher=slrum", "Allowed: basic, submitit_local, submitit_slurm, ray"),
        ("hydra/launcher=joblib", "workers=N runs N at a time on this machine"),
        ("hydra/launcher=submitit_local", "submitit isn't installed: uv sync --extra slurm"),
        ("hydra/launcher=submitit_slurm", "pip install submitit elsewhere."),
        ("hydra/launcher=ray", "ray isn't installed: uv sync --extra ray in a clone, pip install ray elsewhere"),
        ("hydra/launcher=submitit_slurm hydra.launcher.partitoin=x", "hydra.launcher.partitoin: submitit_slurm has no such setting. Did you mean 'partition'?"),
        ("hydra/launcher=submitit_local hydra.launcher.partition=x", "hydra.launcher.partition: submitit_local has no such setting."),
        ("hydra/launcher=submitit_slurm hydra.launcher.timeout_min=long", "hydra.launcher.timeout_min=long: must be a whole number."),
        ("hydra/launcher=ray hydra.launcher.ray.remot.num_cpus=1", "Did you mean 'remote'? Allowed: init, remote."),
        ("hydra.launcher.partition=x", "hydra.launcher.partition: of which launcher?"),
    ],
)  # fmt: skip
def test_a_launcher_or_a_key_that_is_not_there(command, here: Path, monkeypatch, words: str, says: str) -> None:
    for package in ("submitit", "ray"):
        monkeypatch.setitem(sys.modules, package, None)
    result = command(f"-m {words} {SMALL} seed=0,1")
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert says in result.err
    assert list(here.iterdir()) == []


def test_an_argument_that_ray_does_not_have(command, here: Path) -> None:
    pytest.importorskip("ray")
    result = command(f"-m hydra/launcher=ray hydra.launcher.ray.init.adress=auto {SMALL} seed=0,1")
    assert result.code == 2
    assert "hydra.launcher.ray.init.adress: ray.init has no such argument. Did you mean 'address'?" in result.err
    assert list(here.iterdir()) == []


def test_a_run_whose_time_is_up_is_resumed(here: Path, monkeypatch) -> None:
    """submitit's signal, amid a run."""
    from cnnbench.training import training

    with config_source(None) as composer:
        (job,) = composer.jobs(shlex.split("data=digits epochs=3"), multirun=False)
    real = training._Watch.on_train_epoch_end

    def timed_out(self, *arguments) -> None:
        signal.raise_signal(signal.SIGUSR2)
        real(self, *arguments)

    before = {signum: signal.getsignal(signum) for signum in (signal.SIGUSR2, signal.SIGTERM)}
    try:
        with monkeypatch.context() as patched:
            patched.setattr(training._Watch, "on_train_epoch_end", timed_out)
            assert _as_job(_Run(job, here)) == (1, "", "its time was up")
        (record,) = found(here, "default")
        assert (record["status"], len(record["history"])) == ("interrupted", 1)
        assert _as_job(_Run(job, here)) == (0, "", "")
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    (record,) = found(here, "default")
    assert (record["status"], len(record["history"])) == ("done", 3)
