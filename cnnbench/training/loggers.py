"""Loggers that a run's numbers go to besides its record: TensorBoard, Weights & Biases and others of Lightning's."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.logger import Logger
from lightning_fabric.loggers.tensorboard import TensorBoardLogger
from pytorch_lightning.loggers import Logger as LightningLogger
from pytorch_lightning.loggers import WandbLogger
from torch.utils.tensorboard.summary import hparams as summaries

from cnnbench.config.schema import ROLES, Config, Decides, Role
from cnnbench.config.targets import Spec, build
from cnnbench.results import identity
from cnnbench.results.records import SearchEpoch, SearchTrial
from cnnbench.runtime.files import is_disk_failure
from cnnbench.runtime.progress import Screen

# The logs in that folder belong to the same run, and are written again from its first epoch.
warnings.filterwarnings("ignore", message="Experiment logs directory .* exists and is not empty")


class TensorBoard(TensorBoardLogger):
    """Lightning's TensorBoard logger, changed so that the hyperparameters of several runs make one table.

    Lightning writes into each run a list of its hyperparameters. TensorBoard takes the first run's list for all, so
    hyperparameters of other runs alone get no column. Without lists it looks at the values of all runs.
    """

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        """Writes the values of the hyperparameters without their list."""
        _, values, _ = summaries(params, {})
        self.experiment._get_file_writer().add_summary(values)


class Wandb(WandbLogger):
    """Lightning's logger for Weights & Biases, changed so that each run of a process is a run of its own there."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._wandb_init.pop("anonymous", None)  # Lightning always sets it, and W&B warns of it

    def finalize(self, status: str) -> None:
        """Ends the W&B run; Lightning would write the next run into it."""
        super().finalize(status)
        self.experiment.finish(exit_code=0 if status == "success" else 1)


class Loggers(LightningLogger):
    """All loggers of a run as one Lightning logger, so that callbacks log to them too. Use it in a `with` statement.

    A logger that fails is dropped with a warning. A resumed run logs all its epochs again, since a killed process
    leaves logs with gaps.

    Args:
        config: of the run.
        choices: the option of each config group.
        label: the run in a few words.
        folder: the run's folder.
        history: the epochs so far.
        screen: shows warnings.

    Raises:
        OSError: the disk is full or can't be written. All methods raise it too.
    """

    _folder: Path
    _screen: Screen
    _loggers: dict[str, Logger]
    """The loggers that have not failed, by name."""

    def __init__(
        self,
        config: Config,
        choices: dict[str, str],
        label: str,
        folder: Path,
        history: list[dict[str, float]],
        screen: Screen,
    ) -> None:
        super().__init__()
        self._folder, self._screen = folder, screen
        self._loggers = {}
        placeholders = {"{folder}": str(folder), "{run}": folder.name, "{label}": label, "{name}": config.name}
        for name, spec in config.logger.items():
            with self._drops_failing(name):
                self._loggers[name] = build(f"logger.{name}", _filled(spec, placeholders))
        self.log_hyperparams({"run": label} | hyperparameters(config, choices))
        for row in history:
            self.epoch(row)

    def __enter__(self) -> "Loggers":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._all("finalize", "success" if kind is None else "failed")

    @property
    def name(self) -> str:
        """The run's id."""
        return self._folder.name

    @property
    def version(self) -> str:
        """Empty, since each run has a folder of its own."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run's folder, in which callbacks write."""
        return str(self._folder)

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        """Logs hyperparameters to each logger."""
        self._all("log_hyperparams", params)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Logs numbers of an epoch, of the whole run, or of a callback's step to each logger."""
        self._all("log_metrics", metrics, step)

    def epoch(self, row: dict[str, float]) -> None:
        """Logs a row of the record's history."""
        self.log_metrics({key: value for key, value in row.items() if key != "epoch"}, int(row["epoch"]))

    def search(self, history: Sequence[SearchEpoch | SearchTrial]) -> None:
        """Logs the epochs or trials of a search; a probability is named as in `search/conv1/kernel_size/5`."""
        for number, row in enumerate(history, 1):
            flat = identity.flat(asdict(row))
            named = {key.removeprefix("probabilities.").replace(".", "/"): v for key, v in flat.items()}
            self.log_metrics({f"search/{key}": v for key, v in named.items() if isinstance(v, int | float)}, number)

    def _all(self, method: str, *arguments: object) -> None:
        for name, logger in list(self._loggers.items()):
            with self._drops_failing(name):
                getattr(logger, method)(*arguments)

    @contextmanager
    def _drops_failing(self, name: str) -> Iterator[None]:
        """Drops a logger that raises, unless the disk is at fault."""
        try:
            yield
        except Exception as error:
            for problem in (error, error.__cause__):  # TensorBoard's logger wraps its errors
                if problem is not None and is_disk_failure(problem):
                    raise problem from None
            self._loggers.pop(name, None)
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            self._screen.say(f"warning: logger={name}: {reason}; the run continues without it")


def _filled(spec: Spec, placeholders: dict[str, str]) -> Spec:
    """A logger's config with `{folder}`, `{run}`, `{label}` and `{name}` replaced."""
    filled = {}
    for key, value in spec.items():
        for placeholder, text in placeholders.items():
            value = value.replace(placeholder, text) if isinstance(value, str) else value
        filled[key] = value
    return filled


def hyperparameters(config: Config, choices: dict[str, str]) -> dict[str, Any]:
    """The columns of a table of runs: the options of the groups, the top-level keys, and keys of groups not at default.

    Lists and class names are left to `config.yaml`.
    """
    chosen = {group: option for group, option in choices.items() if ROLES.get(group, Role()).decides is Decides.SETTING}
    defaults = identity.flat(identity.experiment(asdict(Config()), ""))
    values = {
        key: value
        for key, value in identity.flat(identity.experiment(asdict(config), "", without=[Decides.MEASURE])).items()
        if isinstance(value, bool | int | float | str)
        and not key.endswith(("_target_", "fingerprint"))
        and ("." not in key or value != defaults.get(key))
    }
    for key in ("arithmetic", "optimizer.lr"):  # the learning rate is listed by its short name
        values.pop(key, None)
    return chosen | ({} if config.lr is None else {"lr": config.lr}) | values
