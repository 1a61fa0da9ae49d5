"""The commands, each a function from the words after its name to an exit code.

Slow modules are imported only after the words have been checked.
"""

import math
import re
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from cnnbench.analysis.ladder import START, JobsOf, rehearse
from cnnbench.analysis.sequential import check_contestants
from cnnbench.analysis.tuning import SAMPLERS, SEEDS, Order, contestants
from cnnbench.cli.arguments import Parser, command_parser, number, settings_of
from cnnbench.cli.help import help_text
from cnnbench.config.composition import Job, as_yaml, config_source
from cnnbench.config.engines import Engine
from cnnbench.config.schema import FIRST_LOOK, ROLES, Data
from cnnbench.errors import ConfigError, nearest

if TYPE_CHECKING:
    from cnnbench.data.images import ImageSet


def train(words: list[str]) -> int:
    """Carries out words without a command: a run, a sweep or a ladder; or `--help`, `--version`, `--completion`."""
    parser = Parser(prog="cnnbench", add_help=False, allow_abbrev=False)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--config-dir", type=Path)
    parser.add_argument("--cfg", choices=["job"])
    parser.add_argument("--completion", choices=["bash", "zsh", "fish"])
    parser.add_argument("--complete", metavar="LINE")  # the shells call this
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--version", action="store_true")
    options = parser.parse_intermixed_args(words)
    if options.version:
        from importlib.metadata import version

        print(f"cnnbench {version('cnnbench')}")
        return 0
    if options.completion or options.complete is not None:
        from cnnbench.cli.completion import SCRIPTS, candidates

        for line in [SCRIPTS[options.completion]] if options.completion else candidates(options.complete):
            print(line)
        return 0
    with config_source(options.config_dir) as composer:
        if options.help:
            print(help_text(composer.options))
            return 0
        jobs = composer.jobs(options.overrides, options.multirun)
        engine = composer.engine(options.overrides)
        if options.cfg:
            _print_configs(jobs, [" ".join(job.overrides) for job in jobs])
            return 0

        def jobs_of(added: list[str]) -> list[Job]:
            return composer.jobs([*options.overrides, *added], options.multirun)

        if any(job.config.seeds == "auto" for job in jobs):
            return _add_seeds(jobs, jobs_of, engine, options.dry_run)
        rungs = rehearse(jobs_of) if jobs[0].config.ladder else [jobs]
        if options.dry_run:
            _dry_run(rungs, options.overrides)
            return 0
        if engine is None and min(jobs[0].config.workers, len(jobs)) > 1:
            _import_beside()
        images = _images(jobs)
        if len(rungs) > 1:
            from cnnbench.sweeps.ladder import climb

            return climb(jobs_of, rungs, images, engine)
        from cnnbench.sweeps.sweep import run_all

        return run_all(jobs, images, engine)


def _add_seeds(contestants: list[Job], jobs_of: JobsOf, engine: Engine | None, dry_run: bool) -> int:
    """Carries out `seeds=auto`, or lists the runs of its first look."""
    check_contestants(contestants)
    config = contestants[0].config

    def with_seeds(first: int, end: int) -> list[Job]:
        return jobs_of(["seeds=null", f"seed=range({first},{end})"])

    jobs = with_seeds(0, FIRST_LOOK)
    if dry_run:
        print(f"{len(jobs)} runs, then more until all is settled: at most {len(contestants) * config.max_seeds}")
        print("\n".join(" ".join(job.overrides) for job in jobs))
        return 0
    if engine is None and config.workers > 1:
        _import_beside()
    images = _images(contestants)
    from cnnbench.sweeps.seeds import add_seeds

    return add_seeds(jobs, with_seeds, images, engine)


def _dry_run(rungs: list[list[Job]], words: list[str]) -> None:
    total = sum(map(len, rungs))
    print(f"{total} runs" if total > 1 else "1 run")
    for name, jobs in zip([START, *rungs[0][0].config.ladder], rungs, strict=True):
        for job in jobs:
            line = " ".join(job.overrides) or " ".join(words)
            print(f"{name}: {line}" if len(rungs) > 1 else line)


