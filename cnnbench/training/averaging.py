"""Weights averaged over a training: lookahead, moving averages, stochastic weight averaging, and Schedule-Free's."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from cnnbench.config import schema


class Average:
    """Averages a model's weights while it trains, as `schema.Average` says.

    After every `every` steps, t steps into a run of T:

    - `lookahead` (Zhang et al. 2019, arXiv:1907.08610, with the schedule of Jordan 2024, arXiv:2404.00498):
      slow <- a slow + (1 - a) weights ; weights <- slow, with a = decay^every (t / T)^3. After the last step the
      weights are the slow ones as they were.
    - `ema` (Polyak and Juditsky 1992): average <- decay average + (1 - decay) weights.
    - `swa` (Izmailov et al. 2018, arXiv:1803.05407): the mean of the weights so far. The learning rate should stay
      high meanwhile.

    Lookahead changes the weights that train. The other two leave them alone: validation, test and the saved model have
    the average. Batch norm's statistics are averaged as the weights are, but measured anew for `swa`.

    Args:
        config: the `average` group, checked by `schedule`.
        model: what trains.
        every: steps from one update of the average to the next.
        first: the step after which averaging begins.
        steps: of the run.
    """

    _config: schema.Average
    _model: nn.Module
    _every: int
    _first: int
    _steps: int
    _step: int
    """Steps so far."""
    _count: int
    """Weights in the average so far."""
    _average: dict[str, Tensor]
    """The average, by the name in the model's `state_dict`; the slow weights of lookahead."""

    def __init__(self, config: schema.Average, model: nn.Module, every: int, first: int, steps: int) -> None:
        self._config, self._model, self._every, self._first, self._steps = config, model, every, first, steps
        self._step = self._count = 0
        self._average = {key: value.clone() for key, value in self._weights().items()} if self._averages else {}

    @property
    def _averages(self) -> bool:
        return self._config.method != "none"

    @torch.no_grad()
    def after_step(self) -> None:
        """Brings the average up to date; call it after each step."""
        self._step += 1
        if not self._averages:
            return
        weights, last = self._weights(), self._step == self._steps
        slow, fast = list(self._average.values()), list(weights.values())
        if self._config.method == "lookahead":
            if self._step % self._every == 0 and not last:
                kept = self._config.decay**self._every * (self._step / self._steps) ** 3
                torch._foreach_lerp_(slow, fast, 1 - kept)
            if self._step % self._every == 0 or last:
                torch._foreach_copy_(fast, slow)
        elif self._step > self._first and (self._step - self._first) % self._every == 0:
            self._count += 1
            share = 1 / self._count if self._config.method == "swa" or self._count == 1 else 1 - self._config.decay
            torch._foreach_lerp_(slow, fast, share)

    @contextmanager
    def held(self, batches: Iterable[Tensor]) -> Iterator[None]:
        """A context in which the model holds the average; on leaving it has its training weights, to the bit.

        Args:
            batches: images of training batches, from which `swa` measures batch norm's statistics; read only if needed.
        """
        if self._count == 0 or self._config.method == "lookahead":
            yield
            return
        weights = list(self._weights().values())
        training_values = [value.clone() for value in weights]
        with torch.no_grad():
            torch._foreach_copy_(weights, list(self._average.values()))
        norms = [m for m in self._model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
        counts = {norm: norm.num_batches_tracked.clone() for norm in norms if norm.num_batches_tracked is not None}
        if norms and self._config.method == "swa":
            _measure(self._model, norms, batches)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(weights, training_values)
                for norm, count in counts.items():
                    norm.num_batches_tracked = count

    def _weights(self) -> dict[str, Tensor]:
        """What is averaged: parameters, and batch norm's running statistics."""
        return {key: value for key, value in self._model.state_dict().items() if value.is_floating_point()}

    def state_dict(self) -> dict[str, Any]:
        """The state for `load_state_dict`."""
        return {"step": self._step, "count": self._count, "average": self._average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state of `state_dict`."""
        self._step, self._count = state["step"], state["count"]
        for key, value in state["average"].items():
            self._average[key].copy_(value)


def averages(optimizer: Optimizer) -> bool:
    """Whether an optimizer trains other weights than those to be used, as Schedule-Free does.

    Such an optimizer has methods `train` and `eval`, which exchange the weights. While it trains, the weights to use
    depend on both the parameters and its state, so nothing else may change the parameters, not even to bound a step.
    """
    return all(callable(getattr(optimizer, mode, None)) for mode in ("train", "eval"))


@contextmanager
def averaged(model: nn.Module, optimizer: Optimizer, batches: Iterable[Tensor]) -> Iterator[None]:
    """A context in which the model holds the averaged weights of an optimizer such as Schedule-Free.

    On leaving, the model has its training weights again, to the bit. For other optimizers nothing happens, and no batch
    is read. Schedule-Free (Defazio et al. 2024, arXiv:2405.15682) takes gradients at y, while x are the weights to use:

        y = (1 - beta) z + beta x ; z <- z - lr (step at y) ; x <- (1 - c) x + c z

    Batch normalization has gathered its statistics at y. Those for x are the means over `batches`, with all other
    layers in evaluation mode: dropout is off, and no random number is drawn.

    Args:
        model: with its training weights; each module stays in its mode, training or evaluation.
        optimizer: of `make_optimizer`.
        batches: images of some training batches, best of equal size, each of more than one image. They are read only if
            the model has batch normalization with statistics. The same ones each time make results reproducible.

    Raises:
        ValueError: the model has such statistics, and there are no batches.
    """
    if not averages(optimizer):
        yield
        return
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    tensors = [*model.parameters(), *(buffer for norm in norms for buffer in norm.buffers())]
    training_values = [tensor.detach().clone() for tensor in tensors]
    switch(optimizer, "eval")
    try:
        if norms:
            _measure(model, norms, batches)
        yield
    finally:
        switch(optimizer, "train")
        with torch.no_grad():  # `train` computes y again, with other rounding
            for tensor, value in zip(tensors, training_values, strict=True):
                tensor.copy_(value)


def switch(optimizer: Any, mode: str) -> None:
    """Lets an optimizer that averages put its weights for `mode`, `train` or `eval`, into the model."""
    getattr(optimizer, mode)()


@torch.no_grad()
def _measure(model: nn.Module, norms: list[_BatchNorm], batches: Iterable[Tensor]) -> None:
    """Replaces the statistics of `norms` by the means over `batches`."""
    modes = [(module, module.training) for module in model.modules()]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # in torch: the mean over all batches
        norm.train()
    try:
        count = 0
        for batch in batches:
            model(batch)
            count += 1
        if count == 0:
            raise ValueError("batch normalization needs training batches to fit the averaged weights; there were none")
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in modes:
            module.training = training
