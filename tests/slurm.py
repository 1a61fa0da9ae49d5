"""A Slurm of one node for the tests: munged, slurmctld and slurmd in a folder of their own."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from getpass import getuser
from pathlib import Path
from subprocess import DEVNULL

_NEEDS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel")
"""Debian has them in `slurm-wlm` and `munge`."""

_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}
SlurmdSpoolDir={folder}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs=2
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE
"""


def missing() -> list[str]:
    """The programs that aren't installed here."""
    return [name for name in _NEEDS if _program(name) is None]


@contextmanager
def one_node(folder: Path) -> Iterator[str]:
    """Yields what SLURM_CONF has to be. There is no accounting: sacct knows nothing."""
    host = socket.gethostname().partition(".")[0]
    conf, munge = folder / "slurm.conf", folder / "munge"
    munge.mkdir(mode=0o700)
    conf.write_text(_CONF.format(host=host, user=getuser(), ports=_free_ports(), folder=folder))
    (munge / "key").write_bytes(os.urandom(128))
    (munge / "key").chmod(0o600)
    environment = os.environ | {"SLURM_CONF": str(conf)}

    def says(*command: str) -> str:
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout.strip()

    files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    options = [f"--{name}={munge / file}" for name, file in files.items()]
    daemons = []
    try:
        for name, *arguments in (["munged", "-F", "--force", *options], ["slurmctld", "-D"], ["slurmd", "-D"]):
            command = [str(_program(name)), *arguments]
            daemons.append(subprocess.Popen(command, env=environment, stdout=DEVNULL, stderr=DEVNULL))
            _wait_for(lambda: (munge / "socket").exists())
        _wait_for(lambda: says("sinfo", "--noheader", "--format=%T") == "idle")
        yield str(conf)
    finally:
        says("scancel", "--me", "--signal=KILL")
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(timeout=20)


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")


def _free_ports() -> list[int]:
    with socket.create_server(("", 0)) as one, socket.create_server(("", 0)) as other:
        return [server.getsockname()[1] for server in (one, other)]


def _wait_for(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not ready():
        assert time.monotonic() < deadline, "Slurm doesn't start"
        time.sleep(0.1)
