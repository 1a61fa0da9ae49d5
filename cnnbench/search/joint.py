"""How are weights and architecture stepped together? Document 0, 3: Theta and H by gradient descent on one loss."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.optim import Optimizer

from cnnbench.config.schema import Search
from cnnbench.config.targets import build
from cnnbench.data.datamodule import Batch
from cnnbench.search.supernet import Architecture
from cnnbench.training import regularizers
from cnnbench.training.module import Classifier

Weights = dict[str, Tensor]
Loss = Callable[[Weights], Tensor]
"""The loss of a batch with these weights; the architecture parameters are wherever it finds them."""

EXACT = 300_000
"""Up to so many weights the second term is computed exactly. That keeps the graph of a whole backward pass, about twice
the memory of a step; the finite difference needs no more than a step does."""


def first_order(loss: Loss, weights: Weights, architecture: list[Tensor]) -> list[Tensor]:
    """dL/dH, the weights held fast."""
    return list(torch.autograd.grad(loss(weights), architecture))


def second_order(
    train: Loss, loss: Loss, weights: Weights, architecture: list[Tensor], lr: float, exact: bool
) -> list[Tensor]:
    """dL/dH + dL/dTheta dTheta/dH (document 0, 3.3), with Theta' = Theta - lr d train/dTheta as a function of H.

    dTheta'/dH = -lr d2 train/(dTheta dH). Exact, or with the product by a vector v as a difference along it (Liu et al.
    2019, DARTS, equation 8): (d train/dH at Theta + e v - d train/dH at Theta - e v) / 2e, e = 0.01 / |v|.

    Args:
        train: what the weights' step goes down.
        loss: what H goes down.
        weights: Theta.
        architecture: H.
        lr: of the step ahead.
        exact: or by a finite difference.
    """
    names, values = list(weights), list(weights.values())
    gradients = torch.autograd.grad(train(weights), values, create_graph=exact)
    if exact:
        ahead = {n: w - lr * g for n, w, g in zip(names, values, gradients, strict=True)}
        return list(torch.autograd.grad(loss(ahead), architecture))
    ahead = {n: (w - lr * g).detach().requires_grad_() for n, w, g in zip(names, values, gradients, strict=True)}
    found = torch.autograd.grad(loss(ahead), [*architecture, *ahead.values()])
    direct, vector = found[: len(architecture)], found[len(architecture) :]
    length = torch.stack([v.norm() for v in vector]).norm()
    e = 0.01 / length.clamp_min(torch.finfo(length.dtype).tiny)
    beside = []
    for side in (e, -e):
        moved = {n: (w + side * v).detach() for n, w, v in zip(names, values, vector, strict=True)}
        beside.append(first_order(train, moved, architecture))
    return [d - lr * (up - down) / (2 * e) for d, up, down in zip(direct, *beside, strict=True)]


class Joint(Classifier):
    """Trains a super-network's weights as any network's, and steps its architecture with them.

    `bilevel`: before the weights' step on a training batch, H steps on as many validation images. `single`: both step
    on the training batch, with gradients at the same Theta and H.

    The step ahead of `order=second` is plain gradient descent on the augmented batch with the penalties, at the present
    learning rate; momentum, mixup and whatever else makes the weights' real step are left out of it.

    Args:
        *classifier: as `Classifier` takes them.
        architecture: H.
        search: how it is stepped.
        held_out: the validation batches of an epoch, given the epoch (from 0), without end.
        cost: cost_weight ln(expected cost / that of H_init), or None.
    """

    architecture: Architecture
    architecture_optimizer: Optimizer

    _search: Search
    _held_out: Callable[[int], Iterator[Batch]]
    _cost: Callable[[], Tensor] | None
    _logits: list[Tensor]
    _exact: bool
    """Whether the second term is computed exactly."""
    _together: bool
    """Whether one backward pass has the gradients of both."""
    _batches: Iterator[Batch]
    """The epoch's validation batches."""
    _resumed: dict[str, Any] | None
    """What `state` gave, until training starts."""

    def __init__(
        self,
        *classifier: Any,
        architecture: Architecture,
        search: Search,
        held_out: Callable[[int], Iterator[Batch]],
        cost: Callable[[], Tensor] | None,
    ) -> None:
        super().__init__(*classifier)
        self.architecture = architecture
        self._search, self._held_out, self._cost = search, held_out, cost
        self._logits = list(architecture.parameters())
        spec = search.optimizer | {"lr": search.lr}
        self.architecture_optimizer = build("search.optimizer", spec, self._logits)
        self._exact = sum(weight.numel() for weight in self._parameters_moved) <= EXACT
        self._together = search.level == "single" and search.order == "first"
        self._resumed = None

    def on_train_start(self) -> None:
        """Takes back what `state` gave; the architecture itself is part of the module's `state_dict`."""
        if self._resumed is not None:
            self.architecture_optimizer.load_state_dict(self._resumed["architecture_optimizer"])
            for logits, gradient in zip(self._logits, self._resumed.get("architecture_gradients", ()), strict=False):
                logits.grad = gradient

    def on_train_epoch_start(self) -> None:
        """Begins the epoch's validation batches too, or goes on with those that are left."""
        super().on_train_epoch_start()
        self._batches = itertools.islice(self._held_out(self.current_epoch), self.batches_done, None)

    def training_step(self, batch: Batch) -> None:
        """Steps Theta, and H with it or before it."""
        if self._together:  # one backward pass has both gradients
            if self._epoch.is_first(self.batches_done):
                self.architecture_optimizer.zero_grad()
            super().training_step(batch)
            if self._epoch.is_last(self.batches_done - 1):
                self._step_architecture()
            return
        for logits, gradient in zip(self._logits, self._gradient(batch), strict=True):
            logits.grad = gradient
        if self._search.level == "bilevel":
            self._step_architecture()
        self.architecture.requires_grad_(False)  # spares the weights' step the work
        super().training_step(batch)
        self.architecture.requires_grad_(True)
        if self._search.level == "single":
            self._step_architecture()

    def _gradient(self, batch: Batch) -> list[Tensor]:
        """Of the loss, without the cost."""
        weights: Weights = dict(self.model.named_parameters())
        held_out = None
        if self._search.level == "bilevel":
            held_out = tuple(tensor[: len(batch[1])].to(self.device) for tensor in next(self._batches))
        if self._search.order == "first":
            assert held_out is not None
            return first_order(self._loss(held_out, False), weights, self._logits)
        images, labels, positions = batch
        if self._augment is not None:  # as the weights' step will see them
            state = self._generator.get_state()
            images = self._augment(images, positions, self.current_epoch, self._generator)
            self._generator.set_state(state)
        ahead = self._loss((images, labels), True)
        loss = self._loss((images, labels), False) if held_out is None else self._loss(held_out, False)
        lr = self.trainer.optimizers[0].param_groups[0]["lr"]
        return second_order(ahead, loss, weights, self._logits, lr, self._exact)

    def _loss(self, batch: tuple[Tensor, ...], penalised: bool) -> Loss:
        images, labels = batch[:2]
        of = self._recipe.loss if penalised or self._search.level == "single" else self._recipe.validation_loss

        def loss(weights: Weights) -> Tensor:
            total = of(functional_call(self.model, weights, (images,)), labels)
            if penalised and self._penalty is not None:
                matrices = [weight for weight in weights.values() if weight.dim() >= 2]
                total = total + regularizers.penalty(self._penalty, matrices)
            return total

        return loss

    def state(self) -> dict[str, Any]:
        """What a resumed training needs besides the weights, optimizer and schedule of the classifier."""
        return super().state() | {
            "architecture_optimizer": self.architecture_optimizer.state_dict(),
            "architecture_gradients": [logits.grad for logits in self._logits],
        }

    def resume(self, state: dict[str, Any]) -> int:
        """Takes back what `state` gave, before training starts."""
        self._resumed = state
        return super().resume(state)

    def _step_architecture(self) -> None:
        if self._cost is not None:
            torch.autograd.backward(self._cost())
        self.architecture_optimizer.step()
