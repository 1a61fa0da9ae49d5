"""The comparison on the terminal, and the writing of its files."""

from dataclasses import replace
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from cnnbench.analysis.comparison import Comparison
from cnnbench.analysis.suite import Suite
from cnnbench.analysis.tuning_results import Tuning
from cnnbench.report.commands import fresh_commands
from cnnbench.report.exports import as_csv, as_latex, as_markdown
from cnnbench.report.tables import Sheet, main_sheets, overall, winners
from cnnbench.runtime import files
from cnnbench.runtime.text import legible


def show(comparisons: list[Comparison], folder: Path, tuning: Tuning | None = None, suite: Suite | None = None) -> None:
    """Writes `comparison.csv`, `.md`, `.tex`, `report.html` and the figures into `folder`, and prints the tables.

    In this order: whoever reads only the head of what is printed finds the files whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(width=None if Console().is_terminal else 160, markup=False)
    try:
        written = write(comparisons, folder, tuning, suite)
    finally:  # a full disk costs no table
        _print(console, comparisons, tuning, suite)
    rest = ", ".join(name for name in written if name != "report.html")
    report = legible(str(folder / "report.html"))
    console.print(f"{report} (beside it {rest})", highlight=False, markup=False, soft_wrap=True)


def write(comparisons: list[Comparison], folder: Path, tuning: Tuning | None, suite: Suite | None) -> list[str]:
    """Writes `comparison.csv`, `.md`, `.tex`, the figures and `report.html`; returns the names of the files."""
    from cnnbench.report.figures import draw
    from cnnbench.report.page import html

    def text(name: str, content: str) -> str:
        files.write_whole(folder / name, lambda file: file.write(content.encode()))
        return name

    written = [text("comparison.csv", as_csv(comparisons))]
    written += [text("comparison.md", as_markdown(comparisons, tuning, suite))]
    written += [text("comparison.tex", as_latex(comparisons, tuning, suite))]
    figures = draw(comparisons, tuning, folder, suite)
    return [*written, *figures, text("report.html", html(comparisons, tuning, folder, figures, suite))]


def _print(console: Console, comparisons: list[Comparison], tuning: Tuning | None, suite: Suite | None) -> None:
    for comparison in comparisons:
        console.print(f"\n{comparison.title}", style="bold", highlight=False, markup=False, soft_wrap=True)
        for sheet in main_sheets(comparison):
            print_sheet(console, sheet)
        for line in (comparison.verdict, *fresh_commands(comparison)):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    if tuning is not None:
        print_sheet(console, winners(tuning))
        console.print(tuning.flips, highlight=False, markup=False, soft_wrap=True)
    if suite is not None:
        console.print()
        print_sheet(console, overall(suite))
        console.print(suite.verdict, highlight=False, markup=False, soft_wrap=True)


MOST_PRINTED = 60
"""Rows of a table on the terminal."""


def print_sheet(console: Console, sheet: Sheet, all_rows: str = "comparison.md") -> None:
    """Shows a table on the terminal, its first rows if there are many, and its first columns if it is too wide.

    Args:
        console: the terminal.
        sheet: the table.
        all_rows: where all rows are, for the line below a table that is cut.
    """
    rows = sheet.rows[:MOST_PRINTED]
    for lines, longest in ((True, 32), (False, 32), (False, 16)):
        around = 3 * len(sheet.columns) + 1 if lines else len(sheet.columns) - 1
        widths = _widths(sheet, rows, console.width - around, longest)
        if sum(widths) + around <= console.width:
            break
    else:
        if len(sheet.columns) > 2:
            print_sheet(console, _without(sheet, sheet.columns[-1]), all_rows)
            return
    table = Table(
        title=sheet.title, title_justify="left", title_style="bold", caption=sheet.note, caption_justify="left",
        box=box.HEAVY_HEAD if lines else box.SIMPLE_HEAD, show_edge=lines, padding=(0, 1) if lines else 0,
    )  # fmt: skip
    for i, (name, width) in enumerate(zip(sheet.columns, widths, strict=True)):
        table.add_column(name, justify="left" if i < sheet.left else "right", overflow="fold", width=width)
    for row in rows:
        table.add_row(*row)
    console.print(table, highlight=False, markup=False)
    if len(sheet.rows) > MOST_PRINTED:
        console.print(f"{len(sheet.rows) - MOST_PRINTED:,} more rows are in {all_rows}.", highlight=False)


def _widths(sheet: Sheet, rows: list[list[str]], room: int, longest: int) -> list[int]:
    """Widths of the columns, which take no more than `room` if they can.

    A column is never narrower than its longest word; a word of more than `longest` letters may be broken in the
    columns of words, but not in their headings.
    """
    widths, least = [], []
    for i, name in enumerate(sheet.columns):
        cells = [row[i] for row in rows]
        word = max((len(part) for cell in cells for part in cell.split()), default=1)
        least.append(max([word if i >= sheet.left else min(word, longest), *map(len, name.split())]))
        widths.append(max(map(len, [name, *cells])))
    while sum(widths) > room and widths != least:
        widest = max(range(len(widths)), key=lambda i: (widths[i] > least[i], widths[i]))
        widths[widest] -= 1
    return widths


def _without(sheet: Sheet, column: str) -> Sheet:
    """The sheet without its last column, which its note names."""
    said = " A wider terminal shows more columns:"
    note = f"{sheet.note}, {column}" if said in sheet.note else f"{sheet.note}{said} {column}"
    return replace(sheet, columns=sheet.columns[:-1], rows=[row[:-1] for row in sheet.rows], note=note)
