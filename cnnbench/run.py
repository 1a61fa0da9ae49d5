"""One config in, one record out. The first module on a command's way that imports torch."""

import contextlib
import ctypes
import logging
import os
import platform
import signal
import subprocess
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("POSSIBLE_USER_WARNINGS", "off")  # Lightning's advice to its developers, not to our users

import pytorch_lightning as pl
import torch
from filelock import FileLock, Timeout
from lightning_fabric.loggers.tensorboard import TensorBoardLogger
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import Callback, Checkpoint, EarlyStopping
from torch import nn

from cnnbench import record as records
from cnnbench.build import build, check
from cnnbench.compose import Job
from cnnbench.data import ImageData, Normalize, statistics
from cnnbench.images import ImageSet
from cnnbench.module import Classifier, Diverged, Row
from cnnbench.progress import REFRESH, Sweep
from cnnbench.record import Record
from cnnbench.schema import Config, ConfigError

for _name in ("pytorch_lightning", "lightning_fabric"):
    for _suffix in ("", ".utilities.rank_zero"):
        logging.getLogger(_name + _suffix).setLevel(logging.WARNING)
warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)


class Interrupted(Exception):
    """Ctrl-C or SIGTERM ended a run; what it had done is kept.

    Attributes:
        exit_code: 130 or 143.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


def make_model(config: Config, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The network alone, with new weights."""
    network = build("model", config.model, image_shape, classes)
    assert isinstance(network, nn.Module)
    return network


def check_parts(config: Config, images: ImageSet) -> None:
    """Builds what the config names, without weights, and sends one image through it.

    Raises:
        ConfigError: a part doesn't exist, doesn't take its arguments, or doesn't fit the images.
    """
    if config.hardware.accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError("hardware.accelerator=gpu: PyTorch finds no GPU here. Allowed: auto, cpu.")
    check("augment", config.augment, ("images", "generator"))
    check("model", config.model, ("image_shape", "classes"))
    check("optimizer", config.optimizer, ("params",))
    check("scheduler", config.scheduler, ("optimizer",))
    build("augment", config.augment)
    data = ImageData(images, config.data, config.batch_size, config.seed)
    with torch.device("meta"):
        network = make_model(config, data.image_shape, len(images.classes))
        network.eval()
        try:
            logits = network(torch.zeros(1, *data.image_shape))
        except RuntimeError as error:
            shape = "x".join(map(str, data.image_shape))
            raise ConfigError(f"model: does not take images of {shape} ({str(error).splitlines()[0]}).") from None
        if logits.shape != (1, len(images.classes)):
            raise ConfigError(f"model: gives {tuple(logits.shape)} for an image, not (1, {len(images.classes)}).")
    _optimizers(config)([nn.Parameter(torch.zeros(1))])


def _optimizers(config: Config) -> Callable[[list[nn.Parameter]], Any]:
    def configure(parameters: list[nn.Parameter]) -> Any:
        optimizer = build("optimizer", config.optimizer, parameters)
        scheduler = build("scheduler", config.scheduler, optimizer)
        return optimizer if scheduler is None else {"optimizer": optimizer, "lr_scheduler": scheduler}

    return configure


def run(job: Job, images: ImageSet, screen: Sweep) -> Record:
    """Trains, selects, tests once, and writes the record; goes on where an earlier run of the same experiment stopped.

    A run that fails or diverges is a result too: its record says so, and nothing is raised.

    Raises:
        Interrupted: by Ctrl-C or SIGTERM; its record says so.
    """
    config = job.config
    folder = folder_of(job, images)
    screen.start(folder.name, config.epochs)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", blocking=False):
            before = finished(folder, config)
            if before is not None:
                screen.say(f"{folder.name}: already {before['status']} (force=true runs it again)")
                return before
            _set_aside(folder, config)
            return _Run(job, images, screen, folder).record()
    except Timeout:
        raise ConfigError(f"{folder}: another process is running this experiment.") from None
    finally:
        screen.finish()


def folder_of(job: Job, images: ImageSet) -> Path:
    """Where the run is written: `runs_dir/name/run id`."""
    name = records.run_id(job.config, job.choices["optimizer"], images.fingerprint)
    return Path(job.config.runs_dir).expanduser() / job.config.name / name


