"""What is one training step? Whatever is measured on the way costs no look at the device."""

import math
import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnbench.data import AUGMENT, LAYERS, Augment, Batch, derived_seed

Row = dict[str, float]
"""What is known of an epoch; the names are in `record.HISTORY`."""


class Diverged(Exception):
    """The loss became infinite or undefined."""


class Classifier(pl.LightningModule):
    """Trains `model` to name the class of an image.

    Args:
        model: takes bytes (images, channels, height, width) and gives logits (images, classes).
        configure: makes what Lightning's `configure_optimizers` returns from the parameters.
        augment: changes the training images, or None.
        seed: of the run.
        steps: training steps in an epoch.
        images: training images in an epoch.
    """

    def __init__(
        self,
        model: nn.Module,
        configure: Callable[[list[nn.Parameter]], Any],
        augment: Augment | None,
        seed: int,
        steps: int,
        images: int,
    ) -> None:
        super().__init__()
        self.model = model
        self.history: list[Row] = []
        """A row for each finished epoch; travels in the checkpoints."""
        self.confusion: Tensor
        """After a test: images by true class (rows) and predicted class (columns)."""
        self._configure, self._augment, self._seed, self._steps, self._images = configure, augment, seed, steps, images

    def configure_optimizers(self) -> Any:
        """The optimizer and its schedule."""
        return self._configure(list(self.model.parameters()))

    # Training

    def on_train_epoch_start(self) -> None:
        """Makes the epoch's randomness depend on nothing but seed and epoch, so that a resumed run repeats it."""
        torch.manual_seed(derived_seed(self._seed, LAYERS, self.current_epoch))
        self._generator = torch.Generator(self.device)
        self._generator.manual_seed(derived_seed(self._seed, AUGMENT, self.current_epoch))
        self.losses = torch.zeros(self._steps, device=self.device)
        self._correct = torch.zeros((), dtype=torch.int64, device=self.device)
        self._sizes: list[int] = []
        self._lr = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.started = time.perf_counter()

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """The mean cross-entropy of a batch."""
        images, labels = batch
        if self._augment is not None:
            images = self._augment(images, self._generator)
        logits = self.model(images)
        loss = F.cross_entropy(logits, labels)
        self.losses[index] = loss.detach()
        self._correct += (logits.detach().argmax(1) == labels).sum()
        self._sizes.append(len(labels))
        return loss

    def running(self) -> tuple[float, float]:
        """Mean loss and accuracy of this epoch's steps so far; waits for the device."""
        done = len(self._sizes)
        return float(self.losses[:done].mean()), int(self._correct) / max(sum(self._sizes), 1)

    def on_train_epoch_end(self) -> None:
        """Writes the epoch's row.

        Raises:
            Diverged: the training or validation loss is not finite.
        """
        losses = self.losses.double().cpu()
        broken = (~losses.isfinite()).nonzero()
        if len(broken):
            step = self.current_epoch * self._steps + int(broken[0]) + 1
            raise Diverged(f"the loss was {float(losses[broken[0]])} at step {step} (epoch {self.current_epoch + 1})")
        if not math.isfinite(self._val_loss):
            raise Diverged(f"the validation loss was {self._val_loss} after epoch {self.current_epoch + 1}")
        self.history.append(
            {
                "epoch": self.current_epoch + 1,
                "train_loss": float(losses @ torch.tensor(self._sizes, dtype=torch.float64)) / self._images,
                "train_acc": int(self._correct) / self._images,
                "penalty": 0.0,
                "val_loss": self._val_loss,
                "val_acc": self._val_acc,
                "lr": self._lr,
                "images_seen": (self.current_epoch + 1) * self._images,
                "seconds": self._seconds,
                "images_per_second": self._images / self._seconds,
            }
        )

    # Evaluation

    def on_validation_epoch_start(self) -> None:
        """Stops the clock: an epoch's seconds are those of training alone."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._seconds = time.perf_counter() - self.started
        self._reset()

    def validation_step(self, batch: Batch, index: int) -> None:
        """Adds a batch to the sums."""
        self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        """Loss and accuracy of the validation images."""
        self._val_loss, self._val_acc = self._result()
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
        images, labels = batch
        logits = self.model(images).float()
        classes = logits.shape[1]
        self._loss_sum += F.cross_entropy(logits, labels, reduction="sum")
        counts = torch.bincount(labels * classes + logits.argmax(1), minlength=classes * classes)
        self.confusion = counts if len(self.confusion) == 0 else self.confusion + counts

    def _result(self) -> tuple[float, float]:
        classes = math.isqrt(len(self.confusion))
        self.confusion = self.confusion.view(classes, classes).cpu()
        count = int(self.confusion.sum())
        return float(self._loss_sum) / count, int(self.confusion.diagonal().sum()) / count

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the history, and whether the last epoch is behind."""
        checkpoint["history"] = self.history
        checkpoint["ended"] = self.trainer.should_stop or len(self.history) == self.trainer.max_epochs

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the history back."""
        self.history = checkpoint["history"]
