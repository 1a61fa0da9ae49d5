"""The jobs of Slurm that carry runs: which runs they were submitted for, and what the queue says of them.

The runs of a submission are written down before it, under the name that its jobs have in the queue. So they are found
there even if the submitting process is killed at any moment.
"""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from cnnbench.errors import ConfigError
from cnnbench.results import decoding
from cnnbench.runtime import files

_FOLDER = ".jobs"
"""Where submissions are written down, beside the folders of their runs."""


@dataclass(frozen=True)
class Job:
    """A job in the queue."""

    number: str
    """Such as `12`, or `12_3` in an array."""
    state: str
    """Slurm's word, such as `PENDING` or `RUNNING`."""
    name: str


@dataclass
class Submitted:
    """A run that was submitted."""

    run_id: str
    label: str
    seed: int
    epochs: int


@dataclass
class Submission:
    """Runs that were submitted together: a job each, in an array if there are several."""

    name: str
    """Of its jobs in the queue."""
    logs: str
    """The folder of submitit's files, in which `%j` stands for a job's number."""
    runs: list[Submitted]
    schema_version: int = 1

    def jobs(self, queue: list[Job]) -> dict[str, Job]:
        """Those of its jobs that are in the queue, by run id."""
        mine = (job for job in queue if job.name == self.name)
        return {self.runs[int(job.number.partition("_")[2] or 0)].run_id: job for job in mine}

    def write(self, folder: Path) -> None:
        """Writes it down in the folder that holds the runs' folders."""
        path = folder / _FOLDER / f"{self.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(asdict(self), indent=1)
        files.write_whole(path, lambda file: file.write(text.encode()))

    def remove(self, folder: Path) -> None:
        """Removes what `write` has written."""
        (folder / _FOLDER / f"{self.name}.json").unlink(missing_ok=True)


def queue() -> list[Job]:
    """My jobs that wait or run.

    Raises:
        ConfigError: Slurm isn't here, or doesn't answer.
    """
    command = ["squeue", "--me", "--array", "--noheader", "--format=%i %T %j"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ConfigError("squeue: there is no such command here.") from None
    if said.returncode:
        raise ConfigError(said.stderr.strip() or f"squeue ended with exit code {said.returncode}")
    rows = [line.split(maxsplit=2) for line in said.stdout.splitlines()]
    return [Job(*row) for row in rows if len(row) == 3]


@contextlib.contextmanager
def submitting(folder: Path) -> Iterator[None]:
    """Lets one process at a time look at the queue and submit runs in `folder`."""
    (folder / _FOLDER).mkdir(parents=True, exist_ok=True)
    with FileLock(folder / _FOLDER / ".lock"):
        yield


def submissions(folder: Path) -> list[Submission]:
    """What was submitted for the runs in a folder; damaged files are left out."""
    found = []
    for path in sorted((folder / _FOLDER).glob("*.json")):
        with contextlib.suppress(ValueError):
            found.append(decoding.read(path, Submission, (1,)))
    return found


def folders(folder: Path) -> list[Path]:
    """The folders of runs at and below `folder` for which something was submitted."""
    return sorted({path.parent for path in folder.rglob(_FOLDER)})
