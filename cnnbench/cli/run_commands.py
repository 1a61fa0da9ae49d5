"""The commands that look at finished runs and use them: `list`, `show`, `predict`, `export`, `bundle`; and `cache`.

Slow modules are imported only after the words have been checked.
"""

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path

from cnnbench.cli.arguments import command_parser, settings_of
from cnnbench.config.composition import as_yaml
from cnnbench.config.formats import FORMATS, check_format
from cnnbench.errors import ConfigError
from cnnbench.runtime.text import legible

RUN = "runs/NAME/RUN, the beginning of its name, or runs/NAME if it holds one run"


def list_runs(words: list[str]) -> int:
    """Carries out `cnnbench list`: lists the runs in a folder."""
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


def show(words: list[str]) -> int:
    """Carries out `cnnbench show`: shows a run."""
    parser = command_parser("show", "Shows a run.")
    parser.add_argument("run", metavar="RUN", type=Path, help=RUN)
    parser.add_argument("--json", action="store_true", help="the record itself, for scripts")
    options = parser.parse_args(words)
    if options.cfg:
        return _print_config_of(options.run)
    from cnnbench.report.listing import show_run
    from cnnbench.results.records import run_folder

    show_run(run_folder(options.run), options.json)
    return 0


def predict(words: list[str]) -> int:
    """Carries out `cnnbench predict`: names the class of each image."""
    parser = command_parser("predict", "Names the class of each image.")
    parser.add_argument("run", metavar="RUN", type=Path, help=RUN)
    parser.add_argument("paths", metavar="PATH", type=Path, nargs="+", help="images, and folders of images")
    parser.add_argument("--json", action="store_true", help="the probabilities of all classes, for scripts")
    options = parser.parse_args(words)
    if options.cfg:
        return _print_config_of(options.run)
    from cnnbench.results.records import run_folder

    run = run_folder(options.run)
    from cnnbench.training.prediction import predict

    rows: list[dict[str, object]] = []
    code = 0
    for path, result in predict(run, options.paths):
        if isinstance(result, ConfigError):
            print(f"cnnbench: {legible(str(result))}", file=sys.stderr)
            code = 1
        elif not options.json:
            shares = list(result.probabilities.items())[:3]
            print(f"{legible(str(path))}: " + ", ".join(f"{name} {probability:.1%}" for name, probability in shares))
        told = {"error": str(result)} if isinstance(result, ConfigError) else asdict(result)
        rows.append({"path": str(path), **told})
    if options.json:
        print(json.dumps(rows, indent=1))
    return code


def export(words: list[str]) -> int:
    """Carries out `cnnbench export`: writes a run's model, or the results of many runs, for other programs."""
    says = "Writes a run's model into its folder, or the results of a folder of runs into one file here."
    parser = command_parser("export", says)
    parser.add_argument("run", metavar="RUN", type=Path, help=f"{RUN}; for results also a folder of runs")
    parser.add_argument("--format", metavar="FORMAT", default="onnx", help=", ".join(FORMATS))
    options = parser.parse_args(words)
    if options.cfg:
        return _print_config_of(options.run)
    check_format(options.format)
    if FORMATS[options.format].results:
        return _export_results(options.run.expanduser(), FORMATS[options.format].file)
    from cnnbench.results.records import run_folder

    run = run_folder(options.run)
    from cnnbench.training.export import export

    result = export(run, options.format)
    file = run / FORMATS[options.format].file
    same = f"{result.same:,} of {result.images:,} {result.part} images get the same class as from the run's model"
    print(f"{legible(str(file))}: {same}; largest difference of a probability {result.difference:.1e}")
    if not result.holds:
        print("cnnbench: the exported model predicts differently, so the file was not written", file=sys.stderr)
        return 1
    return 0


def _export_results(folder: Path, suffix: str) -> int:
    from cnnbench.analysis.loading import load
    from cnnbench.report.long_form import write

    runs = load([folder])
    out = Path(f"{folder.resolve().name}{suffix}")
    if out.exists():
        raise ConfigError(f"{out}: is there already. Move it away first.")
    write(runs, out)
    print(f"{legible(str(out))}: {len(runs):,} runs")
    return 0


def bundle(words: list[str]) -> int:
    """Carries out `cnnbench bundle`: puts the records of a folder of runs into one file."""
    parser = command_parser("bundle", "Puts the records of a folder of runs into one file, which compare reads.")
    parser.add_argument("words", nargs="+", metavar="runs/NAME | out=FILE.tar.xz or .zip")
    options = parser.parse_args(words)
    settings, rest = settings_of(options.words, ["out"])
    if len(rest) != 1:
        raise ConfigError(f"bundle: name one folder, such as runs/default, not {len(rest)}.")
    folder = Path(rest[0]).expanduser()
    out = Path(settings.get("out", f"{folder.resolve().name}.tar.xz")).expanduser()
    if options.cfg:
        print(as_yaml({"folder": rest[0], "out": str(out)}), end="")
        return 0
    from cnnbench.analysis import ladder, sequential, tuning
    from cnnbench.results import bundles

    count = bundles.write(folder, out, (ladder.FILE, sequential.FILE, tuning.FILE))
    command = shlex.join(["cnnbench", "compare", str(out)])
    size = f"{out.stat().st_size / 1000:,.0f} kB"
    print(legible(f"{out}: {count:,} records, {size}. Compare them with: {command}"))
    return 0


def cache(words: list[str]) -> int:
    """Carries out `cnnbench cache`: shows where decoded images are kept, or removes them."""
    parser = command_parser("cache", "Shows where decoded images are kept, and how many; --clear removes them.")
    parser.add_argument("--clear", action="store_true", help="remove them; they are decoded again when needed")
    options = parser.parse_args(words)
    if options.cfg:
        print(as_yaml({"clear": options.clear}), end="")
        return 0
    from cnnbench.data import cache

    if options.clear:
        freed, busy = cache.clear()
        print(f"{cache.place()}: {freed / 1e6:,.1f} MB removed")
        for name in busy:
            print(f"{name} stays: a process is decoding into it")
        return 0
    found = cache.entries()
    print(f"{cache.place()}: {cache.size() / 1e6:,.1f} MB")
    for entry in found:
        shape = " x ".join(map(str, entry.shape))
        print(f"{entry.size / 1e6:10,.1f} MB  {entry.images:,} images of {shape} from {entry.root}")
    return 0


def _print_config_of(run: Path) -> int:
    from cnnbench.results.records import of_run, run_folder

    print(as_yaml(of_run(run_folder(run)).config), end="")
    return 0
