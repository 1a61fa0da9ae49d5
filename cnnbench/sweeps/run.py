"""How does one config become one record? Trained, selected, tested once, and gone on with where it was stopped."""

import contextlib
import logging
import sys
import time
import traceback
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from filelock import FileLock, Timeout
from lightning_fabric.utilities.warnings import disable_possible_user_warnings
from pytorch_lightning.callbacks import Checkpoint, EarlyStopping
from torch import nn

from cnnbench.config.compose import Job, as_yaml
from cnnbench.config.schema import Config
from cnnbench.data.datamodule import ImageData, statistics
from cnnbench.data.images import ImageSet
from cnnbench.errors import Busy, CheckpointError, Diverged, Interrupted, ProcessLost, RecordError
from cnnbench.models import Ensemble
from cnnbench.results import identity, records
from cnnbench.results.decoding import decode
from cnnbench.results.records import Record
from cnnbench.runtime import collectives, files
from cnnbench.runtime.machine import environment, hide_missing_gpus, keep_freed_memory
from cnnbench.runtime.progress import REFRESH, Screen, Sweep
from cnnbench.runtime.signals import collected_signals
from cnnbench.search.search import search
from cnnbench.training import checkpoints, optimizers, parts, regularizers, transfer
from cnnbench.training.loggers import Loggers
from cnnbench.training.module import Classifier

for _name in ("pytorch_lightning", "lightning_fabric"):
    for _suffix in ("", ".utilities.rank_zero"):
        logging.getLogger(_name + _suffix).setLevel(logging.WARNING)
disable_possible_user_warnings()  # Lightning's advice to its developers, not to our users
warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
warnings.filterwarnings("ignore", message=".*sync_dist=True.*")  # what is logged has been added up


def run(job: Job, images: ImageSet, screen: Screen) -> Record:
    """Trains, selects, tests once, and writes the record; goes on where an earlier run of the same experiment stopped.

    A run that fails or diverges is a result too: its record says so, and nothing is raised.

    Raises:
        Busy: another process is at it.
        Interrupted: by Ctrl-C or SIGTERM; its record says so.
        OSError: the disk is full or can't be written; what was there before is whole.
    """
    config = job.config
    folder = folder_of(job, images)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", blocking=False)  # the system takes it back from a process that is gone
    try:
        holding = lock.acquire()
    except Timeout:
        raise Busy(str(folder)) from None
    with holding:
        screen.start(folder.name, config.search_epochs + config.epochs)
        try:
            before = finished(folder, config)
            collectives.broadcast(before is None)
            if before is not None:
                screen.say(f"{folder.name}: already {before.status} (force=true runs it again)")
                return before
            for torn in folder.glob(".*.*"):  # what a killed process was writing
                torn.unlink()
            _set_aside(folder, config)
            return _Run(job, images, screen, folder).record()
        finally:
            screen.finish()


def follow(job: Job, images: ImageSet) -> int:
    """The part of `run` in a process that is not the run's first: trains on its share, and neither writes nor speaks.

    Returns:
        The exit code: 0, or 1 if it failed. Then the others can't go on; why is printed, since no record says it.
    """
    job.config.logger.clear()
    with contextlib.suppress(Interrupted, ProcessLost):
        if collectives.broadcast(False):
            screen = Sweep(1, job.config.epochs, quiet=True).line()
            screen.start("", job.config.epochs)
            record = _Run(job, images, screen, folder_of(job, images)).record()
            if record.status == "failed":
                print(f"process {collectives.rank()}: {record.error}", file=sys.stderr)
                return 1
    return 0


def folder_of(job: Job, images: ImageSet) -> Path:
    """Where the run is written: `runs_dir/name/run id`."""
    name = identity.run_id(job.config, job.choices["optimizer"], images.fingerprint)
    return Path(job.config.runs_dir).expanduser() / job.config.name / name


