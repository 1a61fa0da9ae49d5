"""The life of one training: built, resumed where it stopped, trained, its state saved, and interrupted by signals.

A run trains once. A search trains once or several times before the run does. Both use this one class.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint, EarlyStopping
from torch import Tensor, nn

from cnnbench.config.schema import Config
from cnnbench.data.datamodule import ImageData, Loader
from cnnbench.errors import CheckpointError, CnnbenchError, Interrupted
from cnnbench.runtime import collectives
from cnnbench.runtime.progress import REFRESH, Screen
from cnnbench.training import optimizers
from cnnbench.training.module import Classifier

VERSION = 3
"""Of `State`. Version 1 had no number; 3 added `stopped`."""


@dataclass
class State:
    """All that is needed to resume a training, after an epoch or amid one: tensors and plain containers."""

    module: dict[str, Any]
    """What `Classifier.state` gives."""
    lightning: dict[str, Any]
    """`state_dict` of the module, and whatever callbacks put beside it in `on_save_checkpoint`."""
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    callbacks: dict[str, Any]
    """What `state_dict` of each callback gives, by the callback's `state_key`."""
    steps: int
    """Optimizer steps so far."""
    ended: bool
    """Whether no epoch is left."""
    stopped: bool = False
    """Whether a callback has stopped the training, so that more `epochs` would change nothing."""
    version: int = VERSION
    average: dict[str, Any] | None = None
    """What `state_dict` of the average of weights gives; None in states of earlier versions."""

    @staticmethod
    def of(saved: dict[str, Any]) -> "State":
        """The state that a checkpoint holds, of this version or an earlier one.

        Raises:
            CheckpointError: it holds something else.
        """
        try:
            if "version" not in saved:
                stop = saved.get("stop")
                return State(
                    module=saved["module"],
                    lightning={
                        "state_dict": {f"model.{key}": value for key, value in saved["model"].items()}
                        | {f"architecture.{k}": v for k, v in saved["module"].get("architecture", {}).items()}
                    },
                    optimizer=saved["optimizer"],
                    schedule=saved["schedule"],
                    callbacks={"stop": stop} if stop else {},
                    steps=0,
                    ended=saved.get("ended", False),
                    version=1,
                )
            return State(**saved)
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"not the state of a training ({error})") from None

    def check(self, module: nn.Module) -> None:
        """Checks that this is the state of a training of `module`.

        Raises:
            CheckpointError: it has other parts, or the weights of another network.
        """
        kinds = (self.module, dict), (self.lightning, dict), (self.optimizer, dict), (self.schedule, dict)
        if not all(isinstance(*each) for each in kinds) or not isinstance(self.module.get("history"), list):
            raise CheckpointError("not the state of a training (other parts)")
        weights = self.lightning.get("state_dict")
        shapes = {key: getattr(value, "shape", None) for key, value in weights.items()} if weights else {}
        if shapes != {key: value.shape for key, value in module.state_dict().items()}:
            raise CheckpointError("the state of a training of another network")


@dataclass
class Surroundings:
    """Where a training takes place."""

    folder: Path
    """The run's."""
    screen: Screen
    """Shows how it is getting on."""
    received: list[int] = field(default_factory=list)
    """Signals, acted on between two steps."""
    check_owner: Callable[[], None] = lambda: None
    """Raises `Busy` if another process has taken over the folder; called before each writing."""
    epochs_done: int = 0
    """Epochs of earlier trainings of the same search, for the screen."""


