"""What can be typed? Everything slow is imported only when the command is known to be good."""

import argparse
import math
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from cnnbench.compose import GROUPS, KEYS, Job, as_yaml, config_source
from cnnbench.ladder import START, rehearse
from cnnbench.schema import ConfigError, nearest
from cnnbench.trials import SAMPLERS, Order, contestants

if TYPE_CHECKING:
    from cnnbench.images import ImageSet

EXAMPLES = """\
  cnnbench experiment=quickstart                            five optimizers x 5 seeds, a minute, no download
  cnnbench optimizer=adam lr=1e-3                           one run: the documents' CNN on CIFAR-10
  cnnbench -m optimizer=sgd,momentum,adam seed=0,1,2        a sweep, and its comparison
  cnnbench data=folder data.root=DIR epochs=10              your own images: DIR/train/<class>/*, DIR/test/<class>/*
  cnnbench tune optimizer=sgd,momentum,adam trials=12 seeds=3    a learning rate for each, then a fair comparison
  cnnbench compare runs/default by=optimizer                each optimizer with the setting that was best on validation
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (cnnbench --help shows what there is)")


def _parser(command: str, description: str) -> _Parser:
    parser = _Parser(prog=f"cnnbench {command}", allow_abbrev=False, description=description)
    parser.add_argument("--cfg", choices=["job"], help="print the config and stop")
    return parser


def main(words: list[str] | None = None) -> int:
    """The command. Returns its exit code: 0 done, 1 failed, 2 bad config or data, 130 Ctrl-C, 143 SIGTERM."""
    words = sys.argv[1:] if words is None else words
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if words and words[0] in _COMMANDS:
            return _COMMANDS[words[0]](words[1:])
        if words and "=" not in words[0] and words[0][0] not in "-~":
            raise ConfigError(f"{words[0]}: neither a command nor KEY=VALUE.{nearest(words[0], list(_COMMANDS))}")
        return _train(words)
    except ConfigError as error:
        print(f"cnnbench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("cnnbench: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as error:
        print(f"cnnbench: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        return 1


def _train(words: list[str]) -> int:
    parser = _Parser(prog="cnnbench", add_help=False, allow_abbrev=False)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--config-dir", type=Path)
    parser.add_argument("--cfg", choices=["job"])
    parser.add_argument("--completion", choices=["bash", "zsh", "fish"])
    parser.add_argument("--complete", metavar="LINE")  # what the shells ask
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--version", action="store_true")
    options = parser.parse_intermixed_args(words)
    if options.version:
        from importlib.metadata import version

        print(f"cnnbench {version('cnnbench')}")
        return 0
    if options.completion or options.complete is not None:
        from cnnbench.completion import SCRIPTS, candidates

        for line in [SCRIPTS[options.completion]] if options.completion else candidates(options.complete):
            print(line)
        return 0
    with config_source(options.config_dir) as composer:
        if options.help:
            print(_help(composer.options))
            return 0
        jobs = composer.jobs(options.overrides, options.multirun)
        engine = composer.engine(options.overrides)
        if options.cfg:
            _print_configs(jobs, [" ".join(job.overrides) for job in jobs])
            return 0

        def jobs_of(added: list[str]) -> list[Job]:
            return composer.jobs([*options.overrides, *added], options.multirun)

        rungs = rehearse(jobs_of) if jobs[0].config.ladder else [jobs]
        if options.dry_run:
            _dry_run(rungs, options.overrides)
            return 0
        if engine is None and min(jobs[0].config.workers, len(jobs)) > 1:
            _import_beside()
        images = _images(jobs)
        if len(rungs) > 1:
            from cnnbench.climb import climb

            return climb(jobs_of, rungs, images, engine)
        from cnnbench.sweep import run_all

        return run_all(jobs, images, engine)


def _dry_run(rungs: list[list[Job]], words: list[str]) -> None:
    total = sum(map(len, rungs))
    print(f"{total} runs" if total > 1 else "1 run")
    for name, jobs in zip([START, *rungs[0][0].config.ladder], rungs, strict=True):
        for job in jobs:
            line = " ".join(job.overrides) or " ".join(words)
            print(f"{name}: {line}" if len(rungs) > 1 else line)


def _print_configs(jobs: list[Job], comments: list[str]) -> None:
    """One YAML document for each job, with a comment in front."""
    for i, (job, comment) in enumerate(zip(jobs, comments, strict=True)):
        print(("---\n" if i else "") + (f"# {comment}\n" if comment else "") + as_yaml(job.config), end="")


def _print_config_of(run: Path) -> int:
    from cnnbench.record import of_run

    print(as_yaml(of_run(run.expanduser())["config"]), end="")
    return 0


def _import_beside() -> None:
    """The workers' torch is imported while this process imports its own."""
    from cnnbench.workers import get_ready

    get_ready()


