"""The commands that train: `cnnbench` without a command, `tune`, and `preview` of what training sees.

Slow modules are imported only after the words have been checked.
"""

import itertools
import math
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnbench.analysis.tuning import SAMPLERS, SEEDS, Order, contestants
from cnnbench.cli.arguments import Parser, command_parser, number, settings_of
from cnnbench.cli.help import help_text
from cnnbench.config.composition import Job, as_yaml, config_source
from cnnbench.config.engines import Engine
from cnnbench.config.keys import GROUPS
from cnnbench.config.schema import FIRST_LOOK, ROLES, Data
from cnnbench.errors import ConfigError, nearest

if TYPE_CHECKING:
    from cnnbench.analysis.ladder import JobsOf
    from cnnbench.data.images import ImageSet


def train(words: list[str]) -> int:
    """Carries out words without a command: a run, a sweep or a ladder; or `--help`, `--version`, `--completion`."""
    parser = Parser(prog="cnnbench", add_help=False, allow_abbrev=False)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--config-dir", "-cd", type=Path)
    parser.add_argument("--cfg", choices=["job"])
    parser.add_argument("--resolve", action="store_true")  # Hydra's; here values are always resolved
    parser.add_argument("-p", "--package")
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
            _print_configs(jobs, [" ".join(job.overrides) for job in jobs], options.package)
            return 0
        if options.resolve or options.package:
            raise ConfigError("--resolve and --package: go with --cfg job.")

        def jobs_of(added: list[str]) -> list[Job]:
            return composer.jobs([*options.overrides, *added], options.multirun)

        if any(job.config.seeds == "auto" for job in jobs):
            return _add_seeds(jobs, jobs_of, engine, options.dry_run)
        rungs = [jobs]
        if jobs[0].config.ladder or jobs[0].config.leave_out:
            from cnnbench.analysis.ladder import rehearse

            rungs = rehearse(jobs, jobs_of)
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


def _add_seeds(contestants: list[Job], jobs_of: "JobsOf", engine: Engine | None, dry_run: bool) -> int:
    """Carries out `seeds=auto`, or lists the runs of its first look."""
    from cnnbench.analysis.sequential import check_contestants

    check_contestants(contestants)
    config = contestants[0].config

    def with_seeds(first: int, end: int) -> list[Job]:
        return jobs_of(["seeds=null", f"seed=range({first},{end})"])

    jobs = with_seeds(0, FIRST_LOOK)
    if dry_run:
        images = _images(contestants, dry_run)
        from cnnbench.sweeps.seeds import check
        from cnnbench.sweeps.sweep import warn

        warn(check(jobs, with_seeds, images))
        print(f"{len(jobs)} runs, then more until all is settled: at most {len(contestants) * config.max_seeds}")
        print("\n".join(" ".join(job.overrides) for job in jobs))
        return 0
    if engine is None and config.workers > 1:
        _import_beside()
    images = _images(contestants)
    from cnnbench.sweeps.seeds import add_seeds

    return add_seeds(jobs, with_seeds, images, engine)


def _dry_run(rungs: list[list[Job]], words: list[str]) -> None:
    """Checks all runs and lists them, those of a ladder with the words that their rung adds."""
    images = _images(rungs[0], dry_run=True)
    from cnnbench.analysis.ladder import START
    from cnnbench.sweeps.sweep import about, check_all, warn

    total = sum(map(len, rungs))
    tasks = zip([job for jobs in rungs for job in jobs], itertools.cycle(images))
    checked = check_all(tasks, alone=total == 1)
    warn(checked)
    print(f"{total} runs" if total > 1 else "1 run")
    config = rungs[0][0].config
    omissions = [(f"without {name}", added) for name, added in config.leave_out.items()]
    for (name, added), jobs in zip([(START, []), *config.ladder.items(), *omissions], rungs, strict=True):
        for job in jobs:
            line = " ".join([*added, *job.overrides] or words)
            print(f"{name}: {line}" if len(rungs) > 1 else line)
    if total == 1:
        print(*(about(*each) for each in checked), sep="\n", end="\n" * len(checked))