class Training:
    """Trains a module for `config.epochs` epochs, or for those that are left of a state.

    Args:
        config: of the run; a search gives its own number of epochs.
        module: what is trained.
        data: its batches.
        surroundings: folder, screen and signals.
        state: where an earlier process stopped, or None.
        save: keeps a state amid an epoch.
        epoch_ended: keeps the state after each epoch.
        callbacks: Lightning's, by name; they are called before this training's own.
        logger: what callbacks log to, or None.
    """

    config: Config
    module: Classifier
    data: ImageData
    surroundings: Surroundings
    trainer: pl.Trainer
    state: State | None
    callbacks: dict[str, pl.Callback]
    save: Callable[[State], None]
    epoch_ended: Callable[[State], None]

    def __init__(
        self,
        config: Config,
        module: Classifier,
        data: ImageData,
        surroundings: Surroundings,
        state: State | None,
        save: Callable[[State], None],
        epoch_ended: Callable[[State], None],
        callbacks: dict[str, pl.Callback] | None = None,
        logger: pl.loggers.Logger | None = None,
    ) -> None:
        self.config, self.module, self.data, self.surroundings = config, module, data, surroundings
        self.state, self.save, self.epoch_ended = state, save, epoch_ended
        self.callbacks = callbacks or {}
        data.skip = module.resume(state.module) if state else 0
        self.trainer = data.trainer = self._make_trainer(logger, uneven=data.skip > 0)

    @property
    def ended(self) -> bool:
        """Whether no epoch is left."""
        return self.state is not None and self.state.ended

    def train(self) -> None:
        """Trains to the last epoch.

        Raises:
            Diverged: the loss became infinite or undefined.
            Interrupted: a signal was received; the state has been saved.
        """
        if self.ended:
            return
        _fast_forward(self.trainer, len(self.module.history), self.state.steps if self.state else 0)
        self.trainer.fit(self.module, datamodule=_DataModule(self.data))

    def test(self, weights: dict[str, Tensor]) -> None:
        """Tests with these weights of the model; the module then has the results.

        Raises:
            Interrupted: a signal was received.
        """
        self.module.model.load_state_dict(weights)
        self.trainer.test(self.module, datamodule=_DataModule(self.data), verbose=False)

    def current_state(self) -> State:
        """What a later process needs to resume from here."""
        trainer, module = self.trainer, self.module
        (optimizer,) = trainer.optimizers
        epochs = len(module.history)
        # What Lightning's own checkpoints have, as far as callbacks look at it.
        lightning: dict[str, Any] = {"epoch": trainer.current_epoch, "global_step": trainer.global_step}
        lightning["state_dict"] = module.state_dict()
        states = {}
        for name, callback in self.callbacks.items():
            callback.on_save_checkpoint(trainer, module, lightning)
            states[name] = callback.state_dict()
            _check_plain(f"callbacks.{name}: its state_dict", states[name])
        return State(
            module=module.state(),
            lightning=lightning,
            optimizer=optimizer.state_dict(),
            schedule=module.schedule.state_dict(),
            average=module.average.state_dict(),
            callbacks=states,
            steps=trainer.global_step,
            ended=epochs > trainer.current_epoch and (trainer.should_stop or epochs == self.config.epochs),
            stopped=trainer.should_stop,
        )

    def restore_callbacks(self, state: State) -> None:
        """Takes back weights and callbacks; before the optimizer is made, as Lightning does it."""
        self.module.load_state_dict(state.lightning["state_dict"])
        for name, callback in self.callbacks.items():
            callback.on_load_checkpoint(self.trainer, self.module, state.lightning)
            if name in state.callbacks:
                callback.load_state_dict(state.callbacks[name])

    def restore_optimizer(self, state: State) -> None:
        """Takes back optimizer, schedule and averaged weights."""
        optimizers.take_back(self.trainer.optimizers[0], state.optimizer)
        self.module.schedule.load_state_dict(state.schedule)
        if state.average is not None:
            self.module.average.load_state_dict(state.average)

    def _make_trainer(self, logger: pl.loggers.Logger | None, uneven: bool) -> pl.Trainer:
        """Lightning's trainer. It writes and shows nothing by itself; the callbacks do.

        Args:
            logger: what callbacks log to.
            uneven: the first epoch has fewer batches than the next one, because it resumes.
        """
        config = self.config
        if config.stop.patience is not None:
            self.callbacks["stop"] = EarlyStopping(
                config.stop.metric,
                mode="min" if config.stop.metric == "val_loss" else "max",
                patience=config.stop.patience,
                min_delta=config.stop.min_delta,
                check_on_train_epoch_end=True,
            )
        gpu = config.hardware.accelerator != "cpu" and torch.cuda.is_available()
        precision: Any = config.hardware.precision  # the schema allows two of Lightning's names
        return pl.Trainer(
            accelerator="gpu" if gpu else "cpu",
            devices=[torch.cuda.current_device()] if gpu else 1,
            precision=precision,
            deterministic=config.hardware.deterministic,
            benchmark=not config.hardware.deterministic,  # cuDNN's fastest algorithm is found by trying
            max_epochs=config.epochs,
            callbacks=[*self.callbacks.values(), _Watch(self)],
            logger=logger or False,
            enable_checkpointing=True,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            reload_dataloaders_every_n_epochs=1 if uneven else 0,
            use_distributed_sampler=False,
            default_root_dir=self.surroundings.folder,
        )


