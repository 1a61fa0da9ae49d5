"""The page of a comparison, `report.html`: one file that works without a network."""

import base64
import json
import os
import struct
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from cnnbench.analysis.comparison import Comparison
from cnnbench.analysis.contestants import Contestant
from cnnbench.analysis.suite import Suite
from cnnbench.analysis.tuning_results import Tuning
from cnnbench.report import fonts
from cnnbench.report.commands import commands_of, fresh_commands, tune_command
from cnnbench.report.figures import MOST, file_name
from cnnbench.report.tables import (
    MOST_CLASSES,
    Sheet,
    capitalised,
    confused,
    ledger,
    main_sheets,
    overall,
    per_class,
    winners,
)
from cnnbench.results import identity
from cnnbench.results.records import Record
from cnnbench.results.reported import Reported

MOST_ROWS = 200
"""Of a table: a page of many thousands is read by nobody, and opens slowly."""


_CAPTIONS = {
    "curves": "{curves} by epoch. Lines: mean of the seeds; bands: their range.",
    "accuracy": "{judged}. Dots: seeds; diamonds: their mean, with its 95 % interval (Student's t){claimed}.",
    "target": "Share of the seeds that have reached {target:.4g} validation accuracy, by seconds and by epochs of "
    "training. A line that stays at 0 % never reaches it. Lines at the same height are drawn beside each other.",
    "architecture": "Probability of each candidate by epoch of the search. Lines: mean of the seeds; bands: their "
    "range.",
    "parameters": "{judged} by the number of trained parameters. Dots: seeds.",
    "operations": "{judged} by the arithmetic operations of the training. Dots: seeds{rungs}; dashed: what a document "
    "claims.",
    "profile": "Performance profiles (Dolan and More 2002): share of the problems whose target a contestant reached, "
    "by its cost as a multiple of the lowest one. Lines at the same height are drawn beside each other.",
    "sensitivity": "Best validation accuracy of each trial by the value tried. Stars: winners; crosses at the bottom: "
    "diverged or failed.",
    "budget": "Best validation accuracy to be expected of so many trials. Rings: another contestant takes the lead.",
    "confusion": "Test images of each true class (rows), in percent, by the class they were taken for (columns); all "
    "seeds together.{numbered}",
}


_OF_COMPARISONS = ("curves", "accuracy", "target", "confusion", "architecture", "parameters", "operations")


@dataclass
class _Figure:
    source: str
    alt: str
    caption: str
    width: int
    kind: str


@dataclass
class _Part:
    """A comparison, as the page shows it."""

    comparison: Comparison
    question: str
    figures: dict[str, _Figure | None]
    tables: list[Sheet]
    classes: list[Sheet]
    on_test: bool
    """Is the validation set the test set?"""
    untested: str
    """Why there is no test accuracy; empty where there is one."""
    runs: Sheet
    configs: list[tuple[str, str]]
    commands: list[str]
    fresh: list[str]
    """What runs settings that were chosen on these runs with fresh seeds."""
    without_command: int
    """How many contestants have none here."""


def html(
    comparisons: list[Comparison], tuning: Tuning | None, folder: Path, drawn: list[str], suite: Suite | None = None
) -> str:
    """The page.

    Args:
        comparisons: what is compared.
        tuning: how the settings were found, if they were tuned.
        folder: where the page will lie; links are relative to it.
        drawn: the files of the figures in it.
        suite: the answer over all comparisons, if they are the problems of one.
    """
    parts = [_part(comparison, folder, drawn, i) for i, comparison in enumerate(comparisons, 1)]
    search = {}
    if tuning is not None:
        labels = list(dict.fromkeys(e.tuned.label for e in tuning.entries))
        search = {
            "tuned": _cut(winners(tuning)),
            "flips": tuning.flips,
            "figures": _figures(folder, drawn, ("sensitivity", "budget"), labels),
            "ledger": _cut(_ledger(tuning, folder)),
            "command": tune_command(tuning),
        }
    over_all = {}
    if suite is not None:
        figures = _figures(folder, drawn, ("profile",), suite.labels)
        over_all = {"verdict": suite.verdict, "table": _cut(overall(suite)), "figure": figures["profile"]}
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    runs = [run for part in parts for run in part.comparison.records]
    return environment.get_template("report.html.j2").render(
        parts=parts, tuning=search, suite=over_all, versions=_versions(runs)
    )