def finished(folder: Path, config: Config) -> Record | None:
    """The record of an experiment that came to its end before and is not asked for anew."""
    path = folder / "record.json"
    if config.force or not path.exists():
        return None
    with contextlib.suppress(records.RecordError):
        record = records.read(path)
        ended = ("done", "diverged") if config.retry else ("done", "diverged", "failed")
        if record["status"] in ended:
            return record
    return None


def _set_aside(folder: Path, config: Config) -> None:
    """Keeps an earlier result under `.old/` where a new one was asked for; what was interrupted stays."""
    path = folder / "record.json"
    if not path.exists():
        return
    with contextlib.suppress(records.RecordError):
        if records.read(path)["status"] == "interrupted" and not config.force:
            return
    aside = folder / ".old" / time.strftime("%Y%m%d-%H%M%S")
    aside.mkdir(parents=True)
    for item in list(folder.iterdir()):
        if item.name not in (".lock", ".old"):
            item.rename(aside / item.name)


class _Run:
    """The parts of one run while it lasts."""

    def __init__(self, job: Job, images: ImageSet, screen: Sweep, folder: Path) -> None:
        self.job, self.config, self.images, self.screen, self.folder = job, job.config, images, screen, folder

    def record(self) -> Record:
        config, images = self.config, self.images
        self.data = ImageData(images, config.data, config.batch_size, config.seed)
        self._record: Record = {
            "schema_version": records.SCHEMA_VERSION,
            "run_id": self.folder.name,
            "status": "interrupted",  # until it is something else: also what a killed process leaves
            "config": asdict(config),
            "choices": self.job.choices,
            "protocol": {
                "validation": config.data.val,
                "selection": "highest validation accuracy, the first of equals",
                "test": "once, with the selected epoch's weights",
            },
            "data": {
                "name": self.job.choices["data"],
                "fingerprint": images.fingerprint,
                "sizes": self.data.sizes,
                "shape": list(self.data.image_shape),
                "classes": list(images.classes),
            },
            "parameters": None,
            "history": [],
            "best": None,
            "test": None,
            "environment": {},
            "error": None,
        }
        text = OmegaConf.to_yaml(OmegaConf.create(asdict(config)))
        records.write_whole(self.folder / "config.yaml", lambda file: file.write(text.encode()))
        with _signals() as received:
            self.received = received
            try:
                self._prepare()
                self._train_and_test()
                self._record["status"] = "done"
            except Diverged as error:
                self._record |= {"status": "diverged", "error": str(error)}
            except BaseException as error:
                if not received and isinstance(error, Exception):
                    self._record |= {"status": "failed", "error": traceback.format_exc()}
                elif not received:
                    raise
        self.save()
        if received:
            raise Interrupted(received[0])
        return self._record

    def _prepare(self) -> None:
        config, data = self.config, self.data
        if config.hardware.threads is not None:
            torch.set_num_threads(config.hardware.threads)
        _keep_freed_memory()
        pl.seed_everything(config.seed, verbose=False)
        network = make_model(config, data.image_shape, len(self.images.classes))
        mean, deviation = statistics(self.images.train, data.split.train, config.data.normalize)
        self._record["data"] |= {"mean": mean, "deviation": deviation}
        self._record["parameters"] = sum(p.numel() for p in network.parameters() if p.requires_grad)
        model = nn.Sequential()
        model.add_module("normalize", Normalize(mean, deviation, config.hardware.channels_last))
        model.add_module("network", network)
        if config.hardware.channels_last:
            model = model.to(memory_format=torch.channels_last)
        augment = build("augment", config.augment)
        self.module = Classifier(model, _optimizers(config), augment, config.seed, data.steps, data.sizes["train"])

    def _train_and_test(self) -> None:
        config, folder, module = self.config, self.folder, self.module
        gpu = config.hardware.accelerator != "cpu" and torch.cuda.is_available()
        callbacks: list[Callback] = [_Keep(self)]
        if config.stop.patience is not None:
            callbacks.append(
                EarlyStopping(
                    config.stop.metric,
                    mode="min" if config.stop.metric == "val_loss" else "max",
                    patience=config.stop.patience,
                    min_delta=config.stop.min_delta,
                    check_on_train_epoch_end=True,
                )
            )
        precision: Any = config.hardware.precision  # the schema allows two of Lightning's names
        trainer = pl.Trainer(
            accelerator="gpu" if gpu else "cpu",
            devices=1,
            precision=precision,
            max_epochs=config.epochs,
            gradient_clip_val=config.clip,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=True,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            default_root_dir=folder,
        )
        self._record["environment"] = _environment(trainer.strategy.root_device)
        self.board = TensorBoardLogger(folder, name="", version="", default_hp_metric=False)
        self.save()
        last = folder / "last.ckpt"
        before = torch.load(last, map_location="cpu", weights_only=True) if last.exists() else None
        if before is None or not before["ended"]:
            trainer.fit(module, datamodule=self.data, ckpt_path=last if before else None, weights_only=True)
        else:  # it was stopped between its last epoch and the test
            module.history = before["history"]
        self._take(module.history)
        best = torch.load(folder / "best.ckpt", map_location="cpu", weights_only=True)
        module.load_state_dict(best["state_dict"])
        trainer.test(module, datamodule=self.data, verbose=False)
        tested = module.confusion.sum(1).tolist()
        hits = module.confusion.diagonal().tolist()
        self._record["test"] = {
            "acc": module.test_acc,
            "loss": module.test_loss,
            "per_class": [hit / n if n else None for hit, n in zip(hits, tested, strict=True)],
            "confusion": module.confusion.tolist(),
        }
        flat = {k: v for k, v in _flat(asdict(config)).items() if k not in ("runs_dir", "force", "retry")}
        figures = {"hp/val_acc_best": self._record["best"]["val_acc"], "hp/test_acc": module.test_acc}
        self.board.log_hyperparams(self.job.choices | flat, figures)
        self.board.finalize("success")

    def save(self) -> None:
        """Writes the record as it stands."""
        records.write(self.folder / "record.json", self._record)

    def _take(self, history: list[Row]) -> None:
        self._record |= {"history": history, "best": records.best(history)}

    def keep_epoch(self, trainer: pl.Trainer) -> None:
        """After an epoch: checkpoints first, then the record that speaks of them."""
        history = self.module.history
        row = history[-1]
        self._take(history)
        if self._record["best"]["epoch"] == row["epoch"]:
            _checkpoint(trainer, self.folder / "best.ckpt", weights_only=True)
        _checkpoint(trainer, self.folder / "last.ckpt", weights_only=False)
        self.save()
        self.board.log_metrics({k: v for k, v in row.items() if k != "epoch"}, int(row["epoch"]))
        self.screen.epoch(row)


