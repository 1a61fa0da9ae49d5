"""Results that other programs have logged, as one table: a row for each run and epoch (or step).

The columns are `run`, one for each hyperparameter that was logged (`optimizer.lr` for nested ones), `epoch` or `step`,
and one for each metric under its own name. What was not measured in a row is null.
"""

import contextlib
import io
import logging
import os
import sqlite3
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import polars as pl

from cnnbench.config.messages import load_yaml
from cnnbench.errors import ConfigError, nearest
from cnnbench.results import table_files
from cnnbench.runtime import files


@dataclass
class Logged:
    """A run that another program has logged."""

    name: str
    """Its folder or identifier, unlike that of any other run."""
    settings: dict[str, Any]
    """Its hyperparameters, flat."""
    rows: list[dict[str, Any]]
    """`epoch` or `step`, and metrics."""

    @property
    def metrics(self) -> list[str]:
        """The names of its metrics."""
        return list(dict.fromkeys(key for row in self.rows for key in row if key not in _TIMES))


_TIMES = ("epoch", "step")


def read(program: str, place: str, metrics: list[str]) -> pl.DataFrame:
    """Reads what a program has logged.

    Args:
        program: one of `PROGRAMS`.
        place: a folder, a file, or what the program calls a store.
        metrics: those that are wanted; none takes all.

    Raises:
        ConfigError: there is nothing there, or nothing of these metrics, or the program's library is missing.
    """
    runs = [run for run in PROGRAMS[program](place) if run.metrics]
    if not runs:
        raise ConfigError(f"{place}: no run of {program} with a metric was found there.")
    known = list(dict.fromkeys(name for run in runs for name in run.metrics))
    for metric in metrics:
        if metric not in known:
            raise ConfigError(f"metric={metric}: none of these runs has it.{nearest(metric, known)}")
    wanted = metrics or known
    rows = []
    for run in runs:
        for row in run.rows:
            if kept := {key: value for key, value in row.items() if key in wanted}:
                rows.append({"run": run.name, **run.settings, **{k: row[k] for k in _TIMES if k in row}, **kept})
    columns = dict.fromkeys(key for row in rows for key in row)
    ordered = [c for c in columns if c not in wanted] + [c for c in wanted if c in columns]
    return pl.DataFrame({name: _column([row.get(name) for row in rows]) for name in ordered})


def _column(values: list[Any]) -> pl.Series:
    """Numbers as numbers, everything else as text."""
    if all(value is None or isinstance(value, bool) for value in values):
        return pl.Series(values, dtype=pl.Boolean)
    if all(value is None or isinstance(value, int | float) for value in values):
        whole = all(value is None or isinstance(value, int) for value in values)
        return pl.Series(values, dtype=pl.Int64 if whole else pl.Float64, strict=False)
    return pl.Series([None if value is None else str(value) for value in values], dtype=pl.String)


def write(frame: pl.DataFrame, path: Path) -> None:
    """Writes a table as Parquet or, if the name ends in .csv, as CSV.

    Raises:
        ConfigError: the name has another suffix.
    """
    if path.suffix not in (".parquet", ".csv"):
        raise ConfigError(f"out={path}: must end in .parquet or .csv.")
    content = io.BytesIO()
    if path.suffix == ".csv":
        frame.write_csv(content)
    else:
        frame.write_parquet(content)
    files.write_whole(path, lambda file: file.write(content.getbuffer()))


# --- TensorBoard


def _tensorboard(place: str) -> Iterator[Logged]:
    """Each folder with event files is a run. Its hyperparameters are those of the HParams plugin or `hparams.yaml`."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.plugins.hparams import metadata
    from tensorboard.util import tensor_util

    root = _folder(place)
    folders: dict[Path, list[Path]] = defaultdict(list)
    for path in sorted(root.rglob("*tfevents*")):
        folders[path.parent].append(path)
    for folder, paths in folders.items():
        settings, values = _hparams(folder), defaultdict[int, dict[str, Any]](dict)
        for path in paths:
            count = 0
            try:
                for event in EventFileLoader(str(path)).Load():
                    count += 1
                    for value in event.summary.value:
                        if value.metadata.plugin_data.plugin_name == metadata.PLUGIN_NAME:
                            content = value.metadata.plugin_data.content
                            if value.tag == metadata.SESSION_START_INFO_TAG:
                                start = metadata.parse_session_start_info_plugin_data(content)
                                settings |= {key: _plain(each) for key, each in start.hparams.items()}
                        elif value.metadata.plugin_data.plugin_name == "scalars" and value.HasField("tensor"):
                            values[event.step][value.tag] = tensor_util.make_ndarray(value.tensor).item()
            except Exception as error:  # on damaged files the loader raises anything
                _leave_out(path, str(error))
            else:
                if not count:
                    _leave_out(path, "no event can be read")
        yield Logged(_below(folder, root), settings, _by_step(values))


def _plain(value: Any) -> Any:
    """A `google.protobuf.Value` as Python."""
    kind = value.WhichOneof("kind")
    number = getattr(value, kind) if kind and kind != "null_value" else None
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _by_step(values: Mapping[int, dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows in order. Where a metric called `epoch` was logged, as Lightning does, that is the time; else the step."""
    rows = [{"step": step, **found} for step, found in sorted(values.items())]
    if not any("epoch" in row for row in rows):
        return rows
    return [{**row, "epoch": int(row["epoch"])} for row in rows if "epoch" in row]