def _part(comparison: Comparison, folder: Path, drawn: list[str], number: int) -> _Part:
    labels = [c.label for c in comparison.contestants]
    classes = [sheet for sheet in (per_class(comparison), confused(comparison)) if sheet]
    commands = commands_of(comparison)
    shown = [command for command in [*commands, comparison.command or None] if command is not None][:MOST_ROWS]
    return _Part(
        comparison=comparison,
        question=_question(labels) if comparison.ladder is None else "Which additions pay?",
        figures=_figures(
            folder, drawn, _OF_COMPARISONS, labels, number,
            judged=capitalised(comparison.judged),
            curves="Training loss and validation accuracy" if comparison.records else capitalised(comparison.judged),
            target=comparison.target,
            rungs="; line: what the ladder kept" if comparison.ladder else "",
            claimed="; crosses: what a document claims" if comparison.claims else "",
            numbered=_numbered(comparison.records[0].data.classes) if comparison.records else "",
        ),
        tables=[_cut(sheet) for sheet in main_sheets(comparison)],
        classes=[_cut(sheet, MOST_CLASSES) for sheet in classes],
        on_test=bool(comparison.records) and comparison.records[0].protocol.validation == "test",
        untested=comparison.untested,
        runs=_cut(_runs(comparison, folder)),
        configs=_configs(comparison) if comparison.records else [],
        commands=shown,
        fresh=fresh_commands(comparison)[:MOST_ROWS],
        without_command=max(0, len(commands) - len(shown)),
    )  # fmt: skip


def _numbered(classes: list[str]) -> str:
    """The names of the classes that the figure has only numbers for."""
    unlike = [
        f"{label} {name}" for label, name in zip(fonts.class_labels(classes), classes, strict=True) if label != name
    ]
    return f" No font installed here has the letters of {', '.join(unlike)}." if unlike else ""


def _question(labels: list[str]) -> str:
    if len(labels) == 1:
        return labels[0]
    few = labels if len(labels) <= 6 else [*labels[:5], f"{len(labels) - 5} more"]
    return f"{', '.join(few[:-1])} or {few[-1]}?" if few is labels else f"{', '.join(few[:-1])} or one of {few[-1]}?"


def _figures(
    folder: Path, drawn: list[str], kinds: tuple[str, ...], labels: list[str], number: int = 1, **words: Any
) -> dict[str, _Figure | None]:
    found: dict[str, _Figure | None] = dict.fromkeys(kinds)
    for kind in kinds:
        if (name := file_name(kind, number)) in drawn:
            content = (folder / name).read_bytes()
            (pixels,) = struct.unpack(">I", content[16:20])
            caption = _CAPTIONS[kind].format(**words)
            alt = f"{caption} Contestants: {', '.join(labels[:MOST])}."
            source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
            found[kind] = _Figure(source, alt, caption, round(pixels / 1.5), kind)
    return found


def _cut(sheet: Sheet, most_rows: int = MOST_ROWS) -> Sheet:
    """The sheet, or as much of it as can be read."""
    most = max(sheet.left, 1) + MOST
    rows, columns, note = sheet.rows, sheet.columns, sheet.note
    if len(rows) > most_rows:
        note += f" The first {most_rows} of {len(rows):,} rows; comparison.md has them all."
    if len(columns) > most:
        note += f" The first {most - sheet.left} of {len(columns) - sheet.left:,} columns; comparison.md has them all."
    return replace(sheet, rows=[row[:most] for row in rows[:most_rows]], columns=columns[:most], note=note.strip())


