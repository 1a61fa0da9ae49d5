"""One run: from a config to its record, through search, training, selection and test, and resumed after a stop."""

import contextlib
import logging
import sys
import traceback
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.warnings import disable_possible_user_warnings
from torch import nn

from cnnbench.config.composition import Job, as_yaml
from cnnbench.config.schema import Config
from cnnbench.config.targets import python_path
from cnnbench.data.datamodule import ImageData, statistics
from cnnbench.data.images import ImageSet
from cnnbench.data.normalization import Normalize
from cnnbench.errors import Busy, CheckpointError, Diverged, Interrupted, ProcessLost, RecordError
from cnnbench.models import Ensemble
from cnnbench.results import records
from cnnbench.results.decoding import decode
from cnnbench.results.records import Record
from cnnbench.runtime import collectives, files, ownership
from cnnbench.runtime.machine import environment, hide_missing_gpus, keep_freed_memory
from cnnbench.runtime.progress import Screen, Sweep
from cnnbench.runtime.randomness import kept_generators
from cnnbench.runtime.signals import collected_signals
from cnnbench.search.search import search
from cnnbench.sweeps import extension
from cnnbench.sweeps.folders import finished, folder_of
from cnnbench.training import checkpoints, initialisation, parts, regularizers, transfer
from cnnbench.training.epoch import Epoch
from cnnbench.training.loggers import Loggers
from cnnbench.training.module import Classifier
from cnnbench.training.operations import flops
from cnnbench.training.training import State, Surroundings, Training

for _name in ("pytorch_lightning", "lightning_fabric"):
    for _suffix in ("", ".utilities.rank_zero"):
        logging.getLogger(_name + _suffix).setLevel(logging.WARNING)
disable_possible_user_warnings()  # Lightning's advice to its developers, not to our users
warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
warnings.filterwarnings("ignore", message=".*sync_dist=True.*")  # what is logged is a sum over all processes


def run(job: Job, images: ImageSet, screen: Screen) -> Record:
    """Trains, selects, tests once, and writes the record. Resumes an earlier run of the same experiment.

    A run that fails or diverges is a result too: its record says so, and nothing is raised.

    Raises:
        Busy: another process is running it, or has taken it over.
        Interrupted: Ctrl-C or SIGTERM; the state is saved and the record says so.
        ProcessLost: another of the processes that train it together is gone; it can be resumed.
        OSError: the disk is full or can't be written; earlier files are intact.
    """
    config = job.config
    folder = folder_of(job, images)
    folder.mkdir(parents=True, exist_ok=True)
    with ownership.owned(folder, screen.say) as owner:
        screen.start(job.label, config.search_epochs + config.epochs)
        try:
            record = finished(folder, config)
            collectives.broadcast(record is None)
            if record is not None:
                screen.say(f"{job.label}: already {record.status} (force=true runs it again)")
                return record
            for temporary in folder.glob(".*.*"):  # a killed process was writing it
                temporary.unlink()
            _set_aside(folder, config)
            with kept_generators():
                return _Run(job, images, Surroundings(folder, screen, check_owner=owner.check)).carry_out()
        finally:
            screen.finish()


def follow(job: Job, images: ImageSet) -> int:
    """Carries out a run in each process but its first: trains on a share of each batch, writes and shows nothing.

    Returns:
        The exit code: 0, or 1 if this process failed. Then the others can't continue; the reason is printed, since no
        record holds it.
    """
    job.config.logger.clear()
    with contextlib.suppress(Interrupted, ProcessLost):
        if collectives.broadcast(False):
            screen = Sweep(1, job.config.epochs, quiet=True).line()
            screen.start("", job.config.epochs)
            record = _Run(job, images, Surroundings(folder_of(job, images), screen)).carry_out()
            if record.status == "failed":
                print(f"process {collectives.rank()}: {record.error}", file=sys.stderr)
                return 1
    return 0


