"""The Python API: trains, sweeps, tunes and compares as the command line does.

The configs, checks, records and errors are those of the commands. Public names are exported by `cnnbench` itself.
"""

import base64
import io
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from markupsafe import Markup

from cnnbench.analysis import comparison as tables
from cnnbench.analysis.contestants import measures
from cnnbench.analysis.grouping import shortest_labels
from cnnbench.analysis.suite import Suite
from cnnbench.analysis.tuning import contestants
from cnnbench.analysis.tuning_results import Tuning
from cnnbench.cli.compare_command import check_settings, is_table, margin_of, targets_of
from cnnbench.cli.training_commands import order_of
from cnnbench.config.composition import Composer, Job, config_source
from cnnbench.errors import CnnbenchError, ConfigError
from cnnbench.report.tables import Sheet, main_sheets, overall, winners
from cnnbench.results.records import Record
from cnnbench.sweeps.request import Request, images_of, prepare

if TYPE_CHECKING:
    import pandas
    import polars
    from matplotlib.figure import Figure

    from cnnbench.sweeps.sweep import Outcome
    from cnnbench.training.prediction import TrainedModel


@dataclass(frozen=True)
class Run:
    """A run that has ended, well or not.

    A run that diverged or failed is a result like any other: its `status` says so, and `error` why.
    """

    record: Record
    """All that is known of it: config, history, test."""

    @property
    def folder(self) -> Path:
        """Where its files are."""
        assert self.record.folder is not None, "a record that was read has one"
        return self.record.folder

    @property
    def status(self) -> str:
        """`done`, `diverged`, `failed` or `interrupted`."""
        return self.record.status

    @property
    def error(self) -> str:
        """The last line of what broke it; empty if nothing did."""
        return self.record.reason

    @property
    def seed(self) -> int:
        """Its seed."""
        return self.record.seed

    @property
    def val_accuracy(self) -> float | None:
        """The best validation accuracy, from 0 to 1; None before an epoch has ended."""
        return None if self.record.best is None else self.record.best.val_acc

    @property
    def test_accuracy(self) -> float | None:
        """The test accuracy of the selected epoch, from 0 to 1; None without a test."""
        return None if self.record.test is None else self.record.test.acc

    def load(self) -> "TrainedModel":
        """The trained model, with the weights of the selected epoch.

        Raises:
            ConfigError: the run has no weights.
        """
        from cnnbench.training.prediction import load

        return load(self.folder)

    def __repr__(self) -> str:
        """The run in a line."""
        (label,) = shortest_labels([self.record])
        return f"<Run {label}, seed {self.seed}: {self.status}, test accuracy {self.record.test_accuracy}>"


