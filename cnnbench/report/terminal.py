"""The comparison on the terminal, and the writing of its files."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from cnnbench.analysis.comparison import Comparison
from cnnbench.analysis.tuning_results import Tuning
from cnnbench.report.commands import fresh_commands
from cnnbench.report.exports import as_csv, as_latex, as_markdown
from cnnbench.report.tables import Sheet, main_sheets, winners
from cnnbench.runtime import files


def show(comparisons: list[Comparison], folder: Path, tuning: Tuning | None = None) -> None:
    """Writes `comparison.csv`, `.md`, `.tex`, `report.html` and the figures into `folder`, and prints the tables.

    In this order: whoever reads only the head of what is printed finds the files whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(width=None if Console().is_terminal else 160)
    try:
        written = _write(comparisons, folder, tuning)
    finally:  # a full disk costs no table
        _print(console, comparisons, tuning)
    rest = ", ".join(name for name in written if name != "report.html")
    console.print(f"{folder / 'report.html'} (beside it {rest})", highlight=False, markup=False, soft_wrap=True)


def _write(comparisons: list[Comparison], folder: Path, tuning: Tuning | None) -> list[str]:
    from cnnbench.report.figures import draw
    from cnnbench.report.page import html

    def text(name: str, content: str) -> str:
        files.write_whole(folder / name, lambda file: file.write(content.encode()))
        return name

    written = [text("comparison.csv", as_csv(comparisons)), text("comparison.md", as_markdown(comparisons, tuning))]
    written += [text("comparison.tex", as_latex(comparisons, tuning))]
    figures = draw(comparisons, tuning, folder)
    return [*written, *figures, text("report.html", html(comparisons, tuning, folder, figures))]


def _print(console: Console, comparisons: list[Comparison], tuning: Tuning | None) -> None:
    for comparison in comparisons:
        console.print(f"\n{comparison.title}", style="bold", highlight=False, markup=False, soft_wrap=True)
        for sheet in main_sheets(comparison):
            print_sheet(console, sheet)
        for line in (comparison.verdict, *fresh_commands(comparison)):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
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
