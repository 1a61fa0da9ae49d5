"""Sweeps on a running cluster of Ray's, of two nodes on this machine."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import all_records
from interruptions import HELD, wait_for

from cnnbench.config.keys import CONF

pytestmark = pytest.mark.slow
pytest.importorskip("ray")


@pytest.fixture
def cluster(here: Path, monkeypatch) -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(here), str(CONF.parent)]))
    (here / "held.py").write_text(HELD)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield cluster
    cluster.shutdown()


def started(cluster: Any, words: str) -> subprocess.Popen[str]:
    ray = f"hydra/launcher=ray hydra.launcher.ray.init.address={cluster.address}"
    command = [sys.executable, "-m", "cnnbench", *shlex.split(f"-m {ray} data=digits data.limit=200 {words}")]
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    )


def found(here: Path) -> list[tuple[str, int]]:
    return sorted((record["status"], len(record["history"])) for record in all_records(here / "runs"))


@pytest.mark.parametrize("lost", ["node", "worker"])
def test_what_is_killed_costs_its_own_run_alone(cluster, here: Path, lost: str) -> None:
    node = cluster.add_node(num_cpus=1)
    (here / "hold").touch()
    words = "model._target_=held.Held epochs=2 seed=0,1"
    process = started(cluster, words)
    wait_for(lambda: len(list(here.glob("pid*"))) == 2)
    if lost == "node":
        cluster.remove_node(node, allow_graceful=False)
    else:
        os.kill(int(next(here.glob("pid*")).name.removeprefix("pid")), signal.SIGKILL)
    time.sleep(3)
    (here / "hold").unlink()
    _, err = process.communicate(timeout=300)
    assert (process.returncode, "Traceback" in err) == (1, False), err
    assert sum("its process failed" in line for line in err.splitlines()) == 1
    assert found(here) == [("done", 2), ("interrupted", 1)]
    again = started(cluster, words)
    _, err = again.communicate(timeout=300)
    assert (again.returncode, err.count("already done")) == (0, 1), err
    assert found(here) == [("done", 2)] * 2


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_leaves_the_cluster_and_what_was_trained(cluster, here: Path, signum: int, code: int) -> None:
    process = started(cluster, "epochs=2000 seed=0,1")  # one CPU: the second run waits
    wait_for(lambda: (here / "runs").exists() and any(epochs for _, epochs in found(here)))
    process.send_signal(signum)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, "Traceback" in err) == (code, False), err
    ((status, epochs),) = found(here)
    assert (status, epochs > 0) == ("interrupted", True)
    time.sleep(2)
    assert found(here) == [(status, epochs)]  # nobody trains on
    assert started(cluster, "epochs=1 seed=0").wait(300) == 0
