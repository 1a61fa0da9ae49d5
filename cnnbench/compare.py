"""What do the records say, and how is it shown? Table, CSV, Markdown and curves. (imports no torch)

Runs that differ only in their seed are one contestant. Contestants are put side by side only where data, split and
validation source are the same; otherwise each such setting gets a table of its own.
"""

import csv
import io
import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cnnbench import record as records
from cnnbench.record import Record
from cnnbench.schema import ConfigError, nearest


@dataclass
class Contestant:
    """One setting with all its seeds."""

    label: str
    runs: list[Record]
    settings: int = 1
    """How many settings were tried before this one was chosen (`by=`)."""

    @property
    def done(self) -> list[Record]:
        """The runs that came to their end."""
        return [run for run in self.runs if run["status"] == "done"]

    def measured(self, *path: str) -> list[float]:
        """A number of each finished run, such as `measured("best", "val_acc")`."""
        values = []
        for run in self.done:
            value: Any = run
            for key in path:
                value = None if value is None else value[key]
            if value is not None:
                values.append(float(value))
        return values

    @property
    def val_acc(self) -> float:
        """Mean of the best validation accuracies; -1 if no run was finished."""
        return _mean(self.measured("best", "val_acc"), -1.0)

    @property
    def seconds(self) -> list[float]:
        """Training time of each finished run, evaluation left out."""
        return [sum(row["seconds"] for row in run["history"]) for run in self.done]

    @property
    def statuses(self) -> Counter[str]:
        """How many runs ended how."""
        return Counter(run["status"] for run in self.runs)


@dataclass
class Comparison:
    """Contestants that may be put side by side, best first."""

    title: str
    contestants: list[Contestant]

    @property
    def claims(self) -> list[tuple[str, str, str, float, list[float]]]:
        """What documents claim of these contestants: (source, contestant, metric, claimed, measured)."""
        found = []
        for contestant in self.contestants:
            run = contestant.runs[0]
            for claim in run["config"].get("claims", []):
                if all(run["choices"].get(group) == option for group, option in claim["match"].items()):
                    path = ("best", "val_acc") if claim["metric"] == "best_val_acc" else ("test", "acc")
                    measured = contestant.measured(*path)
                    found.append((claim["source"], contestant.label, claim["metric"], claim["value"], measured))
        return found


def load(folders: Iterable[Path]) -> list[Record]:
    """All records below `folders`, each once; what can't be read is named on the screen and left out.

    Raises:
        ConfigError: a folder isn't there, or there is no record at all.
    """
    found: dict[Path, Record] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{folder}: there is no such folder.")
        for path in records.find(folder):
            try:
                found[path.resolve()] = records.read(path)
            except records.RecordError as error:
                Console(stderr=True).print(f"left out: {error}", highlight=False, markup=False, soft_wrap=True)
    if not found:
        raise ConfigError(f"{', '.join(map(str, folders))}: no records there (runs/NAME/RUN/record.json).")
    return list(found.values())


