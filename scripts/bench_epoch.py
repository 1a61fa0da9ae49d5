"""Measures what an epoch costs besides its steps, in real runs of document 3's CNN.

    python scripts/bench_epoch.py --root DIR [--epochs 4] [--precision fp32 bf16] [--augment none flip_crop document]

Three figures:

    augmentation   its time, as a share of the rest of training
    validation     its time, as a multiple of that of the forward passes alone on the same images
    writes         time of checkpoints, record and TensorBoard, as a share of an epoch
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

from cnnbench.config.composition import Job, config_source
from cnnbench.data.augmentation import Augmentation
from cnnbench.data.images import ImageSet, load
from cnnbench.runtime.progress import Sweep
from cnnbench.sweeps.run import _Run, run
from cnnbench.training import module
from cnnbench.training.module import Classifier

SPENT: dict[str, list[float]] = defaultdict(list)
"""Seconds of each call, by name."""


def watch(owner: Any, method: str, name: str) -> None:
    """Replaces a method or function by one that also measures each call, and adds its seconds to `SPENT[name]`."""
    inner: Callable[..., Any] = getattr(owner, method)

    def outer(*arguments: Any) -> Any:
        started = time.perf_counter()
        try:
            return inner(*arguments)
        finally:
            SPENT[name].append(time.perf_counter() - started)

    setattr(owner, method, outer)


def watch_validation() -> None:
    """Makes `Classifier` measure each validation, and right after it the forward passes alone."""
    start, end = Classifier.on_validation_epoch_start, Classifier.on_validation_epoch_end
    began = 0.0

    def on_start(self: Classifier) -> None:
        nonlocal began
        start(self)
        began = time.perf_counter()

    def on_end(self: Classifier) -> None:
        end(self)
        SPENT["validation"].append(time.perf_counter() - began)
        started = time.perf_counter()
        trainer: Any = self.trainer
        with torch.inference_mode(), trainer.precision_plugin.forward_context():
            for images, _, _ in trainer.datamodule.val_dataloader():
                self.model(images)
        SPENT["forward"].append(time.perf_counter() - started)

    for method, replacement in (("on_validation_epoch_start", on_start), ("on_validation_epoch_end", on_end)):
        setattr(Classifier, method, replacement)


def train(job: Job, images: ImageSet) -> list[float]:
    """Carries out a run; returns the seconds of training of each epoch."""
    SPENT.clear()
    with tempfile.TemporaryDirectory() as folder, Sweep(1, job.config.epochs, quiet=True) as screen:
        job.config.runs_dir = folder
        record = run(job, images, screen.line())
        assert record.status == "done", record.error
        return [row.seconds for row in record.history]


def main() -> None:
    """Measures and prints the three figures for each precision and augmentation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="a folder of images as data=folder takes it")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--precision", nargs="+", default=["fp32"], choices=["fp32", "bf16"])
    parser.add_argument("--augment", nargs="+", default=["none", "flip_crop", "document"])
    options = parser.parse_args()
    watch(Augmentation, "__call__", "augmentation")
    watch(module, "mixed", "augmentation")
    watch(_Run, "_epoch_ended", "writes")
    watch_validation()
    for precision in options.precision:
        for augment in options.augment:
            overrides = ["data=folder", f"data.root={options.root}", f"epochs={options.epochs}", f"augment={augment}"]
            overrides += [f"hardware.precision={'32-true' if precision == 'fp32' else 'bf16-mixed'}", "test=false"]
            with config_source(None) as composer:
                (job,) = composer.jobs(overrides, multirun=False)
            seconds = train(job, load(job.config.data))
            augmenting = sum(SPENT["augmentation"])
            passes = [a / b for a, b in zip(SPENT["validation"], SPENT["forward"], strict=True)]
            share = [a / b for a, b in zip(SPENT["writes"], seconds, strict=True)]
            print(
                f"{precision}, augment={augment}: augmentation {augmenting / (sum(seconds) - augmenting):.1%} of the "
                f"other training; validation {statistics.median(passes):.2f} times its forward passes "
                f"({min(passes):.2f} to {max(passes):.2f}); writes {statistics.median(share):.2%} of an epoch "
                f"({min(share):.2%} to {max(share):.2%})",
                flush=True,
            )


if __name__ == "__main__":
    main()