@dataclass(frozen=True, repr=False)
class Runs(Sequence[Run]):
    """The runs of a sweep, or of the winners of a tuning, in the order in which they were asked for."""

    folder: Path
    """The folder that they are in."""
    _runs: list[Run]
    _tables: list[tables.Comparison] = field(default_factory=list)
    _tuning: Tuning | None = None

    def __len__(self) -> int:
        """How many there are."""
        return len(self._runs)

    @overload
    def __getitem__(self, index: int) -> Run: ...
    @overload
    def __getitem__(self, index: slice) -> list[Run]: ...
    def __getitem__(self, index: int | slice) -> Run | list[Run]:
        """A run, or some of them."""
        return self._runs[index]

    def compare(self) -> "Comparison":
        """Their comparison, as the command line ends with it.

        Raises:
            ConfigError: no run has ended.
        """
        if not self._tables:
            raise ConfigError(f"{self.folder}: nothing has been run yet that could be compared.")
        return Comparison(self._tables, self._tuning)

    @property
    def history(self) -> Any:
        """A row for each epoch of each run: contestant, seed, and the losses, accuracies and times of the record.

        A pandas DataFrame, or one of polars if pandas is not installed.
        """
        import polars

        labels = shortest_labels([run.record for run in self])
        rows = [
            {"contestant": label, "seed": run.seed, **asdict(epoch)}
            for label, run in zip(labels, self, strict=True)
            for epoch in run.record.history
        ]
        return _frame(polars.DataFrame(rows, infer_schema_length=None))

    @property
    def trials(self) -> Any:
        """A row for each trial of the tuning: contestant, tuning, trial, setting, status and best validation accuracy.

        A DataFrame as that of `history`; one without rows where nothing was tuned.
        """
        import polars

        rows = [
            {
                "contestant": entry.tuned.label,
                "tuning": entry.tuned.tuning,
                "trial": trial.number,
                **trial.params,
                "status": trial.status,
                "val_acc": trial.val_acc,
                "winner": trial is entry.winner,
            }
            for entry in (self._tuning.entries if self._tuning else [])
            for trial in entry.trials
        ]
        names = dict.fromkeys(name for row in rows for name in row)
        return _frame(polars.DataFrame({name: [row.get(name) for row in rows] for name in names}, strict=False))

    def to_polars(self) -> "polars.DataFrame":
        """A row for each run: contestant, seed, status, its measures and its folder."""
        import polars

        labels = shortest_labels([run.record for run in self])
        rows = [
            {
                "contestant": label,
                "seed": run.seed,
                "status": run.status,
                **(measures(run.record) if run.status == "done" else {}),
                "folder": str(run.folder),
            }
            for label, run in zip(labels, self, strict=True)
        ]
        left_out = {name for row in rows for name in row if name.startswith("target_")}
        names = [name for name in dict.fromkeys(key for row in rows for key in row) if name not in left_out]
        return polars.DataFrame({name: [row.get(name) for row in rows] for name in names}, strict=False)

    def to_pandas(self) -> "pandas.DataFrame":
        """`to_polars` for pandas.

        Raises:
            ConfigError: pandas is not installed.
        """
        return _as_pandas(self.to_polars())

    def __repr__(self) -> str:
        """The runs, a line each."""
        return "\n".join(map(repr, self)) or "no runs"

    def _repr_html_(self) -> str:
        rows = [[str(value) for value in row] for row in self.to_polars().select("contestant", "seed", "status").rows()]
        accuracies = [[run.record.test_accuracy, str(run.folder)] for run in self]
        cells = [row + more for row, more in zip(rows, accuracies, strict=True)]
        return _html(Sheet("Runs", ["contestant", "seed", "status", "test accuracy", "folder"], cells, left=5))


@dataclass(frozen=True, repr=False)
class Comparison:
    """Contestants side by side, and which of their differences are significant."""

    _tables: list[tables.Comparison]
    _tuning: Tuning | None = None
    _suite: Suite | None = None

    @property
    def verdict(self) -> str:
        """The answer in a few sentences, for each table."""
        texts = [each.verdict if len(self._tables) == 1 else f"{each.title}: {each.verdict}" for each in self._tables]
        return "\n".join([*texts, *([self._suite.verdict] if self._suite else [])])

    @property
    def table(self) -> Any:
        """A row for each contestant: mean, interval, standard deviation of each measure, and how its runs ended.

        A pandas DataFrame, or one of polars if pandas is not installed. Accuracies are from 0 to 1.
        """
        import polars

        from cnnbench.report.exports import as_csv

        return _frame(polars.read_csv(io.StringIO(as_csv(self._tables)), infer_schema_length=None))

    @property
    def verdicts(self) -> Any:
        """A row for each pair: verdict, difference, its interval, p values. A DataFrame as that of `table`."""
        import polars

        rows = []
        for each in self._tables:
            for pair in each.pairs:
                low, high = pair.interval or (None, None)
                told = {key: value for key, value in asdict(pair).items() if isinstance(value, str | float | None)}
                rows.append({"setting": each.title, **told, "low": low, "high": high, "seeds": min(pair.seeds)})
        names = ["setting", "first", "verdict", "second", "difference", "low", "high", "p", "raw_p", "seeds"]
        return _frame(polars.DataFrame({name: [row.get(name) for row in rows] for name in names}, strict=False))

    def plot(self, kind: str = "accuracy") -> "Figure":
        """One of the report's figures: `accuracy`, `curves`, `target`, `confusion`, `parameters`, `operations`, ...

        Args:
            kind: which one; `accuracy-2` is that of the second table.

        Raises:
            ConfigError: there is no such figure, or none of these results.
        """
        if "IPython" in sys.modules:
            from IPython import get_ipython
            from IPython.core.pylabtools import select_figure_formats

            if (shell := get_ipython()) is not None:  # else a notebook shows figures of pyplot alone
                select_figure_formats(shell, {"png"})
        from cnnbench.report.figures import figure_of

        return figure_of(kind, self._tables, self._tuning, self._suite)

    def save(self, folder: str | Path) -> Path:
        """Writes what `cnnbench compare` writes: `report.html`, figures, CSV, Markdown and LaTeX.

        Args:
            folder: is made if it isn't there.

        Returns:
            The page, `report.html`.
        """
        from cnnbench.report.terminal import write

        place = Path(folder).expanduser()
        place.mkdir(parents=True, exist_ok=True)
        write(self._tables, place, self._tuning, self._suite)
        return place / "report.html"

    def __repr__(self) -> str:
        """The verdict."""
        return self.verdict

    def _repr_html_(self) -> str:
        parts = []
        for number, each in enumerate(self._tables, 1):
            parts.append(Markup("<h4>{}</h4><p><strong>{}</strong></p>").format(each.title, each.verdict))
            parts += [_html(sheet) for sheet in main_sheets(each)]
            if any(c.measured(each.measure) for c in each.contestants):
                parts.append(_image(self.plot("accuracy" if number == 1 else f"accuracy-{number}"), each.verdict))
        if self._tuning is not None:
            parts.append(_html(winners(self._tuning)))
        if self._suite is not None:
            parts += [_html(overall(self._suite)), Markup("<p><strong>{}</strong></p>").format(self._suite.verdict)]
        return "".join(parts)