def _link(record: Record, folder: Path) -> str:
    """The run's name, linked to its record if that lies anywhere: those of a bundle were unpacked for a moment."""
    if record.folder is None or not record.folder.is_dir():
        return record.run_id
    path = Path(os.path.relpath(record.folder, folder), "record.json")
    return Markup('<a href="{}">{}</a>').format(quote(path.as_posix()), record.run_id)


def _ledger(tuning: Tuning, folder: Path) -> Sheet:
    sheet = ledger(tuning)
    records = [trial.record for entry in tuning.entries for trial in entry.trials]
    linked = (None if record is None else _link(record, folder) for record in records)
    rows = [[*row[:-1], link or row[-1]] for row, link in zip(sheet.rows, linked, strict=True)]
    return replace(sheet, rows=rows)


def _runs(comparison: Comparison, folder: Path) -> Sheet:
    """Every run with a link to its record."""
    if not comparison.records:
        return _reported_runs(comparison)
    runs = [(c, run) for c in comparison.contestants for run in c.records]
    rows = []
    for contestant, run in runs[:MOST_ROWS]:
        best = "-" if run.best is None else f"{run.best.val_acc:.2%}"
        spent = [str(len(run.history)), f"{run.seconds:,.1f}"]
        status = ": ".join(filter(None, [run.status, run.reason]))
        rows.append([contestant.label, _link(run, folder), status, str(run.seed), best, run.test_accuracy, *spent])
    columns = ["contestant", "run", "status", "seed", "best validation", "test", "epochs", "seconds"]
    left_out = len(runs) - MOST_ROWS
    note = f"The first {MOST_ROWS}; {left_out:,} more are left out." if left_out > 0 else ""
    return Sheet(f"Runs ({len(runs):,})", columns, rows, note, left=3)


def _reported_runs(comparison: Comparison) -> Sheet:
    """Every run of another program's table."""
    metric = comparison.metric
    rows = [
        [c.label, run.name, run.status, "-" if run.value is None else metric.value(run.value), str(run.epochs or "-")]
        for c in comparison.contestants
        for run in c.runs
        if isinstance(run, Reported)
    ]
    return Sheet(f"Runs ({len(rows):,})", ["contestant", "seed", "status", metric.name, "epochs"], rows, left=3)


def _configs(comparison: Comparison) -> list[tuple[str, str]]:
    """The config: what all contestants share, then what sets each apart, as `key: value` lines."""
    told = [_flat(contestant) for contestant in comparison.contestants]
    shared = {k: v for k, v in told[0].items() if all(k in config and config[k] == v for config in told)}
    found = [("All contestants" if len(told) > 1 else told[0]["contestant"], shared)]
    if len(told) > 1:
        found += [(config["contestant"], {k: v for k, v in config.items() if k not in shared}) for config in told]
    texts = [
        (name, "\n".join(f"{k}: {v}" for k, v in values.items() if k != "contestant"))
        for name, values in found[: MOST_ROWS + 1]
    ]
    if len(found) > MOST_ROWS + 1:
        texts.append((f"{len(found) - MOST_ROWS - 1:,} more", "in config.yaml of each run"))
    return texts


def _flat(contestant: Contestant) -> dict[str, str]:
    seeds = {"seed": sorted(run.seed for run in contestant.records)}
    told: dict[str, dict[str, None]] = defaultdict(dict)
    for run in contestant.records if contestant.tunings else contestant.records[:1]:
        for key, value in identity.flat(run.config | seeds).items():
            told[key][json.dumps(value)] = None
    return {"contestant": contestant.label} | {key: " or ".join(values) for key, values in told.items()}


def _versions(runs: list[Record]) -> list[tuple[str, str]]:
    """What was installed, and on which data: every value that the runs tell."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for run in runs:
        told = {**run.environment, "data": f"{run.data.name}, fingerprint {run.data.fingerprint}"}
        for key, value in told.items():
            found[key][str(value)] = None
    return [(key, ", ".join(sorted(values))) for key, values in found.items()]
