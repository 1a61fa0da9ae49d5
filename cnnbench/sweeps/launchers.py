"""Engines that carry the runs of a sweep to other machines: submitit (Slurm, or processes of this machine) and Ray.

The runs are composed and checked before they are launched. Their results are read from their records, so all machines
must see the working folder, the data and `runs_dir` under the same paths.
"""

import contextlib
import io
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Generator
from dataclasses import asdict, dataclass, fields
from functools import partial
from inspect import signature
from pathlib import Path
from shutil import which
from types import ModuleType
from typing import Any, Protocol

from cnnbench.config.composition import Job
from cnnbench.config.engines import Engine, Ray, RayArguments, SubmititLocal, SubmititSlurm
from cnnbench.config.targets import look_in
from cnnbench.data.images import load
from cnnbench.errors import Busy, ConfigError, Interrupted, nearest
from cnnbench.results import jobs
from cnnbench.runtime.ownership import is_owned
from cnnbench.runtime.progress import Sweep
from cnnbench.runtime.signals import collected_signals
from cnnbench.sweeps.folders import finished, folder_of
from cnnbench.sweeps.progress import Progress
from cnnbench.sweeps.run import run
from cnnbench.sweeps.workers import Ended, Task

Outcome = tuple[int, str, str]
"""The fields of `Ended` besides the task: exit code, reason, message."""

_TIME_UP: Outcome = (1, "", "its time was up")

_COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol")
"""What is called of Slurm, by submitit or here."""

_QUEUE_SECONDS = 15
"""Seconds between two calls of squeue, a burden to the cluster's controller. They only serve to notice lost runs."""


def elsewhere(tasks: deque[Task], workers: int, engine: Engine, sweep: Sweep) -> Generator[Ended, None, None]:
    """Runs tasks on an engine. Finished runs are not launched again.

    When the caller closes the generator, or on Ctrl-C or SIGTERM, the active runs are stopped and waited for.

    Args:
        tasks: the runs; those that are appended meanwhile are run too.
        workers: largest number of runs at a time with `submitit_local`; the other engines have queues of their own.
        engine: the engine and its settings.
        sweep: shows the progress.

    Yields:
        Each run as it ends.

    Raises:
        ConfigError: the engine refuses the runs.
    """
    settings, progress, line = engine.settings, Progress(sweep), sweep.line()
    carrier: _Carrier = _Ray(settings) if isinstance(settings, Ray) else _Submitit(settings, workers)
    places = workers if engine.name == "submitit_local" else sys.maxsize
    resumes = 0 if isinstance(settings, Ray) else settings.max_num_timeout
    resumed: Counter[Path] = Counter()
    active: dict[Any, Task] = {}
    folders: set[Path] = set()
    """Those of the active runs."""
    try:
        while tasks or active:
            batch: list[Task] = []
            for _ in range(len(tasks)):
                if len(active) + len(batch) == places:
                    break
                task = tasks.popleft()
                folder = folder_of(*task)
                if finished(folder, task[0].config):
                    run(*task, line)  # says so
                    yield Ended(task, 0)
                elif folder in folders:
                    yield Ended(task, 0, "busy", "the sweep has it twice")
                else:
                    folders.add(folder)
                    progress.begin(task)
                    batch.append(task)
            found: list[Any] = []
            # A signal during a call to the engine would lose jobs that were just submitted, and Ray would exit with
            # code 1. So it is held back until the call has returned.
            with collected_signals() as received:
                if batch:
                    try:
                        found = carrier.submit(batch)
                    except Exception as error:
                        raise ConfigError(f"hydra/launcher={engine.name}: {_first_line(error)}") from error
                    active |= {job: task for job, task in zip(found, batch, strict=True) if job is not None}
                ended = carrier.ended(list(active)) if active else []
            for signum in received:
                signal.raise_signal(signum)
            progress.look(active.values())
            busy = [task for job, task in zip(found, batch, strict=False) if job is None]
            folders -= {folder_of(*task) for task in busy}
            for task in busy:
                yield Ended(task, 0, "busy", "another process is running it")
            for handle, outcome in ended:
                task = active.pop(handle)
                path = folder_of(*task)
                folders.remove(path)
                if outcome == _TIME_UP and resumed[path] < resumes:
                    resumed[path] += 1
                    tasks.append(task)
                else:
                    progress.end(task)
                    yield Ended(task, *outcome)
    finally:
        carrier.close(list(active))