def train(*words: str, config_dir: str | Path | None = None, **settings: Any) -> Run:
    """Trains one network, or finds that this run has been done.

    Example:
        >>> import cnnbench
        >>> run = cnnbench.train("data=digits", "optimizer=adam", epochs=2)
        >>> run.status
        'done'

    Args:
        *words: as typed after `cnnbench`: GROUP=OPTION and KEY=VALUE.
        config_dir: a folder of your own YAML files, as `--config-dir`.
        **settings: keys without dots, as Python values: `lr=0.01`, `augment=["flip_crop", "cutout"]`.

    Returns:
        The run. One that diverged or failed is returned too.

    Raises:
        ConfigError: the words are no config, or no single run; nothing was written.
        KeyboardInterrupt: Ctrl-C; the state is saved, and the same call resumes.
    """
    typed = [*words, *(f"{key}={_value(value)}" for key, value in settings.items())]
    with _config_source(config_dir) as composer:
        request = Request.of(composer, typed, multirun=False)
        if request.grows or sum(map(len, request.rungs)) > 1:
            raise ConfigError("train: these words are a sweep; call cnnbench.sweep.")
        _check_processes(request.jobs)
        return Run(_ended(request.carry_out()).records[0])


def sweep(*words: str, config_dir: str | Path | None = None, **settings: Any) -> Runs:
    """Trains every combination of the values, as `cnnbench -m`.

    Example:
        >>> import cnnbench
        >>> runs = cnnbench.sweep("data=digits", "optimizer=adam,sgd", epochs=2, seed=range(3))
        >>> len(runs)
        6

    Args:
        *words: as typed after `cnnbench -m`: several values of a key are separated by commas.
        config_dir: a folder of your own YAML files, as `--config-dir`.
        **settings: keys without dots, as Python values; those in a list, a range or an array are swept.

    Returns:
        The runs. Those that diverged or failed are among them.

    Raises:
        ConfigError: the words are no config; nothing was written.
        KeyboardInterrupt: Ctrl-C; what was done is saved, and the same call resumes.
    """
    typed = [*words, *(f"{key}={_swept(value)}" for key, value in settings.items())]
    with _config_source(config_dir) as composer:
        request = Request.of(composer, typed, multirun=True)
        _check_processes(request.jobs)
        return _runs(request.carry_out())


