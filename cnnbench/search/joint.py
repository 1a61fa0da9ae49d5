"""Training weights Theta and architecture H together by gradient descent (document 0, 3)."""

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
"""The loss of a batch as a function of the weights. The architecture's logits are not passed, but part of the graph."""

EXACT = 300_000
"""The largest number of weights for which the second-order term is exact.

The exact term keeps the graph of a whole backward pass, about twice the memory of a step. The finite difference needs
no more memory than a step.
"""


def first_order(loss: Loss, weights: Weights, architecture: list[Tensor]) -> list[Tensor]:
    """dL/dH at fixed weights: a gradient for each tensor of `architecture`."""
    return list(torch.autograd.grad(loss(weights), architecture))


def second_order(
    train: Loss, loss: Loss, weights: Weights, architecture: list[Tensor], lr: float, exact: bool
) -> list[Tensor]:
    """dL/dH + dL/dTheta' dTheta'/dH (document 0, 3.3), where Theta' = Theta - lr d train/dTheta depends on H.

    dTheta'/dH = -lr d2 train/(dTheta dH). Its product with a vector v is exact, or a finite difference (Liu et al.
    2019, DARTS, equation 8): (d train/dH at Theta + e v - d train/dH at Theta - e v) / 2e, e = 0.01 / |v|.

    Args:
        train: the loss that the weights' step reduces.
        loss: the loss that H reduces.
        weights: Theta.
        architecture: H.
        lr: learning rate of the step from Theta to Theta'.
        exact: whether the product is exact.

    Returns:
        A gradient for each tensor of `architecture`.
    """
    names, values = list(weights), list(weights.values())
    gradients = torch.autograd.grad(train(weights), values, create_graph=exact)
    if exact:
        ahead = {n: w - lr * g for n, w, g in zip(names, values, gradients, strict=True)}
        return list(torch.autograd.grad(loss(ahead), architecture))
    ahead = {n: (w - lr * g).detach().requires_grad_() for n, w, g in zip(names, values, gradients, strict=True)}
    both = torch.autograd.grad(loss(ahead), [*architecture, *ahead.values()])
    direct, vector = both[: len(architecture)], both[len(architecture) :]
    length = torch.stack([v.norm() for v in vector]).norm()
    e = 0.01 / length.clamp_min(torch.finfo(length.dtype).tiny)
    shifted = []
    for shift in (e, -e):
        moved = {n: (w + shift * v).detach() for n, w, v in zip(names, values, vector, strict=True)}
        shifted.append(first_order(train, moved, architecture))
    return [d - lr * (up - down) / (2 * e) for d, up, down in zip(direct, *shifted, strict=True)]


class Joint(Classifier):
    """Trains the weights Theta of a super-network like those of any network, and its architecture H beside them.

    `search.level=bilevel`: H steps on as many validation images before each step of the weights on a training batch.
    `search.level=single`: both step on the training batch, with gradients at the same Theta and H.

    With `search.order=second` the step from Theta to Theta' is plain gradient descent on the augmented batch, with the
    penalties and the current learning rate, but without momentum, mixup, CutMix and the rest of the real
    step.

    Args:
        *classifier: the arguments of `Classifier`.
        architecture: H.
        search: the `search` group.
        held_out: gives the validation batches of an epoch, counted from 0.
        cost: gives cost_weight ln(expected cost / cost of H_init), which is added to the loss of H; or None.
    """

    architecture: Architecture
    architecture_optimizer: Optimizer

    _search: Search
    _held_out: Callable[[int], Iterator[Batch]]
    _cost: Callable[[], Tensor] | None
    _logits: list[Tensor]
    _exact: bool
    """Whether the second-order term is exact."""
    _together: bool
    """Whether one backward pass gives the gradients of both Theta and H."""
    _batches: Iterator[Batch]
    """The rest of the epoch's validation batches."""
    _resumed: dict[str, Any] | None
    """The value that `state` returned in an earlier process, until training starts."""

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
        """Restores the architecture's optimizer; the architecture itself is part of the module's `state_dict`."""
        if self._resumed is not None:
            self.architecture_optimizer.load_state_dict(self._resumed["architecture_optimizer"])
            for logits, gradient in zip(self._logits, self._resumed.get("architecture_gradients", ()), strict=False):
                logits.grad = gradient

    def on_train_epoch_start(self) -> None:
        """Starts an epoch, and takes the validation batches that are left of it."""
        super().on_train_epoch_start()
        self._batches = itertools.islice(self._held_out(self.current_epoch), self.batches_done, None)

    def training_step(self, batch: Batch) -> None:
        """Steps Theta on a training batch, and H with it or before it."""
        if self._together:
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
        self.architecture.requires_grad_(False)  # the weights' step needs no gradient of it
        super().training_step(batch)
        self.architecture.requires_grad_(True)
        if self._search.level == "single":
            self._step_architecture()

    def _gradient(self, batch: Batch) -> list[Tensor]:
        """The gradient of the loss with respect to H, without that of the cost."""
        weights: Weights = dict(self.model.named_parameters())
        held_out = None
        if self._search.level == "bilevel":
            held_out = tuple(tensor[: len(batch[1])].to(self.device) for tensor in next(self._batches))
        if self._search.order == "first":
            assert held_out is not None
            return first_order(self._loss(held_out, False), weights, self._logits)
        images, labels, positions = batch
        if self._augment is not None:  # the same augmentation as in the weights' step that follows
            state = self._generator.get_state()
            images = self._augment(images, positions, self.current_epoch, self._generator)
            self._generator.set_state(state)
        ahead = self._loss((images, labels), True)
        loss = self._loss((images, labels), False) if held_out is None else self._loss(held_out, False)
        lr = self.trainer.optimizers[0].param_groups[0]["lr"]
        return second_order(ahead, loss, weights, self._logits, lr, self._exact)

    def _loss(self, batch: tuple[Tensor, ...], penalised: bool) -> Loss:
        """The loss of a batch as a function of the weights, with or without the penalties."""
        images, labels = batch[:2]
        training = penalised or self._search.level == "single"
        criterion = self._criterion if training else self._recipe.validation_loss

        def loss(weights: Weights) -> Tensor:
            total = criterion(functional_call(self.model, weights, (images,)), labels)
            if penalised and self._penalty is not None:
                matrices = [weight for weight in weights.values() if weight.dim() >= 2]
                total = total + regularizers.penalty(self._penalty, matrices)
            return total

        return loss

    def state(self) -> dict[str, Any]:
        """The state that a resumed training needs besides weights, optimizer and schedule of the classifier."""
        return super().state() | {
            "architecture_optimizer": self.architecture_optimizer.state_dict(),
            "architecture_gradients": [logits.grad for logits in self._logits],
        }

    def resume(self, state: dict[str, Any]) -> int:
        """Takes the value that `state` returned in an earlier process, before training starts.

        Returns:
            How many batches of the next epoch have been trained on already.
        """
        self._resumed = state
        return super().resume(state)

    def _step_architecture(self) -> None:
        if self._cost is not None:
            torch.autograd.backward(self._cost())
        self.architecture_optimizer.step()
