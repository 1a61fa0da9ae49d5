"""The figures of a comparison: curves, accuracies, costs, confusions and, of a tuning, its trials."""

import math
import textwrap
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator, NullFormatter, PercentFormatter, StrMethodFormatter

from cnnbench.analysis import budget
from cnnbench.analysis.comparison import Comparison
from cnnbench.analysis.contestants import Contestant
from cnnbench.analysis.suite import Suite
from cnnbench.analysis.tuning import Entry, setting_of
from cnnbench.analysis.tuning_results import Tuning
from cnnbench.config.spaces import Axis, Space
from cnnbench.errors import ConfigError, nearest
from cnnbench.report import fonts
from cnnbench.report.tables import MOST_CLASSES
from cnnbench.results.records import Record, SearchEpoch
from cnnbench.results.reported import Reported
from cnnbench.runtime import files
from cnnbench.runtime.progress import short

# Okabe and Ito's colours, distinct with every kind of colour vision; the dashes keep them distinct in grey print.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)))

_MARKERS = "osD^vPX"

_LOOK: Any = {
    "text.parse_math": False,  # a $ in a name is a $
    "axes.grid": True,
    "grid.color": "0.9",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "legend.frameon": False,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
    "lines.linewidth": 1.8,
}

MOST = 12
"""Contestants in a figure, the first ones; more could not be distinguished."""

MOST_TABLES = 6
"""Of them in the figure of confusion matrices, which fits a printed page then."""

MOST_SEARCHES = 2
"""Contestants side by side in the figure of architectures, the first ones."""

_LONGEST = 52
"""Letters of a contestant's name."""

_WIDTH = 6.4
"""Inches; narrow, so that it can be read on a phone too."""

Styles = dict[str, dict[str, Any]]
"""Each contestant's colour and dashes, by label; the same in all figures."""


def draw(comparisons: list[Comparison], tuning: Tuning | None, folder: Path, suite: Suite | None = None) -> list[str]:
    """Writes the figures; returns the names of their files."""
    options: Any = {"format": "png", "dpi": 150, "metadata": {"Software": None}}
    written = []
    with _look():
        for name, sketch in sketches(comparisons, tuning, suite).items():
            if (figure := sketch()) is not None:
                files.write_whole(folder / name, partial(figure.savefig, **options))
                written.append(name)
    return written


def figure_of(
    kind: str, comparisons: list[Comparison], tuning: Tuning | None = None, suite: Suite | None = None
) -> Figure:
    """One of the figures.

    Args:
        kind: such as `accuracy`, or `accuracy-2` for the second comparison.
        comparisons: what is compared.
        tuning: how the settings were found, if they were tuned.
        suite: the answer over all comparisons, if they are the problems of one.

    Raises:
        ConfigError: there is no such figure, or none of these results.
    """
    found = {name.removesuffix(".png"): sketch for name, sketch in sketches(comparisons, tuning, suite).items()}
    if kind not in found:
        raise ConfigError(f"plot({kind!r}): there is no such figure.{nearest(kind, found)}")
    with _look():
        figure = found[kind]()
    if figure is None:
        raise ConfigError(f"plot({kind!r}): these results don't have what it shows.")
    return figure


def sketches(
    comparisons: list[Comparison], tuning: Tuning | None, suite: Suite | None
) -> dict[str, Callable[[], Figure | None]]:
    """By the name of its file what makes each figure; None where the results don't have what it shows."""
    of_comparisons = {"curves": _curves, "accuracy": _accuracy, "target": _target, "confusion": _confusion}
    of_comparisons |= {"architecture": _architecture, "parameters": _parameters, "operations": _operations}
    styles = _styles(comparisons, tuning)
    found: dict[str, Callable[[], Figure | None]] = {}
    for number, comparison in enumerate(comparisons, 1):
        for kind, sketch in of_comparisons.items():
            found[file_name(kind, number)] = partial(sketch, comparison, styles)
    if tuning is not None:
        found[file_name("sensitivity")] = partial(_sensitivity, tuning, styles)
        found[file_name("budget")] = partial(_budget, tuning, styles)
    if suite is not None:
        found[file_name("profile")] = partial(_profile, suite, styles)
    return found


