"""A Slurm of two nodes on one machine for the tests: munged, slurmctld and two slurmd in a folder of their own."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
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
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1
NodeName=two NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE
"""


def missing() -> list[str]:
    """The programs that aren't installed here."""
    return [name for name in _NEEDS if _program(name) is None]


class Cluster:
    """A Slurm that runs."""

    conf: str
    """What SLURM_CONF has to be."""
    daemons: dict[str, subprocess.Popen[bytes]]
    """By name: `munged`, `slurmctld`, and the nodes `one` and `two`."""
    _commands: dict[str, list[str]]

    def __init__(self, conf: Path, commands: dict[str, list[str]]) -> None:
        self.conf, self._commands, self.daemons = str(conf), commands, {}

    def start(self, name: str) -> None:
        environment = os.environ | {"SLURM_CONF": self.conf}
        self.daemons[name] = subprocess.Popen(self._commands[name], env=environment, stdout=DEVNULL, stderr=DEVNULL)

    def says(self, *command: str) -> str:
        environment = os.environ | {"SLURM_CONF": self.conf}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout.strip()


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Starts Slurm. There is no accounting: sacct knows nothing."""
    host = socket.gethostname().partition(".")[0]
    conf, munge = folder / "slurm.conf", folder / "munge"
    munge.mkdir(mode=0o700)
    conf.write_text(_CONF.format(host=host, user=getuser(), ports=_free_ports(), folder=folder))
    (munge / "key").write_bytes(os.urandom(128))
    (munge / "key").chmod(0o600)
    files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    options = [f"--{name}={munge / file}" for name, file in files.items()]
    slurmd = str(_program("slurmd"))
    commands = {
        "munged": [str(_program("munged")), "-F", "--force", *options],
        "slurmctld": [str(_program("slurmctld")), "-D"],
        "one": [slurmd, "-D", "-N", "one"],
        "two": [slurmd, "-D", "-N", "two"],
    }
    slurm = Cluster(conf, commands)
    try:
        for name in commands:
            slurm.start(name)
            _wait_for(lambda: (munge / "socket").exists())
        _wait_for(lambda: slurm.says("sinfo", "--noheader", "--format=%T %D") == "idle 2")
        yield slurm
    finally:
        slurm.says("scancel", "--me", "--signal=KILL")
        for daemon in reversed(slurm.daemons.values()):
            daemon.terminate()
            daemon.wait(timeout=20)


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")


def _free_ports() -> list[int]:
    with ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("", 0))) for _ in range(3)]
        return [server.getsockname()[1] for server in servers]


def _wait_for(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not ready():
        assert time.monotonic() < deadline, "Slurm doesn't start"
        time.sleep(0.1)
