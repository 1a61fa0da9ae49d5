"""What can be typed? Everything slow is imported only when the command is known to be good."""

import argparse
import signal
import sys
from pathlib import Path
from typing import NoReturn

from cnnbench.compose import GROUPS, KEYS, Engine, Job, config_source
from cnnbench.schema import ConfigError, nearest

EXAMPLES = """\
  cnnbench experiment=quickstart                            five optimizers x 3 seeds, two minutes, no download
  cnnbench optimizer=adam lr=1e-3                           one run: the documents' CNN on CIFAR-10
  cnnbench -m optimizer=sgd,momentum,adam seed=0,1,2        a sweep, and its comparison
  cnnbench data=folder data.root=DIR epochs=10              your own images: DIR/train/<class>/*, DIR/test/<class>/*
  cnnbench compare runs/default by=optimizer                each optimizer with the setting that was best on validation
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (cnnbench --help shows what there is)")


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
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--version", action="store_true")
    options = parser.parse_intermixed_args(words)
    if options.version:
        from importlib.metadata import version

        print(f"cnnbench {version('cnnbench')}")
        return 0
    with config_source(options.config_dir) as composer:
        if options.help:
            print(_help(composer.options))
            return 0
        jobs = composer.jobs(options.overrides, options.multirun)
        engine = composer.engine(options.overrides)
        if options.cfg:
            from omegaconf import OmegaConf

            print(OmegaConf.to_yaml(composer.config(options.overrides)), end="")
            return 0
    if options.dry_run:
        print(f"{len(jobs)} runs" if len(jobs) > 1 else "1 run")
        for job in jobs:
            print(" ".join(job.overrides) or " ".join(options.overrides))
        return 0
    return _run(jobs, engine)


def _run(jobs: list[Job], engine: Engine | None) -> int:
    from cnnbench.images import ImageSet, load

    loaded: dict[tuple[object, ...], ImageSet] = {}
    images = []
    for data in (job.config.data for job in jobs):
        key = (data._target_, data.root, data.md5, data.image_size, data.grayscale, data.labels)
        if key not in loaded:
            loaded[key] = load(data)
        images.append(loaded[key])
    from cnnbench.sweep import run_all

    return run_all(jobs, images, engine)


def _help(options: dict[str, list[str]]) -> str:
    width = max(map(len, GROUPS))
    groups = "\n".join(f"  {group:<{width}}  {', '.join(options[group])}" for group in GROUPS)
    return f"""\
cnnbench [-m] [GROUP=OPTION | KEY=VALUE ...]     train, and compare where it is a sweep (-m: a,b,c are three runs)
cnnbench compare FOLDER... [by=GROUP]            table, figure and files of finished runs
cnnbench predict RUN IMAGE...                    what a trained model sees
cnnbench preview [GROUP=OPTION | KEY=VALUE ...]  preview.png: 64 images as training sees them

Groups (GROUP=OPTION; a key of a group is GROUP.KEY=VALUE)
{groups}

Keys
  {", ".join(KEYS)}

Options
  -m, --multirun     several values of a key are a sweep
  --dry-run          list the runs and stop
  --cfg job          print the config and stop
  --config-dir DIR   your own options: DIR/optimizer/mine.yaml is optimizer=mine
  --version, --help

Examples
{EXAMPLES}"""


def _compare(words: list[str]) -> int:
    from cnnbench.compare import compare, load, show

    parser = _Parser(prog="cnnbench compare", allow_abbrev=False, description="Compares finished runs.")
    parser.add_argument("words", nargs="*", metavar="FOLDER | by=GROUP")
    words = parser.parse_args(words).words
    settings = [word.partition("=") for word in words if "=" in word and not Path(word).exists()]
    for key, _, _value in settings:
        if key != "by":
            raise ConfigError(f"{key}: compare has no such setting. Allowed: by.")
    folders = [Path(word).expanduser() for word in words if "=" not in word or Path(word).exists()]
    if not folders:
        raise ConfigError("compare: name a folder of runs, such as runs/default.")
    by = settings[-1][2] if settings else None
    show(compare(load(folders), by), folders[0])
    return 0


def _preview(words: list[str]) -> int:
    parser = _Parser(prog="cnnbench preview", allow_abbrev=False, description="Draws images as training sees them.")
    parser.add_argument("overrides", nargs="*", metavar="GROUP=OPTION | KEY=VALUE")
    parser.add_argument("--config-dir", type=Path)
    options = parser.parse_intermixed_args(words)
    with config_source(options.config_dir) as composer:
        jobs = composer.jobs(options.overrides, multirun=False)
    from cnnbench.images import load

    images = load(jobs[0].config.data)
    from cnnbench.preview import preview

    preview(jobs[0].config, images, Path("preview.png"))
    print("preview.png")
    return 0


def _predict(words: list[str]) -> int:
    parser = _Parser(prog="cnnbench predict", allow_abbrev=False, description="Names the class of each image.")
    parser.add_argument("run", metavar="RUN", type=Path, help="runs/NAME/RUN")
    parser.add_argument("images", metavar="IMAGE", type=Path, nargs="+")
    options = parser.parse_args(words)
    if not (options.run / "record.json").exists():
        raise ConfigError(f"{options.run}: holds no run (no record.json).")
    for path in options.images:
        if not path.is_file():
            raise ConfigError(f"{path}: there is no such image.")
    from cnnbench.predict import predict

    for path, ranked in predict(options.run, options.images):
        print(f"{path}: " + ", ".join(f"{name} {probability:.1%}" for name, probability in ranked[:3]))
    return 0


_COMMANDS = {"compare": _compare, "predict": _predict, "preview": _preview}