@contextmanager
def _look() -> Iterator[None]:
    """Our look, and no warning of letters in a contestant's name that no font has."""
    with matplotlib.rc_context(_LOOK | {"font.family": fonts.families()}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        yield


def file_name(kind: str, number: int = 1) -> str:
    """The file of a figure of the first, second, ... comparison."""
    return f"{kind}.png" if number == 1 else f"{kind}-{number}.png"


def _styles(comparisons: list[Comparison], tuning: Tuning | None) -> Styles:
    # A tuning may call a contestant otherwise than a comparison does; it is the one that got the winner's setting.
    contestants = [c for comparison in comparisons for c in comparison.contestants]
    called = {setting_of(c.records[0]): c.label for c in contestants if c.records}
    names = {c.label: c.label for c in contestants}
    for entry in tuning.entries if tuning else []:
        won = entry.winner and entry.winner.record
        names[entry.tuned.label] = called.get(setting_of(won), entry.tuned.label) if won else entry.tuned.label
    number = {name: i for i, name in enumerate(dict.fromkeys(names.values()))}
    return {label: _style(number[name]) for label, name in names.items()}


def _style(i: int) -> dict[str, Any]:
    """Colour and dashes of line number `i` of a figure."""
    return {"color": _COLOURS[i % len(_COLOURS)], "linestyle": _DASHES[i % len(_DASHES)]}


# --- of a comparison


def _curves(comparison: Comparison, styles: Styles) -> Figure | None:
    """Training loss and validation accuracy by epoch: mean over seeds, and the range of the seeds as a band."""
    shown, left_out = _shown(comparison)
    if not shown:
        return None
    if not comparison.records:
        return _reported_curves(comparison, shown, left_out, styles)
    figure, axes = _panels([2.9, 2.9], [c.label for c in shown])
    for axis, key, name in zip(axes, ("train_loss", "val_acc"), ("training loss", "validation accuracy"), strict=True):
        for contestant in shown:
            curves = [[getattr(row, key) for row in run.history] for run in _done(contestant)]
            by_epoch = list(zip(*curves, strict=False))  # as far as every seed went
            _band(axis, by_epoch, short(contestant.label, _LONGEST), styles[contestant.label])
        axis.set(xlabel="epoch", title=f"{name}{left_out}")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if all(row.train_loss > 0 for c in shown for run in _done(c) for row in run.history):
        axes[0].set_yscale("log")
        axes[0].yaxis.set_major_formatter(_Plain())
        axes[0].yaxis.set_minor_formatter(_Plain(minor_thresholds=(1, 0.4)))
    axes[1].yaxis.set_major_formatter(PercentFormatter(1.0))
    _legend(figure, axes[0])
    return figure


def _reported_curves(comparison: Comparison, shown: list[Contestant], left_out: str, styles: Styles) -> Figure | None:
    """Another program's metric by epoch, drawn likewise; None where its table has no epochs."""
    figure, (axis,) = _panels([3.2], [c.label for c in shown])
    for contestant in shown:
        values: dict[int, list[float]] = defaultdict(list)
        runs = [run for run in contestant.done if isinstance(run, Reported)]
        for epoch, value in (point for run in runs for point in run.curve):
            values[epoch].append(value)
        epochs = sorted(
            epoch for epoch, found in values.items() if len(found) == len(runs)
        )  # as far as every seed went
        _band(
            axis,
            [values[epoch] for epoch in epochs],
            short(contestant.label, _LONGEST),
            styles[contestant.label],
            epochs,
        )
        if not any(epochs):
            return None
    axis.set(xlabel="epoch", title=f"{comparison.judged}{left_out}")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    _in_its_unit(axis.yaxis, comparison)
    _legend(figure, axis)
    return figure


def _in_its_unit(axis: XAxis | YAxis, comparison: Comparison) -> None:
    """Labels an axis of what the contestants are compared by: in percent, if it is a share."""
    if comparison.metric.share:
        axis.set_major_formatter(PercentFormatter(1.0))


def _done(contestant: Contestant) -> list[Record]:
    return [run for run in contestant.records if run.status == "done"]


def _accuracy(comparison: Comparison, styles: Styles) -> Figure | None:
    """A dot for each seed, the mean and its interval; a cross where a document claims a number."""
    shown, left_out = _shown(comparison)
    shown = [c for c in shown if c.measured(comparison.measure)]
    if not shown:
        return None
    labels = [textwrap.fill(short(c.label, _LONGEST), 22) for c in shown]
    rows = {contestant.label: i for i, contestant in enumerate(shown)}
    claimed = [(value, rows[label]) for _, label, _, value, _ in comparison.claims if label in rows]
    height = 0.4 * len(shown) + 0.14 * sum(label.count("\n") for label in labels) + 0.9
    figure, (axis,) = _panels([height], ["claimed"] if claimed else [])
    for i, contestant in enumerate(shown):
        values, colour = contestant.measured(comparison.measure), styles[contestant.label]["color"]
        mean = sum(values) / len(values)
        # The golden ratio spreads any number of dots evenly.
        heights = [i + 0.4 * ((k * 0.618034 + 0.5) % 1 - 0.5) for k in range(len(values))]
        axis.plot(values, heights, "o", color=colour, alpha=0.45, markersize=5, markeredgewidth=0)
        low, high = contestant.interval(comparison.measure) or (mean, mean)
        axis.plot([low, high], [i, i], color=colour, linewidth=2.5, solid_capstyle="butt")
        axis.plot([mean], [i], "D", color=colour, markersize=7, markeredgecolor="white")
    if claimed:
        axis.plot(*zip(*claimed, strict=True), "x", color="0.25", markersize=7, markeredgewidth=2, label="claimed")
        _legend(figure, axis)
    axis.set(title=f"{comparison.judged}{left_out}", yticks=range(len(shown)), ylim=(len(shown) - 0.4, -0.6))
    axis.set_yticklabels(labels)
    axis.xaxis.set_major_locator(MaxNLocator(5))
    _in_its_unit(axis.xaxis, comparison)
    return figure


def _target(comparison: Comparison, styles: Styles) -> Figure | None:
    """The share of the seeds that have reached the target, after so many seconds and epochs of training."""
    shown, left_out = _shown(comparison)
    if not shown or not comparison.records:
        return None
    goal = f"{100 * comparison.target:.4g} % validation accuracy"
    figure, axes = _panels([2.3, 2.3], [f"{c.label}: 00 of 00" for c in shown])
    any_hit = False
    for axis, unit in zip(axes, ("seconds", "epochs"), strict=True):
        end = 1.04 * max(value for c in shown for value in c.measured(unit)) or 1.0
        for i, contestant in enumerate(shown):
            hits = sorted(filter(math.isfinite, contestant.measured(f"target_{unit}", comparison.target)))
            any_hit = any_hit or bool(hits)
            # So that no line hides another each one is drawn a little above the one before, all between 0 and 100 %.
            step = 0.012
            room = 1 - step * (len(shown) - 1)
            shares = [step * i + room * k / len(contestant.done) for k in range(len(hits) + 1)]
            name = f"{short(contestant.label, _LONGEST)}: {len(hits)} of {len(contestant.done)}"
            axis.step([0, *hits, end], [*shares, shares[-1]], where="post", label=name, **styles[contestant.label])
        axis.set(xlabel=f"{unit} of training", xlim=(0, end), ylim=(-0.03, 1.03), yticks=[0, 0.5, 1])
        axis.xaxis.set_major_locator(MaxNLocator(integer=unit == "epochs"))
        axis.yaxis.set_major_formatter(PercentFormatter(1.0))
        if not any_hit:
            axis.text(0.5, 0.5, "no run has reached it", transform=axis.transAxes, ha="center", va="center")
    axes[0].set_title(f"seeds that reached {goal}{left_out}")
    _legend(figure, axes[0])
    return figure


def _confusion(comparison: Comparison, styles: Styles) -> Figure | None:
    """Of the test images of each class, the share that was taken for each class."""
    shown, left_out = _shown(comparison, MOST_TABLES)
    tables = [(c.label, table) for c in shown if (table := c.confusion)]
    if not tables or len(tables[0][1]) > MOST_CLASSES:
        return None
    names = [short(name, 14) for name in fonts.class_labels(shown[0].records[0].data.classes)]
    columns = min(len(tables), 2)
    rows = -(-len(tables) // columns)
    figure = Figure(figsize=(4.3 * columns, 4.5 * rows), layout="constrained")
    for i, (label, table) in enumerate(tables):
        axis = figure.add_subplot(rows, columns, i + 1)
        shares = [[cell / max(sum(row), 1) for cell in row] for row in table]
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        size = 8 if len(names) <= 12 else 5.5
        for y, row in enumerate(shares):
            for x, share in enumerate(row):
                if share >= 0.005:
                    colour = "white" if share > 0.5 else "black"
                    where: Any = {"ha": "center", "va": "center", "in_layout": False}  # which would ask each its size
                    axis.text(x, y, f"{100 * share:.0f}", fontsize=size, color=colour, **where)
        ticks = range(len(names))
        axis.set_xticks(ticks, names, rotation=90 if max(map(len, names)) > 2 else 0, fontsize=size)
        axis.set_yticks(ticks, names, fontsize=size)
        axis.set_title(textwrap.fill(short(label, _LONGEST), 36), color=styles[label]["color"])
        axis.set(xlabel="predicted", ylabel="true")
        axis.grid(visible=False)
    if left_out:
        figure.suptitle(left_out.strip(" ()"), fontsize=10)
    return figure


def _architecture(comparison: Comparison, styles: Styles) -> Figure | None:
    """Probability of each candidate by epoch of the search: mean over seeds, and the range of the seeds as a band."""
    shown = [c for c in comparison.contestants if _probabilities(c)][:MOST_SEARCHES]
    if not shown:
        return None
    properties = list(dict.fromkeys(name for c in shown for name in _probabilities(c)[0][0]))
    wide = max(_WIDTH, 3.8 * len(shown))
    figure = Figure(figsize=(wide, 1.75 * len(properties) + 0.5), layout="constrained")
    axes = figure.subplots(len(properties), len(shown), squeeze=False, sharex="col", sharey="row")
    for column, contestant in enumerate(shown):
        seeds = _probabilities(contestant)
        epochs = range(len(seeds[0]))
        for axis, name in zip(axes[:, column], properties, strict=True):
            for i, candidate in enumerate(seeds[0][0].get(name, {})):
                by_epoch = [[seed[epoch][name][candidate] for seed in seeds] for epoch in epochs]
                _band(axis, by_epoch, candidate, _style(i))
            axis.margins(y=0.15)
            axis.set_title(name)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.yaxis.set_major_formatter(PercentFormatter(1.0))
            if axis.lines:  # another contestant may search more
                axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), handlelength=2.5)
        axes[0, column].set_title(
            f"{short(contestant.label, 30)}\n{properties[0]}" if len(shown) > 1 else properties[0]
        )
        axes[-1, column].set_xlabel("epoch of the search")
    return figure


