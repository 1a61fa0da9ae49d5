"""Training images/s: a hand-written PyTorch loop against cnnbench's own way (module, Trainer, record, all of it).

Both train the documents' CNN on the same images, in turn, in one process; what counts is the ratio, taken pair by pair,
since machines are noisy. The hand-written loop has its normalised float images ready in memory.

    python scripts/bench_training.py --root DIR [--images 10000] [--repeats 7]
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

from cnnbench.compose import Job, config_source
from cnnbench.images import ImageSet, load
from cnnbench.progress import Sweep
from cnnbench.run import run

import torch  # isort: skip  # after cnnbench.run, which sets Lightning quiet

BATCH = 128


def hand_written(images: ImageSet, count: int, channels_last: bool) -> float:
    """One epoch over `count` images; returns images/s."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    torch.manual_seed(0)
    x = torch.from_numpy(images.train[:count]).permute(0, 3, 1, 2).float()
    mean, deviation = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), keepdim=True)
    x = ((x - mean) / deviation).contiguous(memory_format=layout)
    y = torch.from_numpy(images.train_labels[:count])
    nn = torch.nn
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(4096, 128), nn.ReLU(), nn.Linear(128, 10),
    ).to(memory_format=layout)  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    started = time.perf_counter()
    for positions in torch.randperm(count).split(BATCH):
        loss = nn.functional.cross_entropy(model(x[positions]), y[positions])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    loss.item()
    return count / (time.perf_counter() - started)


def through_cnnbench(job: Job, images: ImageSet) -> float:
    """The same epoch as a run, from split to record; returns the images/s that the record gives its second epoch."""
    with tempfile.TemporaryDirectory() as folder, Sweep(1, job.config.epochs) as screen:
        job.config.runs_dir = folder
        record = run(job, images, screen.line())
        assert record["status"] == "done", record["error"]
        return float(record["history"][-1]["images_per_second"])


def main() -> None:
    """Measures and prints medians and ratios, as a table and as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="a folder of images as data=folder takes it")
    parser.add_argument("--images", type=int, default=10_000, help="training images in an epoch")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    words = ["data=folder", f"data.root={options.root}", "epochs=1", f"batch_size={BATCH}", "data.val_fraction=0.02"]
    with config_source(None) as composer:
        (job,) = composer.jobs([*words, f"data.limit={round(options.images / 0.98)}"], multirun=False)
    images = load(job.config.data)
    contestants: dict[str, Callable[[], float]] = {
        "loop": lambda: hand_written(images, options.images, channels_last=False),
        "loop, channels last": lambda: hand_written(images, options.images, channels_last=True),
        "cnnbench": lambda: through_cnnbench(job, images),
    }
    measured: dict[str, list[float]] = {name: [] for name in contestants}
    for repeat in range(options.repeats + 1):
        for name, measure in contestants.items():
            speed = measure()
            if repeat > 0:  # the first round warms up
                measured[name].append(speed)
                print(f"{name}: {speed:,.0f} images/s", file=sys.stderr)
    for name, speeds in measured.items():
        print(
            f"{name:<22} median {statistics.median(speeds):7,.0f}  ({min(speeds):,.0f} to {max(speeds):,.0f}) images/s"
        )
    for name in ("loop", "loop, channels last"):
        ratios = [a / b for a, b in zip(measured["cnnbench"], measured[name], strict=True)]
        print(f"cnnbench / {name:<22} median {statistics.median(ratios):.3f}  ({min(ratios):.3f} to {max(ratios):.3f})")
    print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads(), "machine": platform.machine()}))


if __name__ == "__main__":
    main()
