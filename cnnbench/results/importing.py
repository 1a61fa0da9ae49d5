"""Results that other programs have logged, as one table: a row for each run and epoch (or step).

The columns are `run`, one for each hyperparameter that was logged (`optimizer.lr` for nested ones), `epoch`, or `step`
where no epochs were logged, and one for each metric under its own name. What was not measured in a row is null.
"""

import contextlib
import io
import logging
import os
import re
import sqlite3
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from cnnbench.config.messages import yaml_line
from cnnbench.errors import ConfigError, nearest
from cnnbench.results import identity, table_files
from cnnbench.runtime import files
from cnnbench.runtime.text import legible


@dataclass
class Logged:
    """A run that another program has logged."""

    name: str
    """Its folder or identifier, unlike that of any other run."""
    settings: dict[str, Any]
    """Its hyperparameters, flat or nested."""
    rows: list[dict[str, Any]]
    """In order of time: `epoch` or `step` or both, and metrics."""

    @property
    def metrics(self) -> list[str]:
        """The names of its metrics."""
        return list(dict.fromkeys(key for row in self.rows for key in row if key not in _TIMES))


@dataclass
class Table:
    """All runs that were imported, in one table."""

    frame: pl.DataFrame
    metrics: list[str]
    settings: list[str]
    """The columns of hyperparameters."""

    @property
    def varying(self) -> list[str]:
        """The hyperparameters in which runs differ."""
        return [name for name in self.settings if self.frame[name].n_unique() > 1]

    @property
    def contestants(self) -> list[str]:
        """Those of them that are no seed; `contestant` alone if there is such a column, as in what cnnbench exports."""
        if "contestant" in self.varying:
            return ["contestant"]
        return [name for name in self.varying if not _is_seed(name)]


_TIMES = ("epoch", "step")


def read(program: str, place: str, metrics: list[str]) -> Table:
    """Reads what a program has logged.

    Args:
        program: one of `PROGRAMS`.
        place: a folder, a file, or what the program calls a store.
        metrics: those that are wanted; none takes all.

    Raises:
        ConfigError: there is nothing there, or nothing of these metrics, or the program's library is missing.
    """
    runs = list(PROGRAMS[program](place))
    known = list(dict.fromkeys(name for run in runs for name in run.metrics))
    if not known:
        raise ConfigError(f"{place}: no run of {program} with a metric was found there.")
    for metric in metrics:
        if metric not in known:
            raise ConfigError(f"metric={metric}: none of these runs has it.{nearest(metric, known)}")
    wanted = metrics or known
    rows = []
    for run in runs:
        if not set(wanted).intersection(run.metrics):
            _leave_out(run.name, f"logged no {' and no '.join(metrics) or 'metric'}")
        settings = _settings(run, ("run", *_TIMES, *known))
        for row in _by_time(run.rows):
            if kept := {key: value for key, value in row.items() if key in wanted}:
                rows.append({"run": run.name, **settings, **{k: row[k] for k in _TIMES if k in row}, **kept})
    columns = dict.fromkeys(key for row in rows for key in row)
    ordered = [c for c in columns if c not in wanted] + [c for c in wanted if c in columns]
    frame = pl.DataFrame({name: _column([row.get(name) for row in rows]) for name in ordered})
    found = [name for name in wanted if name in columns]
    return Table(frame, found, [name for name in ordered if name not in ("run", *_TIMES, *found)])


