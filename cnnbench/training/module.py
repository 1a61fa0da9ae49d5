"""The training step, and the sums that become an epoch's row. Nothing here synchronises with the GPU within a step."""

import math
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from cnnbench.config.schema import Regularizer
from cnnbench.data.augmentation import Augmentation, mixed
from cnnbench.data.datamodule import Batch
from cnnbench.errors import Diverged
from cnnbench.results.records import class_means
from cnnbench.runtime import collectives
from cnnbench.runtime.randomness import Stream, derived_seed
from cnnbench.training import parameter_groups, regularizers
from cnnbench.training.averaging import Average, averaged
from cnnbench.training.epoch import Epoch
from cnnbench.training.parameter_groups import Group
from cnnbench.training.schedules import Schedule
from cnnbench.training.test_time import mean_logits

# Each step empties the gradients, which ends the cycle that torch warns of.
warnings.filterwarnings("ignore", r"Using backward\(\) with create_graph=True", UserWarning)

Row = dict[str, float]
"""What is known of an epoch; the names are those of `records.Epoch`."""


@dataclass(frozen=True)
class Recipe:
    """What moves the parameters."""

    make_optimizer: Callable[[nn.Module], Optimizer]
    make_schedule: Callable[[Optimizer], Schedule]
    make_average: Callable[[nn.Module], Average]
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
    """Mixup's alpha; 0 turns it off."""
    groups: list[Group] = field(default_factory=list)
    """Parameter groups, some of which are frozen after some epochs."""
    tta: str = "none"
    """Test-time augmentation, as in `schema.Evaluation`."""
    closure: bool = False
    """Whether the optimizer evaluates loss and gradient again within a step, as LBFGS and SAM do."""
    cutmix: float = 0.0
    """CutMix's alpha; 0 turns it off."""
    graph: bool = False
    """Whether the optimizer differentiates the gradient that it evaluates within a step, as Sophia does."""