@dataclass
class _Run:
    """A run as the engine calls it on the other machine."""

    job: Job
    folder: Path
    """The working folder."""
    threads: int | None = None
    """CPU threads of torch; None leaves them to torch."""

    def __call__(self) -> Outcome:
        os.chdir(self.folder)
        look_in(self.job.config_dir)
        if self.threads is not None:
            import torch

            torch.set_num_threads(self.threads)
        try:
            run(self.job, load(self.job.config.data), _Log())
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
    """The `Screen` of a run on another machine: prints lines to the engine's log."""

    visible = False

    def say(self, line: str) -> None:
        print(line, flush=True)

    def start(self, run: str, epochs: int) -> None:
        self.say(f"{run}: {epochs} epochs")

    def step(self, epoch: float, loss: float, accuracy: float, images_per_second: float) -> None: ...

    def epoch(self, row: dict[str, float]) -> None:
        self.say(f"epoch {row['epoch']}: validation accuracy {row['val_acc']:.2%}")

    def finish(self) -> None: ...


class _Carrier(Protocol):
    """The interface of an engine. A handle stands for one run."""

    def submit(self, tasks: list[Task]) -> list[Any]:
        """Submits runs, and returns their handles; None in place of a run that another process carries out."""

    def ended(self, handles: list[Any]) -> list[tuple[Any, Outcome]]:
        """Waits for about a second, and returns the runs that have ended."""

    def close(self, handles: list[Any]) -> None:
        """Stops these runs, waits for them, and disconnects from the engine."""


class _Submitit:
    """Runs as submitit's jobs.

    A run has ended when its result file exists. It is lost when its job has left the queue without one. submitit would
    ask `sacct` for that, which needs accounting, and many clusters don't have it.
    """

    _settings: SubmititLocal
    _slurm: bool
    """Whether the jobs go to Slurm, not to processes of this machine."""
    _threads: int | None
    """CPU threads of a run."""
    _next_look: float
    """When the queue is looked at next, on the clock of `time.monotonic`."""
    _gone: set[str]
    """Jobs that were not in the queue at the last look."""

    def __init__(self, settings: SubmititLocal, workers: int) -> None:
        self._settings = settings
        self._slurm = isinstance(settings, SubmititSlurm)
        missing = [name for name in _COMMANDS if which(name) is None] if self._slurm else []
        if missing:
            raise ConfigError(
                f"hydra/launcher=submitit_slurm: {', '.join(missing)}: no such command here. Start it on a machine "
                f"from which Slurm's jobs are submitted."
            )
        self._threads = settings.cpus_per_task
        if self._threads is None and not self._slurm:
            self._threads = max((os.cpu_count() or 1) // workers, 1)
        self._next_look = 0.0
        self._gone = set()

    def submit(self, tasks: list[Task]) -> list[Any]:
        found: dict[Path, Any] = {}
        of_task = [(folder_of(*task), task[0]) for task in tasks]
        for parent in sorted({folder.parent for folder, _ in of_task}):
            with jobs.submitting(parent):
                found |= self._queued(parent)
                due = [
                    (folder, job)
                    for folder, job in of_task
                    if folder.parent == parent and folder not in found and not is_owned(folder)
                ]
                if due:
                    found |= zip((folder for folder, _ in due), self._submit(parent, due), strict=True)
        return [found.get(folder) for folder, _ in of_task]

    def _queued(self, parent: Path) -> dict[Path, Any]:
        """The jobs in the queue that carry runs in `parent`: a submitter that was killed, or another one, left them."""
        if not self._slurm or not (submissions := jobs.submissions(parent)):
            return {}
        from submitit import SlurmJob

        queue = jobs.queue()
        found: dict[Path, Any] = {}
        for submission in submissions:
            queued = submission.jobs(queue)
            for run_id, job in queued.items():
                handle: Any = SlurmJob(submission.logs, job.number)
                if job.state != "COMPLETING" and not _has_result(handle):
                    found[parent / run_id] = handle
            if not queued:
                submission.remove(parent)
        return found

    def _submit(self, parent: Path, due: list[tuple[Path, Job]]) -> list[Any]:
        import submitit

        general = {field.name for field in fields(SubmititLocal)}
        given = asdict(self._settings)
        folder = given.pop("submitit_folder")
        del given["max_num_timeout"]  # submitit would resubmit without saving the state
        if self._slurm:
            given["name"] += f"-{secrets.token_hex(4)}"
            runs = [jobs.Submitted(path.name, job.label, job.config.seed, job.config.epochs) for path, job in due]
            jobs.Submission(given["name"], str(Path(folder).resolve()), runs).write(parent)
        executor = submitit.AutoExecutor(folder, cluster="slurm" if self._slurm else "local")
        executor.update_parameters(**{key if key in general else f"slurm_{key}": given[key] for key in given})
        # Ctrl-C on a terminal reaches all processes started from it. The jobs get their signal from `close` alone.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # sbatch's message, which the error repeats
                calls = [partial(_as_job, _Run(job, Path.cwd(), self._threads)) for _, job in due]
                return list(executor.submit_array(calls))
        finally:
            signal.signal(signal.SIGINT, handler)

    def ended(self, handles: list[Any]) -> list[tuple[Any, Outcome]]:
        time.sleep(1)
        lost: set[str] = set()
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + (_QUEUE_SECONDS if self._slurm else 0)
            # Missing twice: on a network file system a result may appear after its job has left the queue.
            gone = {job.job_id for job in handles} - self._alive(handles)
            lost, self._gone = gone & self._gone, gone
        return [(job, self._outcome(job)) for job in handles if _has_result(job) or job.job_id in lost]

    def close(self, handles: list[Any]) -> None:
        if not handles:
            return
        if self._slurm:
            subprocess.run(["scancel", "--quiet", *(job.job_id for job in handles)], check=False)
        else:
            for number in self._alive(handles):  # submitit would leave one second to save a checkpoint
                os.kill(int(number), signal.SIGTERM)
        while self._alive(handles):
            time.sleep(1)

    def _alive(self, handles: list[Any]) -> set[str]:
        """The numbers of the jobs that are waiting or running."""
        if not self._slurm:
            return {job.job_id for job in handles if not job.done()}
        numbers = {job.job_id for job in handles}
        try:
            return numbers & {job.number for job in jobs.queue()}
        except ConfigError:  # its controller may be away for a while
            return numbers

    def _outcome(self, job: Any) -> Outcome:
        if _has_result(job) and job.exception() is None:
            outcome: Outcome = job.results()[0]
            return outcome if outcome[2] else (*outcome[:2], f"its log is {self._log(job)}")
        return 1, "", self._failure(job)

    def _failure(self, job: Any) -> str:
        """Why a job has no result: Slurm's state of it, the last line that it wrote, and where its log is."""
        words, log = [], self._log(job)
        if self._slurm:
            command = ["scontrol", "--oneliner", "show", "job", job.job_id]  # Slurm forgets it after some minutes
            said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
            words += [" ".join(states) for states in re.findall(r"JobState=(\S+) Reason=(\S+)", said)[:1]]
        if not log.exists():
            return "; ".join([*words, f"there is no log {log}, so its machine may not see this folder"])
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        own = [line for line in lines if not line.startswith("srun: ")]  # which only says that there was an error
        return "; ".join([*words, *(own or lines)[-1:], f"its log is {log}"])

    def _log(self, job: Any) -> Path:
        paths = job.task(0).paths
        return Path(paths.stdout if self._settings.stderr_to_stdout else paths.stderr)


def _has_result(job: Any) -> bool:
    return all(job.task(number).paths.result_pickle.exists() for number in range(job.num_tasks))


def _as_job(run: _Run) -> Outcome:
    """Carries out a run inside a job of submitit's, whose signal handlers would end it without a checkpoint."""
    times_up: list[int] = []

    def stop(signum: int, _: object) -> None:
        times_up.append(signum)
        signal.raise_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGUSR2, stop)
    outcome = run()
    return _TIME_UP if times_up and outcome[0] else outcome


