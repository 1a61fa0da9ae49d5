"""Sweeps on a real Slurm, of two nodes on this machine, to which everything happens."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import slurm as slurms
from conftest import all_records, without_times
from interruptions import HELD, wait_for

from cnnbench.config.keys import CONF

pytestmark = pytest.mark.slow
pytest.importorskip("submitit")

ON_SLURM = "hydra/launcher=submitit_slurm"
TINY = "data=digits data.limit=200 hardware.threads=1"

Cluster = slurms.Cluster


@pytest.fixture(scope="module")
def one_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if absent := slurms.missing():
        pytest.skip(f"needs Slurm: {', '.join(absent)} not found")
    with slurms.cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture
def slurm(one_cluster: Cluster, here: Path, monkeypatch) -> Iterator[Cluster]:
    monkeypatch.setenv("SLURM_CONF", one_cluster.conf)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(here), str(CONF.parent)]))
    (here / "held.py").write_text(HELD)
    (here / "hold").touch()
    yield one_cluster
    one_cluster.says("scancel", "--me", "--signal=KILL")


def started(words: str, *before: str) -> subprocess.Popen[str]:
    """The command, started; `before` is the program that starts it."""
    command = [*before, sys.executable, "-m", "cnnbench", *shlex.split(words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def cnnbench(words: str, *before: str) -> tuple[int, str, str]:
    """Exit code and output of the command."""
    process = started(words, *before)
    out, err = process.communicate(timeout=500)
    assert "Traceback" not in err
    assert "Warning" not in err  # none of a library's
    return process.returncode, out, err


def epochs(here: Path) -> int:
    """Epochs of all runs so far."""
    return sum(len(record["history"]) for record in all_records(here / "runs")) if (here / "runs").exists() else 0


def jobs(here: Path) -> int:
    """How many jobs were ever submitted."""
    return len(list((here / "runs").rglob("*_submitted.pkl")))


def queued(slurm: Cluster) -> list[str]:
    return slurm.says("squeue", "--me", "--array", "--noheader", "--format=%i").split()


def results(here: Path, name: str) -> dict[str, tuple]:
    """What all runs came to, by run id."""
    found = map(without_times, all_records(here / "runs" / name))
    return {r["run_id"]: (r["status"], r["history"], r["best"], r["test"]) for r in found}


def test_a_killed_submitter_finds_its_jobs(slurm: Cluster, here: Path) -> None:
    words = f"-m {TINY} model._target_=held.Held epochs=3,1,2"
    on_slurm = f"{ON_SLURM} hydra.launcher.array_parallelism=1"  # so that two wait
    first = started(f"{words} {on_slurm}")
    wait_for(lambda: epochs(here) > 0)
    first.kill()
    first.wait()
    waiting = sorted(queued(slurm))
    assert len(waiting) == 3

    rows = json.loads(cnnbench("list --json")[1])
    status = {row["job"]: (row["status"], row["of"]) for row in rows}
    assert status == dict(zip(waiting, [("running", 3), ("queued", 1), ("queued", 2)], strict=True))
    assert f"queued, job {waiting[2]} " in cnnbench("list")[1]

    second, third = started(f"{words} {on_slurm}"), started(f"{words} {on_slurm}")
    for process in (second, third):
        while (line := process.stderr.readline()) != "1 running, 2 queued\n":
            assert line
    (here / "hold").unlink()
    for process in (second, third):
        _, err = process.communicate(timeout=500)
        assert process.returncode == 0, err
        assert len(re.findall(r": validation [\d.]+%, test", err)) == 3
    assert jobs(here) == 3
    assert cnnbench(f"{words} name=here")[0] == 0
    assert results(here, "default") == results(here, "here")


def test_two_submitters_at_once(slurm: Cluster, here: Path) -> None:
    words = f"-m {TINY} epochs=2 seed=0,1,2 {ON_SLURM} hydra.launcher.array_parallelism=1"
    both = [started(words), started(words)]
    assert [process.wait(500) for process in both] == [0, 0]
    assert jobs(here) == 3
    assert [status for status, *_ in results(here, "default").values()] == ["done"] * 3


def test_daemons_that_are_killed_cost_no_run(slurm: Cluster, here: Path) -> None:
    words = f"-m {TINY} model._target_=held.Held epochs=2 seed=0,1"
    process = started(f"{words} {ON_SLURM}")
    wait_for(lambda: epochs(here) == 2)
    for name in ("one", "slurmctld"):
        slurm.daemons[name].kill()
        slurm.daemons[name].wait()
    time.sleep(3)
    for name in ("slurmctld", "one"):
        slurm.start(name)
    wait_for(lambda: len(queued(slurm)) == 2)
    (here / "hold").unlink()
    _, err = process.communicate(timeout=500)
    assert process.returncode == 0, err
    assert cnnbench(f"{words} name=here")[0] == 0
    assert results(here, "default") == results(here, "here")
    assert jobs(here) == 2


def test_a_run_over_its_time_limit_is_finished_by_the_same_command(slurm: Cluster, here: Path) -> None:
    words = f"-m {TINY} {ON_SLURM} hydra.launcher.timeout_min=2 hydra.launcher.signal_delay_s=60 seed=0"
    code, _, err = cnnbench(f"{words} epochs=1,20000")  # Slurm looks at its limits once a minute, so that it varies
    assert (code, "its time was up" in err) == (1, True)
    (short,) = (r for r in all_records(here / "runs") if r["config"]["epochs"] == 20000)
    assert (short["status"], short["error"]) == ("interrupted", "its process failed (its time was up)")
    assert len(short["history"]) > 1


def test_a_tuning_on_slurm_is_that_of_this_machine(slurm: Cluster, here: Path) -> None:
    words = f"tune {TINY} epochs=1 optimizer=sgd,adam trials=2 seeds=1"
    assert cnnbench(f"{words} {ON_SLURM} hydra.launcher.array_parallelism=2 name=slurm")[0] == 0
    assert cnnbench(f"{words} name=here")[0] == 0
    found = results(here, "slurm")
    assert len(found) == 6
    assert found == results(here, "here")


def test_what_slurm_refuses_is_its_own_words_in_one_line(slurm: Cluster, here: Path) -> None:
    code, _, err = cnnbench(f"-m {TINY} epochs=1 {ON_SLURM} hydra.launcher.partition=nope seed=0,1")
    assert code == 2
    assert err.splitlines()[-1] == (
        "cnnbench: hydra/launcher=submitit_slurm: sbatch: error: invalid partition specified: nope"
    )
    assert queued(slurm) == []


def test_a_folder_that_the_node_does_not_see(slurm: Cluster, here: Path) -> None:
    if subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
        pytest.skip("needs the right to mount")
    hidden = here / "hidden"  # whose files this command alone sees
    hidden.mkdir()
    inside = f'mount -t tmpfs none {hidden} && cd {hidden} && "$@"'
    code, _, err = cnnbench(f"-m {TINY} epochs=1 {ON_SLURM} seed=0,1", "unshare", "--mount", "sh", "-c", inside, "sh")
    assert code == 1
    (line,) = {
        re.sub("^.*: its process", "its process", line).replace("_1", "_0")
        for line in err.splitlines()
        if "its process" in line
    }
    log = rf"{hidden}/runs/default/.launcher/\d+_0/\d+_0_0_log.err"
    assert re.fullmatch(
        rf"its process failed \(FAILED JobLaunchFailure; there is no log {log}, so its machine may not see this "
        rf"folder\). Run the same command again to resume it.", line,
    )  # fmt: skip


def test_python_is_missing_on_the_node(slurm: Cluster, here: Path, monkeypatch) -> None:
    python = here / "python"
    shutil.copy(Path(sys.executable).resolve(), python)
    monkeypatch.setenv("PYTHONHOME", sys.base_prefix)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.environ["PYTHONPATH"], *filter(None, sys.path)]))
    monkeypatch.setattr(sys, "executable", str(python))
    process = started(f"-m {TINY} epochs=1 {ON_SLURM} hydra.launcher.additional_parameters.begin=now+20 seed=0,1")
    wait_for(lambda: bool(queued(slurm)))
    python.rename(here / "away")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1, err
    line = next(line for line in err.splitlines() if "its process" in line)
    assert f"{python}: No such file or directory" in line
    assert "its log is" in line
