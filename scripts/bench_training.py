"""Measures the training speed of document 3's CNN: cnnbench's whole runs against hand-written loops and Keras.

All train on the same images in one process, in turn. The results are ratios, taken pair by pair, since the speed of a
machine varies.

    loop             PyTorch, normalised float images ready in memory; augmented by cnnbench's own code
    loop, last       as `loop`, in channels_last
    dataloader       what most people write: PIL images, torchvision transforms, a DataLoader with 2 workers
    keras            model.fit on arrays in memory, where Keras is installed (no augmentation)
    bare             cnnbench's network and optimizer on the same batch again and again: the arithmetic alone
    cnnbench         a whole run, with Trainer, logging and record; the speed is that of its record

The first three have document 3's CNN, or speed_cnn, written out by hand. Other networks are cnnbench's own
everywhere.

    python scripts/bench_training.py --root DIR [--images 10000] [--repeats 5] [--precision fp32 bf16]
        [--augment none flip_crop document] [--model document_cnn --batch 128] [--only loop cnnbench]
"""

import argparse
import copy
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from cnnbench.config.composition import Job, config_source
from cnnbench.data.images import ImageSet, load
from cnnbench.runtime.progress import Sweep
from cnnbench.sweeps.run import run
from cnnbench.training.parts import make_augmentation, make_model

AUGMENTS = ("none", "flip_crop", "flip_translate", "document")


def device_of(job: Job) -> torch.device:
    """The device on which the job runs."""
    gpu = job.config.hardware.accelerator != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if gpu else "cpu")


def precision(job: Job) -> AbstractContextManager[Any]:
    """A context with the precision of the job."""
    bf16 = job.config.hardware.precision == "bf16-mixed"
    return torch.autocast(device_of(job).type, torch.bfloat16, enabled=bf16)


def own_network(job: Job, images: ImageSet) -> nn.Module:
    """The job's network as cnnbench builds it."""
    return make_model(job.config, (images.train.shape[3], *images.train.shape[1:3]), len(images.classes))


def written_network(job: Job, images: ImageSet) -> nn.Module:
    """Document 3's CNN, or speed_cnn, as one writes it by hand; for another model cnnbench's own network."""
    if job.choices["model"] == "speed_cnn":
        return written_speed_cnn(len(images.classes))
    if job.choices["model"] != "document_cnn":
        return own_network(job, images)
    height, width, channels = images.train.shape[1:]
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * (height // 4) * (width // 4), 128), nn.ReLU(), nn.Linear(128, len(images.classes)),
    )  # fmt: skip


def written_speed_cnn(classes: int) -> nn.Module:
    """The network of Jordan 2024 for 32x32 images, written by hand; its first weights are not trained."""

    def norm(filters: int) -> nn.Module:
        layer = nn.BatchNorm2d(filters)
        layer.weight.requires_grad_(False)
        return layer

    def group(channels: int, filters: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(channels, filters, 3, padding=1, bias=False), nn.MaxPool2d(2), norm(filters), nn.GELU(),
            nn.Conv2d(filters, filters, 3, padding=1, bias=False), norm(filters), nn.GELU(),
        )  # fmt: skip

    whiten = nn.Conv2d(3, 24, 2)
    whiten.weight.requires_grad_(False)
    groups = [group(24, 64), group(64, 256), group(256, 256)]
    head = [nn.MaxPool2d(3), nn.Flatten(), nn.Linear(256, classes, bias=False)]
    return nn.Sequential(whiten, nn.GELU(), *groups, *head)


