"""The commands of a report: what was typed gives the same runs again."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import all_records
from made_records import made, write

from cnnbench.analysis.grouping import compare
from cnnbench.analysis.loading import load, load_ladder, load_tuning
from cnnbench.config.composition import Composer, config_source
from cnnbench.config.targets import python_path
from cnnbench.report.commands import commands_of, fresh_commands, tune_command
from cnnbench.results import identity

pytestmark = pytest.mark.usefixtures("no_figures")

DIGITS = "data=digits data.limit=60 data.val_fraction=0.2 batch_size=10 logger=none epochs=1"


def commands(folder: Path) -> list[str | None]:
    return [command for table in compare(load([folder]), ladder=load_ladder(folder)) for command in commands_of(table)]


def ids(composer: Composer, command: str, fingerprint: str) -> set[str]:
    """The runs that a command is for."""
    words = shlex.split(command)[1:]
    overrides = [word for word in words if word != "-m"]
    jobs = composer.jobs(overrides, multirun="-m" in words)
    return {identity.run_id(job.config, job.choices["optimizer"], fingerprint) for job in jobs}


def test_an_experiment_s_contestants_each_have_their_own(command, here: Path) -> None:
    assert command(f"experiment=quickstart {DIGITS} optimizer=sgd,adam seed=0,1 'optimizer.lr=0.1,0.2'").code == 0
    found = commands(here / "runs" / "quickstart")
    head = f"cnnbench -m experiment=quickstart {DIGITS}"
    assert sorted(found) == [
        f"{head} optimizer={name} optimizer.lr={lr} seed=0,1" for name in ("adam", "sgd") for lr in (0.1, 0.2)
    ]
    runs = load([here / "runs" / "quickstart"])
    with config_source(None) as composer:
        again = [ids(composer, text, runs[0].data.fingerprint) for text in found]
    assert [len(each) for each in again] == [2, 2, 2, 2]
    assert set.union(*again) == {run.run_id for run in runs}


def test_own_configs_and_lists_are_told(command, here: Path) -> None:
    (here / "my own" / "optimizer").mkdir(parents=True)
    (here / "my own" / "optimizer" / "mine.yaml").write_text("_target_: torch.optim.SGD\nlr: 0.1\n")
    assert (
        command(
            f"{DIGITS} optimizer=mine augment=[flip_crop,cutout] +optimizer.nesterov=false --config-dir 'my own'"
        ).code
        == 0
    )
    (found,) = commands(here / "runs" / "default")
    assert found == (
        f"cnnbench {DIGITS} optimizer=mine 'augment=[flip_crop,cutout]' optimizer.nesterov=false seed=0 "
        "--config-dir 'my own'"
    )
    assert command(found.removeprefix("cnnbench ")).err.count("already done") == 1


def test_records_of_version_1_have_none(command, here: Path) -> None:
    old = made("optimizer=adam")
    del old["overrides"]
    write(here / "runs", old | {"schema_version": 1}, made("optimizer=sgd"))
    assert sorted(commands(here / "runs"), key=str) == [None, "cnnbench data=digits optimizer=sgd seed=0"]
    assert command("compare runs").code == 0
    assert "too many: 1. Their configs are above." in (here / "runs" / "report.html").read_text()


def test_a_ladder_has_one_command(command, here: Path) -> None:
    start, rung = ([made(f"{words} seed={seed}") for seed in (0, 1)] for words in ("lr=0.1", "lr=0.1 epochs=7"))
    folder = write(here / "runs", *start, *rung)
    rungs = [
        {"name": name, "words": [], "runs": [run["run_id"] for run in runs], "kept": True}
        for name, runs in (("start", start), ("+ longer", rung))
    ]
    (folder / "ladder.json").write_text(json.dumps({"schema_version": 1, "rungs": rungs}))
    assert commands(folder) == ["cnnbench -m data=digits lr=0.1 seed=0,1"]
    assert command("compare runs").code == 0
    assert "without a command" not in (folder / "report.html").read_text()


def test_settings_chosen_on_these_runs(command, here: Path) -> None:
    chosen = [
        made(f"optimizer=adam lr={lr} seed={seed} name=tried", (best + 0.01 * seed,), best + 0.01 * seed)
        for lr, best in ((0.1, 0.5), (0.01, 0.8))
        for seed in (0, 1, 2, 3)
    ]
    alone = [made(f"optimizer={name} seed={seed} name=tried", (0.1,), 0.1 + 0.01 * seed) for name in ("sgd", "momentum") for seed in (0, 1, 2, 3)]  # fmt: skip
    folder = write(here / "runs" / "tried", *chosen, *alone)
    runs = load([folder])
    (comparison,) = compare(runs, by="optimizer")
    head = "cnnbench -m data=digits optimizer="
    fresh = [f"{head}{name} seed=4,5,6,7 name=tried_fresh" for name in ("adam lr=0.01", "momentum", "sgd")]
    fresh.append("cnnbench compare runs/tried_fresh")
    assert fresh_commands(comparison) == fresh
    assert fresh_commands(compare(runs)[0]) == []
    result = command("compare runs/tried by=optimizer out=runs/tried")
    assert result.code == 0
    assert all(line in result.out.splitlines() for line in fresh)
    assert "it is better (chosen on these runs) than" in result.out
    assert "beyond noise" not in result.out
    markdown = (folder / "comparison.md").read_text()
    assert markdown.count("| better (chosen on these runs) |") == 2
    assert "| momentum | not distinguishable | sgd |" in markdown
    assert f"    {fresh[0]}\n" in markdown
    assert fresh[0] in (folder / "report.html").read_text()
    pairs = json.loads(command("compare --json runs/tried by=optimizer").out)["comparisons"][0]["pairs"]
    assert [(pair["verdict"], pair["chosen_on_these_runs"]) for pair in pairs] == [
        ("better", True), ("better", True), ("not distinguishable", False)
    ]  # fmt: skip
    assert "chosen on these runs" not in command("compare runs/tried").out


def test_a_tuning_has_its_own(command, here: Path) -> None:
    (here / "mine" / "space").mkdir(parents=True)
    (here / "mine" / "space" / "two.yaml").write_text("lr: [0.1, 0.2]\n")
    words = f"tune {DIGITS} name=t optimizer=sgd,adam trials=2 seeds=1 sampler=grid seed=4 tunings=2 space=two --config-dir mine"
    assert command(words).code == 0
    tuning = load_tuning(here / "runs" / "t")
    assert tuning is not None
    assert tune_command(tuning) == f"cnnbench {words}"


MINE = """\
import torch


