"""The sweep: checks all runs, carries them out one by one or in parallel, and prints the results."""

import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from pathlib import Path

from pytorch_lightning.utilities import rank_zero_only

from cnnbench.analysis.grouping import compare
from cnnbench.config.composition import Job
from cnnbench.config.engines import Engine
from cnnbench.data.images import ImageSet
from cnnbench.errors import Busy, ConfigError, Interrupted, RecordError
from cnnbench.report.terminal import show
from cnnbench.results import records
from cnnbench.results.records import Record
from cnnbench.runtime.collectives import launch
from cnnbench.runtime.progress import Sweep
from cnnbench.search.checks import check_search
from cnnbench.sweeps.launchers import elsewhere
from cnnbench.sweeps.run import finished, folder_of, follow, run
from cnnbench.sweeps.workers import Ended, Task, side_by_side
from cnnbench.training.parts import check_parts
from cnnbench.training.transfer import identify


def run_all(jobs: list[Job], images: list[ImageSet], engine: Engine | None = None) -> int:
    """Checks all jobs, runs them, and prints a summary or a comparison.

    Args:
        jobs: the runs.
        images: the images of each job.
        engine: carries the runs to other machines; None runs them here.

    Returns:
        The exit code: 0 if all are done; 1 if some diverged, failed or were killed; 130 or 143 if interrupted.

    Raises:
        ConfigError: a job can't be run; none was started.
    """
    due: deque[Task] = deque(zip(jobs, images, strict=True))
    check_all(due, alone=len(jobs) == 1)
    config = jobs[0].config
    if launch(config.hardware.accelerator, config.hardware.devices, config.hardware.nodes) > 0:
        return follow(jobs[0], images[0])
    epochs = sum(job.config.search_epochs + job.config.epochs for job in jobs)
    results, code = carry_out(due, config.workers, len(jobs), epochs, engine)
    if any(result.status != "done" for result in results):
        code = code or 1
    if len(jobs) > 1:
        if results:
            show(
                compare(results, apart=True, margin=config.accuracy_margin),
                Path(config.runs_dir).expanduser() / config.name,
            )
    elif results:
        _summary(results[0], folder_of(jobs[0], images[0]))
    return code


def check_all(tasks: Iterable[Task], alone: bool = False) -> None:
    """Checks all runs, and prints each warning once.

    Args:
        tasks: the runs.
        alone: whether there is one run only, which may be trained by several processes.

    Raises:
        ConfigError: a run can't be carried out.
    """
    warnings: dict[str, None] = {}
    for job, images in tasks:
        hardware = job.config.hardware
        if hardware.processes > 1 and not alone:
            raise ConfigError(
                f"hardware.devices={hardware.devices} hardware.nodes={hardware.nodes}: several processes train a "
                f"single run. Start each run with a command of its own, or set both to 1."
            )
        identify(job.config)
        warnings |= dict.fromkeys(check_parts(job.config, images))
        if job.config.search.method != "none":
            check_search(job.config, images)
    _warn(list(warnings))


@rank_zero_only
def _warn(warnings: list[str]) -> None:
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)


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
        if engine:
            running = elsewhere(due, workers, engine, screen)
        else:
            running = side_by_side(due, workers, screen) if workers > 1 else _one_by_one(due, screen)
        waiting: set[str] = set()
        with contextlib.closing(running):
            for ended in running:
                folder = folder_of(*ended.task)
                if ended.reason == "busy":  # try it again last: by then it is done, or its process is gone
                    due.append(ended.task)
                    if str(folder) not in waiting:
                        screen.say(f"{folder}: another process is running it; waiting")
                        waiting.add(str(folder))
                    elif len(waiting) == len(due):
                        time.sleep(1)
                    continue
                if ended.exit_code > 128 or ended.reason == "disk":
                    code = max(ended.exit_code, 1)
                    why = f"Stopped ({ended.message})" if ended.reason else "Interrupted"
                    screen.say(f"{why} after {len(results)} of {runs}. Run the same command again to resume.")
                    break
                waiting.discard(str(folder))
                if ended.exit_code != 0:
                    how = f"killed by signal {-ended.exit_code}" if ended.exit_code < 0 else "its process failed"
                    how += f" ({ended.message})" if ended.message else ""
                    screen.say(f"{folder.name}: {how}. Run the same command again to resume it.")
                    code = 1
                with contextlib.suppress(RecordError):
                    result = records.read(folder / "record.json")
                    results.append(result)
                    if total > 1 and ended.exit_code == 0 and folder not in earlier:
                        screen.say(f"{ended.task[0].label}: {_outcome(result)}")
                    if result.status != "interrupted":
                        new = after(result, screen.say)
                        earlier |= _ended(new)
                        due.extend(new)
    return results, code


def _ended(tasks: Iterable[Task]) -> set[Path]:
    """The folders of the runs that have ended and are not run again."""
    return {folder for task in tasks if finished(folder := folder_of(*task), task[0].config)}


def _one_by_one(due: deque[Task], screen: Sweep) -> Generator[Ended, None, None]:
    """Carries out the runs in this process, and yields each as it ends."""
    line = screen.line()
    while due:
        task = due.popleft()
        try:
            run(*task, line)
        except Busy:
            yield Ended(task, 0, "busy")
        except Interrupted as interrupted:
            yield Ended(task, interrupted.exit_code)
        except OSError as error:
            yield Ended(task, 1, "disk", str(error))
        else:
            yield Ended(task, 0)


def _outcome(record: Record) -> str:
    if record.status != "done" or record.best is None:
        return f"{record.status}: {record.reason}"
    test = "" if record.test is None else f", test {record.test.acc:.2%}"
    return f"validation {record.best.val_acc:.2%}{test}"


def _summary(record: Record, folder: Path) -> None:
    """Prints model and data of a single run, its results, and where its files are."""
    data, sizes, choices, epochs = record.data, record.data.sizes, record.choices, len(record.history)
    size = "" if record.parameters is None else f" ({record.parameters:,} parameters)"
    print(f"{choices['model']}{size} with {choices['optimizer']}, "
          f"lr {record.config['lr']}, on {data.name}: {sizes.train:,} training, {sizes.val:,} validation, "
          f"{sizes.test:,} test images")  # fmt: skip
    if record.protocol.validation == "test":
        print("VALIDATION IS THE TEST SET (data.val=test): the best epoch was chosen on it, so its accuracy flatters.")
    if found := record.search:
        print(f"found by search={found.method}: {found.architecture}; {found.image_passes:,} image passes, "
              f"{found.seconds:.1f} s")  # fmt: skip
    if record.status != "done":
        print(f"{record.status} after {epochs} epochs: {record.reason}")
    if (best := record.best) is not None:
        print(f"best validation accuracy {best.val_acc:.2%}, epoch {best.epoch} of {epochs}")
    if record.test is not None:
        print(f"test accuracy {record.test.acc:.2%} at that epoch")
    print(f"{record.seconds:.1f} s of training")
    also = "" if found is None else ", conf/model/searched.yaml"
    print(f"{folder}/ holds record.json, config.yaml, best.ckpt and last.ckpt{also}")
