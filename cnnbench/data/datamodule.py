"""The images of a run: their split, their order and their batches.

All images of a run are one uint8 tensor on the device that trains, and a batch is taken from it by index. Images that
don't fit into memory stay on disk and come through an ordinary DataLoader, in the same order.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cnnbench.config.schema import Data
from cnnbench.data.images import Bytes, ImageSet, Labels, drawn, limited, quotas
from cnnbench.errors import ConfigError
from cnnbench.runtime import collectives
from cnnbench.runtime.randomness import Stream, derived_seed

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

Batch = tuple[Tensor, Tensor, Tensor]
"""Images (n, channels, height, width), uint8; labels (n,), int64; positions in the image set (n,), int64."""


@dataclass(frozen=True)
class Split:
    """Positions of a run's training, validation and test images."""

    train: Labels
    """Positions among the training images."""
    val: Labels
    """Positions among the training images, or among the test images with `data.val=test`."""
    test: Labels
    """Positions among the test images; none where there are no such images."""


def split(images: ImageSet, data: Data, seed: int) -> Split:
    """Applies `data.limit`, then sets validation images aside.

    The limit takes the same images for every seed; only the choice of validation images depends on the seed.

    Raises:
        ConfigError: there are too few images for every class to be in each part, or none for `data.val`.
    """
    train, test = np.arange(len(images.train_labels)), np.arange(len(images.test_labels))
    if data.limit is not None:
        train, test = limited(images.train_labels, images.validation, len(test), data.limit, images.classes)
    if data.val == "test":
        if not len(test):
            raise ConfigError("data.val=test: there are no test images. Allowed: folder, split.")
        return Split(train, test, test)
    if images.validation is not None:
        return Split(np.setdiff1d(train, images.validation), np.intersect1d(train, images.validation), test)
    if data.val == "folder":
        raise ConfigError(
            "data.val=folder: these images have no validation images of their own, such as a folder val/ beside train/."
            " Allowed: split, test."
        )
    labels = images.train_labels[train]
    quota = _quota(labels, data.val_fraction, images.classes)
    chosen = drawn(labels, quota, np.random.default_rng(derived_seed(seed, Stream.SPLIT)))
    return Split(np.delete(train, chosen), train[chosen], test)


def _quota(labels: Labels, fraction: float, names: Sequence[str]) -> Labels:
    """How many images of each class `data.val_fraction` sets aside, given the labels of all training images.

    Raises:
        ConfigError: a class would have no validation image, or no training image.
    """
    classes, sizes = np.unique(labels, return_counts=True)

    def quota(fraction: float) -> Labels:
        return quotas(sizes, round(len(labels) * fraction))

    def lacking(fraction: float) -> Labels:
        return np.flatnonzero((quota(fraction) < 1) | (quota(fraction) == sizes))

    if len(found := lacking(fraction)):
        few = found[np.argmin(sizes[found])]
        part = "training" if quota(fraction)[few] else "validation"
        percent = next((percent for percent in range(1, 100) if not len(lacking(percent / 100))), None)
        raise ConfigError(
            f"data.val_fraction={fraction:g}: leaves no {part} image of class '{names[classes[few]]}' (images for "
            f"training and validation: {sizes[few]}). "
            + (f"data.val_fraction={percent / 100:g} leaves some." if percent else "Each class needs at least 2.")
        )
    return quota(fraction)