class _Ray:
    """Runs as Ray's tasks."""

    _settings: RayArguments
    _ray: ModuleType

    def __init__(self, settings: Ray) -> None:
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # else `uv run` builds an environment per worker
        import ray

        self._settings, self._ray = settings.ray, ray
        allowed = [key for key in signature(ray.init).parameters if key != "kwargs"]
        for key in self._settings.init:
            if key not in allowed and not key.startswith("_"):
                raise ConfigError(
                    f"hydra.launcher.ray.init.{key}: ray.init has no such argument.{nearest(key, allowed)}"
                )

    def submit(self, tasks: list[Task]) -> list[Any]:
        remote = self._ray.remote(**self._settings.remote)(_Run.__call__)
        if not self._ray.is_initialized():
            handler = signal.getsignal(signal.SIGTERM)
            try:
                self._ray.init(**self._settings.init)
            except SystemExit:  # raised by the handler that Ray puts in place of ours
                raise SystemExit(143) from None
            finally:
                signal.signal(signal.SIGTERM, handler)
        return [None if is_owned(folder_of(*task)) else remote.remote(_Run(task[0], Path.cwd())) for task in tasks]

    def ended(self, handles: list[Any]) -> list[tuple[Any, Outcome]]:
        done, _ = self._ray.wait(handles, num_returns=len(handles), timeout=1)
        return [(handle, self._outcome(handle)) for handle in done]

    def close(self, handles: list[Any]) -> None:
        for handle in handles:
            self._ray.cancel(handle)
        if handles:
            self._ray.wait(handles, num_returns=len(handles), timeout=60)
        self._ray.shutdown()

    def _outcome(self, handle: Any) -> Outcome:
        try:
            outcome: Outcome = self._ray.get(handle)
        except self._ray.exceptions.RayError as error:
            return 1, "", _first_line(error)
        return outcome


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
