"""The sweep: checks all runs, carries them out one by one or in parallel, and tells what came of them.

torch is imported when a run has to be checked, and Lightning when one is trained: a sweep that is done needs neither.
The analysis, with SciPy, is imported when there is something to compare.
"""

import contextlib
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from cnnbench.config.composition import Job
from cnnbench.config.engines import Engine
from cnnbench.data.images import ImageSet
from cnnbench.errors import Busy, ConfigError, Interrupted, ProcessLost, RecordError
from cnnbench.results import records
from cnnbench.results.records import Record, Sizes
from cnnbench.runtime.collectives import launch
from cnnbench.runtime.memory import free_memory
from cnnbench.runtime.ownership import owned
from cnnbench.runtime.progress import Sweep, importing
from cnnbench.sweeps.folders import finished, folder_of
from cnnbench.sweeps.workers import Ended, Task, side_by_side

if TYPE_CHECKING:
    from cnnbench.analysis.comparison import Comparison
    from cnnbench.analysis.tuning_results import Tuning
    from cnnbench.training.checks import Checked

_WORKER = 50_000_000
"""Bytes that a worker does not share with the others, besides what training takes: 46 MB were measured."""


@dataclass(frozen=True)
class Outcome:
    """What came of the runs that were asked for."""

    folder: Path
    """The one that the runs are written to, `runs_dir/name`; of a single run its own."""
    records: list[Record]
    """Those of the runs; of a tuning only the winners', run with fresh seeds."""
    exit_code: int
    """0 if all are done; 1 if some diverged, failed or were killed; 130 or 143 if interrupted."""
    comparisons: "list[Comparison] | None" = None
    """None for a single run; empty where there is nothing to compare yet."""
    tuning: "Tuning | None" = None
    """How the settings were found, if they were tuned."""
    announced: bool = False
    """Whether model and data were printed before the training, which a finished run does not have again."""

    def show(self) -> None:
        """Prints the summary of a single run, or prints the comparison and writes its files."""
        if self.comparisons:
            from cnnbench.report.terminal import show

            show(self.comparisons, self.folder, self.tuning)
        elif self.comparisons is None and self.records:
            _summary(self.records[0], self.folder, self.announced)


def run_all(jobs: list[Job], images: list[ImageSet], engine: Engine | None = None) -> Outcome:
    """Checks all jobs and runs them.

    Args:
        jobs: the runs.
        images: the images of each job.
        engine: carries the runs to other machines; None runs them here.

    Returns:
        Their records, in the order of the jobs.

    Raises:
        ConfigError: a job can't be run; none was started.
    """
    due: deque[Task] = deque(zip(jobs, images, strict=True))
    alone = len(jobs) == 1
    checked = check_all(due, alone)
    config = jobs[0].config
    folders = [folder_of(*task) for task in due]
    if config.hardware.processes > 1:
        import_module("cnnbench.sweeps.run")  # silences what Lightning says as processes meet
    if launch(config.hardware.accelerator, config.hardware.devices, config.hardware.nodes) > 0:
        from cnnbench.sweeps.run import follow

        return Outcome(folders[0], [], follow(jobs[0], images[0]))
    begin(checked, engine, alone)
    epochs = sum(job.config.search_epochs + job.config.epochs for job in jobs)
    ended, code = carry_out(due, config.workers, len(jobs), epochs, engine)
    by_id = {record.run_id: record for record in ended}
    results = [by_id[folder.name] for folder in dict.fromkeys(folders) if folder.name in by_id]
    code = exit_code(results, code)
    if alone:
        return Outcome(folders[0], results, code, announced=len(checked) > 0)
    if not results:
        return Outcome(folders[0].parent, results, code, [])
    from cnnbench.analysis.grouping import compare

    comparisons = compare(results, apart=True, margin=config.accuracy_margin)
    return Outcome(folders[0].parent, results, code, comparisons)


def exit_code(results: list[Record], code: int) -> int:
    """The exit code of runs: that of `carry_out`, or else 1 if a run is not done."""
    return code or int(any(result.status != "done" for result in results))


