"""What the processes that train one run together tell each other.

Each process runs the whole command and trains on its share of every batch. The first one (rank 0) alone decides what
is run, writes files and prints. Without `hardware=ddp` there is one process, and these functions cost nothing.

Gradients are summed once a step, not during each backward pass as in DistributedDataParallel: accumulated batches cost
one exchange, and a process that has no image of a small last batch has nothing to add. The price is that no gradient
travels while others are still being computed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from cnnbench.errors import ProcessLost

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


def launch(accelerator: str, devices: int, nodes: int) -> int:
    """Starts the run's other processes, unless torchrun or Slurm has, and waits until all are there.

    The processes started on this machine run the same command line again. On several machines without torchrun or
    Slurm, each starts the command with MASTER_ADDR, MASTER_PORT and its NODE_RANK.

    Args:
        accelerator: `auto`, `cpu` or `gpu`.
        devices: processes on each machine.
        nodes: machines.

    Returns:
        The rank of this process, from 0.
    """
    if devices * nodes == 1:
        return 0
    import torch
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

    gpu = accelerator != "cpu" and torch.cuda.is_available()
    # With gloo beside NCCL, what is not a tensor on the GPU is exchanged without waiting for the GPU.
    strategy = DDPStrategy(process_group_backend="cpu:gloo,cuda:nccl" if gpu else "gloo")
    Fabric(accelerator="gpu" if gpu else "cpu", strategy=strategy, devices=devices, num_nodes=nodes).launch()
    return rank()


def rank() -> int:
    """The rank of this process among those of the run, from 0."""
    from torch import distributed

    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """The number of processes of the run."""
    from torch import distributed

    return distributed.get_world_size() if distributed.is_initialized() else 1


def broadcast(value: T) -> T:
    """The first process's `value`, in every process.

    Raises:
        ProcessLost: another process is gone.
    """
    if world_size() == 1:
        return value
    from torch import distributed

    values = [value]
    with _lost_processes_reported():
        distributed.broadcast_object_list(values)
    return values[0]


def all_reduce_sum(tensor: "Tensor") -> "Tensor":
    """The sum of `tensor` over all processes, as a new tensor; with one process `tensor` itself.

    Raises:
        ProcessLost: another process is gone.
    """
    if world_size() == 1:
        return tensor
    import torch
    from torch import distributed

    total = tensor.clone(memory_format=torch.contiguous_format)
    with _lost_processes_reported():
        distributed.all_reduce(total)
    return total


def all_reduce_sum_(tensors: "list[Tensor]") -> None:
    """Replaces each tensor by its sum over all processes, in one exchange.

    Raises:
        ProcessLost: another process is gone.
    """
    import torch

    summed = all_reduce_sum(torch.cat([tensor.flatten() for tensor in tensors]))
    for tensor, part in zip(tensors, torch.split(summed, [t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def all_reduce_max(numbers: list[int]) -> list[int]:
    """The largest of each number over all processes, so that what one process asks for, all do at the same batch.

    Raises:
        ProcessLost: another process is gone.
    """
    if world_size() == 1:
        return numbers
    import torch
    from torch import distributed

    largest = torch.tensor(numbers)
    with _lost_processes_reported():
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
    return [int(number) for number in largest]


@contextmanager
def _lost_processes_reported() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch has no exception class of its own for it
        raise ProcessLost(f"another of the run's {world_size()} processes is gone") from error
