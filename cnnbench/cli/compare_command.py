"""The command `compare`: its settings, and where its report is written."""

import argparse
import math
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from cnnbench.cli.arguments import command_parser, number, settings_of
from cnnbench.config.composition import as_yaml
from cnnbench.errors import ConfigError, nearest
from cnnbench.runtime.text import legible

if TYPE_CHECKING:
    from cnnbench.analysis.comparison import Comparison
    from cnnbench.analysis.suite import Suite
    from cnnbench.analysis.tuning_results import Tuning

_COMMON = ["baseline", "metric", "target", "margin", "out"]
_OF_RUNS = [*_COMMON, "by", "apart"]
_OF_TABLES = [*_COMMON, "contestant", "seed", "epoch", "problem", "higher"]

TABLES = (".csv", ".parquet", ".jsonl", ".ndjson")
"""How a file with a table is named; `-` is CSV from standard input."""


BUNDLES = (".tar.xz", ".zip")
"""How a file that `cnnbench bundle` wrote is named."""


def compare(words: list[str]) -> int:
    """Carries out `cnnbench compare`: compares finished runs, or the results in another program's table."""
    parser = command_parser("compare", "Compares finished runs, or a table of another program's results.")
    common = "baseline=CONTESTANT | metric=acc | target=0.65,0.7 | margin=1 | out=FOLDER"
    of_tables = "contestant=COLUMN,... | seed=COLUMN | epoch=COLUMN | problem=COLUMN | higher=false"
    usage = f"FOLDER | {common} | by=GROUP | apart=true, or FILE.csv | {common} | {of_tables}"
    parser.add_argument("words", nargs="*", metavar=usage)
    parser.add_argument("--json", action="store_true", help="print all numbers as JSON, for scripts; write no files")
    parser.add_argument("--dry-run", action="store_true", help="list what would be compared; write no files")
    options = parser.parse_intermixed_args(words)
    settings, rest = settings_of(options.words, [*_OF_RUNS, *_OF_TABLES])
    tables = [word for word in rest if is_table(word)]
    if tables and len(tables) < len(rest):
        other = next(word for word in rest if word not in tables)
        raise ConfigError(f"{other}: is no table ({', '.join(TABLES)}); tables and folders can't stand side by side.")
    allowed = _OF_TABLES if tables else _OF_RUNS
    for word in rest:
        if "=" in word and not Path(word).exists():
            raise ConfigError(f"{word}: compare has no such setting.{nearest(word.partition('=')[0], allowed)}")
    if not rest:
        raise ConfigError("compare: name a folder of runs, such as runs/default, or a table, such as results.csv.")
    check_settings(settings, bool(tables))
    return (_compare_tables if tables else _compare_runs)(rest, settings, options)


def check_settings(settings: dict[str, str], of_table: bool) -> None:
    """Checks that each setting goes with what is compared, a table or folders of runs.

    Raises:
        ConfigError: one belongs to the other.
    """
    here, there = ("a table", "folders of runs") if of_table else ("folders of runs", "a table")
    for key in set(settings).difference(_OF_TABLES if of_table else _OF_RUNS):
        raise ConfigError(f"{key}={settings[key]}: is a setting for {there}, not for {here}.")


def is_table(word: str) -> bool:
    """Whether `word` names a table: a file of one of `TABLES`, or `-`."""
    return word == "-" or (Path(word).suffix.lower() in TABLES and not Path(word).is_dir())


def _compare_runs(words: list[str], settings: dict[str, str], options: argparse.Namespace) -> int:
    targets = targets_of(settings, of_table=False)
    margin = margin_of(settings)
    apart = settings.get("apart", "false")
    if apart not in ("true", "false"):
        raise ConfigError(f"apart={apart}: must be true or false.")
    by, baseline, metric = settings.get("by"), settings.get("baseline"), settings.get("metric", "acc")
    folders = [Path(word).expanduser() for word in words]
    asked = {key: value for key, value in settings.items() if f"{key}={value}" != "apart=false"}
    bundled = any(folder.name.endswith(BUNDLES) for folder in folders)
    out = _out(settings, _beside(words, asked)) if bundled else _report_folder(folders, asked)
    if options.cfg:
        given = {"by": by, "baseline": baseline, "metric": metric, "targets": targets, "margin": margin}
        print(as_yaml({"folders": words, **given, "apart": apart == "true", "out": str(out)}), end="")
        return 0
    from cnnbench.analysis.loading import compare_folders

    comparisons, tuning = compare_folders(folders, by, baseline, targets, apart == "true", margin, metric)
    return _show(comparisons, tuning, out, options)


