"""Which of a run's processes is this, and what do they tell each other?

Each process runs the whole command and trains on its share of every batch. The first one (rank 0) alone decides what
is run, writes and speaks. Without `hardware=ddp` there is one process, and nothing here costs anything.

Gradients are added up once a step, not during each backward pass as DistributedDataParallel does it: accumulated
batches cost one exchange, and a process that has no image of a small last batch has nothing to add. The price is that
no gradient travels while others are still being computed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, distributed

from cnnbench.schema import Hardware

T = TypeVar("T")


class Lost(Exception):
    """Another process of the run is gone."""


def join(hardware: Hardware) -> int:
    """Starts the run's other processes, unless torchrun or SLURM has, and waits until all are there.

    The processes that are started on this machine are the same command line again. On several machines without
    torchrun or SLURM, each starts the command with MASTER_ADDR, MASTER_PORT and its NODE_RANK.

    Returns:
        The rank of this process, from 0.
    """
    if hardware.processes == 1:
        return 0
    gpu = hardware.accelerator != "cpu" and torch.cuda.is_available()
    # With gloo beside NCCL, what is no tensor of the GPU is exchanged without waiting for the GPU.
    strategy = DDPStrategy(process_group_backend="cpu:gloo,cuda:nccl" if gpu else "gloo")
    accelerator = "gpu" if gpu else "cpu"
    Fabric(accelerator=accelerator, strategy=strategy, devices=hardware.devices, num_nodes=hardware.nodes).launch()
    return rank()


def rank() -> int:
    """Of this process among those of the run."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def count() -> int:
    """Processes of the run."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def told(value: T) -> T:
    """What the first process gives."""
    if count() == 1:
        return value
    values = [value]
    with _all_present():
        distributed.broadcast_object_list(values)
    return values[0]


def total(mine: Tensor) -> Tensor:
    """The sum over all processes."""
    if count() == 1:
        return mine
    whole = mine.clone(memory_format=torch.contiguous_format)
    with _all_present():
        distributed.all_reduce(whole)
    return whole


def add_up(tensors: list[Tensor]) -> None:
    """Replaces each of the tensors by its sum over all processes, in one exchange."""
    parts = torch.split(total(torch.cat([tensor.flatten() for tensor in tensors])), [t.numel() for t in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view_as(tensor))


def agreed(wishes: list[int]) -> list[int]:
    """For each wish the largest of all processes: what one wants, all do, at the same batch."""
    if count() == 1:
        return wishes
    largest = torch.tensor(wishes)
    with _all_present():
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
    return [int(wish) for wish in largest]


@contextmanager
def _all_present() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch has no class of its own for it
        raise Lost(f"another of the run's {count()} processes is gone ({str(error).splitlines()[0]})") from None
