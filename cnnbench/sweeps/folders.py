"""The folders of runs, and the results that stand in them."""

import contextlib
from pathlib import Path

from cnnbench.config.composition import Job
from cnnbench.config.schema import Config
from cnnbench.data.images import ImageSet
from cnnbench.errors import RecordError
from cnnbench.results import identity, records
from cnnbench.results.records import Record


def folder_of(job: Job, images: ImageSet) -> Path:
    """The folder of the run: `runs_dir/name/run id`."""
    name = identity.run_id(job.config, job.choices["optimizer"], images.fingerprint)
    return Path(job.config.runs_dir).expanduser() / job.config.name / name


def finished(folder: Path, config: Config) -> Record | None:
    """The record of a run that has ended and is not to be run again; None for any other."""
    path = folder / "record.json"
    if config.force or not path.exists():
        return None
    with contextlib.suppress(RecordError):
        record = records.read(path)
        ended = ("done", "diverged") if config.retry else ("done", "diverged", "failed")
        if record.status in ended:
            return record
    return None