def _probabilities(contestant: Contestant) -> list[list[dict[str, dict[str, float]]]]:
    """By seed and epoch of the search: for `conv1 kernel size` and so on the probability of each candidate."""
    histories = [run.search.history for run in _done(contestant) if run.search]
    found = [
        [
            {f"{layer} {key.replace('_', ' ')}": p for layer, of in row.probabilities.items() for key, p in of.items()}
            for row in history
            if isinstance(row, SearchEpoch)
        ]
        for history in histories
        if history and isinstance(history[0], SearchEpoch)
    ]
    shortest = min(map(len, found), default=0)
    return [seed[:shortest] for seed in found]


def _parameters(comparison: Comparison, styles: Styles) -> Figure | None:
    """Accuracy by number of parameters, a dot for each seed; None where all networks are of about one size."""
    shown, left_out = _shown(comparison)
    shown = [c for c in shown if c.measured(comparison.measure)]
    counts = {count for c in shown for count in c.measured("parameters")}
    if not counts or max(counts) < 1.05 * min(counts):
        return None
    figure, (axis,) = _panels([3.2], [c.label for c in shown])
    _scatter(axis, shown, "parameters", comparison.measure, styles)
    axis.set(xlabel="parameters", title=f"{comparison.judged}{left_out}")
    if max(counts) >= 10 * min(counts):
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(_Plain())
    else:
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    _legend(figure, axis)
    return figure


