"""The commands that run contestants and tunings again."""

import shlex
from collections import defaultdict
from pathlib import Path

from cnnbench.analysis.comparison import Comparison
from cnnbench.analysis.tuning_results import Tuning
from cnnbench.results.records import Record


def commands_of(comparison: Comparison) -> list[str | None]:
    """For each contestant the command that was typed, with all its seeds; None where its record is too old to tell.

    The rungs of a ladder have one command together: that of the start, which climbs it.
    """
    climbed: set[str] = set()
    if comparison.ladder is not None:
        start, *rungs = comparison.ladder.rungs
        climbed = {run_id for rung in rungs for run_id in rung.runs}.difference(start.runs)
    shown = (c.records for c in comparison.contestants if c.records)
    return [command_of(runs) for runs in shown if runs[0].run_id not in climbed]


def command_of(runs: list[Record]) -> str | None:
    """The command that was typed for these seeds of one setting; None where the first record is too old to tell."""
    run = runs[0]
    if run.overrides is None:
        return None
    seeds = ",".join(str(run.seed) for run in runs)
    overrides = [word for word in run.overrides if not word.startswith("seed=")]
    sweep = ["-m"] if len(runs) > 1 else []
    return _line([*sweep, *overrides, f"seed={seeds}"], run.config_dir, run.python_path)


def fresh_commands(comparison: Comparison) -> list[str]:
    """The commands that run the chosen settings of `by=` with fresh seeds, and compare these runs; else nothing.

    A setting whose record is too old to tell what was typed has none.
    """
    contestants = comparison.contestants
    if not any(c.settings > 1 for c in contestants):
        return []
    first = 1 + max(run.seed for c in contestants for run in c.runs)
    seeds = ",".join(str(first + i) for i in range(max(3, *(len(c.runs) for c in contestants))))
    config = contestants[0].records[0].config
    name = f"{config['name']}_fresh"
    found = []
    for contestant in contestants:
        run = contestant.records[0]
        if run.overrides is not None and not contestant.tunings:
            words = [word for word in run.overrides if not word.startswith(("seed=", "name=", "runs_dir="))]
            where = [f"name={name}", *([f"runs_dir={config['runs_dir']}"] if config["runs_dir"] != "runs" else [])]
            found.append(_line(["-m", *words, f"seed={seeds}", *where], run.config_dir, run.python_path))
    return [*found, shlex.join(["cnnbench", "compare", str(Path(config["runs_dir"], name))])] if found else []


def tune_command(tuning: Tuning) -> str:
    """The command that tunes again."""
    plan = tuning.plan
    values: dict[str, dict[str, None]] = defaultdict(dict)
    for tuned in plan.contestants:
        for word in tuned.words:
            key, _, value = word.partition("=")
            values[key][value] = None
    swept = [f"{key}={','.join(options)}" for key, options in values.items()]
    order = [f"trials={plan.trials}", f"seeds={plan.seeds}", f"sampler={plan.sampler}", f"seed={plan.seed}"]
    order += [f"tunings={plan.tunings}"] if tuning.repeated else []
    order += [f"space={plan.space}"] if plan.space else []
    trials = [trial.record for entry in tuning.entries for trial in entry.trials if trial.record is not None]
    python_path = trials[0].python_path if trials else None
    return _line(["tune", *plan.words, *swept, *order], plan.config_dir, python_path)


def _line(words: list[str], config_dir: str | None, python_path: str | None) -> str:
    """A command as a shell takes it, with the folders in which the user's own configs and classes are found."""
    own = [] if config_dir is None else ["--config-dir", config_dir]
    found = "" if python_path is None else f"PYTHONPATH={shlex.quote(python_path)} "
    return found + shlex.join(["cnnbench", *words, *own])
