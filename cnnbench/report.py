"""How is a comparison shown? Terminal, CSV, Markdown, LaTeX and HTML: the same sheets each time. (imports no torch)"""

import csv
import io
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cnnbench import record as records
from cnnbench import stats
from cnnbench.compare import Comparison, Tuning
from cnnbench.sheets import Sheet, ledger, main_sheets, per_class, winners


def show(comparisons: list[Comparison], folder: Path, tuning: Tuning | None = None) -> None:
    """Writes `comparison.csv`, `.md`, `.tex`, `report.html` and the figures into `folder`, and prints the tables.

    In this order: whoever reads only the head of what is printed finds the files whole.
    """
    console = Console(width=None if Console().is_terminal else 160)
    try:
        written = _write(comparisons, folder, tuning)
    finally:  # a full disk costs no table
        _print(console, comparisons, tuning)
    rest = ", ".join(name for name in written if name != "report.html")
    console.print(f"{folder / 'report.html'} (beside it {rest})", highlight=False, markup=False, soft_wrap=True)


def _write(comparisons: list[Comparison], folder: Path, tuning: Tuning | None) -> list[str]:
    from cnnbench.figures import draw
    from cnnbench.page import html

    def text(name: str, content: str) -> str:
        records.write_whole(folder / name, lambda file: file.write(content.encode()))
        return name

    written = [text("comparison.csv", _csv(comparisons)), text("comparison.md", _markdown(comparisons, tuning))]
    written += [text("comparison.tex", _latex(comparisons, tuning))]
    figures = draw(comparisons, tuning, folder)
    return [*written, *figures, text("report.html", html(comparisons, tuning, folder, figures))]


def _print(console: Console, comparisons: list[Comparison], tuning: Tuning | None) -> None:
    for comparison in comparisons:
        console.print(f"\n{comparison.title}", style="bold", highlight=False, markup=False, soft_wrap=True)
        for sheet in main_sheets(comparison):
            print_sheet(console, sheet)
        console.print(comparison.verdict, highlight=False, markup=False, soft_wrap=True)
    if tuning is not None:
        print_sheet(console, winners(tuning))
        console.print(tuning.flips, highlight=False, markup=False, soft_wrap=True)


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
    return [*main_sheets(comparison), *([classes] if classes else [])]


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
        for each in (winners(tuning), ledger(tuning)):
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
