"""Which runs are due, in which order, and what happens when one fails?"""

import sys
import time
from collections import deque
from pathlib import Path

from cnnbench.compare import compare, show
from cnnbench.compose import Job
from cnnbench.images import ImageSet
from cnnbench.parts import check_parts
from cnnbench.progress import Sweep
from cnnbench.record import Record
from cnnbench.run import Busy, Interrupted, folder_of, run
from cnnbench.transfer import identify


def run_all(jobs: list[Job], images: list[ImageSet]) -> int:
    """Checks all jobs, runs them one after the other, and prints what came out.

    Args:
        jobs: what was asked for.
        images: the images of each job.

    Returns:
        The exit code: 0 all done, 1 some diverged or failed, 130 or 143 interrupted.

    Raises:
        ConfigError: a job can't be run; none was started.
    """
    for job, its_images in zip(jobs, images, strict=True):
        identify(job.config)
        check_parts(job.config, its_images)
    if len(jobs) > 1:
        print(f"{len(jobs)} runs", file=sys.stderr)
    results: list[Record] = []
    code = 0
    due = deque(zip(jobs, images, strict=True))
    waiting: set[str] = set()
    with Sweep(len(jobs), sum(job.config.epochs for job in jobs)) as screen:
        while due:
            job, its_images = due.popleft()
            try:
                result = run(job, its_images, screen)
            except Busy as busy:  # last; by then it is done, or free to be gone on with
                due.append((job, its_images))
                if str(busy) not in waiting:
                    screen.say(f"{busy}: another process is running it; waiting")
                    waiting.add(str(busy))
                elif len(waiting) == len(due):
                    time.sleep(1)
                continue
            except Interrupted as interrupted:
                code = interrupted.exit_code
                screen.say(f"Interrupted with {len(results)} of {len(jobs)} runs ended. The same command goes on.")
                break
            except OSError as error:
                code = 1
                screen.say(f"Stopped with {len(results)} of {len(jobs)} runs ended: {error}. The same command goes on.")
                break
            waiting.discard(str(folder_of(job, its_images)))
            results.append(result)
            if len(jobs) > 1:
                screen.say(_line(result))
            if result["status"] != "done":
                code = 1
    if len(jobs) > 1:
        if results:
            config = jobs[0].config
            show(compare(results), Path(config.runs_dir).expanduser() / config.name)
    elif results:
        _summary(results[0], folder_of(jobs[0], images[0]))
    return code


def _line(record: Record) -> str:
    if record["status"] != "done":
        return f"{record['run_id']}: {record['status']}: {_reason(record)}"
    return f"{record['run_id']}: validation {record['best']['val_acc']:.2%}, test {record['test']['acc']:.2%}"


def _reason(record: Record) -> str:
    return (record["error"] or "").strip().splitlines()[-1] if record["error"] else ""


def _summary(record: Record, folder: Path) -> None:
    """What ran, what came out, where it lies."""
    data, history, choices = record["data"], record["history"], record["choices"]
    seconds = sum(row["seconds"] for row in history)
    sizes = data["sizes"]
    print(f"{choices['model']} ({record['parameters']:,} parameters) with {choices['optimizer']}, "
          f"lr {record['config']['lr']}, on {data['name']}: {sizes['train']:,} training, {sizes['val']:,} validation, "
          f"{sizes['test']:,} test images")  # fmt: skip
    if record["protocol"]["validation"] == "test":
        print("VALIDATION IS THE TEST SET (data.val=test): the best epoch was chosen on it, so its accuracy flatters.")
    if record["status"] != "done":
        print(f"{record['status']} after {len(history)} epochs: {_reason(record)}")
    if (best := record["best"]) is not None:
        print(f"best validation accuracy {best['val_acc']:.2%}, epoch {best['epoch']} of {len(history)}")
    if record["test"] is not None:
        print(f"test accuracy {record['test']['acc']:.2%} at that epoch")
    print(f"{seconds:.1f} s of training")
    print(f"{folder}/ holds record.json, config.yaml, best.ckpt and last.ckpt")
