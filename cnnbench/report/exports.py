"""A comparison as CSV, Markdown, LaTeX and JSON."""

import csv
import io
import json
import math
import re
import statistics
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from cnnbench.analysis.comparison import Comparison
from cnnbench.analysis.contestants import Contestant, measures
from cnnbench.analysis.suite import Suite
from cnnbench.analysis.tuning_results import Tuning
from cnnbench.report.commands import fresh_commands
from cnnbench.report.tables import Sheet, confused, ledger, main_sheets, overall, per_class, units_of, winners
from cnnbench.results import records


def as_csv(comparisons: list[Comparison]) -> str:
    """A row for each contestant with all its measures."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = ["test_acc", "val_acc", "final_val_acc", "train_loss", "gap"]
    names += ["test_balanced_acc", "test_macro_f1", "val_balanced_acc", "val_macro_f1"]
    names += ["best_epoch", "epochs", "images_seen", "seconds", "images_per_second"]
    if not comparisons[0].records:
        names = [comparisons[0].metric.key, "epochs"]
    units = units_of(comparisons[0])
    columns = [f"{m}_{kind}" for m in names for kind in ("mean", "low", "high", "sd")] + [
        f"target_{unit}_median" for unit in units
    ]
    writer.writerow(["setting", "contestant", "settings_tried", "seeds", *columns, "target", *records.STATUSES])
    for comparison in comparisons:
        for c in comparison.contestants:
            cells: list[float | str] = []
            for measure in names:
                values = c.measured(measure)
                low, high = c.interval(measure) or ("", "")
                cells += [
                    sum(values) / len(values) if values else "",
                    low,
                    high,
                    statistics.stdev(values) if len(values) > 1 else "",
                ]
            for unit in units:
                values = c.costs(unit, comparison.target)
                cells.append(statistics.median(values) if values else "")
            counts = [c.statuses[status] for status in records.STATUSES]
            writer.writerow(
                [_cell(comparison.title), _cell(c.label), c.settings, len(c.done), *cells, comparison.target, *counts]
            )
    return text.getvalue()


def _cell(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t")) else text


def _all(comparison: Comparison) -> list[Sheet]:
    classes = (per_class(comparison), confused(comparison))
    return [*main_sheets(comparison), *(sheet for sheet in classes if sheet)]


def _document(
    comparisons: list[Comparison],
    tuning: Tuning | None,
    suite: Suite | None,
    heading: Callable[[str], str],
    sheet: Callable[[Sheet], Iterable[str]],
    escape: Callable[[str], str],
    code: Callable[[list[str]], list[str]],
) -> str:
    lines = []
    if suite is not None:
        lines += [heading("Over all problems"), "", escape(suite.verdict), "", *sheet(overall(suite))]
    for comparison in comparisons:
        lines += [heading(comparison.title), "", escape(comparison.verdict), ""]
        lines += code(fresh_commands(comparison))
        for each in _all(comparison):
            lines += sheet(each)
    if tuning is not None:
        for each in (winners(tuning), ledger(tuning)):
            lines += sheet(each)
        lines += [escape(tuning.flips), ""]
    return "\n".join(lines)


def as_markdown(comparisons: list[Comparison], tuning: Tuning | None, suite: Suite | None = None) -> str:
    """Verdicts and tables as Markdown."""

    def escape(text: str) -> str:
        """Text that makes no element, link, picture or column of its own."""
        text = " ".join(text.split("\n")).replace("|", "\\|").replace("](", "]\\(")
        return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)

    def sheet(sheet: Sheet) -> Iterable[str]:
        yield from (f"### {escape(sheet.title)}", "", "| " + " | ".join(map(escape, sheet.columns)) + " |")
        yield "|" + "|".join("---" if i < sheet.left else "---:" for i in range(len(sheet.columns))) + "|"
        yield from ("| " + " | ".join(map(escape, row)) + " |" for row in sheet.rows)
        yield from ("", escape(sheet.note), "") if sheet.note else ("",)

    def code(commands: list[str]) -> list[str]:
        return [*(f"    {command}" for command in commands), ""] if commands else []

    return _document(comparisons, tuning, suite, lambda title: f"## {escape(title)}", sheet, escape, code)


_TEX = {"\\": r"\textbackslash{}", "∞": r"$\infty$", "<": r"$<$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_TEX |= {sign: f"\\{sign}" for sign in "&%$#_{}"}


def as_latex(comparisons: list[Comparison], tuning: Tuning | None, suite: Suite | None = None) -> str:
    """Verdicts and tables as LaTeX, to be included in a document."""

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

    def code(commands: list[str]) -> list[str]:
        return [rf"\texttt{{{escape(command)}}}\\" for command in commands]

    return _document(comparisons, tuning, suite, lambda title: rf"\section*{{{escape(title)}}}", sheet, escape, code)


def as_json(comparisons: list[Comparison], tuning: Tuning | None = None, suite: Suite | None = None) -> str:
    """All numbers, for scripts; null is what is infinite (a target that was missed) or can't be said."""
    found = {"comparisons": [_facts(c) for c in comparisons], "tuning": None if tuning is None else _found(tuning)}
    found["suite"] = None if suite is None else _over_all(suite)
    return json.dumps(json.loads(json.dumps(found), parse_constant=lambda infinite: None), indent=1)