def check_all(tasks: Iterable[Task], alone: bool = False) -> "list[tuple[Job, Checked]]":
    """Checks all runs that are not finished.

    Args:
        tasks: the runs.
        alone: whether there is one run only, which may be trained by several processes.

    Returns:
        Those that are not finished, with what was found; one of runs that differ only in the seed.

    Raises:
        ConfigError: a run can't be carried out.
    """
    checked: dict[tuple[str, int], tuple[Job, Checked]] = {}
    for job, images in tasks:
        hardware = job.config.hardware
        if hardware.processes > 1 and not alone:
            raise ConfigError(
                f"hardware.devices={hardware.devices} hardware.nodes={hardware.nodes}: several processes train a "
                f"single run. Start each run with a command of its own, or set both to 1."
            )
        identify(job)
        key = repr(replace(job.config, seed=0)), id(images)
        if key in checked or finished(folder_of(job, images), job.config):
            continue
        with importing("torch"):  # some of its modules are imported as the first network is built
            from cnnbench.search.checks import check_search
            from cnnbench.training.checks import check_parts

            found = check_parts(job.config, images)
        if job.config.search.method != "none":
            found.warnings.extend(check_search(job.config, images))
        checked[key] = job, found
    return list(checked.values())


def identify(job: Job) -> None:
    """Fills in what the folder of a run depends on: the hash of the weights that it begins with, if it has any.

    Raises:
        ConfigError: there is no such checkpoint.
    """
    if any(job.config.model.get(key) is not None for key in ("init_from", "weights")):
        from cnnbench.training import transfer  # imports torch

        transfer.identify(job.config)


def warn(checked: "list[tuple[Job, Checked]]") -> None:
    """Prints each warning of the checks once."""
    for warning in dict.fromkeys(warning for _, each in checked for warning in each.warnings):
        print(f"warning: {warning}", file=sys.stderr)


def begin(checked: "list[tuple[Job, Checked]]", engine: Engine | None, alone: bool = False) -> None:
    """Prints warnings and what is about to be trained, and loads Lightning if this process trains.

    Args:
        checked: of `check_all`.
        engine: carries the runs to other machines; None runs them here.
        alone: whether there is one run only.
    """
    warn(checked)
    if checked and engine is None and (warning := _memory_warning(checked)):
        print(f"warning: {warning}", file=sys.stderr)
    for line in dict.fromkeys(about(*each, engine, alone) for each in checked):
        print(line, file=None if alone else sys.stderr, flush=True)
    if checked and engine is None and checked[0][0].config.workers == 1:
        with importing("pytorch_lightning"):
            import_module("cnnbench.sweeps.run")


def _memory_warning(checked: "list[tuple[Job, Checked]]") -> str:
    """Says that the workers will take more memory than is free; empty if they won't."""
    workers = checked[0][0].config.workers
    each = _WORKER + max(each.memory for _, each in checked)
    free = free_memory()
    if workers == 1 or workers * each <= free:
        return ""
    return (
        f"workers={workers}: they take about {workers * each / 1e9:.1f} GB, {each / 1e9:.1f} GB each, and "
        f"{free / 1e9:.1f} GB are free. workers={max(int(free / each), 1)} fits. When memory runs out, the system "
        f"kills a process, whose run is then interrupted."
    )


def about(job: Job, checked: "Checked", engine: Engine | None = None, alone: bool = True) -> str:
    """What is about to be trained: all about a single run, or data and machine of a sweep's runs."""
    config, place = job.config, engine.name if engine else checked.device
    note = f"\ndata.root: {checked.note}" if checked.note else ""
    if not alone:
        return f"{job.choices['data']}: {_images(checked.sizes, checked.validation)}; on {place}{note}"
    search = (
        f"search={config.search.method} first, {config.search_epochs} epochs of it; " if config.search_epochs else ""
    )
    images = _images(checked.sizes, checked.validation)
    headline = _headline(job.choices, config.lr, checked.parameters, images)
    return (
        f"{headline}{note}\n{search}epochs={config.epochs}, {config.epochs * checked.steps:,} steps in all, on {place}"
    )


