"""What is one training step? Whatever is measured on the way costs no look at the device."""

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from cnnbench.config.schema import Regularizer
from cnnbench.data.augmentation import Augmentation, mixing
from cnnbench.data.datamodule import AUGMENT, LAYERS, Batch, derived_seed
from cnnbench.errors import Diverged
from cnnbench.runtime import collectives
from cnnbench.training import regularizers
from cnnbench.training.optimizers import averaged, averages
from cnnbench.training.schedules import Schedule

Row = dict[str, float]
"""What is known of an epoch; the names are those of `records.Epoch`."""


@dataclass(frozen=True)
class Epoch:
    """How an epoch's images fall into batches, and batches into steps."""

    images: int
    """Training images."""
    batch_size: int
    accumulate: int
    """Batches whose gradients make one step; the last step of an epoch may have fewer."""
    reduction: str = "mean"
    """`mean` or `sum`, as in `schema.Update`."""

    @property
    def batches(self) -> int:
        """Batches in an epoch."""
        return -(-self.images // self.batch_size)

    @property
    def steps(self) -> int:
        """Steps in an epoch."""
        return -(-self.batches // self.accumulate)

    def size(self, index: int) -> int:
        """Images of batch `index`."""
        return min(self.batch_size, self.images - index * self.batch_size)

    def weight(self, index: int, size: int) -> float:
        """What the mean loss of `size` images of batch `index` counts for in the gradient of its step.

        With `mean` every image of the step counts the same, so that the step is that of one large batch; with `sum`
        full batches count 1 each (document 1: the sum of the g_j), smaller ones less.
        """
        if self.reduction == "sum":
            return size / self.batch_size
        together = self.batch_size * self.accumulate
        before = index // self.accumulate * together
        return size / min(together, self.images - before)

    def is_first(self, index: int) -> bool:
        """Does a step begin with batch `index`?"""
        return index % self.accumulate == 0

    def is_last(self, index: int) -> bool:
        """Does a step end with batch `index`?"""
        return (index + 1) % self.accumulate == 0 or index + 1 == self.batches


@dataclass(frozen=True)
class Recipe:
    """What moves the parameters."""

    make_optimizer: Callable[[nn.Module], Optimizer]
    make_schedule: Callable[[Optimizer], Schedule]
    loss: Callable[..., Tensor]
    """`loss(logits, labels)`: the mean over a batch."""
    validation_loss: Callable[..., Tensor]
    """`validation_loss(logits, labels, reduction="sum")`, without label smoothing."""
    regularizer: Regularizer
    clip: float | None = None
    """Largest norm of a step's gradient."""
    max_step: float | None = None
    """Largest length of a step's change of the parameters."""
    mixup: float = 0.0
    """Mixup's alpha; 0 is none."""


class Classifier(pl.LightningModule):
    """Trains `model` to name the class of an image.

    Lightning's manual optimization: gradients are accumulated, bounded and applied here, in `training_step`.

    Args:
        model: takes bytes (images, channels, height, width) and gives logits (images, classes).
        recipe: what moves the parameters.
        epoch: batches and steps.
        augment: changes the training images, or None.
        seed: of the run.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        epoch: Epoch,
        augment: Augmentation | None,
        seed: int,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.history: list[Row] = []
        """A row for each finished epoch."""
        self.confusion: Tensor
        """After a test: images by true class (rows) and predicted class (columns)."""
        self.schedule: Schedule
        """Moves the learning rate; made with the optimizer."""
        self._recipe, self._epoch, self._augment, self._seed = recipe, epoch, augment, seed
        self._moved: list[Tensor] = list(model.parameters())
        self._weights = list(regularizers.penalised(model).values())
        self._penalty = recipe.regularizer if recipe.regularizer.l1 or recipe.regularizer.l2 else None
        self.weights: dict[str, Tensor] = {}
        """What was validated last, where the optimizer trains other weights than those to be used."""
        self._outside = ExitStack()
        self._unfinished: dict[str, Any] | None = None
        """The state of an epoch in whose middle a run was stopped, until that epoch goes on."""

    def configure_optimizers(self) -> Optimizer:
        """The optimizer; its schedule is our own affair."""
        optimizer = self._recipe.make_optimizer(self.model)
        self.schedule = self._recipe.make_schedule(optimizer)
        return optimizer

    # Training

    def on_train_epoch_start(self) -> None:
        """Makes the epoch's randomness depend on nothing but seed and epoch, so that a resumed run repeats it."""
        rank = collectives.rank()  # 0 changes no seed
        torch.manual_seed(derived_seed(self._seed, LAYERS, self.current_epoch, rank))
        self._generator = torch.Generator(self.device)
        self._generator.manual_seed(derived_seed(self._seed, AUGMENT, self.current_epoch, rank))
        self._losses = torch.zeros(self._epoch.batches, device=self.device)
        self._penalties = torch.zeros((), device=self.device)
        self._correct = torch.zeros((), dtype=torch.int64, device=self.device)
        self._sizes: list[int] = []
        self._lr = self.trainer.optimizers[0].param_groups[0]["lr"]
        self._seconds = 0.0
        if self._unfinished is not None:
            self._resume_epoch(self._unfinished)
            self._unfinished = None
        self._started = time.perf_counter()

    def training_step(self, batch: Batch) -> None:
        """Adds the gradient of a batch's mean cross-entropy, and moves the parameters when the step is complete."""
        index = len(self._sizes)  # Lightning counts from 0 again in an epoch that is gone on with
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        if self._epoch.is_first(index):
            optimizer.zero_grad()
        if len(batch[1]):  # of several processes one may have no image of an epoch's last batch
            self._learn(batch, index)
        if self._epoch.is_last(index):
            self._step(optimizer)
        self._sizes.append(self._epoch.size(index))

    def _learn(self, batch: Batch, index: int) -> None:
        images, labels, positions = batch
        if self._augment is not None:
            images = self._augment(images, positions, self.current_epoch, self._generator)
        if self._recipe.mixup:
            share, partner = mixing(len(labels), self._recipe.mixup, self._generator)
            logits = self.model(torch.lerp(images[partner].float(), images.float(), share))
            loss = share * self._recipe.loss(logits, labels) + (1 - share) * self._recipe.loss(logits, labels[partner])
        else:
            logits = self.model(images)
            loss = self._recipe.loss(logits, labels)
        total = loss
        if self._penalty is not None:
            penalty = regularizers.penalty(self._penalty, self._weights)
            self._penalties += penalty.detach() * len(labels)
            total = loss + penalty
        weight = self._epoch.weight(index, len(labels))
        self.manual_backward(total if weight == 1 else total * weight)
        share = len(labels) / self._epoch.size(index)
        self._losses[index] = loss.detach() if share == 1 else loss.detach() * share
        self._correct += (logits.detach().argmax(1) == labels).sum()

    def _step(self, optimizer: LightningOptimizer) -> None:
        recipe, parameters = self._recipe, self._moved
        if collectives.world_size() > 1:
            self._add_up_gradients()
        if recipe.clip is not None:
            nn.utils.clip_grad_norm_(parameters, recipe.clip)
        before = None if recipe.max_step is None else [parameter.detach().clone() for parameter in parameters]
        if recipe.regularizer.weight_decay:
            shrink = 1 - optimizer.param_groups[0]["lr"] * recipe.regularizer.weight_decay
            with torch.no_grad():
                torch._foreach_mul_(self._weights, shrink)
        optimizer.step()
        if before is not None and recipe.max_step is not None:
            _shorten(parameters, before, recipe.max_step)
        self.schedule.after_step()

    def _add_up_gradients(self) -> None:
        trained = [parameter for parameter in self._moved if parameter.requires_grad]
        for parameter in trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        collectives.all_reduce_sum_([parameter.grad for parameter in trained if parameter.grad is not None])

    @property
    def done(self) -> int:
        """Batches of this epoch so far."""
        return len(self._sizes)

    def running(self) -> tuple[float, float, float]:
        """Mean loss, accuracy and images/s of this epoch so far; waits for the device, and for all processes."""
        seen = max(sum(self._sizes), 1)
        losses, correct = collectives.all_reduce_sum(self._losses), int(collectives.all_reduce_sum(self._correct))
        loss = float(losses[: len(self._sizes)].mean())
        return loss, correct / seen, seen / (self._seconds + time.perf_counter() - self._started)

    def on_train_epoch_end(self) -> None:
        """Writes the epoch's row and moves the schedule on.

        Raises:
            Diverged: the training or validation loss is not finite.
        """
        epoch, losses = self._epoch, collectives.all_reduce_sum(self._losses).double().cpu()
        broken = (~losses.isfinite()).nonzero()
        if len(broken):
            step = self.current_epoch * epoch.steps + int(broken[0]) // epoch.accumulate + 1
            raise Diverged(f"the loss was {float(losses[broken[0]])} at step {step} (epoch {self.current_epoch + 1})")
        if not math.isfinite(self._val_loss):
            raise Diverged(f"the validation loss was {self._val_loss} after epoch {self.current_epoch + 1}")
        self.history.append(
            {
                "epoch": self.current_epoch + 1,
                "train_loss": float(losses @ torch.tensor(self._sizes, dtype=torch.float64)) / epoch.images,
                "train_acc": int(collectives.all_reduce_sum(self._correct)) / epoch.images,
                "penalty": float(collectives.all_reduce_sum(self._penalties)) / epoch.images,
                "val_loss": self._val_loss,
                "val_acc": self._val_acc,
                "lr": self._lr,
                "images_seen": (self.current_epoch + 1) * epoch.images,
                "seconds": self._seconds,
                "images_per_second": epoch.images / self._seconds,
            }
        )
        self.schedule.after_epoch(self._val_loss)

    # Evaluation

    def on_validation_epoch_start(self) -> None:
        """Stops the clock: an epoch's seconds are those of training alone."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._seconds += time.perf_counter() - self._started
        self._share_statistics()
        trainer: Any = self.trainer
        with trainer.precision_plugin.forward_context():
            batches = trainer.datamodule.some_training_images()
            self._outside.enter_context(averaged(self.model, trainer.optimizers[0], batches))
        self._reset()

    def _share_statistics(self) -> None:
        """Batch norm's running statistics become the means over all processes; each has its own in training."""
        norms = [module for module in self.model.modules() if isinstance(module, _BatchNorm)]
        statistics = [buffer for norm in norms for buffer in norm.buffers() if buffer.is_floating_point()]
        if collectives.world_size() > 1 and statistics:
            collectives.all_reduce_sum_(statistics)
            torch._foreach_div_(statistics, collectives.world_size())

    def validation_step(self, batch: Batch, index: int) -> None:
        """Adds a batch to the sums."""
        self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        """Loss and accuracy of the validation images."""
        self._val_loss, self._val_acc = self._result()
        if averages(self.trainer.optimizers[0]):
            self.weights = {key: value.clone() for key, value in self.model.state_dict().items()}
        self._outside.close()
        self.log_dict({"val_loss": self._val_loss, "val_acc": self._val_acc})  # early stopping looks at them

    def on_test_epoch_start(self) -> None:
        """Empties the sums."""
        self._reset()

    def test_step(self, batch: Batch, index: int) -> None:
        """Adds a batch to the sums."""
        self._evaluate(batch)

    def on_test_epoch_end(self) -> None:
        """Loss and accuracy of the test images."""
        self.test_loss, self.test_acc = self._result()

    def _reset(self) -> None:
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self.confusion = torch.zeros(0, dtype=torch.int64, device=self.device)

    def _evaluate(self, batch: Batch) -> None:
        images, labels, _ = batch
        if len(labels) == 0:  # of several processes one may have no image of the last batch
            return
        logits = self.model(images).float()
        classes = logits.shape[1]
        self._loss_sum += self._recipe.validation_loss(logits, labels, reduction="sum")
        counts = torch.bincount(labels * classes + logits.argmax(1), minlength=classes * classes)
        self.confusion = counts if len(self.confusion) == 0 else self.confusion + counts

    def _result(self) -> tuple[float, float]:
        classes = math.isqrt(len(self.confusion))
        self.confusion = collectives.all_reduce_sum(self.confusion).view(classes, classes).cpu()
        count = int(self.confusion.sum())
        return float(collectives.all_reduce_sum(self._loss_sum)) / count, int(self.confusion.diagonal().sum()) / count

    # Stopping and going on

    def state(self) -> dict[str, Any]:
        """What is needed to go on from here, besides weights, optimizer and schedule: after an epoch, or amid one.

        Amid an epoch it is what all processes have together, so that any number of them can go on; the generators are
        those of the first.
        """
        if len(self.history) > self.current_epoch:
            return {"history": self.history, "epoch": None}
        return {
            "history": self.history,
            "epoch": {
                "losses": collectives.all_reduce_sum(self._losses),
                "correct": collectives.all_reduce_sum(self._correct),
                "penalties": collectives.all_reduce_sum(self._penalties),
                "sizes": self._sizes,
                "lr": self._lr,
                "seconds": self._seconds + time.perf_counter() - self._started,
                "generator": self._generator.get_state(),
                "random": torch.get_rng_state(),
                "random_gpu": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
                "gradients": [
                    None if parameter.grad is None else collectives.all_reduce_sum(parameter.grad)
                    for parameter in self.model.parameters()
                ],
            },
        }

    def go_on(self, state: dict[str, Any]) -> int:
        """Takes back what `state` gave, before training goes on; returns how many batches of the epoch are behind."""
        self.history, self._unfinished = state["history"], state["epoch"]
        return 0 if self._unfinished is None else len(self._unfinished["sizes"])

    def _resume_epoch(self, state: dict[str, Any]) -> None:
        self._losses, self._correct = state["losses"].to(self.device), state["correct"].to(self.device)
        self._penalties = state["penalties"].to(self.device)
        self._sizes, self._lr, self._seconds = state["sizes"], state["lr"], state["seconds"]
        for parameter, gradient in zip(self.model.parameters(), state["gradients"], strict=True):
            parameter.grad = None if gradient is None else gradient.to(self.device)
        if collectives.rank() > 0:  # what all had together is the first one's now; random numbers begin anew
            for mine in (self._losses, self._correct, self._penalties, *(p.grad for p in self.model.parameters())):
                if mine is not None:
                    mine.zero_()
            return
        self._generator.set_state(state["generator"].cpu())
        torch.set_rng_state(state["random"].cpu())
        if state["random_gpu"] is not None:
            torch.cuda.set_rng_state(state["random_gpu"].cpu(), self.device)


def _shorten(parameters: list[Tensor], before: list[Tensor], longest: float) -> None:
    """Takes back what a step was too long, all parameters together; no look at the device."""
    with torch.no_grad():
        change = [new - old for new, old in zip(parameters, before, strict=True)]
        length = torch.stack([moved.norm() for moved in change]).norm()
        shorter = (longest / length).clamp(max=1.0)
        for parameter, old, moved in zip(parameters, before, change, strict=True):
            parameter.copy_(old + moved * shorter)