class Mine(torch.optim.SGD):
    def __init__(self, params, lr: float = 0.1) -> None:
        super().__init__(params, lr=lr)
"""


def pasted(lines: list[str], here: Path) -> str:
    """What a shell says to these lines, in which `cnnbench` is the program, as it is installed."""
    (here / "bin").mkdir()
    program = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r}); import cnnbench.cli as c; sys.exit(c.main())"
    (here / "bin" / "cnnbench").write_text(f'#!/bin/sh\nexec {sys.executable} -P -c {shlex.quote(program)} "$@"\n')
    (here / "bin" / "cnnbench").chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["PATH"] = f"{here / 'bin'}:{environment['PATH']}"
    script = "\n".join(["set -e", *lines])
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_lines_run_when_they_are_pasted(command, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, configs = here / "my code", here / "my own" / "optimizer"
    code.mkdir()
    configs.mkdir(parents=True)
    (code / "pasted_optimizer.py").write_text(MINE)
    (configs / "mine.yaml").write_text("_target_: pasted_optimizer.Mine\nlr: 0.1\n")
    monkeypatch.setenv("PYTHONPATH", "my code")
    monkeypatch.syspath_prepend(code)
    assert command(f"-m {DIGITS} optimizer=mine,sgd seed=0,1 'name=a name' --config-dir 'my own'").code == 0
    assert command(f"tune {DIGITS} optimizer=mine trials=1 seeds=1 name=tried --config-dir 'my own'").code == 0
    mine, plain = sorted(commands(here / "runs" / "a name"), key=lambda line: "sgd" in line)
    assert mine == (
        f"PYTHONPATH='my code' cnnbench -m {DIGITS} 'name=a name' optimizer=mine seed=0,1 --config-dir 'my own'"
    )
    assert plain.startswith("cnnbench -m ")
    shown = command("show 'runs/a name/mine-lr0.1-seed1'").out.splitlines()
    assert shown[-2] == "How to run it again"
    tuning = load_tuning(here / "runs" / "tried")
    assert tuning is not None
    before = all_records(here / "runs")
    said = pasted([mine, shown[-1], tune_command(tuning)], here)
    assert all_records(here / "runs") == before
    assert said.count("already done") == 2 + 1 + 1


@pytest.mark.parametrize(
    ("target", "path"),
    [("torch.optim.Adam", None), ("here_alone.Mine", "."), ("nowhere.Mine", None), ("sys.x", None), ("cnnbench.models.PlainCNN", None)],
)  # fmt: skip
def test_the_path_that_a_config_needs(
    here: Path, monkeypatch: pytest.MonkeyPatch, target: str, path: str | None
) -> None:
    (here / "here_alone").mkdir()  # without an __init__.py
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    monkeypatch.syspath_prepend(here)
    assert python_path({"callbacks": {"mine": {"a": [{"_target_": target}]}}}) == path
    monkeypatch.setenv("PYTHONPATH", f"elsewhere:{here}")
    assert python_path({"model": {"_target_": target}}) == (path and f"elsewhere:{here}")