def _scatter(axis: Axes, shown: list[Contestant], across: str, measure: str, styles: Styles) -> None:
    """Draws a dot for each seed of each contestant, by two of its measures."""
    for i, contestant in enumerate(shown):
        marker = _MARKERS[(i + i // len(_COLOURS)) % len(_MARKERS)]  # colours repeat with other markers
        style: Any = {"color": styles[contestant.label]["color"], "marker": marker}
        points = contestant.measured(across), contestant.measured(measure)
        axis.plot(*points, linestyle="none", markersize=7, alpha=0.7, label=short(contestant.label, _LONGEST), **style)


def _operations(comparison: Comparison, styles: Styles) -> Figure | None:
    """Accuracy by arithmetic operations of the training, a dot for each seed; None where all trainings cost alike.

    The rungs of a ladder are named, and joined by a line where they were kept. Claims are horizontal lines.
    """
    shown, left_out = _shown(comparison)
    shown = [c for c in shown if c.measured(comparison.measure) and c.measured("operations")]
    counts = {count for c in shown for count in c.measured("operations")}
    if not counts or max(counts) < 2 * min(counts):
        return None
    figure, (axis,) = _panels([3.6], [c.label for c in shown])
    _scatter(axis, shown, "operations", comparison.measure, styles)
    if comparison.ladder is not None:
        by_run = {run.run_id: c for c in shown for run in c.records}
        kept = [by_run[rung.runs[0]] for rung in comparison.ladder.rungs if rung.kept and rung.runs[0] in by_run]
        means = [(c.mean("operations"), c.mean(comparison.measure)) for c in kept]
        axis.plot(*zip(*means, strict=True), color="0.6", linewidth=1, zorder=1)
    for claimed in sorted({value for _, _, measure, value, _ in comparison.claims if measure == comparison.measure}):
        axis.axhline(claimed, color="0.3", linewidth=1, linestyle=(0, (4, 3)))
        axis.annotate(f"claimed: {claimed:.0%}", (0.01, claimed), xycoords=("axes fraction", "data"), va="top")
    axis.set(xlabel="operations of the training", title=f"{comparison.judged}{left_out}", xscale="log")
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:.0e}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    _legend(figure, axis)
    return figure


# --- of a suite


def _profile(suite: Suite, styles: Styles) -> Figure | None:
    """Performance profiles: the share of problems solved at so many times the lowest cost; None without targets."""
    costs, shown = suite.costs, suite.labels[:MOST]
    if not costs or not any(math.isfinite(cost) for column in costs.values() for cost in column):
        return None
    lowest = [min(column) for column in zip(*costs.values(), strict=True)]
    ratios = {
        label: sorted(c / best for c, best in zip(costs[label], lowest, strict=True) if math.isfinite(c))
        for label in shown
    }
    end = 1.1 * max(ratio for found in ratios.values() for ratio in found)
    figure, (axis,) = _panels([3.0], shown)
    for i, label in enumerate(shown):
        steps = sorted({1.0, *ratios[label], end})
        shares = [suite.solved(label, factor) + 0.008 * i for factor in steps]  # no line hides another one
        axis.step(steps, shares, where="post", label=short(label, _LONGEST), **styles[label])
    unit = "images" if suite.comparisons[0].records else "epochs"
    axis.set(xlabel=f"{unit}, as a multiple of the fewest", xscale="log", ylim=(-0.03, 1.08))
    axis.set_title(f"problems whose target was reached{_left_out(len(suite.labels))}")
    axis.xaxis.set_major_formatter(_Plain())
    axis.xaxis.set_minor_formatter(_Plain(minor_thresholds=(1, 0.4)))
    axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    _legend(figure, axis)
    return figure


# --- of a tuning


def _sensitivity(tuning: Tuning, styles: Styles) -> Figure | None:
    """Best validation accuracy of each trial by the value that it tried."""
    panels: dict[tuple[str, bool], list[Entry]] = defaultdict(list)
    shown, left_out = _contestants(tuning)
    for entry in (e for e in tuning.entries if e.tuned.label in shown):
        if (key := _numeric(entry.tuned.space)) is not None:
            panels[key, entry.tuned.space[key].log].append(entry)
    if not panels:
        return None
    figure, axes = _panels([3.2] * len(panels), shown)
    for axis, ((key, log), page) in zip(axes, panels.items(), strict=True):
        for entry in page:
            style, label = styles[entry.tuned.label], short(entry.tuned.label, _LONGEST)
            row = shown.index(entry.tuned.label)
            tried = sorted((t.params[key], t.val_acc) for t in entry.trials if t.val_acc is not None)
            axis.plot(*zip(*tried, strict=True) if tried else ([], []), marker="o", markersize=4, label=label, **style)
            lost = [t.params[key] for t in entry.ended if t.val_acc is None]
            at_bottom: Any = {
                "transform": axis.get_xaxis_transform(),
                "clip_on": False,
                "linestyle": "none",
                "in_layout": False,
            }
            axis.plot(lost, [0.03 + 0.03 * row] * len(lost), "x", color=style["color"], **at_bottom)
            if (winner := entry.winner) is not None:
                star: Any = {"markersize": 14, "markeredgecolor": "white", "color": style["color"]}
                axis.plot([winner.params[key]], [winner.val_acc or 0.0], "*", zorder=5, **star)
        axis.set(xlabel=key, title=f"best validation accuracy of each trial{left_out}")
        axis.margins(y=0.15)
        if log:
            axis.set_xscale("log")
            axis.xaxis.set_major_formatter(_Plain())
        axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    _legend(figure, *axes)
    return figure


def _contestants(tuning: Tuning) -> tuple[list[str], str]:
    """The contestants that fit into a figure, and what is said of the others."""
    labels = list(dict.fromkeys(entry.tuned.label for entry in tuning.entries))
    return labels[:MOST], _left_out(len(labels))


def _budget(tuning: Tuning, styles: Styles) -> Figure | None:
    """Expected best validation accuracy by number of trials, and where another contestant takes the lead."""
    shown, left_out = _contestants(tuning)
    curves = {label: tuning.curves[label] for label in shown if label in tuning.curves}
    if not curves:
        return None
    figure, (axis,) = _panels([3.2], list(curves))
    for label, curve in curves.items():
        axis.plot(
            range(1, len(curve) + 1), curve, marker="o", markersize=3, label=short(label, _LONGEST), **styles[label]
        )
    for number, label in budget.leaders(tuning.curves)[1:]:
        axis.axvline(number, color="0.6", linewidth=1, linestyle=":", zorder=1)
        if label in curves:
            ring: Any = {"markerfacecolor": "none", "markersize": 12, "color": styles[label]["color"]}
            axis.plot([number], [curves[label][number - 1]], "o", **ring)
    axis.set(xlabel="trials", title=f"expected best validation accuracy{left_out}")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    _legend(figure, axis)
    return figure


def _numeric(space: Space) -> str | None:
    """The learning rate, or else the first key with numbers."""

    def numbers(axis: Axis) -> bool:
        return all(isinstance(v, int | float) and not isinstance(v, bool) for v in axis.choices)

    return next((key for key in sorted(space, key=lambda key: key != "lr") if numbers(space[key])), None)


# --- of both


class _Plain(LogFormatter):
    """Few numbers on a logarithmic axis, and no powers of ten."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        text = f"{x:,.0f}" if x >= 1000 else f"{x:g}"
        return text if super().__call__(x, pos) else ""


def _shown(comparison: Comparison, most: int = MOST) -> tuple[list[Contestant], str]:
    """The contestants of a figure, and what is to be said of the others."""
    done = [c for c in comparison.contestants if c.done]
    return done[:most], _left_out(len(done), most)


def _panels(heights: list[float], labels: Sequence[str] = ()) -> tuple[Figure, list[Axes]]:
    """Panels one below the other, with room for a legend of `labels` below them."""
    height = sum(heights) + 0.22 * -(-len(labels) // _columns(labels))
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, list(figure.subplots(len(heights), squeeze=False, height_ratios=heights)[:, 0])


def _band(
    axis: Axes,
    by_epoch: Sequence[Sequence[float]],
    label: str,
    style: dict[str, Any],
    epochs: Sequence[int] | None = None,
) -> None:
    """A line of the means of each epoch's values, and their range as a band; of a single epoch a dot.

    Epochs are counted from 1 if they aren't given.
    """
    epochs = epochs or range(1, len(by_epoch) + 1)
    dot: dict[str, Any] = {"marker": "o", "markersize": 4} if len(by_epoch) == 1 else {}
    axis.plot(epochs, [sum(v) / len(v) for v in by_epoch], label=label, **style, **dot)
    low, high = [min(v) for v in by_epoch], [max(v) for v in by_epoch]
    axis.fill_between(epochs, low, high, color=style["color"], alpha=0.15, linewidth=0)


def _legend(figure: Figure, *axes: Axes) -> None:
    found = dict(pair for axis in axes for pair in zip(*axis.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(found.values(), found, loc="outside lower left", ncols=_columns(list(found)), handlelength=3.5)


def _columns(labels: Sequence[str]) -> int:
    """Of a legend."""
    longest = max(map(len, labels), default=0)
    return 3 if longest <= 16 else 2 if longest <= 28 else 1


def _left_out(count: int, most: int = MOST) -> str:
    return f" (the first {most} of {count} contestants)" if count > most else ""
