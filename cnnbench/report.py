"""How is a comparison shown? Terminal, CSV, Markdown, LaTeX and HTML: the same sheets each time. (imports no torch)"""

import csv
import io
import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cnnbench import record as records
from cnnbench import stats
from cnnbench.compare import MOST_PAIRED, Comparison, Contestant, Tuning
from cnnbench.ladder import Ladder, judge


@dataclass
class Sheet:
    """A table for people: text in each cell, numbers to the right."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""
    left: int = 1
    """How many columns, from the left, are words."""


def show(comparisons: list[Comparison], folder: Path, tuning: Tuning | None = None) -> None:
    """Prints the tables and writes `comparison.csv`, `.md`, `.tex`, `report.html` and the figures into `folder`."""
    from cnnbench.figures import draw
    from cnnbench.page import html

    console = Console(width=None if Console().is_terminal else 160)
    for comparison in comparisons:
        console.print(f"\n{comparison.title}", style="bold", highlight=False, markup=False, soft_wrap=True)
        for sheet in sheets(comparison):
            print_sheet(console, sheet)
        console.print(comparison.verdict, highlight=False, markup=False, soft_wrap=True)
    if tuning is not None:
        print_sheet(console, tuned(tuning))
        console.print(tuning.flips, highlight=False, markup=False, soft_wrap=True)

    def text(name: str, content: str) -> str:
        records.write_whole(folder / name, lambda file: file.write(content.encode()))
        return name

    written = [text("comparison.csv", _csv(comparisons)), text("comparison.md", _markdown(comparisons, tuning))]
    written += [text("comparison.tex", _latex(comparisons, tuning))]
    figures = draw(comparisons, tuning, folder)
    written += [*figures, text("report.html", html(comparisons, tuning, folder, figures))]
    rest = ", ".join(name for name in written if name != "report.html")
    console.print(f"{folder / 'report.html'} (beside it {rest})", highlight=False, markup=False, soft_wrap=True)


def sheets(comparison: Comparison) -> list[Sheet]:
    """The tables of a comparison."""
    found = [] if comparison.ladder is None else [rungs(comparison, comparison.ladder)]
    found += [results(comparison), costs(comparison)]
    if len(comparison.contestants) > 1:
        found.append(verdicts(comparison))
    if any(run["search"] for c in comparison.contestants for run in c.runs):
        found.append(architectures(comparison))
    if comparison.claims:
        found.append(claims(comparison))
    return found


def results(comparison: Comparison) -> Sheet:
    """Accuracies and losses."""
    rows = []
    for c in comparison.contestants:
        tried = f" (best of {c.settings})" if c.settings > 1 else ""
        cells = [f"{c.label}{tried}", str(len(c.done))]
        cells += [_percent(c, measure) for measure in ("test_acc", "val_acc", "final_val_acc")]
        cells += [_mean(c, "train_loss", "{:.4g}"), _mean(c, "gap", "{:+.2%}")]
        rows.append([*cells, ", ".join(f"{count} {status}" for status, count in sorted(c.statuses.items()))])
    columns = ["contestant", "seeds", "test", "best validation", "final validation", "training loss", "gap", "runs"]
    note = (
        "Means over seeds with 95 % bootstrap intervals; test accuracy at the epoch that was best on validation; "
        "training loss of the last epoch; gap: training minus validation accuracy at the selected epoch."
    )
    most = max((len(c.done) for c in comparison.contestants), default=0)
    if most == 1:
        note += " One seed: no interval can be given."
    elif most < 5:
        note += f" From {most} seeds an interval is too narrow; the verdicts do not rest on it."
    return Sheet("Accuracy", columns, rows, note)


def costs(comparison: Comparison) -> Sheet:
    """What it took."""
    rows = []
    for c in comparison.contestants:
        reach = [_reached(c, measure, comparison.target) for measure in ("epochs", "images", "seconds")]
        hit = sum(math.isfinite(v) for v in c.measured("target_epochs", comparison.target))
        forms = {"best_epoch": "{:.1f}", "epochs": "{:,.0f}", "images_seen": "{:,.0f}", "seconds": "{:.1f}"}
        spent = [_mean(c, measure, form) for measure, form in (forms | {"images_per_second": "{:,.0f}"}).items()]
        rows.append([c.label, *spent, f"{hit} of {len(c.done)}", *reach])
    goal = f"{comparison.target:.4g}"
    columns = ["contestant", "best epoch", "epochs", "images seen", "seconds", "images/s"]
    columns += [f"reach {goal}", "after epochs", "images", "seconds"]
    note = "Means over seeds, seconds of training alone. Until validation accuracy is at least "
    note += f"{goal}: medians over seeds, infinite (∞) where it was missed."
    if comparison.given_target is None:
        note += f" {goal} is what the middle contestant reaches; target= sets another."
    return Sheet("Cost", columns, rows, note)


def verdicts(comparison: Comparison) -> Sheet:
    """Each pair."""
    rows = []
    for pair in comparison.pairs:
        middle = [*_change(pair), "-" if pair.p is None else _p(pair.p)]
        verdict = pair.verdict
        if pair.p is None:
            needed = "at least 2"
        elif verdict == "not distinguishable":
            needed = str(pair.seeds_needed) if pair.seeds_needed else "over 1,000" if pair.difference else "-"
        else:
            needed = ""
        rows.append([pair.first, verdict, pair.second, str(pair.seeds), *middle, needed])
    columns = ["contestant", "is", "compared with", "seeds", "difference", "95 % interval", "p", "seeds needed"]
    note = (
        f"{comparison.judged.capitalize()} in percentage points, paired by seed: t-tests with variances drawn towards "
        f"their mean (Smyth 2004) and p values corrected for all pairs (Holm 1979); below {stats.LEVEL} a pair is told "
        f"apart. Seeds needed: to settle it with a chance of 80 %, if difference and spread are as seen."
    )
    if len(comparison.contestants) > MOST_PAIRED:
        note += f" With over {MOST_PAIRED} contestants each is compared with the best one alone."
    return Sheet("Verdicts", columns, rows, note, left=3)


def architectures(comparison: Comparison) -> Sheet:
    """What each search has found, and what it cost."""
    rows = []
    for c in comparison.contestants:
        for run in c.done:
            found = run["search"] or {"architecture": "as given", "entropy": None}
            entropy = "-" if found["entropy"] is None else f"{found['entropy']:.3f}"
            cost = ["-", "-"] if not run["search"] else [f"{found['image_passes']:,}", f"{found['seconds']:,.1f}"]
            test = "-" if run["test"] is None else f"{run['test']['acc']:.2%}"
            cells = [f"{run['parameters']:,}", test, entropy, *cost]
            rows.append([c.label, str(run["config"]["seed"]), found["architecture"], *cells])
    columns = ["contestant", "seed", "architecture", "parameters", "test", "entropy", "image passes", "seconds"]
    note = (
        "Entropy of the architecture at the search's end: 1 is undecided, 0 decided. Image passes: images through a "
        "network, forward and backward; they and the seconds are those of the search, in front of the training."
    )
    return Sheet("Architectures", columns, rows, note, left=3)


def rungs(comparison: Comparison, ladder: Ladder) -> Sheet:
    """What each addition brought, and what it cost."""
    found = {run["run_id"]: c for c in comparison.contestants for run in c.runs}
    rows = []
    for i, rung in enumerate(ladder.rungs):
        contestant, below = found.get(rung.runs[0]), ladder.below(i)
        if contestant is None:
            continue
        change = ["", "", ""]
        if below is not None and (without := found.get(below.runs[0])) is not None:
            images = contestant.runs[0]["data"]["sizes"]["val"]
            pair = judge(without.by_seed("val_acc"), contestant.by_seed("val_acc"), images)
            change = [below.name, *_change(pair)]
        decided = {None: "", True: "yes", False: "no"}[rung.kept]
        forms = {"parameters": "{:,.0f}", "images_seen": "{:,.0f}", "seconds": "{:,.0f}"}
        cost = [_mean(contestant, measure, form) for measure, form in forms.items()]
        cells = [rung.name, " ".join(rung.words), decided, *cost, str(len(contestant.done))]
        rows.append([*cells, _percent(contestant, "val_acc"), *change, _percent(contestant, "test_acc")])
    columns = [
        "rung",
        "adds",
        "kept",
        "parameters",
        "images seen",
        "seconds",
        "seeds",
        "best validation",
        "compared with",
    ]
    note = (
        f"Each rung adds to what was kept below it, and is kept if its best validation accuracy is better: a t-test "
        f"paired by seed, p below {stats.LEVEL} for each rung alone. The test accuracy decides nothing. Kept: "
        f"{' '.join(ladder.top) or 'nothing'}. What was left out was not tried again higher up."
    )
    return Sheet("Ladder", [*columns, "compared with", "change", "95 % interval", "test"], rows, note, left=3)


def claims(comparison: Comparison) -> Sheet:
    """What documents say, beside what was measured."""
    rows = []
    names = {"val_acc": "best validation", "test_acc": "test"}
    for source, label, measure, claimed, measured in comparison.claims:
        mean = sum(measured) / len(measured) if measured else None
        told = ["-", "-"] if mean is None else [f"{mean:.2%}", f"{100 * (mean - claimed):+.2f}"]
        rows.append([source, label, names[measure], f"{claimed:.2%}", *told])
    columns = ["source", "contestant", "measure", "claimed", "measured", "difference"]
    return Sheet("What the documents claim", columns, rows, "Differences in percentage points.", left=3)


def tuned(tuning: Tuning) -> Sheet:
    """The winners, and what finding them cost."""
    rows = []
    for entry in tuning.entries:
        winner, counts = entry.winner, [trial.status for trial in entry.trials]
        setting = "none: no trial came to its end" if winner is None else _setting(winner.params)
        edge = "" if not entry.edges else f"on the edge: {', '.join(entry.edges)}"
        best = "-" if winner is None or winner.val_acc is None else f"{winner.val_acc:.2%}"
        space = ", ".join(f"{key} {axis}" for key, axis in entry.tuned.space.items())
        numbers = [str(len(counts)), *(str(counts.count(word)) for word in ("done", "diverged", "failed"))]
        rows.append([entry.tuned.label, space, setting, edge, *numbers, best])
    columns = ["contestant", "space", "winner", "warning", "trials", "done", "diverged", "failed", "best validation"]
    plan = tuning.plan
    note = (
        f"{plan.trials} trials for each contestant, {plan.sampler}, with seed {plan.seed}; selected on validation, the "
        f"test set closed; the winners run again with {plan.seeds} fresh seeds. On the edge: no trial lies beyond the "
        f"winner's value, what is best may lie outside the space."
    )
    return Sheet("Tuning", columns, rows, note, left=4)


def ledger(tuning: Tuning) -> Sheet:
    """Every trial."""
    rows = []
    for entry in tuning.entries:
        for trial in entry.trials:
            best = "-" if trial.val_acc is None else f"{trial.val_acc:.2%}"
            rows.append(
                [entry.tuned.label, str(trial.number), _setting(trial.params), trial.status, best, trial.run_id]
            )
    columns = ["contestant", "trial", "setting", "status", "best validation", "run"]
    return Sheet("Every trial of every contestant", columns, rows)


def per_class(comparison: Comparison) -> Sheet | None:
    """Test accuracy by class; None where no test set was opened."""
    shown = [c for c in comparison.contestants if c.per_class]
    if not shown:
        return None
    names = shown[0].runs[0]["data"]["classes"]
    columns = zip(*(c.per_class for c in shown), strict=True)
    rows = [[name, *("-" if v is None else f"{v:.1%}" for v in row)] for name, row in zip(names, columns, strict=True)]
    return Sheet("Test accuracy by class", ["class", *(c.label for c in shown)], rows, "Means over seeds.")


def _setting(params: dict[str, Any]) -> str:
    return " ".join(
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in params.items()
    )


def _percent(contestant: Contestant, measure: str) -> str:
    values = contestant.measured(measure)
    if not values:
        return "-"
    bounds = stats.interval(values)
    mean = f"{sum(values) / len(values):.2%}"
    return mean if bounds is None else f"{mean} {_bounds(bounds, '{:.2f}')}"


def _bounds(bounds: tuple[float, float], form: str) -> str:
    low, high = (form.format(100 * bound) for bound in bounds)
    return f"[{low}, {high}]"


def _change(pair: stats.Pair) -> tuple[str, str]:
    """Difference and its interval, in percentage points."""
    difference = "-" if pair.difference is None else f"{100 * pair.difference:+.2f}"
    return difference, "-" if pair.interval is None else _bounds(pair.interval, "{:+.2f}")


def _p(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _mean(contestant: Contestant, measure: str, form: str) -> str:
    mean = contestant.mean(measure)
    return "-" if mean is None else form.format(mean)


def _reached(contestant: Contestant, unit: str, target: float) -> str:
    values = contestant.measured(f"target_{unit}", target)
    if not values:
        return "-"
    middle = statistics.median(values)
    return "∞" if math.isinf(middle) else f"{middle:,.1f}" if unit == "seconds" else f"{middle:,.0f}"


# --- in four forms


MOST_PRINTED = 60
"""Rows of a table on the terminal."""


def print_sheet(console: Console, sheet: Sheet) -> None:
    """Shows a table on the terminal, its first rows if there are many."""
    table = Table(
        title=sheet.title, title_justify="left", title_style="bold", caption=sheet.note, caption_justify="left"
    )
    for i, name in enumerate(sheet.columns):
        table.add_column(name, justify="left" if i < sheet.left else "right", overflow="fold")
    for row in sheet.rows[:MOST_PRINTED]:
        table.add_row(*row)
    console.print(table, highlight=False, markup=False)
    if len(sheet.rows) > MOST_PRINTED:
        console.print(f"{len(sheet.rows) - MOST_PRINTED:,} more rows are in comparison.md.", highlight=False)


def _csv(comparisons: list[Comparison]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = ["test_acc", "val_acc", "final_val_acc", "train_loss", "gap"]
    names += ["best_epoch", "epochs", "images_seen", "seconds", "images_per_second"]
    reach = ("target_epochs", "target_images", "target_seconds")
    columns = [f"{m}_{kind}" for m in names for kind in ("mean", "low", "high", "sd")] + [f"{m}_median" for m in reach]
    writer.writerow(["setting", "contestant", "settings_tried", "seeds", *columns, "target", *records.STATUSES])
    for comparison in comparisons:
        for c in comparison.contestants:
            cells: list[float | str] = []
            for measure in names:
                values = c.measured(measure)
                low, high = stats.interval(values) or ("", "")
                cells += [
                    sum(values) / len(values) if values else "",
                    low,
                    high,
                    statistics.stdev(values) if len(values) > 1 else "",
                ]
            for measure in reach:
                values = c.measured(measure, comparison.target)
                cells.append(statistics.median(values) if values else "")
            counts = [c.statuses[status] for status in records.STATUSES]
            writer.writerow([comparison.title, c.label, c.settings, len(c.done), *cells, comparison.target, *counts])
    return text.getvalue()


def _all(comparison: Comparison) -> list[Sheet]:
    classes = per_class(comparison)
    return [*sheets(comparison), *([classes] if classes else [])]


def _document(
    comparisons: list[Comparison],
    tuning: Tuning | None,
    heading: Callable[[str], str],
    sheet: Callable[[Sheet], Iterable[str]],
    escape: Callable[[str], str],
) -> str:
    lines = []
    for comparison in comparisons:
        lines += [heading(comparison.title), "", escape(comparison.verdict), ""]
        for each in _all(comparison):
            lines += sheet(each)
    if tuning is not None:
        for each in (tuned(tuning), ledger(tuning)):
            lines += sheet(each)
        lines += [escape(tuning.flips), ""]
    return "\n".join(lines)


def _markdown(comparisons: list[Comparison], tuning: Tuning | None) -> str:
    def escape(text: str) -> str:
        return text.replace("|", "\\|")

    def sheet(sheet: Sheet) -> Iterable[str]:
        yield from (f"### {sheet.title}", "", "| " + " | ".join(map(escape, sheet.columns)) + " |")
        yield "|" + "|".join("---" if i < sheet.left else "---:" for i in range(len(sheet.columns))) + "|"
        yield from ("| " + " | ".join(map(escape, row)) + " |" for row in sheet.rows)
        yield from ("", sheet.note, "") if sheet.note else ("",)

    return _document(comparisons, tuning, lambda title: f"## {title}", sheet, str)


_TEX = {"\\": r"\textbackslash{}", "∞": r"$\infty$", "<": r"$<$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_TEX |= {sign: f"\\{sign}" for sign in "&%$#_{}"}


def _latex(comparisons: list[Comparison], tuning: Tuning | None) -> str:
    def escape(text: str) -> str:
        return "".join(_TEX.get(sign, sign) for sign in text)

    def sheet(sheet: Sheet) -> Iterable[str]:
        letters = "".join("l" if i < sheet.left else "r" for i in range(len(sheet.columns)))
        yield from (r"\begin{table}", rf"\caption{{{escape(sheet.title)}. {escape(sheet.note)}}}")
        yield from (
            rf"\begin{{tabular}}{{{letters}}}",
            r"\hline",
            " & ".join(map(escape, sheet.columns)) + r" \\",
            r"\hline",
        )
        yield from (" & ".join(map(escape, row)) + r" \\" for row in sheet.rows)
        yield from (r"\hline", r"\end{tabular}", r"\end{table}", "")

    return _document(comparisons, tuning, lambda title: rf"\section*{{{escape(title)}}}", sheet, escape)