def _images(jobs: list[Job]) -> "list[ImageSet]":
    """Each job's images; those of several jobs are loaded once."""
    from cnnbench.images import load

    loaded: dict[tuple[object, ...], ImageSet] = {}
    images = []
    for data in (job.config.data for job in jobs):
        key = (data._target_, data.root, data.md5, data.image_size, data.grayscale, data.labels)
        if key not in loaded:
            loaded[key] = load(data)
        images.append(loaded[key])
    return images


def _help(options: dict[str, list[str]]) -> str:
    width = max(map(len, GROUPS))
    groups = "\n".join(f"  {group:<{width}}  {', '.join(options[group])}" for group in GROUPS)
    return f"""\
cnnbench [-m] [GROUP=OPTION | KEY=VALUE ...]     train, and compare where it is a sweep (-m: a,b,c are three runs)
cnnbench compare FOLDER... [by=GROUP] [--json]   verdicts, report and figures of finished runs
cnnbench tune [KEY=A,B,C ...] [trials=12 ...]    each contestant's best setting, found at equal cost
cnnbench list [FOLDER] [--json]                  what is done, running or failed, with the best so far
cnnbench show RUN [--json]                       a run's settings, epochs and test result
cnnbench predict RUN IMAGE...                    what a trained model sees
cnnbench preview [GROUP=OPTION | KEY=VALUE ...]  preview.png: 64 images as training sees them

Groups (GROUP=OPTION; a key of a group is GROUP.KEY=VALUE)
{groups}

Keys
  {", ".join(KEYS)}

Options
  -m, --multirun     several values of a key are a sweep
  --dry-run          list the runs and stop
  --cfg job          print the config of each run, or of any command, and stop
  --config-dir DIR   your own options: DIR/optimizer/mine.yaml is optimizer=mine
  --completion SHELL what bash, zsh or fish needs to complete all this: eval "$(cnnbench --completion bash)"
  --version, --help

Examples
{EXAMPLES}"""


def _settings(words: list[str], allowed: list[str]) -> tuple[dict[str, str], list[str]]:
    """Splits words into a command's own settings, KEY=VALUE, and the rest."""
    pairs = {word: word.partition("=") for word in words}
    own = [word for word in words if pairs[word][0] in allowed and pairs[word][1]]
    return {pairs[word][0]: pairs[word][2] for word in own}, [word for word in words if word not in own]


def _number(settings: dict[str, str], key: str, kind: type[int] | type[float], low: float, high: float) -> Any:
    """A setting as a number; None where it isn't given."""
    if key not in settings:
        return None
    try:
        value = kind(settings[key])
    except ValueError:
        value = None
    if value is None or not low <= value <= high:
        bound = f"from {low:g} to {high:g}" if high < math.inf else f"at least {low:g}"
        raise ConfigError(f"{key}={settings[key]}: must be {'a whole number' if kind is int else 'a number'} {bound}.")
    return value


def _compare(words: list[str]) -> int:
    parser = _parser("compare", "Compares finished runs.")
    parser.add_argument(
        "words", nargs="*", metavar="FOLDER | by=GROUP | baseline=CONTESTANT | target=0.65 | apart=true"
    )
    parser.add_argument("--json", action="store_true", help="print all numbers as JSON, for scripts; write no files")
    options = parser.parse_intermixed_args(words)
    allowed = ["by", "baseline", "target", "apart"]
    settings, rest = _settings(options.words, allowed)
    for word in rest:
        if "=" in word and not Path(word).exists():
            raise ConfigError(f"{word}: compare has no such setting.{nearest(word.partition('=')[0], allowed)}")
    if not rest:
        raise ConfigError("compare: name a folder of runs, such as runs/default.")
    target = _number(settings, "target", float, 0, 1)
    apart = settings.get("apart", "false")
    if apart not in ("true", "false"):
        raise ConfigError(f"apart={apart}: must be true or false.")
    by, baseline = settings.get("by"), settings.get("baseline")
    if options.cfg:
        print(
            as_yaml({"folders": rest, "by": by, "baseline": baseline, "target": target, "apart": apart == "true"}),
            end="",
        )
        return 0
    folders = [Path(word).expanduser() for word in rest]
    from cnnbench.compare import compare, load, load_ladder, load_tuning

    ladder = load_ladder(folders[0])
    comparisons = compare(load(folders), by, baseline, target, apart == "true", ladder)
    tuning = load_tuning(folders[0])
    if options.json:
        from cnnbench.export import as_json

        print(as_json(comparisons, tuning))
        return 0
    from cnnbench.report import show

    show(comparisons, folders[0], tuning)
    return 0