@dataclass
class Sums:
    """What is summed over the batches of an epoch. The tensors stay on the device."""

    losses: Tensor
    """(batches,), the mean loss of each batch so far."""
    penalties: Tensor
    """(), the penalty of each step times its images."""
    correct: Tensor
    """(), images classified correctly."""
    sizes: list[int]
    """Images of each batch so far."""
    lr: float
    """Learning rate of the epoch's first step."""
    seconds: float = 0.0
    """Seconds of training before `started`."""

    @property
    def images(self) -> int:
        """Images so far."""
        return sum(self.sizes)


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

    model: nn.Module
    history: list[Row]
    """A row for each finished epoch."""
    weights: dict[str, Tensor]
    """The model's state as it was last validated. With weight averaging it is not what training goes on with."""
    confusion: Tensor
    """After an evaluation: images by true class (rows) and predicted class (columns)."""
    test_loss: float
    test_acc: float
    schedule: Schedule
    """Moves the learning rate; made with the optimizer."""
    average: Average
    """Of the weights; made with the optimizer."""

    _recipe: Recipe
    _epoch: Epoch
    _criterion: Callable[..., Tensor]
    _augment: Augmentation | None
    _seed: int
    _parameters_moved: list[Tensor]
    _penalised: list[Tensor]
    _penalty: Regularizer | None
    """Set where there is a penalty to be added to the loss."""
    _generator: torch.Generator
    """Of the augmentation, on the device; new in each epoch."""
    _sums: Sums
    """Of the epoch under way."""
    _started: float
    """When training began or went on, on the clock of `time.perf_counter`."""
    _unfinished: dict[str, Any] | None
    """The state of an epoch in which a run was stopped, until that epoch resumes."""
    _step_batches: list[Batch]
    """Where the optimizer evaluates a step's loss again: the batches of the step under way."""
    _step_random: dict[str, Tensor | None]
    """The state of the random numbers before them."""
    _averaging: ExitStack
    """Holds averaged weights in the model during validation."""
    _loss_sum: Tensor
    _val_loss: float
    _val_acc: float
    _val_balanced_acc: float
    _val_macro_f1: float

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
        self.history = []
        self.weights = {}
        self._recipe, self._epoch, self._augment, self._seed = recipe, epoch, augment, seed
        self._criterion = recipe.loss  # if it is a module, it moves to the device with this one
        self._parameters_moved = list(model.parameters())
        self._penalised = list(regularizers.penalised(model).values())
        self._penalty = recipe.regularizer if recipe.regularizer.l1 or recipe.regularizer.l2 else None
        self._averaging = ExitStack()
        self._unfinished = None
        self._step_batches, self._step_random = [], {}

    def configure_optimizers(self) -> Optimizer:
        """The optimizer. Its schedule is stepped by this module, not by Lightning."""
        optimizer = self._recipe.make_optimizer(self.model)
        self.schedule = self._recipe.make_schedule(optimizer)
        self.average = self._recipe.make_average(self.model)
        return optimizer

    # Training

    def on_train_epoch_start(self) -> None:
        """Makes the epoch's randomness depend on seed and epoch alone, so that a resumed run repeats it."""
        rank = collectives.rank()  # 0 changes no seed
        torch.manual_seed(derived_seed(self._seed, Stream.LAYERS, self.current_epoch, rank))
        self._generator = torch.Generator(self.device)
        self._generator.manual_seed(derived_seed(self._seed, Stream.AUGMENT, self.current_epoch, rank))
        for parameter in parameter_groups.frozen(self._recipe.groups, self.model, self.current_epoch):
            parameter.requires_grad_(False)
            parameter.grad = None
        self._penalised = list(regularizers.penalised(self.model).values())
        self._sums = Sums(
            losses=torch.zeros(self._epoch.batches, device=self.device),
            penalties=torch.zeros((), device=self.device),
            correct=torch.zeros((), dtype=torch.int64, device=self.device),
            sizes=[],
            lr=self.trainer.optimizers[0].param_groups[0]["lr"],
        )
        if self._unfinished is not None:
            self._resume_epoch(self._unfinished)
            self._unfinished = None
        self._started = time.perf_counter()

    def training_step(self, batch: Batch) -> None:
        """Adds the gradient of a batch's mean loss, and moves the parameters when the step is complete."""
        index = self.batches_done  # Lightning counts from 0 again in an epoch that resumes
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        if self._epoch.is_first(index):
            optimizer.zero_grad()
            if self._recipe.closure:
                self._step_batches, self._step_random = [], self._random_state()
        if self._recipe.closure:
            self._step_batches.append(batch)
        if len(batch[1]):  # of several processes one may have no image of an epoch's last batch
            self._add_gradient(batch, index)
        if self._epoch.is_last(index):
            self._step(optimizer)
        self._sums.sizes.append(self._epoch.size(index))

    def _add_gradient(self, batch: Batch, index: int, graph: bool = False) -> Tensor:
        """Adds the gradient of a batch to that of its step, and returns the batch's part of the step's loss.

        With `graph` the gradient itself can be differentiated.
        """
        images, labels, positions = batch
        if self._augment is not None:
            images = self._augment(images, positions, self.current_epoch, self._generator)
        if self._recipe.mixup or self._recipe.cutmix:
            images, share, partner = mixed(images, self._recipe.mixup, self._recipe.cutmix, self._generator)
            logits = self.model(images)
            loss = share * self._criterion(logits, labels) + (1 - share) * self._criterion(logits, labels[partner])
        else:
            logits = self.model(images)
            loss = self._criterion(logits, labels)
        total = loss
        if self._penalty is not None:
            penalty = regularizers.penalty(self._penalty, self._penalised)
            self._sums.penalties += penalty.detach() * len(labels)
            total = loss + penalty
        weight = self._epoch.weight(index, len(labels))
        part = total if weight == 1 else total * weight
        self.manual_backward(part, create_graph=graph)
        share = len(labels) / self._epoch.size(index)
        self._sums.losses[index] = loss.detach() if share == 1 else loss.detach() * share
        self._sums.correct += (logits.detach().argmax(1) == labels).sum()
        return part.detach()

    def _step(self, optimizer: LightningOptimizer) -> None:
        """Moves the parameters.

        Raises:
            Diverged: the optimizer can't decompose a matrix that is infinite or undefined.
        """
        recipe, parameters = self._recipe, self._parameters_moved
        if collectives.world_size() > 1:
            self._sum_gradients()
        if recipe.clip is not None:
            nn.utils.clip_grad_norm_(parameters, recipe.clip)
        old = None if recipe.max_step is None else [parameter.detach().clone() for parameter in parameters]
        if recipe.regularizer.weight_decay:
            shrink = 1 - optimizer.param_groups[0]["lr"] * recipe.regularizer.weight_decay
            with torch.no_grad():
                torch._foreach_mul_(self._penalised, shrink)
        try:
            if recipe.closure:
                self._step_by_closure(optimizer)
            else:
                optimizer.step()
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # of Shampoo's and others' matrices
            step = self.current_epoch * self._epoch.steps + self.batches_done // self._epoch.accumulate + 1
            raise Diverged(f"the optimizer failed at step {step} (epoch {self.current_epoch + 1}): {error}") from None
        if old is not None and recipe.max_step is not None:
            _shorten(parameters, old, recipe.max_step)
        self.average.after_step()
        self.schedule.after_step()

    def _step_by_closure(self, optimizer: LightningOptimizer) -> None:
        """Steps an optimizer that evaluates loss and gradient at other weights within the step.

        Each time it gets the same batches, with the same augmentation and dropout. Running statistics and the epoch's
        sums stay those of the first pass, at the weights before the step, as with any other optimizer.
        """
        sums, first = self._sums, self.batches_done + 1 - len(self._step_batches)
        kept = [*self.model.buffers(), sums.losses, sums.penalties, sums.correct]
        values = [tensor.clone() for tensor in kept]

        @torch.enable_grad()
        def closure() -> Tensor:
            self._set_random_state(self._step_random)
            optimizer.zero_grad()
            graph = self._recipe.graph
            parts = [self._add_gradient(batch, first + i, graph) for i, batch in enumerate(self._step_batches)]
            if self._recipe.clip is not None:
                nn.utils.clip_grad_norm_(self._parameters_moved, self._recipe.clip)
            return torch.stack(parts).sum()

        optimizer.step(closure)
        with torch.no_grad():
            for tensor, value in zip(kept, values, strict=True):
                tensor.copy_(value)
        self._step_batches = []

    def _random_state(self) -> dict[str, Tensor | None]:
        """The state of all random numbers of a training step: of the augmentation, and of the layers."""
        return {
            "generator": self._generator.get_state(),
            "random": torch.get_rng_state(),
            "random_gpu": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def _set_random_state(self, state: dict[str, Any]) -> None:
        self._generator.set_state(state["generator"].cpu())
        torch.set_rng_state(state["random"].cpu())
        if state["random_gpu"] is not None:
            torch.cuda.set_rng_state(state["random_gpu"].cpu(), self.device)

    def _sum_gradients(self) -> None:
        trained = [parameter for parameter in self._parameters_moved if parameter.requires_grad]
        for parameter in trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        collectives.all_reduce_sum_([parameter.grad for parameter in trained if parameter.grad is not None])

    @property
    def batches(self) -> int:
        """Batches of a whole epoch."""
        return self._epoch.batches

    @property
    def batches_done(self) -> int:
        """Batches of this epoch so far."""
        return len(self._sums.sizes)

    def progress(self) -> tuple[float, float, float]:
        """Mean loss, accuracy and images/s of this epoch so far. Synchronises with the GPU and all processes."""
        sums, seen = self._sums, max(self._sums.images, 1)
        losses, correct = collectives.all_reduce_sum(sums.losses), int(collectives.all_reduce_sum(sums.correct))
        loss = float(losses[: self.batches_done].mean())
        return loss, correct / seen, seen / (sums.seconds + time.perf_counter() - self._started)

    def on_train_epoch_end(self) -> None:
        """Appends the epoch's row to `history` and moves the schedule on.

        A callback may end an epoch early (`trainer.should_stop`): the row is then that of the images so far.

        Raises:
            Diverged: the training or validation loss is not finite.
        """
        epoch, sums, seen = self._epoch, self._sums, self._sums.images
        losses = collectives.all_reduce_sum(sums.losses).double().cpu()[: self.batches_done]
        broken = (~losses.isfinite()).nonzero()
        if len(broken):
            step = self.current_epoch * epoch.steps + int(broken[0]) // epoch.accumulate + 1
            raise Diverged(f"the loss was {float(losses[broken[0]])} at step {step} (epoch {self.current_epoch + 1})")
        if not math.isfinite(self._val_loss):
            raise Diverged(f"the validation loss was {self._val_loss} after epoch {self.current_epoch + 1}")
        self.history.append(
            {
                "epoch": self.current_epoch + 1,
                "train_loss": float(losses @ torch.tensor(sums.sizes, dtype=torch.float64)) / seen,
                "train_acc": int(collectives.all_reduce_sum(sums.correct)) / seen,
                "penalty": float(collectives.all_reduce_sum(sums.penalties)) / seen,
                "val_loss": self._val_loss,
                "val_acc": self._val_acc,
                "lr": sums.lr,
                "images_seen": self.current_epoch * epoch.images + seen,
                "seconds": sums.seconds,
                "images_per_second": seen / sums.seconds,
                "val_balanced_acc": self._val_balanced_acc,
                "val_macro_f1": self._val_macro_f1,
            }
        )
        self.schedule.after_epoch(self._val_loss)

    # Evaluation

    def on_validation_epoch_start(self) -> None:
        """Stops the clock, since an epoch's seconds are those of training alone, and takes the weights to validate."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._sums.seconds += time.perf_counter() - self._started
        self._average_statistics()
        trainer: Any = self.trainer
        with trainer.precision_plugin.forward_context():
            batches = trainer.datamodule.images.some_training_images()
            self._averaging.enter_context(averaged(self.model, trainer.optimizers[0], batches))
            self._averaging.enter_context(self.average.held(batches))
        self.weights = {key: value.clone() for key, value in self.model.state_dict().items()}
        self._reset_evaluation()

    def _average_statistics(self) -> None:
        """Batch norm's running statistics become the means over all processes; in training each has its own."""
        norms = [module for module in self.model.modules() if isinstance(module, _BatchNorm)]
        statistics = [buffer for norm in norms for buffer in norm.buffers() if buffer.is_floating_point()]
        if collectives.world_size() > 1 and statistics:
            collectives.all_reduce_sum_(statistics)
            torch._foreach_div_(statistics, collectives.world_size())

    def validation_step(self, batch: Batch, index: int) -> None:
        """Adds a batch to the sums."""
        self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        """Takes loss and accuracy of the validation images, and logs them for callbacks such as early stopping."""
        self._val_loss, self._val_acc = self._evaluated()
        self._val_balanced_acc, self._val_macro_f1 = class_means(self.confusion.tolist())
        self._averaging.close()
        found = {"val_loss": self._val_loss, "val_acc": self._val_acc}
        found |= {"val_balanced_acc": self._val_balanced_acc, "val_macro_f1": self._val_macro_f1}
        self.log_dict(found, logger=False)
        self._started = time.perf_counter()

    def on_test_epoch_start(self) -> None:
        """Empties the sums."""
        self._reset_evaluation()

    def test_step(self, batch: Batch, index: int) -> None:
        """Adds a batch to the sums."""
        self._evaluate(batch)

    def on_test_epoch_end(self) -> None:
        """Takes loss and accuracy of the test images."""
        self.test_loss, self.test_acc = self._evaluated()

    def _reset_evaluation(self) -> None:
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self.confusion = torch.zeros(0, dtype=torch.int64, device=self.device)

    def _evaluate(self, batch: Batch) -> None:
        images, labels, _ = batch
        if len(labels) == 0:  # of several processes one may have no image of the last batch
            return
        logits = mean_logits(self.model, images, self._recipe.tta).float()
        classes = logits.shape[1]
        self._loss_sum += self._recipe.validation_loss(logits, labels, reduction="sum")
        counts = torch.bincount(labels * classes + logits.argmax(1), minlength=classes * classes)
        self.confusion = counts if len(self.confusion) == 0 else self.confusion + counts

    def _evaluated(self) -> tuple[float, float]:
        classes = math.isqrt(len(self.confusion))
        self.confusion = collectives.all_reduce_sum(self.confusion).view(classes, classes).cpu()
        count, correct = int(self.confusion.sum()), int(self.confusion.diagonal().sum())
        return float(collectives.all_reduce_sum(self._loss_sum)) / count, correct / count

    # Stopping and resuming

    def state(self) -> dict[str, Any]:
        """What a resumed training needs besides weights, optimizer and schedule, after an epoch or amid one.

        Amid an epoch the sums are those of all processes together, so that any number of them can resume; the random
        states are those of the first.
        """
        if len(self.history) > self.current_epoch:
            return {"history": self.history, "epoch": None}
        sums = self._sums
        return {
            "history": self.history,
            "epoch": {
                "losses": collectives.all_reduce_sum(sums.losses),
                "correct": collectives.all_reduce_sum(sums.correct),
                "penalties": collectives.all_reduce_sum(sums.penalties),
                "sizes": sums.sizes,
                "lr": sums.lr,
                "seconds": sums.seconds + time.perf_counter() - self._started,
                **self._random_state(),
                "step_batches": self._step_batches,
                "step_random": self._step_random,
                "gradients": [
                    None if parameter.grad is None else collectives.all_reduce_sum(parameter.grad)
                    for parameter in self.model.parameters()
                ],
            },
        }

    def resume(self, state: dict[str, Any]) -> int:
        """Takes back what `state` gave, before training starts.

        Returns:
            How many batches of the next epoch have been trained on already.
        """
        self.history, self._unfinished = state["history"], state["epoch"]
        return 0 if self._unfinished is None else len(self._unfinished["sizes"])

    def _resume_epoch(self, state: dict[str, Any]) -> None:
        sums = self._sums
        sums.losses, sums.correct = state["losses"].to(self.device), state["correct"].to(self.device)
        sums.penalties = state["penalties"].to(self.device)
        sums.sizes, sums.lr, sums.seconds = state["sizes"], state["lr"], state["seconds"]
        for parameter, gradient in zip(self.model.parameters(), state["gradients"], strict=True):
            parameter.grad = None if gradient is None else gradient.to(self.device)
        if collectives.rank() > 0:  # what all had together is the first one's now; random numbers begin anew
            for mine in (sums.losses, sums.correct, sums.penalties, *(p.grad for p in self.model.parameters())):
                if mine is not None:
                    mine.zero_()
            return
        self._set_random_state(state)
        batches = state.get("step_batches", [])  # older checkpoints have none
        self._step_batches = [(images.to(self.device), *(t.to(self.device) for t in rest)) for images, *rest in batches]
        self._step_random = state.get("step_random", {})


def _shorten(parameters: list[Tensor], old: list[Tensor], longest: float) -> None:
    """Shortens a step of all parameters together to `longest`, without synchronising with the GPU."""
    with torch.no_grad():
        change = [new - start for new, start in zip(parameters, old, strict=True)]
        length = torch.stack([moved.norm() for moved in change]).norm()
        factor = (longest / length).clamp(max=1.0)
        for parameter, start, moved in zip(parameters, old, change, strict=True):
            parameter.copy_(start + moved * factor)
