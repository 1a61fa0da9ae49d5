"""The commands that train: `cnnbench` without a command, `tune`, and `preview` of what training sees.

Slow modules are imported only after the words have been checked.
"""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cnnbench.analysis.tuning import SAMPLERS, SEEDS, Order, contestants
from cnnbench.cli.arguments import Parser, command_parser, number, settings_of
from cnnbench.cli.help import help_text
from cnnbench.config.composition import Job, as_yaml, config_source
from cnnbench.config.keys import GROUPS
from cnnbench.errors import ConfigError, nearest
from cnnbench.sweeps.request import Request, images_of, prepare


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
        request = Request.of(composer, options.overrides, options.multirun)
        if options.cfg:
            jobs = request.jobs
            _print_configs(jobs, [" ".join(job.overrides) for job in jobs], options.package)
            return 0
        if options.resolve or options.package:
            raise ConfigError("--resolve and --package: go with --cfg job.")
        if options.dry_run:
            (_dry_run_of_seeds if request.grows else _dry_run)(request, options.overrides)
            return 0
        outcome = request.carry_out()
        outcome.show()
        return outcome.exit_code


def _dry_run_of_seeds(request: Request, words: list[str]) -> None:
    """Checks the runs with which `seeds=auto` begins, and lists them."""
    jobs, images = request.first_look, images_of(request.jobs, dry_run=True)
    from cnnbench.sweeps.seeds import check
    from cnnbench.sweeps.sweep import warn

    warn(check(jobs, request.with_seeds, images))
    most = len(request.jobs) * request.jobs[0].config.max_seeds
    print(f"{len(jobs)} runs, then more until all is settled: at most {most}")
    print("\n".join(" ".join(job.overrides) or " ".join(words) for job in jobs))


def _dry_run(request: Request, words: list[str]) -> None:
    """Checks all runs and lists them, those of a ladder with the words that their rung adds."""
    rungs = request.rungs
    images = images_of(request.jobs, dry_run=True)
    from cnnbench.analysis.ladder import START
    from cnnbench.sweeps.sweep import about, check_all, warn

    if len(rungs) > 1:
        from cnnbench.sweeps.ladder import check

        rungs, checked = check(request.jobs_of, rungs, images)
    else:
        checked = check_all(zip(request.jobs, images, strict=True), alone=len(request.jobs) == 1)
    warn(checked)
    total = sum(map(len, rungs))
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
    order = order_of(options.words)
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
            images = images_of(jobs, dry_run=True)
            from cnnbench.sweeps.sweep import warn
            from cnnbench.sweeps.tuning import check

            warn(check(composer, plan, jobs, images)[1])
            trials, winners = (len(plan.contestants) * count for count in (plan.trials, plan.seeds))
            print(f"{trials + winners} runs: {trials} trials, then {winners} of the winners with fresh seeds")
            print("\n".join(comments))
            return 0
        prepare(jobs, engine)
        images = images_of(jobs)
        from cnnbench.sweeps.tuning import tune

        outcome = tune(composer, plan, jobs, images, engine)
        outcome.show()
        return outcome.exit_code


def order_of(words: list[str]) -> Order:
    """What words after `cnnbench tune` ask for.

    Raises:
        ConfigError: there is no such sampler, or a number is out of its range.
    """
    settings, rest = settings_of(words, ["trials", "seeds", "tunings", "sampler", "space"])
    sampler = settings.get("sampler", "quasi_random")
    if sampler not in SAMPLERS:
        raise ConfigError(f"sampler={sampler}: there is no such sampler.{nearest(sampler, list(SAMPLERS))}")
    most = {"trials": math.inf, "seeds": SEEDS - 1, "tunings": math.inf}
    numbers = {key: number(settings, key, int, 1, limit) for key, limit in most.items()}
    given = {key: value for key, value in numbers.items() if value is not None}
    return Order(rest, sampler=sampler, space=settings.get("space"), **given)


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
