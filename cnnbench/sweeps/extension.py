"""Extensions: a run that resumes where a finished run of fewer epochs ended.

The two runs differ in `epochs` alone and lie in the same folder. The longer one gets the same numbers as if it had
trained all epochs itself, so it is extended only where the first epochs do not depend on how many follow.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from cnnbench.config.composition import Job
from cnnbench.config.schema import Config
from cnnbench.errors import CheckpointError, RecordError
from cnnbench.results import identity, records
from cnnbench.results.records import Record
from cnnbench.training import checkpoints, parts
from cnnbench.training.epoch import Epoch
from cnnbench.training.training import State

_CALLBACKS = ("pytorch_lightning.callbacks.EMAWeightAveraging", "pytorch_lightning.callbacks.LearningRateMonitor")
"""Callbacks that do not ask for the number of epochs. Others may, and nobody can tell from outside."""


def shorter_run(job: Job, fingerprint: str, folder: Path) -> Record | None:
    """The longest finished run of this job with fewer epochs, if there is one beside `folder`."""
    config, optimizer = job.config, job.choices["optimizer"]
    beginning = folder.name.rpartition("-")[0]
    beside = {path.name for path in folder.parent.iterdir() if path.name.startswith(beginning)} - {folder.name}
    for epochs in range(config.epochs - 1, 0, -1) if beside else ():
        name = identity.run_id(replace(config, epochs=epochs), optimizer, fingerprint)
        if name in beside:
            with contextlib.suppress(RecordError):
                record = records.read(folder.with_name(name) / "record.json")
                if record.status == "done":
                    return record
    return None


def end_of(shorter: Record, job: Job, epoch: Epoch) -> State:
    """The state from which a longer run goes on.

    Args:
        shorter: the finished run, as `shorter_run` gives it.
        job: the longer run.
        epoch: batches and steps of both.

    Raises:
        CheckpointError: its first epochs would differ from those of the shorter run, or the state is damaged.
    """
    assert shorter.folder is not None
    config, path = job.config, shorter.folder / "last.ckpt"
    if config.search.method != "none":
        raise CheckpointError(f"{shorter.run_id}: its search has a length of its own")
    if config.average.method == "lookahead" or (config.average.method == "swa" and config.average.start is None):
        raise CheckpointError(f"{shorter.run_id}: average={config.average.method} depends on the number of epochs")
    for name, spec in config.callbacks.items():
        if spec["_target_"] not in _CALLBACKS:
            raise CheckpointError(f"{shorter.run_id}: callbacks={name} may depend on the number of epochs")
    state = State.of(checkpoints.read(path))
    if state.version < 3:  # which does not say whether training had stopped early
        raise CheckpointError(f"{path}: written by an earlier version")
    losses = [row["val_loss"] for row in state.module["history"]]
    of_both = (_schedule(replace(config, epochs=n), shorter, epoch, losses) for n in (len(losses), config.epochs))
    if any(mine != theirs for mine, theirs in zip_longest(*of_both)):
        raise CheckpointError(f"{shorter.run_id}: scheduler={job.choices['scheduler']} depends on the number of epochs")
    return replace(state, ended=state.stopped)


def _schedule(config: Config, run: Record, epoch: Epoch, losses: list[float]) -> Iterator[Any]:
    """What the schedule sets before each step of the epochs that have these validation losses, and its state then."""
    with torch.device("meta"):
        network = parts.make_model(config, run.data.shape, len(run.data.classes))
    optimizer = parts.make_optimizer(config, network)
    schedule = parts.make_schedule(config, epoch, optimizer)
    optimizer.step()  # it has no gradients; torch warns of schedulers that step before it
    for loss in losses:
        for _ in range(epoch.steps):
            yield [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
            schedule.after_step()
        schedule.after_epoch(loss)
    yield schedule.state_dict()