def _set_aside(folder: Path, config: Config) -> None:
    """Moves an earlier result to `.old/` if a new one was asked for. An interrupted run stays, to be resumed."""
    path = folder / "record.json"
    if not path.exists():
        return
    with contextlib.suppress(RecordError):
        if records.read(path).status == "interrupted" and not config.force:
            return
    old = folder / ".old"
    numbers = [int(item.name) for item in old.glob("*") if item.name.isdecimal()]
    aside = old / str(1 + max(numbers, default=0))
    aside.mkdir(parents=True)
    # Checkpoints to resume from go first, the record last: a kill in between leaves an old result, not a mixture.
    items = [item for item in folder.iterdir() if item.name not in (*ownership.FILES, ".old")]
    for item in sorted(items, key=lambda item: (item.name == "record.json", "last" not in item.name)):
        item.rename(aside / item.name)


class _Run:
    """One run: its training, preceded by a search if the config asks for one, its test, and its record."""

    job: Job
    config: Config
    """The config of the job; after a search, with the model that was found."""
    images: ImageSet
    data: ImageData
    surroundings: Surroundings
    writes: bool
    """Whether this process writes files: the first of those that train the run together does."""
    result: Record
    epoch: Epoch
    module: Classifier
    loggers: Loggers
    callbacks: dict[str, pl.Callback]
    """The user's, by name."""

    def __init__(self, job: Job, images: ImageSet, surroundings: Surroundings) -> None:
        self.job, self.config, self.images = job, job.config, images
        self.data = ImageData(images, job.config.data, parts.batch_size(job.config), job.config.seed)
        self.surroundings = surroundings
        self.writes = collectives.rank() == 0
        self.callbacks = {}
        self.result = self._new_record()

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return self.surroundings.folder

    @property
    def tests(self) -> bool:
        """Whether the run is tested at its end."""
        return self.config.test and self.data.sizes["test"] > 0

    def carry_out(self) -> Record:
        """Searches, trains and tests, and saves the record on the way.

        Returns:
            The record.

        Raises:
            Interrupted: Ctrl-C or SIGTERM; the state is saved.
            ProcessLost: another process that trains this run is gone; what was saved before stays.
            Busy: another process has taken over.
            OSError: the disk is full or can't be written.
        """
        text = as_yaml(self.config)
        if self.writes:
            files.write_whole(self.folder / "config.yaml", lambda file: file.write(text.encode()))
            if not (self.folder / "record.json").exists():
                self.save()
        with collected_signals() as received:
            self.surroundings.received = received
            try:
                self._prepare()
                self._train_and_test()
                self.result.status = "done"
            except Diverged as error:
                self.result.status, self.result.error = "diverged", str(error)
            except BaseException as error:
                ours = received or isinstance(error, Exception | SystemExit)  # a user's class may call exit()
                if isinstance(error, ProcessLost | Busy) or files.is_disk_failure(error) or not ours:
                    raise
                if "DataLoader worker" in str(error) and not received:  # torch has no exception class of its own for it
                    raise ProcessLost("a process that reads its images is gone") from error
                if not received:
                    self.result.status, self.result.error = "failed", self._explain(error)
        self.save()
        if received:
            raise Interrupted(received[0])
        return self.result

    def _new_record(self) -> Record:
        config = self.config
        return Record(
            run_id=self.folder.name,
            overrides=list(self.job.typed),
            config_dir=self.job.config_dir,
            python_path=python_path(asdict(config)),
            config=asdict(config),
            choices=self.job.choices,
            protocol=records.Protocol(
                validation=self.data.validation,
                tta=config.evaluation.tta,
                selection=f"highest {records.SELECTED[config.select]}, the first of equals",
                test="once, with the selected epoch's weights" if self.tests else "closed",
            ),
            data=records.Data(
                name=self.job.choices["data"],
                fingerprint=self.images.fingerprint,
                sizes=records.Sizes(**self.data.sizes),
                shape=self.data.image_shape,
                classes=list(self.images.classes),
                note=self.images.note,
            ),
        )

    def _explain(self, error: BaseException) -> str:
        """The traceback, and after it one line for the user, which `list` and the report show."""
        text = traceback.format_exc()
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            text += f"Out of memory with batches of {parts.batch_size(self.config)} images. Try a smaller batch_size.\n"
        for frame, _ in traceback.walk_tb(error.__traceback__):
            for name, callback in self.callbacks.items():
                if frame.f_locals.get("self") is callback:
                    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                    return f"{text}callbacks={name}: {type(callback).__name__}.{frame.f_code.co_name}: {reason}\n"
        return text

    def _prepare(self) -> None:
        """Builds all parts, after the search if there is one."""
        data = self.data
        if self.config.hardware.threads is not None:
            torch.set_num_threads(self.config.hardware.threads)
        keep_freed_memory()
        hide_missing_gpus()
        torch.backends.cudnn.allow_tf32 = False  # 32-bit convolutions are 32-bit on a GPU too
        if self.config.search.method != "none":
            self._search()
        config = self.config
        pl.seed_everything(config.seed, verbose=False)
        network = parts.make_model(config, data.image_shape, len(self.images.classes))
        mean, std = statistics(self.images.train, data.split.train, config.data.normalize)
        count = initialisation.PATCH_IMAGES if config.model.get("whiten") else 0  # nothing else looks at them
        some = torch.from_numpy(self.images.train[data.split.train[:count]]).permute(0, 3, 1, 2)
        layers = parts.initialise(config, network, Normalize(mean, std)(some))
        self.result.layers = layers or None
        if any(layer.loaded for layer in layers):
            self.surroundings.screen.say(f"{self.folder.name}: {transfer.in_words(layers)}")
        self.result.flops = flops(network, data.image_shape)
        if config.hardware.compile:
            network.compile()
        self.result.data.mean, self.result.data.deviation = mean, std
        self.result.protocol.regularized = regularizers.describe(config.regularizer, network)
        self.result.parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
        augment = parts.make_augmentation(config, len(self.images.train), mean)
        self.epoch = parts.epoch_of(config, data)
        model = parts.with_pixels(config, network, mean, std)
        recipe = parts.make_recipe(config, self.epoch, data.class_counts)
        self.module = Classifier(model, recipe, self.epoch, augment, config.seed)
        self.callbacks = parts.make_callbacks(config)

    def _search(self) -> None:
        """Searches, or resumes or reads a search, and puts the model that it found into the config."""
        config, screen, name = self.config, self.surroundings.screen, self.job.label
        screen.start(f"search, {name}", config.search_epochs)

        def keep(found: dict[str, Any]) -> None:
            self.result.search = decode(records.Search, found)
            self.save()

        found = search(config, self.images, self.data, self.surroundings, keep)
        screen.finish()
        screen.start(name, config.epochs)
        self.config = replace(config, model=found["model"])

    def _train_and_test(self) -> None:
        config, folder, module = self.config, self.folder, self.module
        state = collectives.broadcast((self._saved_state() or self._extended_state()) if self.writes else None)
        if state:
            module.history = state.module["history"]
            self._take_history()
        with Loggers(
            config, self.job.choices, self.job.label, folder, module.history, self.surroundings.screen
        ) as self.loggers:
            training = Training(
                config,
                module,
                self.data,
                self.surroundings,
                state,
                self._save_state,
                self._epoch_ended,
                self.callbacks,
                self.loggers,
            )
            self.result.environment = environment(training.trainer.strategy.root_device)
            self.save()
            if self.result.search:
                self.loggers.search(self.result.search.history)
            training.train()
            assert self.result.best is not None
            numbers = {"hp/val_acc_best": self.result.best.val_acc}
            if self.tests:
                self.result.test = self._test(training)
                numbers["hp/test_acc"] = module.test_acc
            self.loggers.log_metrics(numbers, len(module.history))
        if self.writes:
            (folder / "previous.ckpt").unlink(missing_ok=True)

    def _test(self, training: Training) -> records.Test:
        """Tests with the weights of the best epoch."""
        module = self.module
        best = collectives.broadcast(checkpoints.read(self.folder / "best.ckpt") if self.writes else {})
        training.test(best["model"])
        tested = module.confusion.sum(1).tolist()
        hits = module.confusion.diagonal().tolist()
        per_class = [hit / n if n else None for hit, n in zip(hits, tested, strict=True)]
        result = records.Test(module.test_acc, module.test_loss, per_class, module.confusion.tolist())
        result.balanced_acc, result.macro_f1 = records.class_means(result.confusion)
        if isinstance(network := module.model.get_submodule("network"), Ensemble):
            result.members = [self._accuracy(member) for member in network.members]
        return result

    def _accuracy(self, network: nn.Module) -> float:
        """The test accuracy of one network of an ensemble."""
        normalize, device = self.module.model.get_submodule("normalize"), next(network.parameters()).device
        hits = torch.zeros((), dtype=torch.int64, device=device)
        with torch.inference_mode():
            for images, labels, _ in self.data.test_dataloader():
                if len(labels):
                    hits += (network(normalize(images.to(device))).argmax(1) == labels.to(device)).sum()
            return int(collectives.all_reduce_sum(hits)) / self.data.sizes["test"]

    def _saved_state(self) -> State | None:
        """The state in the newest undamaged checkpoint; None without one, or if the best weights are damaged."""
        for name in ("last.ckpt", "previous.ckpt"):
            if not (self.folder / name).exists():
                continue
            try:
                state = State.of(checkpoints.read(self.folder / name))
                state.check(self.module)
                if state.module["history"]:
                    checkpoints.read(self.folder / "best.ckpt")
            except CheckpointError as error:
                self.surroundings.screen.say(f"warning: {error}; resuming from the checkpoint before it")
            else:
                return state
        return None

    def _extended_state(self) -> State | None:
        """The end of a finished run with fewer epochs, whose best weights become this run's; None without one."""
        say, name = self.surroundings.screen.say, self.folder.name
        shorter = extension.shorter_run(self.job, self.images.fingerprint, self.folder)
        if self.config.force or shorter is None or shorter.folder is None:
            return None
        try:
            state = extension.end_of(shorter, self.job, self.epoch)
            best = checkpoints.read(shorter.folder / "best.ckpt")
        except CheckpointError as error:
            say(f"{name}: starts anew and does not continue {error}")
            return None
        checkpoints.write(self.folder / "best.ckpt", best)
        self._save_state(state)
        say(f"{name}: continues {shorter.run_id} after epoch {len(shorter.history)}")
        return state

    def save(self) -> None:
        """Writes the record as it is now."""
        if self.writes:
            self.surroundings.check_owner()
            records.write(self.folder / "record.json", self.result)

    def _take_history(self) -> None:
        self.result.history = decode(list[records.Epoch], self.module.history)
        self.result.best = records.best(self.result.history, self.config.select)

    def _save_state(self, state: State) -> None:
        if self.writes:
            self.surroundings.check_owner()
            checkpoints.write(self.folder / "last.ckpt", vars(state), keep=self.folder / "previous.ckpt")

    def _epoch_ended(self, state: State) -> None:
        """Writes the checkpoints of an epoch, then the record, which refers to them."""
        self._take_history()
        row = self.module.history[-1]
        self.surroundings.check_owner()
        if self.writes and self.result.best and self.result.best.epoch == row["epoch"]:
            checkpoints.write(self.folder / "best.ckpt", {"model": self.module.weights})
        self._save_state(state)
        self.save()
        self.loggers.epoch(row)