def _print_configs(jobs: list[Job], comments: list[str]) -> None:
    """Prints one YAML document for each job, with its comment before it."""
    for i, (job, comment) in enumerate(zip(jobs, comments, strict=True)):
        print(("---\n" if i else "") + (f"# {comment}\n" if comment else "") + as_yaml(job.config), end="")


def _print_config_of(run: Path) -> int:
    from cnnbench.results.records import of_run

    print(as_yaml(of_run(run.expanduser()).config), end="")
    return 0


def _import_beside() -> None:
    """Lets the workers' server import torch while this process imports its own."""
    from cnnbench.sweeps.workers import get_ready

    get_ready()


def _images(jobs: list[Job]) -> "list[ImageSet]":
    """The images of each job. Equal data are loaded once."""
    from cnnbench.data.images import load

    loaded: dict[tuple[object, ...], ImageSet] = {}
    images = []
    names = [field.name for field in fields(Data) if ROLES[f"data.{field.name}"].images]
    for data in (job.config.data for job in jobs):
        key = tuple(getattr(data, name) for name in names)
        if key not in loaded:
            loaded[key] = load(data)
        images.append(loaded[key])
    return images


def _compare(words: list[str]) -> int:
    parser = command_parser("compare", "Compares finished runs.")
    parser.add_argument(
        "words",
        nargs="*",
        metavar="FOLDER | by=GROUP | baseline=CONTESTANT | target=0.65 | margin=0.5 | apart=true | out=FOLDER",
    )
    parser.add_argument("--json", action="store_true", help="print all numbers as JSON, for scripts; write no files")
    options = parser.parse_intermixed_args(words)
    allowed = ["by", "baseline", "target", "margin", "apart", "out"]
    settings, rest = settings_of(options.words, allowed)
    for word in rest:
        if "=" in word and not Path(word).exists():
            raise ConfigError(f"{word}: compare has no such setting.{nearest(word.partition('=')[0], allowed)}")
    if not rest:
        raise ConfigError("compare: name a folder of runs, such as runs/default.")
    target = number(settings, "target", float, 0, 1)
    margin = number(settings, "margin", float, -math.inf, 100)
    if margin is not None and margin <= 0:
        raise ConfigError(f"margin={settings['margin']}: must be above 0, in percentage points of accuracy.")
    apart = settings.get("apart", "false")
    if apart not in ("true", "false"):
        raise ConfigError(f"apart={apart}: must be true or false.")
    by, baseline = settings.get("by"), settings.get("baseline")
    folders = [Path(word).expanduser() for word in rest]
    out = _report_folder(folders, {key: value for key, value in settings.items() if f"{key}={value}" != "apart=false"})
    if options.cfg:
        given = {"by": by, "baseline": baseline, "target": target, "margin": margin, "apart": apart == "true"}
        print(as_yaml({"folders": rest, **given, "out": str(out)}), end="")
        return 0
    from cnnbench.analysis.grouping import compare
    from cnnbench.analysis.loading import load, load_ladder, load_seeds, load_tuning

    ladder, tuning, seeds = load_ladder(folders[0]), load_tuning(folders[0]), load_seeds(folders[0])
    planned, share = (None, 1.0) if seeds is None else (seeds.margin, seeds.share)
    limit = planned if margin is None else margin / 100
    comparisons = compare(load(folders), by, baseline, target, apart == "true", ladder, limit, share, tuning)
    if options.json:
        from cnnbench.report.exports import as_json

        print(as_json(comparisons, tuning))
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