def train(
    job: Job, images: ImageSet, batches: Iterable[tuple[Tensor, Tensor]], count: int, last: bool, own: bool = False
) -> float:
    """Trains an epoch with the usual PyTorch loop; returns images/s."""
    device, layout = device_of(job), torch.channels_last if last else torch.contiguous_format
    torch.manual_seed(0)
    model = (own_network if own else written_network)(job, images).to(device).to(memory_format=layout)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True if own else None)
    model.train()
    started = time.perf_counter()
    for x, y in batches:
        x = x.to(device, memory_format=layout, non_blocking=True)
        with precision(job):
            loss = torch.nn.functional.cross_entropy(model(x), y.to(device, non_blocking=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    loss.item()
    return count / (time.perf_counter() - started)


def in_memory(job: Job, images: ImageSet, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches taken by index from tensors on the device that trains."""
    device = device_of(job)
    y = torch.from_numpy(images.train_labels[:count]).to(device)
    x = torch.from_numpy(images.train[:count]).to(device).permute(0, 3, 1, 2)
    floats = x.float()
    mean, std = floats.mean((0, 2, 3), keepdim=True), floats.std((0, 2, 3), keepdim=True)
    augment = make_augmentation(job.config, count, mean.flatten().tolist())
    generator = torch.Generator(device)
    if augment is None:
        x = (floats - mean) / std
    for positions in torch.randperm(count).to(device).split(job.config.batch_size):
        batch = x[positions]
        if augment is not None:
            batch = (augment(batch, positions, 0, generator).float() - mean) / std
        yield batch, y[positions]


def one_again(job: Job, images: ImageSet, count: int) -> Iterable[tuple[Tensor, Tensor]]:
    """One batch, repeated as often as an epoch has batches."""
    batch = next(in_memory(job, images, job.config.batch_size))
    return [(batch[0].contiguous(memory_format=torch.channels_last), batch[1])] * -(-count // job.config.batch_size)


def through_a_loader(job: Job, images: ImageSet, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of a DataLoader with torchvision transforms, which handles one image at a time."""
    from PIL import Image
    from torchvision import transforms

    known: dict[str, list[Any]] = {
        "none": [],
        "flip_translate": [transforms.RandomCrop(32, 2, padding_mode="reflect"), transforms.RandomHorizontalFlip()],
        "flip_crop": [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()],
        "document": [transforms.RandomAffine(20, translate=(0.2, 0.2)), transforms.RandomHorizontalFlip()],
    }
    normalize = transforms.Normalize((0.49, 0.48, 0.45), (0.25, 0.24, 0.26))
    chain = transforms.Compose([*known[job.choices["augment"]], transforms.ToTensor(), normalize])

    class Images(torch.utils.data.Dataset[tuple[Tensor, int]]):
        def __len__(self) -> int:
            return count

        def __getitem__(self, i: int) -> tuple[Tensor, int]:
            return chain(Image.fromarray(images.train[i])), int(images.train_labels[i])

    pinned = device_of(job).type == "cuda"
    yield from torch.utils.data.DataLoader(Images(), job.config.batch_size, True, num_workers=2, pin_memory=pinned)


def keras_fit(images: ImageSet, count: int, job: Job) -> Callable[[], float]:
    """Builds the same network in Keras; returns a function that trains an epoch and returns images/s."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    if job.config.hardware.precision == "bf16-mixed":
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    layers, shape = keras.layers, images.train.shape[1:]
    model = keras.Sequential(
        [
            keras.Input(shape),
            layers.Conv2D(32, 3, padding="same", activation="relu"), layers.MaxPooling2D(),
            layers.Conv2D(64, 3, padding="same", activation="relu"), layers.MaxPooling2D(),
            layers.Flatten(), layers.Dense(128, activation="relu"),
            layers.Dense(len(images.classes), activation="softmax", dtype="float32"),
        ]
    )  # fmt: skip
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    x = (images.train[:count] / 255.0).astype("float32")
    y = images.train_labels[:count]
    model.fit(x, y, job.config.batch_size, 1, verbose=0)

    def epoch() -> float:
        started = time.perf_counter()
        model.fit(x, y, job.config.batch_size, 1, verbose=0)
        return count / (time.perf_counter() - started)

    return epoch


def through_cnnbench(job: Job, images: ImageSet) -> float:
    """Carries out the job as a run, from split to record; returns the images/s of its last epoch."""
    with tempfile.TemporaryDirectory() as folder, Sweep(1, job.config.epochs) as screen:
        job = copy.deepcopy(job)
        job.config.runs_dir = folder
        record = run(job, images, screen.line())
        assert record.status == "done", record.error
        return record.history[-1].images_per_second


def contestants(job: Job, images: ImageSet, count: int) -> dict[str, Callable[[], float]]:
    """The contestants by name: functions that train an epoch and return images/s."""
    functions: dict[str, Callable[[], float]] = {
        "loop": lambda: train(job, images, in_memory(job, images, count), count, False),
        "loop, last": lambda: train(job, images, in_memory(job, images, count), count, True),
        "dataloader": lambda: train(job, images, through_a_loader(job, images, count), count, False),
        "bare": lambda: train(job, images, one_again(job, images, count), count, True, own=True),
        "cnnbench": partial(through_cnnbench, job, images),
    }
    plain = job.choices["augment"] == "none" and job.choices["model"] == "document_cnn"
    if plain and find_spec("keras") and (find_spec("tensorflow") or find_spec("jax")):
        functions["keras"] = keras_fit(images, count, job)
    return functions


def main() -> None:
    """Measures and prints medians and ratios, as a table and as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="a folder of images as data=folder takes it")
    parser.add_argument("--images", type=int, default=10_000, help="training images in an epoch")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", nargs="+", default=["fp32"], choices=["fp32", "bf16"])
    parser.add_argument("--augment", nargs="+", default=["none"], choices=[*AUGMENTS])
    parser.add_argument("--model", default="document_cnn")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--only", nargs="+", help="names of contestants")
    options = parser.parse_args()
    images = None
    for bits in options.precision:
        for augment in options.augment:
            overrides = ["data=folder", f"data.root={options.root}", "epochs=1", f"batch_size={options.batch}"]
            overrides += ["data.val_fraction=0.02", f"data.limit={round(options.images / 0.98)}", f"augment={augment}"]
            overrides += [
                f"model={options.model}",
                f"hardware.precision={'32-true' if bits == 'fp32' else 'bf16-mixed'}",
            ]
            with config_source(None) as composer:
                (job,) = composer.jobs(overrides, multirun=False)
            images = images or load(job.config.data)
            calls = contestants(job, images, options.images)
            calls = {name: call for name, call in calls.items() if not options.only or name in options.only}
            for call in calls.values():  # the first epoch warms up, and doesn't count
                call()
            measured: dict[str, list[float]] = {name: [] for name in calls}
            for _ in range(options.repeats):
                for name, call in calls.items():
                    measured[name].append(call())
            report(f"{options.model}, batch {options.batch}, {bits}, augment={augment}", measured)
    machine = {"torch": torch.__version__, "threads": torch.get_num_threads(), "cpu": platform.processor()}
    machine |= {"gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None}
    print(json.dumps(machine))


def report(title: str, measured: dict[str, list[float]]) -> None:
    """Prints medians with their range, and the ratio of cnnbench's speed to each of the others'."""
    print(title)
    for name, speeds in measured.items():
        line = (
            f"  {name:<11} median {statistics.median(speeds):8,.0f} ({min(speeds):,.0f} to {max(speeds):,.0f}) images/s"
        )
        if name != "cnnbench" and "cnnbench" in measured:
            ratios = [a / b for a, b in zip(measured["cnnbench"], speeds, strict=True)]
            line += f"; cnnbench / it: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(line)
    print(json.dumps({"what": title, "images_per_second": measured}))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