def _balanced(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Draws as many positions as there are labels, equally many of each class; those left over are of classes by lot.

    Every image of a class is drawn before one is drawn again.
    """
    classes = labels.unique()
    quota = torch.full((len(classes),), len(labels) // len(classes))
    quota[torch.randperm(len(classes), generator=generator)[: len(labels) % len(classes)]] += 1
    drawn = []
    for label, count in zip(classes, quota.tolist(), strict=True):
        of_class = (labels == label).nonzero().flatten()
        rounds = range(-(-count // len(of_class)))
        drawn.append(torch.cat([of_class[torch.randperm(len(of_class), generator=generator)] for _ in rounds])[:count])
    return torch.cat(drawn)


def statistics(images: Bytes, positions: Labels, normalize: str) -> tuple[list[float], list[float]]:
    """The mean and standard deviation that normalise the images, per channel.

    Args:
        images: bytes (images, height, width, channels).
        positions: the images that count.
        normalize: `standard` takes both from these images; `unit` is 0 and 255; `none` is 0 and 1.

    Returns:
        Means and standard deviations in units of a byte; a standard deviation of 0 is given as 1.
    """
    channels = images.shape[3]
    if normalize != "standard":
        return [0.0] * channels, [255.0 if normalize == "unit" else 1.0] * channels
    # Exact in any order of addition: squares of bytes are whole numbers in 32 bits, and so are their sums in 64.
    total, squares = torch.zeros(2, channels, dtype=torch.float64)
    for start in range(0, len(positions), 512):
        block = torch.from_numpy(images[positions[start : start + 512]]).flatten(1).float()
        total += block.sum(0, dtype=torch.float64).view(-1, channels).sum(0)
        squares += block.square_().sum(0, dtype=torch.float64).view(-1, channels).sum(0)
    count = len(positions) * images.shape[1] * images.shape[2]
    mean = total / count
    std = (squares / count - mean**2).clamp_min(0).sqrt()
    return mean.tolist(), torch.where(std > 0, std, 1.0).tolist()


class Shares:
    """This process's share of the positions of each batch: all in a run of one process, every other one of two.

    The last batch may be smaller, and a process's share of it empty. All processes count the same number of batches.

    Args:
        order: gives the positions of an epoch.
        size: images in a batch of all processes together.
        count: positions in an epoch.
    """

    _order: Callable[[], Tensor]
    _size: int
    _count: int

    def __init__(self, order: Callable[[], Tensor], size: int, count: int) -> None:
        self._order, self._size, self._count = order, size, count

    def __len__(self) -> int:
        return -(-self._count // self._size)

    def __iter__(self) -> Iterator[Tensor]:
        first, step = collectives.rank(), collectives.world_size()
        for positions in torch.split(self._order(), self._size):
            yield positions[first::step]


class Batches:
    """Batches taken by index from tensors on the device that trains.

    Args:
        images: bytes (images, height, width, channels).
        labels: (images,).
        shares: the positions of each batch.
    """

    _images: Tensor
    _labels: Tensor
    _shares: Shares

    def __init__(self, images: Tensor, labels: Tensor, shares: Shares) -> None:
        self._images, self._labels, self._shares = images, labels, shares

    def __len__(self) -> int:
        return len(self._shares)

    def __iter__(self) -> Iterator[Batch]:
        for positions in self._shares:
            pixels = self._images.index_select(0, positions)  # many times faster than images[positions]
            yield pixels.permute(0, 3, 1, 2), self._labels.index_select(0, positions), positions


class _OnDisk(Dataset[tuple[Bytes, Labels, Tensor]]):
    """Images on disk, read a batch at a time."""

    _images: Bytes
    _labels: Labels

    def __init__(self, images: Bytes, labels: Labels) -> None:
        self._images, self._labels = images, labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, positions: Tensor) -> tuple[Bytes, Labels, Tensor]:
        indices = positions.numpy()
        return self._images[indices].transpose(0, 3, 1, 2), self._labels[indices], positions


Loader = Batches | DataLoader[tuple[Bytes, Labels, Tensor]]
"""The batches of an epoch, from memory or from disk."""


class ImageData:
    """Training, validation and test batches of one run. `training.Training` hands them to Lightning.

    Args:
        images: all images.
        data: the `data` group.
        batch_size: images in a training batch.
        seed: of the run.

    Raises:
        ConfigError: there are too few images for every class to be in each part of the split.
    """

    split: Split
    sizes: dict[str, int]
    """The number of images in `train`, `val` and `test`."""
    validation: str
    """Where the validation images come from: `folder`, `split` or `test`, as `data.val` has it."""
    skip: int
    """Batches of the next epoch that were trained on before the run was interrupted."""
    trainer: "Trainer | None"
    """Knows the device and the epoch; set before the first batch is asked for."""
    _images: ImageSet
    _data: Data
    _batch_size: int
    _seed: int
    _tensors: dict[str, tuple[Tensor, Tensor]]
    """Images and labels on the device, by `train` and `test`, once they are used."""

    def __init__(self, images: ImageSet, data: Data, batch_size: int, seed: int) -> None:
        self._images, self._data, self._batch_size, self._seed = images, data, batch_size, seed
        self.split = split(images, data, seed)
        self.sizes = {part: len(getattr(self.split, part)) for part in ("train", "val", "test")}
        self.validation = "test" if data.val == "test" else "split" if images.validation is None else "folder"
        self.skip, self.trainer = 0, None
        self._tensors = {}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        _, height, width, channels = self._images.train.shape
        return channels, height, width

    @property
    def class_counts(self) -> list[int]:
        """How many training images there are of each class."""
        counts = np.bincount(self._images.train_labels[self.split.train], minlength=len(self._images.classes))
        return [int(count) for count in counts]

    def train_dataloader(self) -> Loader:
        """Training batches in an order that seed and epoch determine."""
        skip, self.skip = self.skip * self._batch_size, 0

        def order() -> Tensor:
            assert self.trainer is not None
            return self.order(self.trainer.current_epoch)[skip:]

        return self._batches("train", order, self._batch_size, self.sizes["train"] - skip)

    def order(self, epoch: int) -> Tensor:
        """The positions of the training images in the order of an epoch, counted from 0, as `data.sampler` says."""
        generator = torch.Generator().manual_seed(derived_seed(self._seed, Stream.ORDER, epoch))
        drawn = torch.from_numpy(self.split.train)
        if self._data.sampler == "balanced":
            drawn = drawn[_balanced(torch.from_numpy(self._images.train_labels)[drawn], generator)]
        return drawn[torch.randperm(len(drawn), generator=generator)]

    def held_out(self, epoch: int) -> Iterator[Batch]:
        """Validation images for one epoch of a search: as many batches as there are training batches, each full.

        Seed and epoch, counted from 0, determine the order. Every image is used once before any is used again.
        """
        generator = torch.Generator().manual_seed(derived_seed(self._seed, Stream.HELD_OUT, epoch))
        available, needed = self.sizes["val"], -(-self.sizes["train"] // self._batch_size) * self._batch_size
        rounds = [torch.randperm(available, generator=generator) for _ in range(-(-needed // available))]
        positions = torch.from_numpy(self.split.val)[torch.cat(rounds)[:needed]]
        yield from self._batches("train", lambda: positions, self._batch_size, needed)

    def some_training_images(self) -> Iterator[Tensor]:
        """Up to 50 full batches of training images on the device, unaugmented and always the same."""
        assert self.trainer is not None
        positions = self.split.train[: max(len(self.split.train) // self._batch_size, 1) * self._batch_size]
        for part in np.split(positions, range(self._batch_size, len(positions), self._batch_size))[:50]:
            pixels = torch.from_numpy(self._images.train[part]).permute(0, 3, 1, 2)
            yield pixels.to(self.trainer.strategy.root_device)

    def val_dataloader(self) -> Loader:
        """The validation images in large batches."""
        return self._evaluation("test" if self._data.val == "test" else "train", self.split.val)

    def test_dataloader(self) -> Loader:
        """The test images in large batches."""
        return self._evaluation("test", self.split.test)

    def _evaluation(self, source: str, positions: Labels) -> Loader:
        size = max(self._batch_size, min(1000, (1 << 22) // int(np.prod(self.image_shape))))
        return self._batches(source, lambda: torch.from_numpy(positions), size, len(positions))

    def _batches(self, source: str, order: Callable[[], Tensor], size: int, count: int) -> Loader:
        images, labels = (
            (self._images.train, self._images.train_labels)
            if source == "train"
            else (self._images.test, self._images.test_labels)
        )
        assert self.trainer is not None
        device = self.trainer.strategy.root_device
        in_memory = self._data.in_memory
        if in_memory is None:
            in_memory = self._images.train.nbytes + self._images.test.nbytes < _memory(device) / 2
        if in_memory:
            if source not in self._tensors:
                pixels = torch.from_numpy(images)
                self._tensors[source] = pixels.to(device), torch.from_numpy(labels).to(device)
            return Batches(*self._tensors[source], Shares(lambda: order().to(device), size, count))
        workers = min(4, (os.cpu_count() or 1) - 1)
        return DataLoader(
            _OnDisk(images, labels),
            batch_size=None,
            sampler=Shares(order, size, count),
            num_workers=workers,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # it would draw a seed from the global one, which is the network's
        )


def _memory(device: torch.device) -> float:
    """Bytes of memory: free on a GPU, physical on the CPU, infinite where the system doesn't tell."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    if hasattr(os, "sysconf"):
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return float("inf")