def _checkpoint(trainer: pl.Trainer, path: Path, weights_only: bool) -> None:
    temporary = path.with_name(f".{path.name}")
    trainer.save_checkpoint(temporary, weights_only=weights_only)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


class _Keep(Checkpoint):
    """Between Lightning's loop and the run: the screen after steps, the files after epochs, signals at once."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._looked = 0.0

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        if self._run.received:
            raise Interrupted(self._run.received[0])
        now = time.perf_counter()
        if now - self._looked < REFRESH or not self._run.screen.visible:
            return
        self._looked = now
        data, classifier = self._run.data, self._run.module
        loss, accuracy = classifier.running()
        done = index + 1
        speed = min(done * self._run.config.batch_size, data.sizes["train"]) / (now - classifier.started)
        self._run.screen.step(trainer.current_epoch + done / data.steps, loss, accuracy, speed)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._run.keep_epoch(trainer)


def _keep_freed_memory() -> None:
    """Lets the C library keep the memory of a step for the next one.

    Otherwise it gives large blocks back to the system after each use and asks for them again, empty, page by page: a
    sixth of a step's time on a processor.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, (1 << 31) - 1)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects Ctrl-C and SIGTERM, to be acted on between two steps; the second Ctrl-C ends the process at once."""
    received: list[int] = []

    def note(signum: int, _: object) -> None:
        if signum in received and signum == signal.SIGINT:
            os._exit(128 + signum)
        received.append(signum)

    try:
        before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals are somebody else's
        before = {}
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _environment(device: torch.device) -> dict[str, Any]:
    packages = ("cnnbench", "torchvision", "pytorch-lightning", "hydra-core", "numpy")
    here = Path(__file__).parent
    commit = None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        if (here.parent / ".git").exists():
            command = ["git", "-C", str(here), "rev-parse", "HEAD"]
            commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        **{name: version(name) for name in packages},
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "git_commit": commit,
    }


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested config as `{"optimizer.lr": 0.001, ...}`."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat
