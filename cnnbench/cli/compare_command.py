"""The command `compare`: its settings, and where its report is written."""

import math
import re
from pathlib import Path

from cnnbench.cli.arguments import command_parser, number, settings_of
from cnnbench.config.composition import as_yaml
from cnnbench.errors import ConfigError, nearest


def compare(words: list[str]) -> int:
    """Carries out `cnnbench compare`: compares finished runs."""
    parser = command_parser("compare", "Compares finished runs.")
    own = "by=GROUP | baseline=CONTESTANT | metric=acc | target=0.65,0.7 | margin=1 | apart=true | out=FOLDER"
    parser.add_argument("words", nargs="*", metavar=f"FOLDER | {own}")
    parser.add_argument("--json", action="store_true", help="print all numbers as JSON, for scripts; write no files")
    parser.add_argument("--dry-run", action="store_true", help="list what would be compared; write no files")
    options = parser.parse_intermixed_args(words)
    allowed = ["by", "baseline", "metric", "target", "margin", "apart", "out"]
    settings, rest = settings_of(options.words, allowed)
    for word in rest:
        if "=" in word and not Path(word).exists():
            raise ConfigError(f"{word}: compare has no such setting.{nearest(word.partition('=')[0], allowed)}")
    if not rest:
        raise ConfigError("compare: name a folder of runs, such as runs/default.")
    words_of_target = settings["target"].split(",") if "target" in settings else []
    targets = [number({"target": word}, "target", float, 0, 1) for word in words_of_target]
    margin = number(settings, "margin", float, -math.inf, 100)
    if margin is not None and margin <= 0:
        raise ConfigError(f"margin={settings['margin']}: must be above 0, in percentage points of accuracy.")
    apart = settings.get("apart", "false")
    if apart not in ("true", "false"):
        raise ConfigError(f"apart={apart}: must be true or false.")
    by, baseline, metric = settings.get("by"), settings.get("baseline"), settings.get("metric", "acc")
    folders = [Path(word).expanduser() for word in rest]
    out = _report_folder(folders, {key: value for key, value in settings.items() if f"{key}={value}" != "apart=false"})
    if options.cfg:
        given = {"by": by, "baseline": baseline, "metric": metric, "targets": targets, "margin": margin}
        print(as_yaml({"folders": rest, **given, "apart": apart == "true", "out": str(out)}), end="")
        return 0
    from cnnbench.analysis.grouping import compare
    from cnnbench.analysis.loading import load, load_ladder, load_seeds, load_tuning

    ladder, tuning, seeds = load_ladder(folders[0]), load_tuning(folders[0]), load_seeds(folders[0])
    planned, share = (None, 1.0) if seeds is None else (seeds.margin, seeds.share)
    limit = planned if margin is None else margin / 100
    comparisons = compare(load(folders), by, baseline, targets, apart == "true", ladder, limit, share, tuning, metric)
    if options.json:
        from cnnbench.report.exports import as_json

        print(as_json(comparisons, tuning))
        return 0
    if options.dry_run:
        for comparison in comparisons:
            print("\n".join(f"{each.label}: {len(each.runs)} runs" for each in comparison.contestants))
        return 0
    from cnnbench.report.terminal import show

    show(comparisons, out, tuning)
    return 0


def _report_folder(folders: list[Path], settings: dict[str, str]) -> Path:
    """Where a comparison is written: `out=`, or a folder of its own below the runs if it asks another question.

    A folder's own report is that of all its runs, as the sweep wrote it. Only the plain command replaces it.

    Raises:
        ConfigError: `out=` holds other runs, whose report would be lost.
    """
    if "out" in settings:
        out = Path(settings["out"]).expanduser()
        if out.is_file():
            raise ConfigError(f"out={out}: is a file, no folder.")
        if any(out.glob("*/record.json")) and [out.resolve()] != [folder.resolve() for folder in folders]:
            raise ConfigError(f"out={out}: holds other runs, whose report would be lost. Take another folder.")
        return out
    asked = [*map(str, folders[1:]), *(f"{key}={value}" for key, value in settings.items())]
    if not asked:
        return folders[0]
    return folders[0] / "compared" / re.sub(r"[^\w=.,+-]+", "_", "_".join(asked)).strip("_")[:200]