def finished(folder: Path, config: Config) -> Record | None:
    """The record of an experiment that came to its end before and is not asked for anew."""
    path = folder / "record.json"
    if config.force or not path.exists():
        return None
    with contextlib.suppress(RecordError):
        record = records.read(path)
        ended = ("done", "diverged") if config.retry else ("done", "diverged", "failed")
        if record.status in ended:
            return record
    return None


def _set_aside(folder: Path, config: Config) -> None:
    """Keeps an earlier result under `.old/` where a new one was asked for; what was interrupted stays."""
    path = folder / "record.json"
    if not path.exists():
        return
    with contextlib.suppress(RecordError):
        if records.read(path).status == "interrupted" and not config.force:
            return
    old = folder / ".old"
    aside = old / str(1 + len(list(old.iterdir())) if old.exists() else 1)
    aside.mkdir(parents=True)
    # What could be gone on with goes first, the record last: a kill in between leaves an old result, not a mixture.
    items = [item for item in folder.iterdir() if item.name not in (".lock", ".old")]
    for item in sorted(items, key=lambda item: (item.name == "record.json", "last" not in item.name)):
        item.rename(aside / item.name)


class _Run:
    """The parts of one run while it lasts."""

    def __init__(self, job: Job, images: ImageSet, screen: Screen, folder: Path) -> None:
        self.job, self.config, self.images, self.screen, self.folder = job, job.config, images, screen, folder
        self.first = collectives.rank() == 0
        """Is this the process that writes?"""

    def record(self) -> Record:
        config, images = self.config, self.images
        self.data = ImageData(images, config.data, parts.batch_size(config), config.seed)
        self._record = Record(
            run_id=self.folder.name,
            overrides=list(self.job.typed),
            config_dir=self.job.config_dir,
            config=asdict(config),
            choices=self.job.choices,
            protocol=records.Protocol(
                validation=config.data.val,
                selection="highest validation accuracy, the first of equals",
                test="once, with the selected epoch's weights" if config.test else "closed",
            ),
            data=records.Data(
                name=self.job.choices["data"],
                fingerprint=images.fingerprint,
                sizes=records.Sizes(**self.data.sizes),
                shape=self.data.image_shape,
                classes=list(images.classes),
            ),
        )
        text = as_yaml(config)
        if self.first:
            files.write_whole(self.folder / "config.yaml", lambda file: file.write(text.encode()))
            if not (self.folder / "record.json").exists():
                self.save()
        with collected_signals() as received:
            self.received = received
            try:
                self._prepare()
                self._train_and_test()
                self._record.status = "done"
            except Diverged as error:
                self._record.status, self._record.error = "diverged", str(error)
            except BaseException as error:
                if isinstance(error, ProcessLost) and not self.first:  # the first one's record says why
                    raise
                if files.is_disk_failure(error) or not (received or isinstance(error, Exception)):
                    raise
                if not received:
                    self._record.status, self._record.error = "failed", self._explain(error)
        self.save()
        if received:
            raise Interrupted(received[0])
        return self._record

    def _explain(self, error: BaseException) -> str:
        text = traceback.format_exc()
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            text += f"Out of memory with batches of {parts.batch_size(self.config)} images. Try a smaller batch_size.\n"
        return text

    def _prepare(self) -> None:
        config, data = self.config, self.data
        if config.hardware.threads is not None:
            torch.set_num_threads(config.hardware.threads)
        keep_freed_memory()
        hide_missing_gpus()
        torch.backends.cudnn.allow_tf32 = False  # convolutions of 32 bits have 32 bits on a GPU too
        if config.search.method != "none":
            config = self.config = self._searched()
        pl.seed_everything(config.seed, verbose=False)
        network = parts.make_model(config, data.image_shape, len(self.images.classes))
        transfer.initialise(config, network)
        if config.hardware.compile:
            network.compile()
        mean, deviation = statistics(self.images.train, data.split.train, config.data.normalize)
        self._record.data.mean, self._record.data.deviation = mean, deviation
        self._record.protocol.regularized = regularizers.describe(config.regularizer, network)
        self._record.parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
        augment = parts.make_augmentation(config, len(self.images.train), mean)
        self.epoch = parts.epoch_of(config, data)
        model, recipe = parts.with_pixels(config, network, mean, deviation), parts.make_recipe(config, self.epoch)
        self.module = Classifier(model, recipe, self.epoch, augment, config.seed)

    def _searched(self) -> Config:
        """The config with the model that the search has found, now or before."""
        config, screen, name = self.config, self.screen, self.folder.name
        screen.start(f"{name} search", config.search_epochs)

        def keep(found: dict[str, Any]) -> None:
            self._record.search = decode(records.Search, found)
            self.save()

        found = search(config, self.images, self.data, self.folder, screen, self.received, keep)
        screen.finish()
        screen.start(name, config.epochs)
        return replace(config, model=found["model"])

    def _train_and_test(self) -> None:
        config, folder, module = self.config, self.folder, self.module
        self.stop = None
        if config.stop.patience is not None:
            self.stop = EarlyStopping(
                config.stop.metric,
                mode="min" if config.stop.metric == "val_loss" else "max",
                patience=config.stop.patience,
                min_delta=config.stop.min_delta,
                check_on_train_epoch_end=True,
            )
        before = collectives.broadcast(self._before() if self.first else None)
        self.data.skip = module.go_on(before["module"]) if before else 0
        callbacks: list[pl.Callback] = [_Keep(self, before), *([self.stop] if self.stop else [])]
        trainer = parts.make_trainer(config, callbacks, folder, uneven=self.data.skip > 0)
        self._record.environment = environment(trainer.strategy.root_device)
        if before:
            self._take_history()
        self.save()
        with Loggers(config, self.job.choices, folder, module.history, self.screen) as self.loggers:
            if self._record.search:
                self.loggers.search(self._record.search.history)
            if not (before and before["ended"]):
                progress: Any = trainer.fit_loop.epoch_progress.current
                progress.processed = progress.completed = len(module.history)
                trainer.fit(module, datamodule=self.data)
            assert self._record.best is not None
            figures = {"hp/val_acc_best": self._record.best.val_acc}
            if config.test:
                self._record.test = self._test(trainer)
                figures["hp/test_acc"] = module.test_acc
            self.loggers.figures(figures, len(module.history))
        if self.first:
            (folder / "previous.ckpt").unlink(missing_ok=True)

    def _test(self, trainer: pl.Trainer) -> records.Test:
        """Opens the test set."""
        module = self.module
        best = collectives.broadcast(checkpoints.read(self.folder / "best.ckpt") if self.first else {})
        module.model.load_state_dict(best["model"])
        trainer.test(module, datamodule=self.data, verbose=False)
        tested = module.confusion.sum(1).tolist()
        hits = module.confusion.diagonal().tolist()
        per_class = [hit / n if n else None for hit, n in zip(hits, tested, strict=True)]
        result = records.Test(module.test_acc, module.test_loss, per_class, module.confusion.tolist())
        if isinstance(network := module.model.get_submodule("network"), Ensemble):
            result.members = [self._accuracy(trainer, member) for member in network.members]
        return result

    def _accuracy(self, trainer: pl.Trainer, network: nn.Module) -> float:
        """Test accuracy of a part of the model."""
        normalize, device = self.module.model.get_submodule("normalize"), next(network.parameters()).device
        hits = torch.zeros((), dtype=torch.int64, device=device)
        with torch.inference_mode():
            for images, labels, _ in self.data.test_dataloader():
                if len(labels):
                    hits += (network(normalize(images.to(device))).argmax(1) == labels.to(device)).sum()
            return int(collectives.all_reduce_sum(hits)) / self.data.sizes["test"]

    def _before(self) -> dict[str, Any] | None:
        """The newest good checkpoint, if there is one, and the best epoch's weights are good too."""
        for name in ("last.ckpt", "previous.ckpt"):
            if not (self.folder / name).exists():
                continue
            try:
                before = checkpoints.read(self.folder / name)
                if before["module"]["history"]:
                    checkpoints.read(self.folder / "best.ckpt")
            except CheckpointError as error:
                self.screen.say(f"warning: {error}; going back to what was saved before it")
            else:
                return before
        return None

    def save(self) -> None:
        """Writes the record as it stands."""
        if self.first:
            records.write(self.folder / "record.json", self._record)

    def _take_history(self) -> None:
        self._record.history = decode(list[records.Epoch], self.module.history)
        self._record.best = records.best(self._record.history)

    def checkpoint(self, trainer: pl.Trainer) -> None:
        """Keeps all that is needed to go on from here."""
        module, epochs = self.module, len(self.module.history)
        (optimizer,) = trainer.optimizers
        state = {
            "model": module.model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": module.schedule.state_dict(),
            "stop": self.stop.state_dict() if self.stop else None,
            "module": module.state(),
            "ended": epochs > trainer.current_epoch and (trainer.should_stop or epochs == self.config.epochs),
        }
        if self.first:
            checkpoints.write(self.folder / "last.ckpt", state, keep=self.folder / "previous.ckpt")

    def restore(self, trainer: pl.Trainer, state: dict[str, Any]) -> None:
        """Takes back what `checkpoint` kept."""
        self.module.model.load_state_dict(state["model"])
        optimizers.take_back(trainer.optimizers[0], state["optimizer"])
        self.module.schedule.load_state_dict(state["schedule"])
        if self.stop:
            self.stop.load_state_dict(state["stop"])

    def keep_epoch(self, trainer: pl.Trainer) -> None:
        """After an epoch: checkpoints first, then the record that speaks of them."""
        self._take_history()
        row = self.module.history[-1]
        if self.first and self._record.best and self._record.best.epoch == row["epoch"]:
            checkpoints.write(
                self.folder / "best.ckpt", {"model": self.module.weights or self.module.model.state_dict()}
            )
        self.checkpoint(trainer)
        self.save()
        self.loggers.epoch(row)
        self.screen.epoch(row)