def _by_time(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each epoch with the last value of each metric; for each step where there are no whole epochs.

    A row without an epoch, such as that of Lightning's LearningRateMonitor, belongs to the epoch that is logged next;
    after the last epoch to that one.
    """
    epochs = [row["epoch"] for row in rows if "epoch" in row]
    time = "epoch" if epochs and all(epoch % 1 == 0 for epoch in epochs) else "step"
    now = next((int(row[time]) for row in reversed(rows) if time in row), 0)
    merged: dict[int, dict[str, Any]] = {}
    for row in reversed(rows):
        now = int(row.get(time, now))
        later = merged.get(now, {})
        merged[now] = {time: now} | {key: value for key, value in (row | later).items() if key not in _TIMES}
    return [merged[now] for now in sorted(merged)]


def _settings(run: Logged, taken: Collection[str]) -> dict[str, Any]:
    """The hyperparameters of a run by their full names, as numbers where they are numbers.

    MLflow keeps text alone, and Lightning's loggers write `optimizer/lr` for what others call `optimizer.lr`. One that
    is called as a column in `taken` gets `hparams.` before its name. Where nothing was logged the run's name tells.
    """
    by_name = _told_by(run.name)
    logged = {name.replace("/", "."): _typed(value) for name, value in identity.flat(run.settings).items()} or by_name
    if "seed" in by_name and not any(map(_is_seed, logged)):
        logged |= {"seed": by_name["seed"]}
    return {f"hparams.{name}" if name in taken else name: value for name, value in logged.items()}


def _is_seed(name: str) -> bool:
    return name.rpartition(".")[2] in ("seed", "random_seed", "rng_seed", "random_state", "seed_everything")


_PAIR = re.compile(r"([A-Za-z][\w.]*)=([^,=\s/]+?)(?=[,\s/]|[_-][A-Za-z][\w.]*=|$)")
_SEED = re.compile(r"(?<![^\W_])seed[ _-]?(\d+)(?![^\W_])", re.IGNORECASE)


def _told_by(name: str) -> dict[str, Any]:
    """The settings in a run's name: `KEY=VALUE`, a seed as in `adam_seed0`, and as `name` the rest of it.

    None where there is neither a pair nor a seed.
    """
    told = {key: _typed(value) for key, value in _PAIR.findall(name)}
    rest = _PAIR.sub("", re.sub(r"(^|/)version_\d+$", "", name))  # Lightning numbers the runs of one name
    if seed := _SEED.search(rest):
        told["seed"] = int(seed[1])
        rest = _SEED.sub("", rest)
    rest = re.sub(r"([\W_])[\W_]+", r"\1", rest).strip("/,_- ")
    return told | ({"name": rest} if told and rest else {})


def _typed(value: Any) -> Any:
    """A hyperparameter that was logged as text, as a number, true, false or none where it says that."""
    if not isinstance(value, str):
        return value
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            pass
    return {"True": True, "False": False, "None": None}.get(value, value)


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
    """Each folder with event files is a run. Its hyperparameters are those of the HParams plugin or `hparams.yaml`.

    The folder that torch's `add_hparams` makes in a run's folder, called by the time, belongs to that run.
    """
    from tensorboard import data_compat
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto import event_pb2
    from tensorboard.plugins.hparams import metadata
    from tensorboard.util import tensor_util

    root = _folder(place)
    folders: dict[Path, list[Path]] = defaultdict(list)
    for path in sorted(each for each in root.rglob("*tfevents*") if each.is_file()):
        folder = path.parent
        inner = re.fullmatch(r"\d{9,}\.\d+", folder.name) and any(folder.parent.glob("*tfevents*"))
        folders[folder.parent if inner else folder].append(path)
    for folder, paths in folders.items():
        settings, values = _hparams(folder), defaultdict[int, dict[str, Any]](dict)
        scalars: set[str] = set()
        for path in paths:
            read = 0
            try:
                for record in RawEventFileLoader(str(path)).Load():
                    read += len(record) + 16  # its length and two checksums
                    event = data_compat.migrate_event(event_pb2.Event.FromString(record))
                    for value in event.summary.value:
                        if value.metadata.plugin_data.plugin_name == "scalars":  # said of the first value only
                            scalars.add(value.tag)
                        if value.metadata.plugin_data.plugin_name == metadata.PLUGIN_NAME:
                            content = value.metadata.plugin_data.content
                            if value.tag == metadata.SESSION_START_INFO_TAG:
                                start = metadata.parse_session_start_info_plugin_data(content)
                                settings |= {key: _plain(each) for key, each in start.hparams.items()}
                        elif value.tag in scalars and value.HasField("tensor"):
                            number = tensor_util.make_ndarray(value.tensor).item()
                            if (value.tag, number) != ("hp_metric", -1):  # Lightning writes it where there is none
                                values[event.step][value.tag] = number
            except Exception as error:  # on damaged files the loader raises anything
                _leave_out(path, str(error))
            else:
                if not read:
                    _leave_out(path, "no event can be read")
                elif read < (size := path.stat().st_size):  # the loader takes damage for the end of the file
                    _leave_out(path, f"all after byte {read:,} of {size:,} can't be read")
        yield Logged(_below(folder, root), settings, _by_step(values))


def _plain(value: Any) -> Any:
    """A `google.protobuf.Value` as Python."""
    kind = value.WhichOneof("kind")
    number = getattr(value, kind) if kind and kind != "null_value" else None
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _by_step(values: Mapping[int, dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows in order. A metric called `epoch`, as Lightning logs it, is the time."""
    return [{"step": step, **found} for step, found in sorted(values.items())]


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
        numbers = [name for name, kind in frame.schema.items() if kind.is_numeric()]
        filled = frame.select(numbers).iter_rows(named=True)
        rows = [{key: value for key, value in row.items() if value is not None} for row in filled]
        yield Logged(_below(path.parent, root), _hparams(path.parent), rows)


class _Loader(yaml.SafeLoader):
    """YAML as Lightning writes it: tuples and other types of Python's are read as lists, mappings or their names."""


def _as_plain(loader: yaml.SafeLoader, kind: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    return node.value or kind.partition(":")[2]


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", _as_plain)


def _hparams(folder: Path) -> dict[str, Any]:
    path = folder / "hparams.yaml"
    if not path.exists():
        return {}
    try:
        with path.open("rb") as file:
            content = yaml.load(file, _Loader)
    except yaml.YAMLError as error:
        _leave_out(path, yaml_line(error).removeprefix(f"{path}, "))
        return {}
    except (OSError, ValueError, TypeError, RecursionError) as error:
        _leave_out(path, str(error))
        return {}
    return {str(key): value for key, value in content.items()} if isinstance(content, dict) else {}


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
                found.append(Logged(run.info.run_id, dict(run.data.params), _by_step(values)))
        except MlflowException as error:
            raise ConfigError(f"{place}: MLflow can't read it ({str(error).splitlines()[0]}).") from None
    names = {run.name for run in found}
    for meta in path.glob("[!.]*/*/meta.yaml") if path.is_dir() else ():  # MLflow leaves out damaged runs by itself
        if meta.parent.name not in names and b"lifecycle_stage: deleted" not in meta.read_bytes():
            _leave_out(meta.parent, "MLflow can't read it")
    return found


@contextlib.contextmanager
def quiet_mlflow() -> Iterator[None]:
    """Within this context MLflow reads tracking folders, logs nothing of its tables, and reports to nobody."""
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
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


def _leave_out(path: Path | str, reason: str) -> None:
    print(legible(f"left out: {path}: {reason.splitlines()[0] if reason else 'damaged'}"), file=sys.stderr)
