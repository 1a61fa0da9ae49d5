"""Where are a run's numbers written besides its record? To Lightning's loggers, as `conf/logger/` names them."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.logger import Logger
from lightning_fabric.loggers.tensorboard import TensorBoardLogger
from pytorch_lightning.loggers import Logger as LightningLogger
from pytorch_lightning.loggers import WandbLogger
from torch.utils.tensorboard.summary import hparams as summaries

from cnnbench.config.schema import ROLES, Config, Decides, Role
from cnnbench.config.targets import Spec, build, check
from cnnbench.errors import ConfigError
from cnnbench.results import identity
from cnnbench.results.records import SearchEpoch, SearchTrial
from cnnbench.runtime.files import is_disk_failure
from cnnbench.runtime.progress import Screen

# What is deleted there was the same run's, and is written again.
warnings.filterwarnings("ignore", message="Experiment logs directory .* exists and is not empty")


def check_loggers(config: Config) -> None:
    """Are the loggers' classes there, and do they take their arguments?

    Raises:
        ConfigError: one line that names the logger.
    """
    for name, spec in config.logger.items():
        if not isinstance(spec, dict):
            raise ConfigError(f"logger.{name}={spec}: must be a mapping with the _target_ of a logger.")
        check(f"logger.{name}", spec, (), Logger, "a lightning_fabric.loggers.Logger")
        if str(spec["_target_"]).lower().endswith((".wandb", ".wandblogger")) and find_spec("wandb") is None:
            raise ConfigError(f"logger={name}: Weights & Biases is missing: pip install 'cnnbench[wandb]'.")


class TensorBoard(TensorBoardLogger):
    """Lightning's logger, so that the hyperparameters of several runs make one table.

    Lightning says in each run which hyperparameters there are, and TensorBoard believes the first run: what only
    others have gets no column. Where nothing is said, TensorBoard looks at all of them.
    """

    def log_hyperparams(self, params: dict[str, Any]) -> None:  # type: ignore[override]
        """Writes the values alone."""
        _, values, _ = summaries(params, {})
        self.experiment._get_file_writer().add_summary(values)


class Wandb(WandbLogger):
    """Lightning's logger, so that each of a process's runs is a run of W&B's."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._wandb_init.pop("anonymous", None)  # Lightning always says something, and W&B always warns of it

    def finalize(self, status: str) -> None:
        """Ends W&B's run; Lightning would write the next one into it."""
        super().finalize(status)
        self.experiment.finish(exit_code=0 if status == "success" else 1)


class Loggers(LightningLogger):
    """All loggers of a run as one of Lightning's, so that callbacks log to them too. To be used in a `with`.

    A logger that fails is left out from then on, with a warning. Each process that takes up the run logs all epochs
    again, since a killed one leaves logs with gaps.

    Args:
        config: of the run.
        choices: which option of each group was taken.
        folder: the run's.
        history: the epochs so far.
        screen: where warnings go.

    Raises:
        OSError: the disk is full or can't be written; so too in all methods.
    """

    _folder: Path
    _screen: Screen
    _loggers: dict[str, Logger]

    def __init__(
        self, config: Config, choices: dict[str, str], folder: Path, history: list[dict[str, float]], screen: Screen
    ) -> None:
        super().__init__()
        self._folder, self._screen = folder, screen
        self._loggers = {}
        places = {"{folder}": str(folder), "{run}": folder.name, "{name}": config.name}
        for name, spec in config.logger.items():
            with self._spared(name):
                self._loggers[name] = build(f"logger.{name}", _filled(spec, places))
        self.log_hyperparams(hyperparameters(config, choices))
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
        """Nothing: a run has a folder of its own."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run's folder, where callbacks write."""
        return str(self._folder)

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        """Logs hyperparameters to each logger."""
        self._all("log_hyperparams", params)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Logs numbers to each logger: those of an epoch, of the whole run, or of a callback's step."""
        self._all("log_metrics", metrics, step)

    def epoch(self, row: dict[str, float]) -> None:
        """Logs a row of the record's history."""
        self.log_metrics({key: value for key, value in row.items() if key != "epoch"}, int(row["epoch"]))

    def search(self, history: Sequence[SearchEpoch | SearchTrial]) -> None:
        """Logs the epochs or trials of a search: `search/conv1/kernel_size/5` is a probability."""
        for number, row in enumerate(history, 1):
            flat = identity.flat(asdict(row))
            named = {key.removeprefix("probabilities.").replace(".", "/"): v for key, v in flat.items()}
            self.log_metrics({f"search/{key}": v for key, v in named.items() if isinstance(v, int | float)}, number)

    def _all(self, method: str, *arguments: object) -> None:
        for name, logger in list(self._loggers.items()):
            with self._spared(name):
                getattr(logger, method)(*arguments)

    @contextmanager
    def _spared(self, name: str) -> Iterator[None]:
        """Saves the run from a logger's failure, but not from the disk's."""
        try:
            yield
        except Exception as error:
            for problem in (error, error.__cause__):  # TensorBoard's logger wraps whatever happens
                if problem is not None and is_disk_failure(problem):
                    raise problem from None
            self._loggers.pop(name, None)
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            self._screen.say(f"warning: logger={name}: {reason}; the run goes on without it")


def _filled(spec: Spec, places: dict[str, str]) -> Spec:
    """A logger's config with `{folder}`, `{run}` and `{name}` replaced."""
    filled = {}
    for key, value in spec.items():
        for place, text in places.items():
            value = value.replace(place, text) if isinstance(value, str) else value
        filled[key] = value
    return filled


def hyperparameters(config: Config, choices: dict[str, str]) -> dict[str, Any]:
    """What a table of runs has columns for: the options taken, the top-level keys, and of the groups what is not at its
    default. Lists and class names stay in `config.yaml`."""
    chosen = {group: option for group, option in choices.items() if ROLES.get(group, Role()).decides is Decides.SETTING}
    defaults = identity.flat(identity.experiment(asdict(Config()), ""))
    said = {
        key: value
        for key, value in identity.flat(identity.experiment(asdict(config), "", without=[Decides.MEASURE])).items()
        if isinstance(value, bool | int | float | str)
        and not key.endswith(("_target_", "fingerprint"))
        and ("." not in key or value != defaults.get(key))
    }
    for key in ("arithmetic", "optimizer.lr"):  # the learning rate is told by its short name
        said.pop(key, None)
    return chosen | ({} if config.lr is None else {"lr": config.lr}) | said
