"""Schedules of the learning rate: two of document 2, a triangle, and a warm-up before any schedule."""

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau


def exponential(optimizer: Optimizer, delta: float) -> LRScheduler:
    """The learning rate lr (1 + delta)^(-t/2) in epoch t, counted from 0 (document 2, 3.3.2).

    Raises:
        ValueError: `delta` is negative.
    """
    _check(delta)
    return LambdaLR(optimizer, lambda t: (1 + delta) ** (-t / 2))


def redwood(optimizer: Optimizer, delta: float) -> LRScheduler:
    """The learning rate lr / sqrt(1 + delta t) in epoch t, counted from 0 (document 2, 3.3.3).

    Raises:
        ValueError: `delta` is negative.
    """
    _check(delta)
    return LambdaLR(optimizer, lambda t: 1 / math.sqrt(1 + delta * t))


def triangular(
    optimizer: Optimizer, total_steps: int, start: float = 0.2, peak: float = 0.23, end: float = 0.07
) -> LRScheduler:
    """The learning rate in step t, counted from 0, of T: linear from `start` lr to lr, then to `end` lr (Jordan 2024).

        lr (start + (1 - start) t / P)  for t < P = peak T ;  lr (1 + (end - 1) (t - P) / (T - P))  from there on

    With peak = 0 it only falls.

    Raises:
        ValueError: `peak` is not from 0 to 1, or `start` or `end` is negative.
    """
    if not 0 <= peak < 1:
        raise ValueError(f"peak={peak}: must be at least 0 and below 1.")
    if not (start >= 0 and end >= 0):
        raise ValueError(f"start={start}, end={end}: must be at least 0.")
    top = peak * total_steps
    return LambdaLR(
        optimizer,
        lambda t: start + (1 - start) * t / top if t < top else 1 + (end - 1) * (t - top) / (total_steps - top),
    )


def _check(delta: float) -> None:
    if not delta >= 0:
        raise ValueError(f"delta={delta}: must be at least 0.")


class Schedule:
    """Steps a scheduler after steps or epochs, and raises the learning rate linearly before that.

    In step s = 0, 1, ..., W - 1 of the warm-up the learning rate is (s + 1) / W of the scheduler's first one. The
    scheduler starts after the warm-up: at once if it counts steps, with the next epoch if it counts epochs.

    Args:
        optimizer: its learning rates are set.
        scheduler: sets them after the warm-up; None leaves them constant.
        per_step: whether the scheduler counts steps; else it counts epochs.
        warmup: W, in steps.
        steps: steps in an epoch.
    """

    _optimizer: Optimizer
    _scheduler: LRScheduler | None
    _per_step: bool
    _warmup: int
    _steps: int
    _step: int
    """Steps so far."""
    _first: list[float]
    """The learning rate of each parameter group after the warm-up."""

    def __init__(
        self, optimizer: Optimizer, scheduler: LRScheduler | None, per_step: bool, warmup: int, steps: int
    ) -> None:
        self._optimizer, self._scheduler, self._per_step = optimizer, scheduler, per_step
        self._warmup, self._steps = warmup, steps
        self._step = 0
        self._first = [float(group["lr"]) for group in optimizer.param_groups]
        self._warm()

    def after_step(self) -> None:
        """Sets the learning rate of the next step; call it after each step."""
        self._step += 1
        if self._step <= self._warmup:
            self._warm()
        elif self._per_step and self._scheduler is not None:
            self._scheduler.step()

    def after_epoch(self, val_loss: float) -> None:
        """Sets the learning rate of the next epoch; call it after each epoch, with its validation loss."""
        if self._per_step or self._scheduler is None or self._step <= self._warmup:
            return
        if isinstance(self._scheduler, ReduceLROnPlateau):
            self._scheduler.step(val_loss)
        elif self._step - self._steps >= self._warmup:  # the epoch began after the warm-up
            self._scheduler.step()

    def _warm(self) -> None:
        for group, first in zip(self._optimizer.param_groups, self._first, strict=True):
            group["lr"] = first * min((self._step + 1) / self._warmup, 1) if self._warmup else first

    def state_dict(self) -> dict[str, Any]:
        """The state for `load_state_dict`: steps so far, and the scheduler's own state."""
        return {"step": self._step, "scheduler": self._scheduler and self._scheduler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state of `state_dict`; the learning rates are part of the optimizer's state."""
        self._step = state["step"]
        if self._scheduler is not None:
            self._scheduler.load_state_dict(state["scheduler"])
