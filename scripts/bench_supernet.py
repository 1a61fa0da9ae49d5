"""Measures a step of the super-network's weights against one of the largest discrete network that it contains.

    python scripts/bench_supernet.py [--models plain_cnn document_cnn] [--batch 128] [--repeats 30]

A step is forward, backward and the optimizer's step on one batch in float32. Both networks step in turn; the result is
the median of the ratios.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from cnnbench.config.composition import config_source
from cnnbench.runtime.machine import keep_freed_memory
from cnnbench.search.space import largest, searched
from cnnbench.search.supernet import Architecture, SuperNetwork
from cnnbench.training import parts

SHAPE, CLASSES = (3, 32, 32), 10


def step_of(model: nn.Module, batch: int) -> Callable[[], float]:
    """A function that takes one step of gradient descent and returns its seconds."""
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    images = torch.rand(batch, *SHAPE).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (batch,))

    def step() -> float:
        started = time.perf_counter()
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        return time.perf_counter() - started

    return step


def main() -> None:
    """Measures all models, and prints the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["plain_cnn", "document_cnn"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, help="CPU threads; the default is PyTorch's")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    keep_freed_memory()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batches of {options.batch} images of 32x32x3")
    for name in options.models:
        with config_source(None) as composer:
            (job,) = composer.jobs([f"model={name}", "search=joint"], multirun=False)
        config = job.config
        layers = searched(config.model, config.search, SHAPE)
        architecture = Architecture(layers, config.search.margin).requires_grad_(False)  # as in a weights' step
        config.model = largest(config.model, layers)
        discrete = step_of(parts.make_model(config, SHAPE, CLASSES), options.batch)
        joint = step_of(SuperNetwork(config.model, SHAPE, CLASSES, layers, architecture), options.batch)
        for step in (discrete, joint) * 3:
            step()
        times = [(discrete(), joint()) for _ in range(options.repeats)]
        ratio = statistics.median(many / one for one, many in times)
        one, many = (1000 * statistics.median(column) for column in zip(*times, strict=True))
        print(f"{name}: {one:.1f} ms the largest discrete network, {many:.1f} ms the super-network, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