# --- Lightning


def _lightning(place: str) -> Iterator[Logged]:
    """Each folder with a `metrics.csv`, as CSVLogger writes it, is a run. `hparams.yaml` lies beside it."""
    root = _folder(place)
    for path in sorted(root.rglob("metrics.csv")):
        try:
            frame = table_files.read([str(path)])
        except ConfigError as error:
            _leave_out(path, str(error).removeprefix(f"{path}: "))
            continue
        rows = [{key: value for key, value in row.items() if value is not None} for row in frame.iter_rows(named=True)]
        yield Logged(_below(path.parent, root), _hparams(path.parent), rows)


def _hparams(folder: Path) -> dict[str, Any]:
    path = folder / "hparams.yaml"
    if not path.exists():
        return {}
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        content = OmegaConf.to_container(load_yaml(path), resolve=False)
    except (ConfigError, OmegaConfBaseException) as error:
        _leave_out(path, str(error).removeprefix(f"{path}: "))
        return {}
    return dict(_flat(content)) if isinstance(content, dict) else {}


def _flat(values: dict[Any, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


# --- MLflow


def _mlflow(place: str) -> list[Logged]:
    """Every run of every experiment of a store: a tracking folder, an sqlite file, or an address."""
    path = Path(place.removeprefix("sqlite:///")).expanduser()
    if "://" in str(path):
        store = place
    elif path.is_dir() and any(path.glob("*/meta.yaml")):
        store = path.absolute().as_uri()
        for folder in path.iterdir():
            if folder.is_dir() and folder.name[0] != "." and not (folder / "meta.yaml").exists():
                _leave_out(folder, "no meta.yaml")
    elif path.is_file() and _is_store(path):  # into any other sqlite file MLflow would put its own tables
        store = f"sqlite:///{path.absolute()}"
    else:
        raise ConfigError(f"{place}: is no store of MLflow's: a folder such as mlruns, an sqlite file, or an address.")
    if find_spec("mlflow") is None:
        raise ConfigError("mlflow is missing. Type: pip install 'cnnbench[mlflow]'")
    with quiet_mlflow():
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        found = []
        try:
            client = MlflowClient(tracking_uri=store)
            experiments = [each.experiment_id for each in client.search_experiments()]
            for run in client.search_runs(experiments, max_results=50_000) if experiments else []:
                values = defaultdict[int, dict[str, Any]](dict)
                for key in run.data.metrics:
                    for point in client.get_metric_history(run.info.run_id, key):
                        values[point.step][key] = point.value
                settings = {key: _typed(text) for key, text in run.data.params.items()}
                found.append(Logged(run.info.run_id, settings, _by_step(values)))
        except MlflowException as error:
            raise ConfigError(f"{place}: MLflow can't read it ({str(error).splitlines()[0]}).") from None
    return found


@contextlib.contextmanager
def quiet_mlflow() -> Iterator[None]:
    """Within this context MLflow reads tracking folders, and logs nothing of its tables and folders."""
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _is_store(path: Path) -> bool:
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            return bool(database.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone())
    except sqlite3.DatabaseError:
        return False


def _typed(text: str) -> Any:
    """A parameter of MLflow, which keeps text alone, as a number where it is one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


# --- Weights & Biases


def _wandb(place: str) -> Iterator[Logged]:
    """The CSV of a panel: a column for the step, and `RUN - METRIC` for each run; not its `__MIN` and `__MAX`."""
    frame = table_files.read([place])
    time = next(
        (c for c in frame.columns if c.lower() in ("step", "epoch", "global_step", "trainer/global_step")), None
    )
    columns = {c: c.rsplit(" - ", 1) for c in frame.columns if " - " in c and not c.endswith(("__MIN", "__MAX"))}
    columns = {c: parts for c, parts in columns.items() if parts[1] not in ("_step", "Step")}
    if time is None or not columns:
        raise ConfigError(
            f"{place}: is not the CSV of a W&B panel (a column Step, and columns 'RUN - METRIC'). A table of runs "
            f"needs no import: cnnbench compare {place}."
        )
    kind = "epoch" if time.lower() == "epoch" else "step"
    runs: dict[str, dict[int, dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))
    for row in frame.iter_rows(named=True):
        for column, (run, metric) in columns.items():
            if row[column] is not None:
                runs[run][int(row[time])][metric] = row[column]
    for name, values in runs.items():
        yield Logged(name, {}, [{kind: step, **found} for step, found in sorted(values.items())])


# --- of all


PROGRAMS: dict[str, Callable[[str], Iterable[Logged]]] = {
    "tensorboard": _tensorboard,
    "lightning": _lightning,
    "mlflow": _mlflow,
    "wandb": _wandb,
}
"""What can be imported, and its reader."""


def _folder(place: str) -> Path:
    folder = Path(place).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"{place}: there is no such folder.")
    return folder


def _below(folder: Path, root: Path) -> str:
    return folder.relative_to(root).as_posix() if folder != root else root.resolve().name


def _leave_out(path: Path, reason: str) -> None:
    print(f"left out: {path}: {reason.splitlines()[0] if reason else 'damaged'}", file=sys.stderr)