def _headline(choices: dict[str, str], lr: float | None, parameters: int | None, images: str) -> str:
    """Model, optimizer and data of a run in a line."""
    size = "" if parameters is None else f" ({parameters:,} parameters)"
    rate = "" if lr is None else f", lr {lr:g}"
    return f"{choices['model']}{size} with {choices['optimizer']}{rate}, on {choices['data']}: {images}"


def _images(sizes: Sizes, validation: str) -> str:
    own = " (data.val=folder)" if validation == "folder" else ""
    return f"{sizes.train:,} training, {sizes.val:,} validation{own}, {sizes.test:,} test images"


def carry_out(
    due: deque[Task],
    workers: int,
    total: int,
    epochs: int,
    engine: Engine | None,
    after: Callable[[Record, Callable[[str], None]], list[Task]] = lambda record, say: [],
    at_most: bool = False,
) -> tuple[list[Record], int]:
    """Carries out runs, and those that become due when others have ended.

    Args:
        due: the first runs.
        workers: largest number of processes at a time.
        total: number of runs in the end.
        epochs: number of epochs of all runs together.
        engine: carries the runs to other machines; None runs them here.
        after: takes a record and a function that prints a line, and returns the runs that are due now.
        at_most: whether there may be fewer runs than `total`.

    Returns:
        The records in the order in which the runs ended, and an exit code: 0; 1 if a process was killed or the disk
        failed; 130 or 143 if interrupted.
    """
    runs = f"at most {total} runs" if at_most else f"{total} runs"
    if total > 1:
        print(runs, file=sys.stderr)
    workers = min(workers, total)
    results: list[Record] = []
    code = 0
    earlier = _ended(due)  # each has its line already
    with Sweep(total, epochs) as screen:
        running = _running(due, workers, engine, screen)
        waiting: set[str] = set()
        with contextlib.closing(running):
            for ended in running:
                folder = folder_of(*ended.task)
                if ended.reason == "busy":  # try it again last: by then it is done, or its process is gone
                    due.append(ended.task)
                    if str(folder) not in waiting:
                        screen.say(f"{folder}: {ended.message}; waiting")
                        waiting.add(str(folder))
                    elif len(waiting) == len(due):
                        time.sleep(1)
                    continue
                if ended.reason in ("interrupted", "disk"):
                    code = max(ended.exit_code, 1)
                    why = f"Stopped ({ended.message})" if ended.reason == "disk" else "Interrupted"
                    screen.say(f"{why} after {len(results)} of {runs}. Run the same command again to resume.")
                    break
                waiting.discard(str(folder))
                if ended.exit_code != 0:
                    how = f"killed by signal {-ended.exit_code}" if ended.exit_code < 0 else "its process failed"
                    how += ", as the system does when memory runs out" if ended.exit_code == -signal.SIGKILL else ""
                    how += f" ({ended.message})" if ended.message else ""
                    _note(folder, how)
                    screen.say(f"{folder.name}: {how}. Run the same command again to resume it.")
                    code = 1
                with contextlib.suppress(RecordError):
                    result = records.read(folder / "record.json")
                    results.append(result)
                    if total > 1 and ended.exit_code == 0 and folder not in earlier:
                        log = f"; {ended.message}" if result.status == "failed" and ended.message else ""
                        screen.say(f"{ended.task[0].label}: {_outcome(result)}{log}")
                    if result.status != "interrupted":
                        new = after(result, screen.say)
                        earlier |= _ended(new)
                        due.extend(new)
    return results, code


def _running(due: deque[Task], workers: int, engine: Engine | None, screen: Sweep) -> Generator[Ended, None, None]:
    """Yields the runs that are finished, then carries out the others and yields each as it ends."""
    ahead: deque[Task] = deque()
    while due:
        task = due.popleft()
        job, folder = task[0], folder_of(*task)
        record = finished(folder, job.config)
        if record is None or job.config.hardware.processes > 1:  # several processes have to agree first
            ahead.append(task)
            continue
        screen.say(f"{job.label}: already {record.status} (force=true runs it again)")
        screen.skip(job.config.search_epochs + job.config.epochs)
        yield Ended(task, 0)
    if not ahead:
        return
    due.extend(ahead)
    if engine:
        from cnnbench.sweeps.launchers import elsewhere

        yield from elsewhere(due, workers, engine, screen)
    elif workers > 1:
        yield from side_by_side(due, workers, screen)
    else:
        yield from _one_by_one(due, screen)