def tune(
    *words: str,
    trials: int = 12,
    seeds: int = 3,
    tunings: int = 1,
    sampler: str = "quasi_random",
    space: str | None = None,
    config_dir: str | Path | None = None,
    **settings: Any,
) -> Runs:
    """Finds each contestant's best setting at equal cost, and runs the winners with fresh seeds, as `cnnbench tune`.

    Example:
        >>> import cnnbench
        >>> winners = cnnbench.tune("data=digits", "optimizer=adam,sgd", trials=3, seeds=2, epochs=2)
        >>> len(winners)
        4

    Args:
        *words: as typed after `cnnbench tune`: several values of a key are contestants.
        trials: settings tried for each contestant.
        seeds: fresh seeds of each winner.
        tunings: how often all of it is repeated.
        sampler: `quasi_random`, `random`, `grid` or `tpe`.
        space: a file `space/NAME.yaml`; None takes the optimizer's own space.
        config_dir: a folder of your own YAML files, as `--config-dir`.
        **settings: keys without dots, as Python values; those in a list, a range or an array are contestants.

    Returns:
        The winners' runs; `compare()` of them has the tuning too.

    Raises:
        ConfigError: the words are no config, or the folder holds another tuning; nothing was written.
        KeyboardInterrupt: Ctrl-C; what was done is saved, and the same call resumes.
    """
    from cnnbench.sweeps import tuning

    typed = [*words, *(f"{key}={_swept(value)}" for key, value in settings.items())]
    own = {"trials": trials, "seeds": seeds, "tunings": tunings, "sampler": sampler, "space": space}
    order = order_of([*(f"{key}={value}" for key, value in own.items() if value is not None), *typed])
    with _config_source(config_dir) as composer:
        plan, jobs = contestants(composer, order)
        _check_processes(jobs)
        engine = composer.engine(plan.words)
        prepare(jobs, engine)
        return _runs(tuning.tune(composer, plan, jobs, images_of(jobs), engine))


def compare(
    what: Any,
    *,
    by: str | None = None,
    baseline: str | None = None,
    metric: str | None = None,
    targets: Sequence[float] = (),
    margin: float | None = None,
    apart: bool = False,
    contestant: str | Sequence[str] = (),
    seed: str | None = None,
    epoch: str | None = None,
    problem: str | None = None,
    higher: bool | None = None,
) -> Comparison:
    """Says which differences between contestants are significant, as `cnnbench compare`.

    Example:
        >>> import cnnbench, polars
        >>> results = polars.DataFrame({
        ...     "optimizer": ["adam"] * 3 + ["sgd"] * 3,
        ...     "seed": [0, 1, 2, 0, 1, 2],
        ...     "test_acc": [0.89, 0.90, 0.91, 0.78, 0.80, 0.82],
        ... })
        >>> print(cnnbench.compare(results).verdict)
        adam has the best mean test_acc, 90.00%; it is better than sgd. The difference is beyond noise.

    Args:
        what: a folder of runs, a bundle or a table (`.csv`, `.parquet`, `.jsonl`), or a list of such paths; `Runs`, or
            a list of `Run`; or a DataFrame of pandas, polars or any other that narwhals knows.
        by: of runs: of all settings with the same option of this group only the best on validation is kept.
        baseline: the contestant that all others are compared with.
        metric: of runs `acc`, `balanced_acc` or `macro_f1`; of a table the column.
        targets: accuracies whose cost is shown.
        margin: differences below it do not matter, in percentage points.
        apart: of runs: those that can't stand in one table get one each.
        contestant: of a table: the columns that set contestants apart.
        seed: of a table: the column of the seeds.
        epoch: of a table: the column of the epochs.
        problem: of a table: a comparison is made for each value of this column.
        higher: of a table: whether more of the metric is better.

    Raises:
        ConfigError: there is nothing to compare, or it can't be compared so.
    """
    names = (contestant,) if isinstance(contestant, str) else tuple(contestant)
    if isinstance(what, str | Path):
        what = [what]
    if isinstance(what, Sequence) and not what:
        raise ConfigError("compare: there is nothing in this list.")
    paths = [each for each in what if isinstance(each, str | Path)] if isinstance(what, Sequence) else []
    of_table = not isinstance(what, Sequence) or any(is_table(str(path)) for path in paths)
    given: dict[str, Any] = {"by": by, "apart": apart or None, "margin": margin, "target": ",".join(map(str, targets))}
    given |= {"contestant": ",".join(names), "seed": seed, "epoch": epoch, "problem": problem, "higher": higher}
    settings = {key: str(value) for key, value in given.items() if value not in (None, "")}
    check_settings(settings, of_table)
    targets, margin = targets_of(settings, of_table), margin_of(settings)
    if not of_table:
        from cnnbench.analysis.loading import compare_folders, compare_records

        asked = (by, baseline, targets, apart, margin, metric or "acc")
        if all(isinstance(each, Run) for each in what):
            folders = {run.folder.parent for run in what}
            plans = folders.pop() if len(folders) == 1 else None
            return Comparison(*compare_records([run.record for run in what], plans, *asked))
        if other := next((each for each in what if not isinstance(each, str | Path)), None):
            raise _no_results(other)
        return Comparison(*compare_folders([Path(each).expanduser() for each in what], *asked))
    from cnnbench.analysis.frames import Columns, compare_frame, suite_of
    from cnnbench.results import table_files

    read_from_files = isinstance(what, Sequence)
    title = ", ".join(Path(each).name for each in what) if read_from_files else "the table"
    frame = table_files.read([str(each) for each in what]) if read_from_files else _as_polars(what)
    pandas_nan = type(what).__module__.partition(".")[0] == "pandas"
    columns = Columns(metric, higher, names, seed, epoch, problem, nan_is_gap=pandas_nan)
    found = compare_frame(frame, columns, title, baseline, targets, margin)
    return Comparison(found, None, suite_of(found, title))