def _tune(words: list[str]) -> int:
    parser = _parser("tune", "Finds each contestant's best setting.")
    parser.add_argument("words", nargs="*", metavar="trials=12 | seeds=3 | sampler=NAME | space=NAME | KEY=VALUE,...")
    parser.add_argument("--config-dir", type=Path)
    options = parser.parse_intermixed_args(words)
    settings, rest = _settings(options.words, ["trials", "seeds", "sampler", "space"])
    sampler = settings.get("sampler", "quasi_random")
    if sampler not in SAMPLERS:
        raise ConfigError(f"sampler={sampler}: there is no such sampler.{nearest(sampler, list(SAMPLERS))}")
    numbers = {key: _number(settings, key, int, 1, math.inf) for key in ("trials", "seeds")}
    given = {key: value for key, value in numbers.items() if value is not None}
    order = Order(rest, sampler=sampler, space=settings.get("space"), **given)
    with config_source(options.config_dir) as composer:
        plan, jobs = contestants(composer, order)
        engine = composer.engine(plan.words)
        if options.cfg:
            spaces = [", ".join(f"{key} {axis}" for key, axis in tuned.space.items()) for tuned in plan.contestants]
            told = [
                [*job.overrides, f"({plan.trials} trials of {space})"] for job, space in zip(jobs, spaces, strict=True)
            ]
            _print_configs(jobs, [" ".join(words) for words in told])
            return 0
        if engine is None and jobs[0].config.workers > 1:
            _import_beside()
        images = _images(jobs)
        from cnnbench.tune import tune

        return tune(composer, plan, jobs, images, engine)


def _preview(words: list[str]) -> int:
    parser = _parser("preview", "Draws images as training sees them.")
    parser.add_argument("overrides", nargs="*", metavar="GROUP=OPTION | KEY=VALUE")
    parser.add_argument("--config-dir", type=Path)
    options = parser.parse_intermixed_args(words)
    with config_source(options.config_dir) as composer:
        jobs = composer.jobs(options.overrides, multirun=False)
    if options.cfg:
        _print_configs(jobs[:1], [""])
        return 0
    from cnnbench.images import load

    images = load(jobs[0].config.data)
    from cnnbench.preview import preview

    preview(jobs[0].config, images, Path("preview.png"))
    print("preview.png")
    return 0


def _predict(words: list[str]) -> int:
    parser = _parser("predict", "Names the class of each image.")
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
    from cnnbench.predict import predict

    for path, ranked in predict(options.run, options.images):
        print(f"{path}: " + ", ".join(f"{name} {probability:.1%}" for name, probability in ranked[:3]))
    return 0


def _list(words: list[str]) -> int:
    parser = _parser("list", "Lists the runs in a folder.")
    parser.add_argument("folder", metavar="FOLDER", type=Path, nargs="?", default=Path("runs"))
    parser.add_argument("--json", action="store_true", help="for scripts")
    options = parser.parse_args(words)
    if options.cfg:
        print(as_yaml({"folder": str(options.folder)}), end="")
        return 0
    from cnnbench.listing import show_list

    show_list(options.folder.expanduser(), options.json)
    return 0


def _show(words: list[str]) -> int:
    parser = _parser("show", "Shows a run.")
    parser.add_argument("run", metavar="RUN", type=Path, help="runs/NAME/RUN")
    parser.add_argument("--json", action="store_true", help="the record itself, for scripts")
    options = parser.parse_args(words)
    if options.cfg:
        return _print_config_of(options.run)
    from cnnbench.listing import show_run

    show_run(options.run.expanduser(), options.json)
    return 0


_COMMANDS = {
    "compare": _compare,
    "list": _list,
    "predict": _predict,
    "preview": _preview,
    "show": _show,
    "tune": _tune,
}