def _tune(words: list[str]) -> int:
    parser = command_parser("tune", "Finds each contestant's best setting.")
    own = "trials=12 | seeds=3 | tunings=1 | sampler=NAME | space=NAME"
    parser.add_argument("words", nargs="*", metavar=f"{own} | KEY=VALUE,...")
    parser.add_argument("--config-dir", type=Path)
    options = parser.parse_intermixed_args(words)
    settings, rest = settings_of(options.words, ["trials", "seeds", "tunings", "sampler", "space"])
    sampler = settings.get("sampler", "quasi_random")
    if sampler not in SAMPLERS:
        raise ConfigError(f"sampler={sampler}: there is no such sampler.{nearest(sampler, list(SAMPLERS))}")
    most = {"trials": math.inf, "seeds": SEEDS - 1, "tunings": math.inf}
    numbers = {key: number(settings, key, int, 1, limit) for key, limit in most.items()}
    given = {key: value for key, value in numbers.items() if value is not None}
    order = Order(rest, sampler=sampler, space=settings.get("space"), **given)
    with config_source(options.config_dir) as composer:
        plan, jobs = contestants(composer, order)
        engine = composer.engine(plan.words)
        if options.cfg:
            times = f"{plan.tunings} x " if plan.tunings > 1 else ""
            comments = []
            for job, tuned in zip(jobs, plan.contestants, strict=False):  # those of the first tuning
                space = ", ".join(f"{key} {axis}" for key, axis in tuned.space.items())
                comments.append([*job.overrides, f"({times}{plan.trials} trials of {space})"])
            _print_configs(jobs, [" ".join(words) for words in comments])
            return 0
        if engine is None and jobs[0].config.workers > 1:
            _import_beside()
        images = _images(jobs)
        from cnnbench.sweeps.tuning import tune

        return tune(composer, plan, jobs, images, engine)


def _preview(words: list[str]) -> int:
    parser = command_parser("preview", "Draws images as training sees them.")
    parser.add_argument("overrides", nargs="*", metavar="GROUP=OPTION | KEY=VALUE")
    parser.add_argument("--config-dir", type=Path)
    options = parser.parse_intermixed_args(words)
    with config_source(options.config_dir) as composer:
        jobs = composer.jobs(options.overrides, multirun=False)
    if options.cfg:
        _print_configs(jobs[:1], [""])
        return 0
    from cnnbench.data.images import load

    images = load(jobs[0].config.data)
    from cnnbench.training.preview import preview

    preview(jobs[0].config, images, Path("preview.png"))
    print("preview.png")
    return 0


def _predict(words: list[str]) -> int:
    parser = command_parser("predict", "Names the class of each image.")
    parser.add_argument("run", metavar="RUN", type=Path, help="runs/NAME/RUN")
    parser.add_argument("images", metavar="IMAGE", type=Path, nargs="+")
    options = parser.parse_args(words)
    if not (options.run / "record.json").exists():
        raise ConfigError(f"{options.run}: holds no run (no record.json).")
    for path in options.images:
        if not path.is_file():
            raise ConfigError(f"{path}: there is no such image.")
    if options.cfg:
        return _print_config_of(options.run)
    from cnnbench.training.prediction import predict

    for path, ranked in predict(options.run, options.images):
        print(f"{path}: " + ", ".join(f"{name} {probability:.1%}" for name, probability in ranked[:3]))
    return 0


def _list(words: list[str]) -> int:
    parser = command_parser("list", "Lists the runs in a folder.")
    parser.add_argument("folder", metavar="FOLDER", type=Path, nargs="?", default=Path("runs"))
    parser.add_argument("--json", action="store_true", help="for scripts")
    options = parser.parse_args(words)
    if options.cfg:
        print(as_yaml({"folder": str(options.folder)}), end="")
        return 0
    from cnnbench.report.listing import show_list

    show_list(options.folder.expanduser(), options.json)
    return 0


def _show(words: list[str]) -> int:
    parser = command_parser("show", "Shows a run.")
    parser.add_argument("run", metavar="RUN", type=Path, help="runs/NAME/RUN")
    parser.add_argument("--json", action="store_true", help="the record itself, for scripts")
    options = parser.parse_args(words)
    if options.cfg:
        return _print_config_of(options.run)
    from cnnbench.report.listing import show_run

    show_run(options.run.expanduser(), options.json)
    return 0


COMMANDS = {
    "compare": _compare,
    "list": _list,
    "predict": _predict,
    "preview": _preview,
    "show": _show,
    "tune": _tune,
}