def _check_processes(jobs: list[Job]) -> None:
    hardware = jobs[0].config.hardware
    if hardware.processes > 1:
        raise ConfigError(
            f"hardware.devices={hardware.devices} hardware.nodes={hardware.nodes}: several processes train a run from "
            f"the command line alone, since each of them runs the whole program. Set both to 1."
        )


def _config_source(config_dir: str | Path | None) -> AbstractContextManager[Composer]:
    return config_source(None if config_dir is None else Path(config_dir))


def _ended(outcome: "Outcome") -> "Outcome":
    """What came of the runs, unless they were interrupted."""
    if outcome.exit_code > 128:
        raise KeyboardInterrupt if outcome.exit_code == 130 else SystemExit(outcome.exit_code)
    if not outcome.records:
        raise CnnbenchError(f"{outcome.folder}: no run has come to its end.")
    return outcome


def _runs(outcome: "Outcome") -> Runs:
    _ended(outcome)
    return Runs(outcome.folder, [Run(record) for record in outcome.records], outcome.comparisons or [], outcome.tuning)


def _value(value: Any) -> str:
    """A Python value as it is typed."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{_value(each)}' for key, each in value.items())}}}"
    return f"[{_listed(value)}]" if _several(value) else str(value)


def _swept(value: Any) -> str:
    """A Python value, or several to be swept, as they are typed."""
    return _listed(value) if _several(value) else _value(value)


def _listed(values: Iterable[Any]) -> str:
    return ",".join(map(_value, values))


def _several(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | Mapping)


def _frame(frame: "polars.DataFrame") -> Any:
    return _as_pandas(frame) if find_spec("pandas") else frame


def _as_pandas(frame: "polars.DataFrame") -> "pandas.DataFrame":
    if find_spec("pandas") is None:
        raise ConfigError("pandas is missing. Type: pip install pandas")
    import pandas

    return pandas.DataFrame({column.name: column.to_list() for column in frame})


def _as_polars(frame: Any) -> "polars.DataFrame":
    """Any DataFrame as one of polars."""
    import narwhals
    import polars

    try:
        columns = narwhals.from_native(frame, eager_only=True).to_dict(as_series=False)
    except TypeError:
        raise _no_results(frame) from None
    return polars.DataFrame(columns, strict=False)


def _no_results(what: object) -> ConfigError:
    kind = type(what).__name__
    return ConfigError(f"compare({kind}): must be a path, a list of paths, Runs, a list of Run, or a DataFrame.")


def _html(sheet: Sheet) -> Markup:
    """A table as a notebook shows it."""
    head = Markup("").join(Markup("<th>{}</th>").format(name) for name in sheet.columns)
    rows = Markup("").join(
        Markup("<tr>{}</tr>").format(
            Markup("").join(
                Markup('<td style="text-align: {}">{}</td>').format("left" if i < sheet.left else "right", cell)
                for i, cell in enumerate(row)
            )
        )
        for row in sheet.rows
    )
    title = Markup("<p><strong>{}</strong></p>").format(sheet.title)
    body = Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(head, rows)
    return title + body + Markup("<p><small>{}</small></p>").format(sheet.note)


def _image(figure: "Figure", alt: str) -> Markup:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    data = base64.b64encode(content.getvalue()).decode()
    return Markup('<img alt="{}" src="data:image/png;base64,{}">').format(alt, data)


__all__ = ["Comparison", "Run", "Runs", "compare", "sweep", "train", "tune"]
