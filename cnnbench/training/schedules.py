"""How does the learning rate move? Torch's schedulers, two of the documents', and a warm-up before any of them."""

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau


def exponential(optimizer: Optimizer, delta: float) -> LRScheduler:
    """Document 2, 3.3.2: lr (1 + delta)^(-t/2), t the epoch counted from 0."""
    _check(delta)
    return LambdaLR(optimizer, lambda t: (1 + delta) ** (-t / 2))


def redwood(optimizer: Optimizer, delta: float) -> LRScheduler:
    """Document 2, 3.3.3: lr / sqrt(1 + delta t), t the epoch counted from 0."""
    _check(delta)
    return LambdaLR(optimizer, lambda t: 1 / math.sqrt(1 + delta * t))


def _check(delta: float) -> None:
    if not delta >= 0:
        raise ValueError(f"delta={delta}: must be at least 0.")


class Schedule:
    """Steps a scheduler at the right times, after a linear warm-up.

    In step s = 0, 1, ... of the warm-up's W the learning rate is (s + 1) / W of the one that the scheduler begins with.
    The scheduler's own time starts behind it: at once where it counts steps, else with the next epoch.

    Args:
        optimizer: whose learning rates are moved.
        scheduler: what moves them, or None.
        per_step: whether the scheduler counts steps; else epochs.
        warmup: W, in steps.
        steps: steps in an epoch.
    """

    def __init__(
        self, optimizer: Optimizer, scheduler: LRScheduler | None, per_step: bool, warmup: int, steps: int
    ) -> None:
        self._optimizer, self._scheduler, self._per_step = optimizer, scheduler, per_step
        self._warmup, self._steps = warmup, steps
        self._step = 0
        self._first = [float(group["lr"]) for group in optimizer.param_groups]
        self._warm()

    def after_step(self) -> None:
        """To be called after each step."""
        self._step += 1
        if self._step <= self._warmup:
            self._warm()
        elif self._per_step and self._scheduler is not None:
            self._scheduler.step()

    def after_epoch(self, val_loss: float) -> None:
        """To be called after each epoch, with its validation loss."""
        if self._per_step or self._scheduler is None or self._step <= self._warmup:
            return
        if isinstance(self._scheduler, ReduceLROnPlateau):
            self._scheduler.step(val_loss)
        elif self._step - self._steps >= self._warmup:  # the epoch that ends began behind the warm-up
            self._scheduler.step()

    def _warm(self) -> None:
        for group, first in zip(self._optimizer.param_groups, self._first, strict=True):
            group["lr"] = first * min((self._step + 1) / self._warmup, 1) if self._warmup else first

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes."""
        return {"step": self._step, "scheduler": self._scheduler and self._scheduler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes a state back; the learning rates themselves are in the optimizer's."""
        self._step = state["step"]
        if self._scheduler is not None:
            self._scheduler.load_state_dict(state["scheduler"])