def tune(words: list[str]) -> int:
    """Carries out `cnnbench tune`: finds each contestant's best setting."""
    parser = command_parser("tune", "Finds each contestant's best setting.")
    parser.add_argument("--dry-run", action="store_true", help="check all contestants, list their trials and stop")
    own = "trials=12 | seeds=3 | tunings=1 | sampler=NAME | space=NAME"
    parser.add_argument("words", nargs="*", metavar=f"{own} | KEY=VALUE,...")
    parser.add_argument("--config-dir", "-cd", type=Path)
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
        times = f"{plan.tunings} x " if plan.tunings > 1 else ""
        comments = []
        for job, tuned in zip(jobs, plan.contestants, strict=False):  # those of the first tuning
            space = ", ".join(f"{key} {axis}" for key, axis in tuned.space.items())
            comments.append(" ".join([*job.overrides, f"({times}{plan.trials} trials of {space})"]))
        if options.cfg:
            _print_configs(jobs, comments)
            return 0
        if options.dry_run:
            images = _images(jobs, dry_run=True)
            from cnnbench.sweeps.sweep import warn
            from cnnbench.sweeps.tuning import check

            warn(check(composer, plan, jobs, images)[1])
            trials, winners = (len(plan.contestants) * count for count in (plan.trials, plan.seeds))
            print(f"{trials + winners} runs: {trials} trials, then {winners} of the winners with fresh seeds")
            print("\n".join(comments))
            return 0
        if engine is None and jobs[0].config.workers > 1:
            _import_beside()
        images = _images(jobs)
        from cnnbench.sweeps.tuning import tune

        return tune(composer, plan, jobs, images, engine)


def preview(words: list[str]) -> int:
    """Carries out `cnnbench preview`: draws images as training sees them."""
    parser = command_parser("preview", "Draws images as training sees them.")
    parser.add_argument("overrides", nargs="*", metavar="GROUP=OPTION | KEY=VALUE")
    parser.add_argument("--config-dir", "-cd", type=Path)
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


def _print_configs(jobs: list[Job], comments: list[str], group: str | None = None) -> None:
    """Prints one YAML document for each job, with its comment before it.

    Raises:
        ConfigError: `group`, the only one to print, is none.
    """
    for i, (job, comment) in enumerate(zip(jobs, comments, strict=True)):
        config: Any = job.config
        if group is not None:
            config = asdict(config).get(group)
            if not isinstance(config, dict):
                raise ConfigError(f"--package {group}: there is no such group.{nearest(group, GROUPS)}")
        print(("---\n" if i else "") + (f"# {comment}\n" if comment else "") + as_yaml(config), end="")


def _import_beside() -> None:
    """Lets the workers' server import torch while this process imports its own."""
    from cnnbench.sweeps.workers import get_ready

    get_ready()


def _images(jobs: list[Job], dry_run: bool = False) -> "list[ImageSet]":
    """The images of each job. Equal data are loaded once.

    Args:
        jobs: the runs.
        dry_run: whether nothing may be downloaded; black images then stand in for what is missing.
    """
    from cnnbench.data.archives import stand_in
    from cnnbench.data.images import load
    from cnnbench.runtime.progress import loading

    loaded: dict[tuple[object, ...], ImageSet] = {}
    equal: dict[str, ImageSet] = {}  # most data sets are the same whatever data.limit and data.val are
    images = []
    names = [field.name for field in fields(Data) if ROLES[f"data.{field.name}"].images]
    for data in (job.config.data for job in jobs):
        key = tuple(str(getattr(data, name)) for name in names)
        if key not in loaded:
            with loading("images"):
                found = (stand_in(data) if dry_run else None) or load(data)
            loaded[key] = equal.setdefault(found.fingerprint, found)
        images.append(loaded[key])
    return images
