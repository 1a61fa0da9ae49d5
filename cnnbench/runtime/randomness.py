"""Seeds: one stream of random numbers for each use."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """The uses of random numbers. A value is never changed or reused, so that runs stay repeatable."""

    SPLIT = 0
    """Which images validate."""
    ORDER = 1
    """The order of the training images, by epoch."""
    AUGMENT = 2
    """How training images are changed, by epoch and process."""
    LAYERS = 3
    """Dropout and whatever else a network draws, by epoch and process."""
    MIRROR = 4
    """Which half of the images `augment.flip=alternating` mirrors first."""
    SEARCH = 5
    """First weights of a super-network, the architectures of a random search, and their first weights by trial."""
    HELD_OUT = 6
    """The order of the validation images that step an architecture, by epoch."""


def derived_seed(seed: int, stream: Stream, *path: int) -> int:
    """A seed for one use: equal arguments give equal seeds, different ones unrelated seeds.

    Args:
        seed: the run's.
        stream: what the numbers are for.
        *path: what else tells the uses apart, such as the epoch.

    Returns:
        A whole number of 63 bits.
    """
    return int(np.random.SeedSequence([seed, int(stream), *path]).generate_state(1, np.uint64)[0] >> 1)


@contextmanager
def kept_generators() -> Iterator[None]:
    """Leaves the global generators of Python, NumPy and torch (on the CPU) as they were: a notebook draws from them."""
    import torch

    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