def _fast_forward(trainer: pl.Trainer, epochs: int, steps: int) -> None:
    """Lets a new trainer count on from so many epochs and optimizer steps.

    The one place that sets private state of Lightning's loops. Lightning's way is `fit(ckpt_path=...)`. It would read
    a checkpoint of its own format, start a half-finished epoch with its first batch, and know nothing of the state
    that makes a resumed epoch give the same numbers.
    """
    loop: Any = trainer.fit_loop
    loop.epoch_progress.current.processed = loop.epoch_progress.current.completed = epochs
    counted = loop.epoch_loop.manual_optimization.optim_step_progress.total
    counted.ready = counted.completed = steps
    loop.epoch_loop._batches_that_stepped = steps


def _check_plain(what: str, value: Any) -> None:
    """Checks that a checkpoint can hold `value`: it is read without running code, so only plain types come back."""
    if isinstance(value, dict):
        for key, item in value.items():
            _check_plain(f"{what}[{key!r}]", item)
    elif type(value) in (list, tuple):
        for item in value:
            _check_plain(what, item)
    elif value is not None and not isinstance(value, bool | int | float | str | bytes | Tensor):
        raise CnnbenchError(f"{what} holds a {type(value).__name__}; allowed: tensors, numbers, text, lists and dicts")


class _DataModule(pl.LightningDataModule):
    """A run's images as Lightning asks for them. `ImageData` itself needs no Lightning, so that checks start fast."""

    images: ImageData

    def __init__(self, images: ImageData) -> None:
        super().__init__()
        self.images = images

    def train_dataloader(self) -> Loader:
        return self.images.train_dataloader()

    def val_dataloader(self) -> Loader:
        return self.images.val_dataloader()

    def test_dataloader(self) -> Loader:
        return self.images.test_dataloader()


class _Watch(Checkpoint):
    """Restores a training as it starts, and acts between steps: signals, screen, saving.

    Lightning calls a `Checkpoint` after all other callbacks, so that early stopping has decided before.
    """

    _training: Training
    _shown: float
    """When the screen was last brought up to date."""
    _saved: float
    """When the state was last saved."""
    _every_minutes: int | None
    _every_batches: int | None

    def __init__(self, training: Training) -> None:
        self._training = training
        self._shown = 0.0
        self._saved = time.monotonic()
        every = training.config.checkpoint.every or ""
        self._every_minutes = int(every.removesuffix("min")) if every.endswith("min") else None
        self._every_batches = int(every) if every and self._every_minutes is None else None

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self._training.state:
            self._training.restore_callbacks(self._training.state)

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self._training.state:
            self._training.restore_optimizer(self._training.state)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        training, classifier = self._training, self._training.module
        done, batches = classifier.batches_done, classifier.batches
        if done == batches or trainer.should_stop:  # the end of the epoch saves and stops
            return
        screen, now = training.surroundings.screen, time.perf_counter()
        show = screen.visible and now - self._shown >= REFRESH
        signum, save, shown = collectives.all_reduce_max([self._signal(), self._is_due(done), show])
        if signum or save:
            training.save(training.current_state())
            self._saved = time.monotonic()
        self._interrupt(signum)
        if shown:
            self._shown = now
            epoch = training.surroundings.epochs_done + trainer.current_epoch + done / batches
            screen.step(epoch, *classifier.progress())

    def _is_due(self, done: int) -> bool:
        if self._every_batches is not None:
            return done % self._every_batches == 0
        return self._every_minutes is not None and time.monotonic() - self._saved >= 60 * self._every_minutes

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        training, surroundings = self._training, self._training.surroundings
        training.epoch_ended(training.current_state())
        row = training.module.history[-1]
        surroundings.screen.epoch(row | {"epoch": surroundings.epochs_done + row["epoch"]})
        self._interrupt(*collectives.all_reduce_max([self._signal()]))

    def on_test_batch_end(self, *_: Any) -> None:
        self._interrupt(*collectives.all_reduce_max([self._signal()]))

    def _signal(self) -> int:
        """The signal that this process has received, or 0."""
        received = self._training.surroundings.received
        return received[0] if received else 0

    def _interrupt(self, signum: int) -> None:
        """Ends this process's part; all processes of a run stop together, at what one of them received."""
        if signum:
            received = self._training.surroundings.received
            if not received:
                received.append(signum)
            raise Interrupted(signum)