def _ended(tasks: Iterable[Task]) -> set[Path]:
    """The folders of the runs that have ended and are not run again."""
    return {folder for task in tasks if finished(folder := folder_of(*task), task[0].config)}


def _one_by_one(due: deque[Task], screen: Sweep) -> Generator[Ended, None, None]:
    """Carries out the runs in this process, and yields each as it ends."""
    from cnnbench.sweeps.run import run

    line = screen.line()
    while due:
        task = due.popleft()
        try:
            run(*task, line)
        except Busy as busy:
            yield Ended(task, 0, "busy", str(busy))
        except Interrupted as interrupted:
            yield Ended(task, interrupted.exit_code, "interrupted")
        except ProcessLost as lost:
            yield Ended(task, 1, message=str(lost))
        except OSError as error:
            yield Ended(task, 1, "disk", str(error))
        else:
            yield Ended(task, 0)


def _note(folder: Path, why: str) -> None:
    """Writes into the record of a run why its process is gone, unless another process has taken it up again."""
    if not (folder / "record.json").exists():
        return
    with contextlib.suppress(Busy, OSError, RecordError), owned(folder, lambda line: None):
        record = records.read(folder / "record.json")
        if record.status == "interrupted":
            record.error = why
            records.write(folder / "record.json", record)


def _outcome(record: Record) -> str:
    if record.status != "done" or record.best is None:
        return f"{record.status}: {record.reason}"
    test = "" if record.test is None else f", test {record.test.acc:.2%}"
    missed = f"; no correct image of: {names}" if (names := _missed(record)) else ""
    return f"validation {record.best.val_acc:.2%}{test}{missed}"


def _missed(record: Record) -> str:
    """The classes of which no test image is classified correctly, the first ten by name; empty if there are none."""
    if record.test is None:
        return ""
    shares = zip(record.data.classes, record.test.per_class, strict=True)
    names = [name for name, share in shares if share == 0]
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _summary(record: Record, folder: Path, headed: bool) -> None:
    """Prints the results of a single run, and where its files are.

    Args:
        record: of the run.
        folder: of the run.
        headed: whether its model and data were printed before it began.
    """
    epochs = len(record.history)
    if not headed:
        images = _images(record.data.sizes, record.protocol.validation)
        print(_headline(record.choices, record.config["lr"], record.parameters, images))
        if record.data.note:
            print(f"data.root: {record.data.note}")
    if record.protocol.validation == "test":
        print("VALIDATION IS THE TEST SET (data.val=test): the best epoch was chosen on it, so its accuracy flatters.")
    if found := record.search:
        print(f"found by search={found.method}: {found.architecture}; {found.image_passes:,} image passes, "
              f"{found.seconds:.1f} s")  # fmt: skip
    if record.layers:
        from cnnbench.report.listing import show_layers

        show_layers(record.layers)
    if record.status != "done":
        print(f"{record.status} after {epochs} epochs: {record.reason}")
    if (best := record.best) is not None:
        print(f"best validation accuracy {best.val_acc:.2%}, epoch {best.epoch} of {epochs}")
    if record.test is not None:
        tta = record.protocol.tta
        by = "" if tta == "none" else f", with test-time augmentation ({tta})"
        print(f"test accuracy {record.test.acc:.2%} at that epoch{by}")
        if missed := _missed(record):
            print(f"warning: no test image of these classes is classified correctly: {missed}")
    elif record.status == "done":
        print(f"not tested: {record.untested}")
    print(f"{record.seconds:.1f} s of training")
    names = ("record.json", "config.yaml", "best.ckpt", "last.ckpt", "conf/model/searched.yaml")
    print(f"{folder}/ holds {', '.join(name for name in names if (folder / name).exists())}")
