"""Tables of results that other programs wrote, compared: a row for each run, or for each run and epoch."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import polars as pl

from cnnbench.analysis.comparison import Comparison
from cnnbench.analysis.contestants import Contestant
from cnnbench.analysis.suite import Suite
from cnnbench.errors import ConfigError, nearest
from cnnbench.results.metrics import Metric
from cnnbench.results.reported import Reported
from cnnbench.results.table_files import FILE
from cnnbench.runtime.text import legible

METRIC_NAMES = tuple(
    f"{part}{name}"
    for part in ("test_", "", "val_", "valid_", "validation_", "eval_", "dev_")
    for name in ("acc", "accuracy", "acc1", "top1", "top_1", "balanced_accuracy", "f1", "macro_f1", "auc", "auroc")
) + tuple(f"{part}loss" for part in ("test_", "val_", "valid_", "validation_", "eval_", "dev_", ""))
"""Columns that a table is judged by unless `metric=` names one, the first that it has. All signs are written `_`."""

_SEEDS = ("seed", "random_seed", "rng_seed", "random_state", "seed_everything")
_EPOCHS = ("epoch", "epochs", "current_epoch", "step", "global_step", "iteration")
_PROBLEMS = ("problem", "testproblem", "task", "dataset")
_RUNS = ("run", "run_id", "run_name", "run_uuid")

_LESS_IS_BETTER = {"loss", "error", "err", "perplexity", "ppl", "nll", "mse", "rmse", "mae", "time", "seconds"}
_SHARES = {"acc", "accuracy", "acc1", "top1", "f1", "auc", "auroc", "precision", "recall"}
_RESULTS = _LESS_IS_BETTER | _SHARES | {
    "score", "best", "gap", "norm", "duration", "runtime", "timestamp", "datetime", "date", "created", "memory",
    "flops", "step", "iteration", "images", "samples", "status", "state", "path", "folder", "url", "host", "id", "uuid",
}  # fmt: skip
"""Words in the name of a column that is a result, or tells of the run, rather than a setting."""


@dataclass(frozen=True)
class Columns:
    """What the columns of a table mean; what is not given is recognised by its name."""

    metric: str | None = None
    """What the contestants are judged by."""
    higher: bool | None = None
    """Whether more of it is better; None: not for a loss, an error or a time."""
    contestant: tuple[str, ...] = ()
    """What makes a contestant; empty: all columns but the others named here and numbers that change within a run."""
    seed: str | None = None
    epoch: str | None = None
    problem: str | None = None
    """A comparison is made for each of its values."""
    nan_is_gap: bool = False
    """Whether NaN in a row of a run that has numbers in others is what was not measured in that row, as in pandas,
    which has no other sign for it. A run without a number diverged all the same."""


@dataclass
class _Table:
    """A table with the meaning of all its columns."""

    frame: pl.DataFrame
    metric: Metric
    percent: bool
    """Whether the file has percentages, which are divided by 100."""
    contestant: list[str]
    seed: str | None
    run: str | None
    epoch: str | None
    problem: str | None
    left_out: list[str] = field(default_factory=list)

    @property
    def reading(self) -> str:
        """What the columns were taken for, in words."""
        metric = self.metric
        kind = f" ({'percentages' if self.percent else 'fractions'})" if metric.share else ""
        better = "" if metric.higher else ", less is better"
        words = [f"metric={metric.key}{kind}{better}", f"contestant={','.join(self.contestant) or 'none'}"]
        words += [f"seed={self.seed}" if self.seed else f"no seed: each {self.run or 'row'} is a run"]
        words += [f"epoch={self.epoch}, a run's result is that of its last one"] if self.epoch else []
        words += [f"problem={self.problem}"] if self.problem else []
        words += [f"not used: {', '.join(self.left_out)}"] if self.left_out else []
        return f"Read as {'; '.join(words)}."


def compare_frame(
    frame: pl.DataFrame,
    columns: Columns = Columns(),
    title: str = "a table",
    baseline: str | None = None,
    targets: Sequence[float] = (),
    margin: float | None = None,
    command: str = "",
) -> list[Comparison]:
    """Groups the rows of a table into runs and contestants.

    Args:
        frame: the table; what was not measured in a row is null, which is not the same as NaN.
        columns: what its columns mean.
        title: what the table is called.
        baseline: the contestant that all others are compared with.
        targets: values of the metric whose cost in epochs is shown.
        margin: differences below it do not matter: in percentage points of an accuracy, else in the metric's own units.
        command: what was typed, for the report.

    Returns:
        A comparison for each problem.

    Raises:
        ConfigError: there is no such column or contestant, the metric is no number, percentages and fractions are
            mixed, or a seed of a contestant has more than one row (of an epoch).
    """
    table = _understood(frame, columns)
    limit = margin / 100 if margin is not None and table.metric.share else margin
    if targets and table.epoch is None:
        raise ConfigError("target=: the table has no epochs; epoch=COLUMN names them.")
    found = []
    for problem, rows in _parts(table.frame, table.problem):
        name = f"{title}, {problem}" if problem else title
        contestants = _contestants(table, rows)
        sign = -1 if table.metric.higher else 1
        contestants.sort(key=lambda c: (not c.done, sign * (c.mean(table.metric.key) or 0.0), c.label))
        found.append(
            Comparison(
                name, contestants, targets=tuple(targets), margin=limit, metric=table.metric, reading=table.reading
            )
        )
    if baseline is not None:
        labels = list(dict.fromkeys(c.label for comparison in found for c in comparison.contestants))
        if baseline not in labels:
            raise ConfigError(f"baseline={baseline}: not a contestant.{nearest(baseline, labels)}")
        found = [
            replace(each, baseline=baseline) if baseline in (c.label for c in each.contestants) else each
            for each in found
        ]
    found[0].command = command
    return found


def suite_of(comparisons: list[Comparison], title: str = "a table") -> Suite | None:
    """The answer over all problems of a table; None if it has a single one."""
    names = [each.title.removeprefix(f"{title}, ") for each in comparisons]
    return Suite(comparisons, names) if len(comparisons) > 1 else None


def _parts(frame: pl.DataFrame, problem: str | None) -> list[tuple[str, pl.DataFrame]]:
    if problem is None:
        return [("", frame)]
    return [(str(key), rows) for (key,), rows in sorted(frame.group_by(problem), key=lambda part: str(part[0]))]


# --- What the columns mean


def _understood(frame: pl.DataFrame, columns: Columns) -> _Table:
    named = {"metric": [columns.metric], "seed": [columns.seed], "epoch": [columns.epoch]}
    named |= {"problem": [columns.problem], "contestant": list(columns.contestant)}
    for role, names in named.items():
        for name in names:
            if name is not None and name not in frame.columns:
                has = f" The table has {', '.join(frame.columns[:30])}." if not nearest(name, frame.columns) else ""
                raise ConfigError(f"{role}={name}: there is no such column.{nearest(name, frame.columns)}{has}")
    plain = {_plain(name): name for name in reversed(frame.columns)}

    def known(given: str | None, names: Sequence[str]) -> str | None:
        taken = (columns.metric, *columns.contestant)
        return given or next((plain[n] for n in names if n in plain and plain[n] not in taken), None)

    name = columns.metric or next((plain[n] for n in METRIC_NAMES if n in plain), None)
    if name is None:
        numbers = [n for n, kind in frame.schema.items() if kind.is_numeric()]
        has = f"columns with numbers: {', '.join(numbers)}" if numbers else "no column has numbers"
        raise ConfigError(f"no column is known as a metric; metric=COLUMN names it ({has}).")
    frame = frame.with_columns(_numbers(frame[name]))
    if columns.nan_is_gap:
        others = [n for n, kind in frame.schema.items() if kind.is_float() and n != name]
        frame = frame.with_columns(pl.col(others).fill_nan(None))
    seed, run, epoch = known(columns.seed, _SEEDS), known(None, _RUNS), known(columns.epoch, _EPOCHS)
    if epoch is not None and not frame[epoch].dtype.is_numeric():
        raise ConfigError(f"epoch={epoch}: holds text, must hold whole numbers.")
    problem = known(columns.problem, _PROBLEMS)
    roles = [column for column in (name, seed, run, epoch, problem) if column is not None]
    contestant = list(columns.contestant) or _settings(frame, roles, seed, run, epoch, problem)
    if not columns.contestant and FILE in contestant and len(contestant) > 1:
        contestant.remove(FILE)  # several files of one experiment
    if columns.nan_is_gap and (seed or run or epoch):  # else each row is a run
        of_run = [c for c in (*contestant, seed, run, problem) if c]
        gap = pl.col(name).is_nan() & pl.col(name).is_not_nan().any().over(of_run or pl.lit(0))
        frame = frame.with_columns(pl.when(~gap).then(pl.col(name)))
    higher = columns.higher if columns.higher is not None else not _LESS_IS_BETTER.intersection(_words(name))
    metric, percent = _scale(frame, name, higher, [c for c in (*contestant, seed, run, problem) if c])
    if percent:
        frame = frame.with_columns(pl.col(name) / 100)
    left_out = [c for c in frame.columns if c not in (*roles, *contestant)]
    return _Table(frame, metric, percent, contestant, seed, run, epoch, problem, left_out)


def _plain(name: str) -> str:
    return re.sub(r"\W+", "_", name.strip().lower()).strip("_")


def _words(name: str) -> set[str]:
    return set(_plain(name).split("_"))


def _numbers(metric: pl.Series) -> pl.Series:
    """The metric as floats.

    Raises:
        ConfigError: it holds text.
    """
    if not metric.dtype.is_numeric():
        numbers = metric.cast(pl.String).cast(pl.Float64, strict=False)
        text = metric.filter(numbers.is_null() & metric.is_not_null())
        raise ConfigError(f"metric={metric.name}: holds {str(text.first())!r}, must hold numbers.")
    return metric.cast(pl.Float64)


def _settings(
    frame: pl.DataFrame, roles: list[str], seed: str | None, run: str | None, epoch: str | None, problem: str | None
) -> list[str]:
    """The columns that make a contestant: those that have several values, and the same one throughout a run."""
    rest = [c for c in frame.columns if c not in roles]
    if own := [c for c in rest if _plain(c) == "contestant"]:
        return own
    named = [c for c in rest if not frame[c].dtype.is_numeric() and not _RESULTS.intersection(_words(c))]
    rest = [c for c in rest if not _RESULTS.intersection(_words(c)) and frame[c].n_unique() > 1]
    found = [c for c in rest if not frame[c].dtype.is_numeric() and not frame[c].dtype.is_temporal()]
    if run is not None:  # a run says which rows belong together
        found = [c for c in rest if frame.group_by(run).agg(pl.col(c).drop_nulls().n_unique())[c].max() == 1]
    elif epoch is not None:
        alike = [c for c in (problem, seed) if c]
        found = [c for c in found if _covers(frame, [c], alike, epoch)]
        found += [c for c in rest if c not in found and _covers(frame, [c], [*found, *alike], epoch)]
    else:
        found += [c for c in rest if c not in found and _repeats(frame, [c, *found, *([problem] if problem else [])])]
    if not found and run is not None and seed is None:
        return [run]
    return [c for c in frame.columns if c in found] or named[:1]  # the single contestant's name, if it has one


def _covers(frame: pl.DataFrame, columns: list[str], beside: list[str], epoch: str) -> bool:
    """Whether most rows with one value of `columns` have all the epochs that there are beside it, as a run has."""
    epochs = pl.col(epoch).n_unique()
    whole = epochs.over(beside) if beside else epochs
    share = frame.select((epochs.over([*beside, *columns]) / whole).median()).item()
    return bool(share >= 0.9)


def _repeats(frame: pl.DataFrame, columns: list[str]) -> bool:
    """Whether most rows share their values with another one, as the seeds of one setting do."""
    return bool(frame.select(pl.len().over(columns).median()).item() >= 2)


def _scale(frame: pl.DataFrame, name: str, higher: bool, run: list[str]) -> tuple[Metric, bool]:
    """The metric, and whether its values are percentages.

    Raises:
        ConfigError: some runs have percentages and some fractions.
    """
    values = pl.col(name).filter(pl.col(name).is_finite())
    finite = frame.select(values)[name].to_numpy()
    if not (higher and _SHARES.intersection(_words(name))) or not finite.size or finite.min() < 0 or finite.max() > 100:
        return Metric(name, name, higher, share=False), False
    if finite.max() <= 1:
        return Metric(name, name, higher), False
    by_run = frame.group_by(run) if run else frame.with_row_index("").group_by("")
    highest = by_run.agg(values.max())[name].drop_nulls().to_numpy()
    small = highest[(highest > 0) & (highest <= 1)]
    if small.size:
        raise ConfigError(
            f"{name}: {small.size} runs have values up to {small.max():g} and {highest.size - small.size} up to "
            f"{highest.max():g}: fractions and percentages are mixed. Write all of them alike."
        )
    return Metric(name, name, higher), True


# --- Runs and contestants


def _contestants(table: _Table, rows: pl.DataFrame) -> list[Contestant]:
    shown = [c for c in table.contestant if rows[c].n_unique() > 1] or table.contestant
    words = [c for c in shown if rows[c].dtype == pl.String]
    plain = shown[0] if len(shown) == 1 else next(iter(words), None)  # its value alone is a name
    found = []
    for key, own in rows.group_by(table.contestant, maintain_order=True) if table.contestant else [((), rows)]:
        values = dict(zip(table.contestant, key, strict=True))
        parts = [_short(values[plain])] if plain else []
        label = " ".join([*parts, *(f"{c}={_short(values[c])}" for c in shown if c != plain)]) or "all runs"
        found.append(Contestant(label, _runs(table, own, label)))
    return found


def _short(value: object) -> str:
    return f"{value:.7g}" if isinstance(value, float) else legible(str(value)).replace("\n", " ")


def _runs(table: _Table, rows: pl.DataFrame, label: str) -> list[Reported]:
    """The runs of a contestant, by their seeds.

    Raises:
        ConfigError: there are several rows where a run has one.
    """
    key, metric = table.run or table.seed, table.metric.key
    if key is None:
        if table.epoch is not None and rows[table.epoch].is_duplicated().any():
            raise ConfigError(
                f"{label}: {table.epoch} {rows[table.epoch].mode()[0]} has several rows, and no column tells the runs "
                f"apart: seed=COLUMN names one."
            )
        groups = [(i, row) for i, row in enumerate(rows.iter_slices(1))] if table.epoch is None else [(0, rows)]
    else:
        groups = [(value, part) for (value,), part in rows.group_by(key, maintain_order=True)]
    found = []
    for i, (value, own) in enumerate(groups):
        seed = own[table.seed][0] if table.seed else value
        measured = own.drop_nulls(metric)
        if table.run is None or table.epoch is None:
            _check_single(table, measured, f"{label}, {key} {_short(value)}")
        epochs = measured[table.epoch].cast(pl.Int64).to_list() if table.epoch else [0] * len(measured)
        curve = sorted(dict(zip(epochs, measured[metric].to_list(), strict=True)).items())  # of several the last one
        status = "interrupted" if not curve else "done" if math.isfinite(curve[-1][1]) else "diverged"
        number = int(seed) if seed is not None and table.seed and rows[table.seed].dtype.is_integer() else i
        found.append(Reported(number, table.metric, status, curve, _short(seed)))
    name, times = Counter(run.name for run in found).most_common(1)[0]
    if times > 1:
        raise ConfigError(f"{label}: {table.seed} {name} has {times} runs.{_apart(table, rows)}")
    return sorted(found, key=lambda run: run.seed)


def _check_single(table: _Table, measured: pl.DataFrame, run: str) -> None:
    """Raises a ConfigError if a run has several results, or several of one epoch."""
    repeated = measured.filter(pl.col(table.epoch).is_duplicated()) if table.epoch else measured
    if len(repeated) > 1:
        epoch = repeated[table.epoch][0] if table.epoch else None
        rows = repeated.filter(pl.col(table.epoch) == epoch) if table.epoch else repeated
        where = "" if epoch is None else f" of {table.epoch} {epoch}"
        raise ConfigError(f"{run}: {len(rows)} rows{where}, must be one.{_apart(table, rows)}")


def _apart(table: _Table, rows: pl.DataFrame) -> str:
    """Which columns could tell these rows apart, in words."""
    columns = [c for c in table.left_out if rows[c].n_unique() > 1]
    told = ",".join([*table.contestant, "COLUMN"])
    return f" contestant={told} sets them apart; columns that differ: {', '.join(columns[:10])}." if columns else ""