def _compare_tables(words: list[str], settings: dict[str, str], options: argparse.Namespace) -> int:
    targets = targets_of(settings, of_table=True)
    margin = margin_of(settings)
    if settings.get("higher", "true") not in ("true", "false"):
        raise ConfigError(f"higher={settings['higher']}: must be true, or false for a loss.")
    higher = {"true": True, "false": False, None: None}[settings.get("higher")]
    contestant = tuple(settings["contestant"].split(",")) if "contestant" in settings else ()
    metric, seed, epoch, problem = (settings.get(key) for key in ("metric", "seed", "epoch", "problem"))
    title = ", ".join("standard input" if word == "-" else legible(Path(word).name) for word in words)
    out = _out(settings, _beside(words, settings))
    if options.cfg:
        given = {"metric": metric, "higher": higher, "contestant": list(contestant), "seed": seed, "epoch": epoch}
        more = {"problem": problem, "baseline": settings.get("baseline"), "targets": targets, "margin": margin}
        print(as_yaml({"tables": words, **given, **more, "out": str(out)}), end="")
        return 0
    from cnnbench.analysis.frames import Columns, compare_frame, suite_of
    from cnnbench.results.table_files import read

    columns = Columns(metric, higher, contestant, seed, epoch, problem)
    command = legible(shlex.join(["cnnbench", "compare", *words, *_typed(settings)]))
    frame = read(words)
    comparisons = compare_frame(frame, columns, title, settings.get("baseline"), targets, margin, command)
    return _show(comparisons, None, out, options, suite_of(comparisons, title))


def _beside(words: list[str], settings: dict[str, str]) -> Path:
    """Where the report on files is written: in the working folder, since theirs may be anybody's."""
    return Path("compared", _file_name([*words, *_typed(settings)]))


def targets_of(settings: dict[str, str], of_table: bool) -> list[float]:
    """The numbers of `target=`.

    Raises:
        ConfigError: one is no number; or, of runs, no accuracy from 0 to 1.
    """
    low, high = (-math.inf, math.inf) if of_table else (0, 1)
    words = settings["target"].split(",") if "target" in settings else []
    return [number({"target": word}, "target", float, low, high) for word in words]


def margin_of(settings: dict[str, str]) -> float | None:
    """The number of `margin=`; None if it isn't given.

    Raises:
        ConfigError: it is no number above 0 and up to 100.
    """
    margin: float | None = number(settings, "margin", float, -math.inf, 100)
    if margin is not None and margin <= 0:
        raise ConfigError(f"margin={settings['margin']}: must be above 0, in percentage points of accuracy.")
    return margin


def _show(
    comparisons: "list[Comparison]",
    tuning: "Tuning | None",
    out: Path,
    options: argparse.Namespace,
    suite: "Suite | None" = None,
) -> int:
    if options.json:
        from cnnbench.report.exports import as_json

        print(as_json(comparisons, tuning, suite))
        return 0
    if options.dry_run:
        for comparison in comparisons:
            print("\n".join(f"{each.label}: {len(each.runs)} runs" for each in comparison.contestants))
        return 0
    from cnnbench.report.terminal import show

    show(comparisons, out, tuning, suite)
    return 0


def _typed(settings: dict[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in settings.items()]


def _report_folder(folders: list[Path], settings: dict[str, str]) -> Path:
    """Where a comparison is written: `out=`, or a folder of its own below the runs if it asks another question.

    A folder's own report is that of all its runs, as the sweep wrote it. Only the plain command replaces it.

    Raises:
        ConfigError: `out=` holds other runs, whose report would be lost.
    """
    asked = [*map(str, folders[1:]), *_typed(settings)]
    out = _out(settings, folders[0] / "compared" / _file_name(asked) if asked else folders[0])
    others = [out.resolve()] != [folder.resolve() for folder in folders] and any(out.glob("*/record.json"))
    if "out" in settings and others:
        raise ConfigError(f"out={out}: holds other runs, whose report would be lost. Take another folder.")
    return out


def _out(settings: dict[str, str], otherwise: Path) -> Path:
    out = Path(settings["out"]).expanduser() if "out" in settings else otherwise
    if out.is_file():
        raise ConfigError(f"out={out}: is a file, no folder.")
    return out


def _file_name(words: list[str]) -> str:
    return re.sub(r"[^\w=.,+-]+", "_", "_".join(words)).strip("_.")[:200]
