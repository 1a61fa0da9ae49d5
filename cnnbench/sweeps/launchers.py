"""How do other engines carry a sweep's runs to other machines? Each run is a job of one of Hydra's launcher plugins.

The jobs are composed and checked before; the plugin gets their numbers. What a run leaves is read from its record, so
all machines must see the working folder, the data and `runs_dir` under the same paths.
"""

import os
import signal
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hydra._internal.callbacks import Callbacks
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict

from cnnbench.config.compose import Engine, Job
from cnnbench.data.images import load
from cnnbench.errors import Busy, ConfigError, Interrupted
from cnnbench.runtime.progress import Sweep
from cnnbench.sweeps.run import finished, folder_of, run
from cnnbench.sweeps.workers import Ended, Task

Outcome = tuple[int, str, str]
"""What `Ended` says besides the task: exit code, word, message."""


def elsewhere(tasks: deque[Task], workers: int, engine: Engine, sweep: Sweep) -> Generator[Ended, None, None]:
    """Gives `tasks` to an engine: all at once, but to `submitit_local`, which has no queue, `workers` at a time.

    On Ctrl-C or SIGTERM the runs under way are told to stop and waited for.

    Yields:
        Each run when all that were launched with it have ended. What was finished before isn't launched.

    Raises:
        ConfigError: the engine refuses to launch anything.
    """
    local = engine.name == "submitit_local"
    line = sweep.line()
    while tasks:
        batch: list[Task] = []
        while tasks and (not local or len(batch) < workers):
            task = tasks.popleft()
            if finished(folder_of(*task), task[0].config):
                run(*task, line)  # says so
                yield Ended(task, 0)
            else:
                batch.append(task)
        if batch:
            threads = max((os.cpu_count() or 1) // workers, 1) if local else None
            outcomes = _launch(_Runs([job for job, _ in batch], Path.cwd(), threads), engine)
            for task, outcome in zip(batch, outcomes, strict=True):
                yield Ended(task, *outcome)


@dataclass
class _Runs:
    """What the engine calls on the other machine, once for each job."""

    jobs: list[Job]
    folder: Path
    threads: int | None

    def __call__(self, _: DictConfig) -> Outcome:
        os.chdir(self.folder)
        # Slurm's time is nearly up. submitit would raise an error amid the run, and a resumable run would have failed.
        signal.signal(signal.SIGUSR2, lambda *_: signal.raise_signal(signal.SIGTERM))
        if self.threads is not None:
            import torch

            torch.set_num_threads(self.threads)
        job = self.jobs[HydraConfig.get().job.num]
        try:
            run(job, load(job.config.data), _Log())
        except Busy as busy:
            return 0, "busy", str(busy)
        except OSError as error:
            return 1, "disk", str(error)
        except Interrupted as interrupted:
            return 1, "", str(interrupted)
        except Exception as error:
            return 1, "", _first_line(error)
        return 0, "", ""


class _Log:
    """The `Screen` of a run on another machine: the engine's log."""

    visible = False

    def say(self, line: str) -> None:
        print(line, flush=True)

    def start(self, run: str, epochs: int) -> None:
        self.say(f"{run}: {epochs} epochs")

    def step(self, epoch: float, loss: float, accuracy: float, images_per_second: float) -> None: ...

    def epoch(self, row: dict[str, float]) -> None:
        self.say(f"epoch {row['epoch']}: validation accuracy {row['val_acc']:.2%}")

    def finish(self) -> None: ...


def _launch(runs: _Runs, engine: Engine) -> list[Outcome]:
    config = engine.config
    if engine.name == "ray":
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # else `uv run` builds an environment per worker
        with open_dict(config):
            quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
            config.hydra.launcher.ray.init = quiet | dict(config.hydra.launcher.ray.init)
    try:
        context = HydraContext(config_loader=engine.loader, callbacks=Callbacks(config))
        launcher = Plugins.instance().instantiate_launcher(context, runs, config)
        with _patient(engine.name):
            returned: Any = launcher.launch([[] for _ in runs.jobs], initial_job_idx=0)
    except Exception as error:
        raise ConfigError(f"hydra/launcher={engine.name}: {_first_line(error)}") from error
    return [(1, "", _first_line(r)) if isinstance(r, Exception) else r.return_value for r in returned]


@contextmanager
def _patient(name: str) -> Iterator[None]:
    """Both plugins give up at the first job that is lost. Here its error is its outcome, and the others are waited for.

    Neither do they stop what they started when they are interrupted.
    """
    if name.startswith("submitit"):
        import submitit

        jobs: list[Any] = []
        submit, results = submitit.AutoExecutor.map_array, submitit.Job.results

        def submitted(*arguments: Any) -> list[Any]:
            # Ctrl-C on a terminal reaches all processes started from it, and is passed on below: once is enough.
            before = signal.signal(signal.SIGINT, signal.SIG_IGN)
            try:
                jobs.extend(submit(*arguments))
            finally:
                signal.signal(signal.SIGINT, before)
            return jobs

        def spared(job: Any) -> list[Any]:
            try:
                return list(results(job))
            except submitit.core.utils.UncompletedJobError:
                return [RuntimeError(f"its log is {job.paths.stderr}")]

        with patch.object(submitit.AutoExecutor, "map_array", submitted), patch.object(submitit.Job, "results", spared):
            try:
                yield
            except (KeyboardInterrupt, SystemExit):
                for job in jobs:
                    if name == "submitit_local":  # its own way of cancelling leaves a second to save a checkpoint
                        if not job.done():
                            os.kill(int(job.job_id), signal.SIGTERM)
                    else:
                        job.cancel()
                for job in jobs:
                    job.wait()
                raise
    elif name == "ray":
        import ray
        from hydra_plugins.hydra_ray_launcher import _core

        references: list[Any] = []
        get, start, on_term = ray.get, _core.launch_job_on_ray, signal.getsignal(signal.SIGTERM)

        def started(*arguments: Any) -> Any:
            signal.signal(signal.SIGTERM, on_term)  # Ray has put its own in its place
            references.append(start(*arguments))
            return references[-1]

        def got(reference: Any, **keywords: Any) -> Any:
            try:
                return get(reference, **keywords)
            except ray.exceptions.RayError as error:
                if any(reference is one for one in references):
                    return error
                raise

        with patch.object(_core, "launch_job_on_ray", started), patch.object(ray, "get", got):
            try:
                yield
            except (KeyboardInterrupt, SystemExit):
                for reference in references:
                    ray.cancel(reference)
                ray.wait(references, num_returns=len(references), timeout=60)
                raise
    else:
        yield


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