def _over_all(suite: Suite) -> dict[str, Any]:
    contestants = [
        {
            "label": label,
            "mean_rank": suite.mean_rank(label),
            "interval": suite.interval(label),
            "ranks": suite.ranks[label],
            **suite.counts[label],
            "costs": suite.costs.get(label),
        }
        for label in suite.labels
    ]
    return {"problems": suite.names, "verdict": suite.verdict, "contestants": contestants}


def _facts(comparison: Comparison) -> dict[str, Any]:
    claimed = ("source", "contestant", "measure", "claimed", "measured")
    return {
        "title": comparison.title,
        "protocol": asdict(comparison.records[0].protocol) if comparison.records else comparison.reading,
        "verdict": comparison.verdict,
        "measure": comparison.measure,
        "baseline": comparison.baseline,
        "share": comparison.share,
        "target": comparison.target,
        "margin": comparison.margin,
        "contestants": [
            {
                "label": c.label,
                "settings_tried": c.settings,
                "statuses": c.statuses,
                "seeds": [run.seed for run in c.done],
                "tunings": c.tunings,
                "runs": [run.run_id for run in c.records if run.status == "done"],
                "measures": _measured(c, comparison.target),
            }
            for c in comparison.contestants
        ],
        "pairs": [asdict(pair) | {"chosen_on_these_runs": comparison.chosen(pair)} for pair in comparison.pairs],
        "failures": [asdict(pair) for pair in comparison.failures],
        "costs": {unit: [asdict(pair) for pair in comparison.cost_verdicts(unit)] for unit in units_of(comparison)},
        "ladder": None if comparison.ladder is None else asdict(comparison.ladder)["rungs"],
        "claims": [dict(zip(claimed, claim, strict=True)) for claim in comparison.claims],
    }


def _measured(contestant: Contestant, target: float) -> dict[str, Any]:
    """Each measure's values in the order of the seeds, their mean and its interval."""
    runs = [measures(run, target) for run in contestant.done]
    found = {}
    for name in runs[0] if runs else ():
        values = [run[name] for run in runs]
        known = [value for value in values if value is not None]
        mean = sum(known) / len(known) if known else None
        interval = contestant.interval(name, target) if mean is not None and math.isfinite(mean) else None
        found[name] = {"mean": mean, "interval": interval, "values": values}
    return found


def _found(tuning: Tuning) -> dict[str, Any]:
    plan = tuning.plan
    return {key: getattr(plan, key) for key in ("sampler", "trials", "seeds", "seed", "tunings")} | {
        "contestants": [
            {
                "label": entry.tuned.label,
                "tuning": entry.tuned.tuning,
                "space": {key: asdict(axis) for key, axis in entry.tuned.space.items()},
                "winner": None if entry.winner is None else entry.winner.params,
                "edges": entry.edges,
                "trials": [
                    {key: getattr(trial, key) for key in ("number", "params", "run_id", "status", "val_acc")}
                    for trial in entry.trials
                ],
            }
            for entry in tuning.entries
        ],
        "expected_best": tuning.curves,
    }
