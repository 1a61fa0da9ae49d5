"""Escape codes: none where nothing interprets them, and no colours where a person wants none."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import on_terminal
from made_records import made, write
from rich.console import Console

from cnnbench.config.composition import config_source
from cnnbench.report.tables import Sheet
from cnnbench.report.terminal import print_sheet
from cnnbench.runtime import progress

CNNBENCH = [sys.executable, "-m", "cnnbench"]
CONTROL = re.compile(r"[\x1b\x08]|\r(?!\n)")
COLOUR = re.compile(r"\x1b\[(\d+;)*(3[0-9]|4[0-9]|9[0-7]|10[0-7])(;\d+)*m")
SWEEP = "-m data=digits data.limit=200 epochs=1 logger=none optimizer=sgd,adam"


def terminal(words: str, **environment: str) -> str:
    kept = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR", "TERM")}
    return on_terminal([*CNNBENCH, *words.split()], kept | environment)


def test_bars_are_for_terminals_and_colours_for_those_who_want_them(here: Path) -> None:
    coloured = terminal(SWEEP, TERM="xterm-256color")
    assert COLOUR.search(coloured)
    plain = terminal(f"{SWEEP} force=true", TERM="xterm-256color", NO_COLOR="1")
    assert "\x1b[2K" in plain  # the bar is drawn
    assert "Accuracy" in plain
    assert not COLOUR.search(plain)
    dumb = terminal(f"{SWEEP} force=true", TERM="dumb")
    assert "Accuracy" in dumb
    assert not CONTROL.search(dumb)


@pytest.mark.parametrize("term", ["xterm-256color", "dumb"])
def test_a_pipe_gets_text(command, here: Path, monkeypatch: pytest.MonkeyPatch, term: str) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    trained = command(SWEEP)
    assert "2 runs" in trained.err
    assert not CONTROL.search(trained.out + trained.err)
    run = next(path.parent for path in here.rglob("record.json"))
    for words in (
        "--help", "list", f"show {run}", "compare runs/default", "preview data=digits", f"predict {run} preview.png",
        "tune data=digits data.limit=200 epochs=1 logger=none optimizer=sgd trials=1 seeds=1", "lr=x",
    ):  # fmt: skip
        result = command(words)
        assert result.out + result.err
        assert not CONTROL.search(result.out + result.err), words


def test_a_bar_names_run_epoch_and_validation_accuracy_in_100_columns() -> None:
    for width, rest in (
        (100, "epoch 2/15 val 91.2% loss 0.123 acc 87.0%"),
        (80, "epoch 2/15 val 91.2% loss 0.123"),
        (140, "4,321 images/s"),
    ):
        console = Console(width=width, force_terminal=True, force_interactive=True, no_color=True, file=io.StringIO())
        sweep = progress.Sweep(4, 60)
        sweep._console, sweep.progress = console, progress._progress(console)
        sweep._bar = sweep.progress.add_task("4 runs", total=60)
        line = sweep.line()
        line.start("adam lr=0.01 activation=tanh augment=flip_crop, seed 3", 15)
        line.epoch({"epoch": 1, "val_acc": 0.912, "train_loss": 0.2, "train_acc": 0.8, "images_per_second": 1.0})
        console.print(sweep.progress.get_renderable())
        assert "epoch 1/15 val 91.2% loss 0.200" in console.file.getvalue()
        console.file.truncate(console.file.seek(0))
        line.step(1.5, 0.123, 0.87, 4321.0)
        console.print(sweep.progress.get_renderable())
        total, run = console.file.getvalue().splitlines()[:2]
        assert "seed 3" in run
        assert run.startswith("adam lr=0")
        assert rest in run
        assert re.search(rf"seed 3 .{{{width // 10}}}  10% ", run)
        assert "4 runs" in total


def test_names_of_runs_tell_what_is_swept(here: Path) -> None:
    words = "-m model=resnet20,vgg16_bn optimizer=adam optimizer.eps=1e-8,1e-7 lr=0.1 seed=3,4"
    with config_source(None) as composer:
        jobs = composer.jobs(words.split()[1:], multirun=True)
        (alone,) = composer.jobs(["optimizer=sgd", "lr=0.5"], multirun=False)
        (other,) = composer.jobs(["optimizer._target_=torch.optim.Adamax"], multirun=False)
    assert [job.label for job in jobs[:3]] == [
        "adam resnet20 eps=1e-08, seed 3", "adam resnet20 eps=1e-08, seed 4", "adam resnet20 eps=1e-07, seed 3"
    ]  # fmt: skip
    assert (alone.label, other.label) == ("sgd, seed 0", "Adamax, seed 0")


WORDS = ["contestant", "is", "best validation", "interval", "finds / 10 seeds", "distinguishability"]


@pytest.mark.parametrize("width", [100, 80, 60])
def test_headings_and_numbers_are_never_broken(width: int) -> None:
    rows = [
        ["adam activation=tanh lr=0.001", "not distinguishable", "91.20%", "[-12.34, +56.78]", "1.23 / 0.45", "1,234"]
    ] * 2
    console = Console(width=width, file=io.StringIO())
    print_sheet(console, Sheet("A table", WORDS, rows, "A note.", left=2))
    text = console.file.getvalue()
    shown = [re.sub(r"[│┃]", " ", line).split() for line in text.splitlines()]
    parts = {part for line in shown for part in line}
    assert {"contestant", "validation", "interval", "[-12.34,", "+56.78]", "distinguishable"} <= parts
    assert max(map(len, text.splitlines())) <= width
    assert ("A wider terminal shows more columns" in text) == (width == 60)


def test_without_bars_there_are_lines(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    clock = iter((0.0, 11.0, 11.0))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock, 12.0))
    with progress.Sweep(1, 3) as sweep:
        line = sweep.line()
        line.start("adam-seed0", 3)
        line.epoch({"epoch": 1, "train_loss": 0.5, "val_acc": 0.25, "images_per_second": 100.0, "seconds": 90.0})
    said = capfd.readouterr().err
    assert "adam-seed0: epoch 1/3, training loss 0.500, validation accuracy 25.00%" in said
    assert "100 images/s, about 3 min left" in said  # two more of 90 s each


def test_what_will_be_trained_stands_before_the_training(here: Path) -> None:
    words = "data=digits data.limit=200 batch_size=60 epochs=2 logger=none"
    shown = terminal(words, TERM="xterm-256color")
    told = ["loading images ...", "loading torch ...", " on digits: 180 training, 20 validation, 200 test images",
            "epochs=2, 6 steps in all, on the ", "loading pytorch_lightning ...", "test accuracy"]  # fmt: skip
    places = [shown.find(each) for each in told]
    assert -1 not in places
    assert places == sorted(places)
    again = terminal(words, TERM="xterm-256color")
    assert "already done" in again
    assert "loading torch" not in again
    for words in ("--help", "list"):
        assert "loading" not in terminal(words, TERM="xterm-256color")


@pytest.mark.parametrize("words", ["list", "list --json", "compare runs", "compare --json runs", "--cfg job", "--help"])
def test_a_reader_that_has_seen_enough(here: Path, words: str) -> None:
    write(here / "runs", *(made(f"optimizer=sgd seed={seed}") for seed in (1, 2)))
    shell = f"{' '.join(CNNBENCH)} {words} | head -n 1"
    result = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
    assert result.stdout.count("\n") == 1
    assert result.stderr == ""
    assert (here / "runs" / "report.html").exists() == (words == "compare runs")  # whole, whoever reads the table