def compare(runs: list[Record], by: str | None = None) -> list[Comparison]:
    """Groups runs into contestants.

    Args:
        runs: the records.
        by: a config group; of all settings with the same option of it only the one with the best mean validation
            accuracy is kept.

    Raises:
        ConfigError: there is no such group.
    """
    groups = sorted({group for run in runs for group in run["choices"]})
    if by is not None and by not in groups:
        raise ConfigError(f"by={by}: not a group of these runs.{nearest(by, groups)}")
    settings: dict[str, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        parts = records.experiment(run["config"], run["data"]["fingerprint"])
        del parts["seed"]
        settings[_setting(run)][records.canonical(parts)].append(run)
    comparisons = []
    for title, contestants in settings.items():
        ordered = [sorted(seeds, key=lambda run: run["config"]["seed"]) for seeds in contestants.values()]
        labelled = [Contestant(*pair) for pair in zip(_labels([seeds[0] for seeds in ordered]), ordered, strict=True)]
        labelled.sort(key=lambda contestant: (-contestant.val_acc, contestant.label))
        comparisons.append(Comparison(title, labelled if by is None else _best(labelled, by)))
    return sorted(comparisons, key=lambda comparison: comparison.title)


def _setting(run: Record) -> str:
    """What must be equal for two runs to be compared, in words."""
    data, config = run["data"], run["config"]["data"]
    sizes = data["sizes"]
    if run["protocol"]["validation"] == "test":
        split = f"{sizes['train']:,} training images; VALIDATION IS THE TEST SET ({sizes['test']:,} images)"
    else:
        split = f"{sizes['train']:,} training, {sizes['val']:,} validation, {sizes['test']:,} test images"
    limit = "" if config["limit"] is None else f", limit {config['limit']}"
    shape = "x".join(map(str, data["shape"]))
    name = f"folder {Path(config['root']).name}" if data["name"] == "folder" else data["name"]
    return f"{name} ({data['fingerprint'][:6]}{limit}), {shape}, {split}"


def _best(contestants: list[Contestant], by: str) -> list[Contestant]:
    chosen: dict[str, Contestant] = {}
    for contestant in contestants:  # best first
        option = contestant.runs[0]["choices"].get(by, "none")
        chosen.setdefault(option, contestant).settings = sum(
            c.runs[0]["choices"].get(by, "none") == option for c in contestants
        )
    return list(chosen.values())


def _labels(runs: list[Record]) -> list[str]:
    """The shortest names that tell the settings apart: options that differ, then keys that still differ."""
    elsewhere = {"optimizer", "model", "experiment", "hardware", "logger"}
    groups = ["optimizer", "model", *sorted(set(runs[0]["choices"]) - elsewhere)]
    varying = [group for group in groups if len({run["choices"].get(group) for run in runs}) > 1] or ["optimizer"]
    names = [
        " ".join(f"{'' if group in groups[:2] else f'{group}='}{run['choices'].get(group)}" for group in varying)
        for run in runs
    ]
    labels = list(names)
    for name in set(names):
        same = [i for i, other in enumerate(names) if other == name]
        flat = [_flat(records.experiment(runs[i]["config"], "")) for i in same]
        keys = sorted({key for config in flat for key in config} - {"seed"})
        differing = [key for key in keys if len({json.dumps(config.get(key)) for config in flat}) > 1]
        for i, config in zip(same, flat, strict=True):
            labels[i] = " ".join([name, *(f"{key.removeprefix('optimizer.')}={config.get(key)}" for key in differing)])
    return labels


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


# --- shown


def show(comparisons: list[Comparison], folder: Path) -> None:
    """Prints the tables and writes `comparison.csv`, `comparison.md` and `curves.png` into `folder`."""
    console = Console(width=None if Console().is_terminal else 160)
    for comparison in comparisons:
        table = Table(title=comparison.title, title_justify="left", title_style="bold")
        for i, name in enumerate(_COLUMNS):
            table.add_column(name, justify="left" if i == 0 else "right")
        for row in _rows(comparison):
            table.add_row(*row)
        console.print(table, highlight=False, markup=False)
        if comparison.claims:
            table = Table(title="What the documents claim", title_justify="left", title_style="bold")
            for name in _CLAIM_COLUMNS:
                table.add_column(name, justify="left" if name in ("source", "contestant", "measure") else "right")
            for row in _claim_rows(comparison):
                table.add_row(*row)
            console.print(table, highlight=False, markup=False)
    records.write_whole(folder / "comparison.csv", lambda file: file.write(_csv(comparisons).encode()))
    records.write_whole(folder / "comparison.md", lambda file: file.write(_markdown(comparisons).encode()))
    _draw(comparisons, folder / "curves.png")
    written = ", ".join(str(folder / name) for name in ("curves.png", "comparison.md", "comparison.csv"))
    console.print(written, highlight=False, markup=False, soft_wrap=True)


_COLUMNS = ("contestant", "seeds", "best validation", "test", "best epoch", "seconds", "runs")
_NOTE = "Mean and standard deviation over seeds; test accuracy at the epoch that was best on validation."


def _rows(comparison: Comparison) -> list[list[str]]:
    rows = []
    for c in comparison.contestants:
        tried = f" (best of {c.settings})" if c.settings > 1 else ""
        rows.append(
            [
                c.label + tried,
                str(len(c.done)),
                _percent(c.measured("best", "val_acc")),
                _percent(c.measured("test", "acc")),
                _number(c.measured("best", "epoch")),
                _number(c.seconds),
                ", ".join(f"{count} {status}" for status, count in sorted(c.statuses.items())),
            ]
        )
    return rows


_CLAIM_COLUMNS = ("source", "contestant", "measure", "claimed", "measured", "difference")


def _claim_rows(comparison: Comparison) -> list[list[str]]:
    rows = []
    for source, label, metric, claimed, measured in comparison.claims:
        difference = f"{100 * (_mean(measured) - claimed):+.2f}" if measured else "-"
        name = "best validation" if metric == "best_val_acc" else "test"
        rows.append([source, label, name, f"{claimed:.2%}", _percent(measured), difference])
    return rows


def _mean(values: list[float], nothing: float = float("nan")) -> float:
    return statistics.fmean(values) if values else nothing


def _spread(values: list[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _percent(values: list[float]) -> str:
    if not values:
        return "-"
    spread = _spread(values)
    return f"{_mean(values):.2%}" + ("" if spread is None else f" ± {100 * spread:.2f}")


def _number(values: list[float]) -> str:
    return f"{_mean(values):.1f}" if values else "-"


def _csv(comparisons: list[Comparison]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    measures = ("val_acc", "test_acc", "best_epoch", "seconds")
    columns = [f"{m}_{kind}" for m in measures for kind in ("mean", "sd")]
    writer.writerow(["setting", "contestant", "settings_tried", "seeds", *columns, *records.STATUSES])
    for comparison in comparisons:
        for c in comparison.contestants:
            values = (c.measured("best", "val_acc"), c.measured("test", "acc"), c.measured("best", "epoch"), c.seconds)
            cells = [f(v) if v else "" for v in values for f in (_mean, _spread)]
            counts = [c.statuses[status] for status in records.STATUSES]
            writer.writerow([comparison.title, c.label, c.settings, len(c.done), *cells, *counts])
    return text.getvalue()


def _markdown(comparisons: list[Comparison]) -> str:
    lines = []
    for comparison in comparisons:
        lines += [f"**{comparison.title}**", ""]
        lines += ["| " + " | ".join(_COLUMNS) + " |", "|---" + "|---:" * (len(_COLUMNS) - 1) + "|"]
        lines += ["| " + " | ".join(row) + " |" for row in _rows(comparison)]
        lines += ["", _NOTE, ""]
        if comparison.claims:
            lines += ["| " + " | ".join(_CLAIM_COLUMNS) + " |", "|---|---|---|---:|---:|---:|"]
            lines += ["| " + " | ".join(row) + " |" for row in _claim_rows(comparison)]
            lines += ["", "Differences in percentage points.", ""]
    return "\n".join(lines)


# Okabe and Ito's colours, told apart with every kind of colour vision; the dashes tell them apart in grey print.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)))


def _draw(comparisons: list[Comparison], path: Path) -> None:
    """Training loss and validation accuracy by epoch: mean over seeds, and the range of the seeds as a band."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogFormatter, MaxNLocator, PercentFormatter

    height = 4.6 * len(comparisons)
    figure, grid = plt.subplots(len(comparisons), 2, figsize=(12, height), squeeze=False, layout="constrained")
    for axes, comparison in zip(grid, comparisons, strict=True):
        panels = (("train_loss", "training loss"), ("val_acc", "validation accuracy"))
        for axis, (key, name) in zip(axes, panels, strict=True):
            for i, contestant in enumerate(comparison.contestants):
                if not contestant.done:
                    continue
                curves = [[row[key] for row in run["history"]] for run in contestant.done]
                by_epoch = list(zip(*curves, strict=False))  # as far as every seed went
                epochs = range(1, len(by_epoch) + 1)
                style: dict[str, Any] = {"color": _COLOURS[i % len(_COLOURS)], "linestyle": _DASHES[i % len(_DASHES)]}
                marker = {"marker": "o", "markersize": 4} if len(by_epoch) == 1 else {}
                axis.plot(epochs, [_mean(list(v)) for v in by_epoch], label=contestant.label, **style, **marker)
                low, high = [min(v) for v in by_epoch], [max(v) for v in by_epoch]
                axis.fill_between(epochs, low, high, color=style["color"], alpha=0.15, linewidth=0)
            axis.set(xlabel="epoch", ylabel=name)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.grid(color="0.9")
            axis.spines[["top", "right"]].set_visible(False)
        axes[0].set_yscale("log")
        axes[0].yaxis.set_major_formatter(LogFormatter())
        axes[0].yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))
        axes[1].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        title = f"{comparison.title}\nlines: mean of the seeds; bands: their range"
        axes[0].set_title(title, loc="left", fontsize=9)
        if any(c.done for c in comparison.contestants):
            axes[1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    records.write_whole(path, lambda file: figure.savefig(file, format="png", dpi=150, metadata={"Software": None}))
    plt.close(figure)