class _Keep(Checkpoint):
    """Between Lightning's loop and the run: the screen and the state after batches, the files after epochs.

    Lightning calls a `Checkpoint` after all other callbacks, so that early stopping has made up its mind.
    """

    def __init__(self, run: _Run, before: dict[str, Any] | None) -> None:
        self._run, self._before = run, before
        self._looked = 0.0
        self._saved = time.monotonic()
        every = run.config.checkpoint.every or ""
        self._minutes = int(every.removesuffix("min")) if every.endswith("min") else None
        self._batches = int(every) if every and self._minutes is None else None

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self._before:
            self._run.restore(trainer, self._before)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        run, done = self._run, self._run.module.done
        if done == run.epoch.batches:  # the epoch's end is near: it saves and stops
            return
        now = time.perf_counter()
        look = run.screen.visible and now - self._looked >= REFRESH
        stop, save, shown = collectives.all_reduce_max([self._signal(), self._is_due(done), look])
        if stop or save:
            run.checkpoint(trainer)
            self._saved = time.monotonic()
        self._stop(stop)
        if shown:
            self._looked = now
            run.screen.step(trainer.current_epoch + done / run.epoch.batches, *run.module.running())

    def _is_due(self, done: int) -> bool:
        if self._batches is not None:
            return done % self._batches == 0
        return self._minutes is not None and time.monotonic() - self._saved >= 60 * self._minutes

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._run.keep_epoch(trainer)
        self._stop(*collectives.all_reduce_max([self._signal()]))

    def on_test_batch_end(self, *_: Any) -> None:
        self._stop(*collectives.all_reduce_max([self._signal()]))

    def _signal(self) -> int:
        """What this process was sent, or 0; its processes stop together, at what one of them was sent."""
        return self._run.received[0] if self._run.received else 0

    def _stop(self, signum: int) -> None:
        if signum:
            if not self._run.received:
                self._run.received.append(signum)
            raise Interrupted(signum)
