"""The command `import`: what another program has logged, as a file that `compare` reads."""

import shlex
from pathlib import Path

from cnnbench.cli.arguments import command_parser, settings_of
from cnnbench.config.composition import as_yaml
from cnnbench.errors import ConfigError, nearest
from cnnbench.runtime.text import legible

PROGRAMS = ("lightning", "mlflow", "tensorboard", "wandb")
"""What can be imported."""


def import_results(words: list[str]) -> int:
    """Carries out `cnnbench import`: writes what another program has logged into a file that `compare` reads."""
    parser = command_parser("import", "Writes what another program has logged into a file that compare reads.")
    places = "tensorboard LOGDIR | lightning DIR | mlflow STORE | wandb FILE.csv"
    parser.add_argument("words", nargs="*", metavar=f"{places}, then metric=NAME,... | out=FILE.parquet or .csv")
    options = parser.parse_args(words)
    settings, rest = settings_of(options.words, ["metric", "out"])
    for word in rest[2:]:
        raise ConfigError(f"{word}: import has no such setting.{nearest(word.partition('=')[0], ['metric', 'out'])}")
    program, place = [*rest, "", ""][:2]
    if program not in PROGRAMS:
        raise ConfigError(f"import {program}: there is no such program.{nearest(program, PROGRAMS)}")
    if not place:
        raise ConfigError(f"import {program}: name the place: {places}.")
    metrics = settings["metric"].split(",") if "metric" in settings else []
    out = Path(settings.get("out", f"{Path(place).expanduser().resolve().stem or program}.parquet")).expanduser()
    if options.cfg:
        print(as_yaml({"program": program, "place": place, "metrics": metrics, "out": str(out)}), end="")
        return 0
    if "out" not in settings and out.exists():
        raise ConfigError(f"{out}: is there already. out={out} replaces it.")
    if out.exists() and out.resolve() == Path(place).expanduser().resolve():
        raise ConfigError(f"out={out}: is the file that is read. Take another name.")
    from cnnbench.results import importing

    table = importing.read(program, place, metrics)
    importing.write(table.frame, out)
    varying = f"; {', '.join(table.varying)} varies" if len(table.varying) == 1 else ""
    varying = f"; {', '.join(table.varying)} vary" if len(table.varying) > 1 else varying
    size = f"{table.frame['run'].n_unique():,} runs, {len(table.frame):,} rows"
    print(legible(f"{out}: {size}; metrics {', '.join(table.metrics)}{varying}"))
    words = ["cnnbench", "compare", str(out)]
    if table.contestants and "," not in "".join(table.contestants):
        words.append(f"contestant={','.join(table.contestants)}")
    words += [f"metric={metric}" for metric in metrics[:1]]
    print(legible(f"Compare them with: {shlex.join(words)}"))
    return 0
