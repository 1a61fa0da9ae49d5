"""A ladder: each rung stands on what was kept below it, and stays if it pays."""

import json
import shlex
from pathlib import Path

import pytest
from conftest import refused
from made_records import made
from scipy.stats import t as student

from cnnbench.analysis import ladder
from cnnbench.analysis.ladder import Ladder, Rung, judge
from cnnbench.config.composition import Job, config_source
from cnnbench.config.schema import Data
from cnnbench.data.images import digits
from cnnbench.errors import ConfigError
from cnnbench.results.decoding import decode
from cnnbench.results.records import Record
from cnnbench.sweeps.ladder import _Climber
from cnnbench.sweeps.run import folder_of

pytestmark = pytest.mark.usefixtures("no_figures")

EXPERIMENT = """\
# @package _global_
name: up
lr: 1.0e-5
ladder:
  rate: [lr=0.01]
  nothing: [optimizer.eps=1e-8]
  harm: [regularizer.l2=10]
  smoothing: [regularizer.label_smoothing=0.1]
hydra:
  mode: MULTIRUN
  sweeper:
    params:
      seed: 0,1,2
"""
UP = "experiment=up --config-dir mine data=digits data.limit=600 batch_size=16 epochs=2"


@pytest.fixture
def mine(here: Path) -> Path:
    path = here / "mine" / "experiment" / "up.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(EXPERIMENT)
    return path


def climbed(here: Path) -> Ladder:
    found = ladder.read(here / "runs" / "up")
    assert found is not None
    return found


def test_judged_by_welchs_test_with_a_share_of_the_error() -> None:
    # Means 0.51 and 0.62, variances 1e-4 and 4e-4: e = sqrt(5e-4 / 3) = 0.01291, t = 8.5206. Welch's degrees of freedom
    # 5^2 / ((1 + 16) / 2) = 2.9412, guarded 2 + 0.9412^2 / 2 = 2.4429.
    pair = judge({0: 0.50, 1: 0.51, 2: 0.52}, {0: 0.60, 1: 0.62, 2: 0.64}, images=1000, rungs=1)
    assert pair.difference == pytest.approx(0.11)
    assert pair.p == pytest.approx(2 * student.sf(8.5206, 2.4429), rel=1e-3)
    assert pair.verdict == "better"
    four = judge({0: 0.50, 1: 0.51, 2: 0.52}, {0: 0.60, 1: 0.62, 2: 0.64}, images=1000, rungs=4)
    assert (four.p, four.verdict) == (pytest.approx(4 * pair.p), "better")
    many = judge({0: 0.50, 1: 0.51, 2: 0.52}, {0: 0.60, 1: 0.62, 2: 0.64}, images=1000, rungs=20)
    assert (many.p, many.verdict) == (pytest.approx(20 * pair.p), "not distinguishable")
    # Two seeds that gain one image of ten alike: no spread is believed to be below a tenth.
    pair = judge({0: 0.6, 1: 0.6}, {0: 0.7, 1: 0.7}, images=10, rungs=1)
    assert pair.verdict == "not distinguishable"


def test_a_rung_stands_on_the_last_one_kept() -> None:
    ladder = Ladder(
        [Rung("start", [], ["a"], True), Rung("+ b", ["x=1"], ["b"], True), Rung("+ c", ["y=1"], ["c"], False),
         Rung("+ d", ["z=1"], ["d"], None), Rung("+ e", [], ["a"], None)]
    )  # fmt: skip
    assert [below and below.name for below in map(ladder.below, range(5))] == [None, "start", "+ b", "+ b", "+ b"]
    assert ladder.top == ["x=1"]
    assert ladder.labels == {"a": "start", "b": "+ b", "c": "+ c", "d": "+ d"}


def test_climbs_and_leaves_out_what_does_not_pay(command, here: Path, mine: Path) -> None:
    listed = command(f"{UP} --dry-run").out.splitlines()
    assert listed[0] == "15 runs"
    assert listed[1:5] == ["start: seed=0", "start: seed=1", "start: seed=2", "rate: lr=0.01 seed=0"]
    assert not (here / "runs").exists()

    result = command(UP)
    assert result.code == 0, result.err
    ladder = climbed(here)
    names = ["start", "+ rate", "+ nothing", "+ harm", "+ smoothing", "top, fresh seeds"]
    assert [rung.name for rung in ladder.rungs] == names
    assert [rung.kept for rung in ladder.rungs][:4] == [True, True, False, False]
    assert "+ harm: validation accuracy -" in result.err
    assert "+ nothing: validation accuracy +0.00 points on + rate, not distinguishable: left out" in result.err
    assert ladder.rungs[2].runs == ladder.rungs[1].runs  # the same experiment, and so not run again
    runs = {path.parent.name: json.loads(path.read_text()) for path in (here / "runs" / "up").glob("*/record.json")}
    assert len(runs) == 15
    for rung in ladder.rungs:
        assert [runs[run_id]["config"]["seed"] for run_id in rung.runs] == ([3, 4, 5] if rung.fresh else [0, 1, 2])
    (last,) = {(runs[i]["config"]["lr"], runs[i]["config"]["regularizer"]["l2"]) for i in ladder.rungs[4].runs}
    assert last == (0.01, 0.0)  # rate is below it, harm isn't

    # Gone on with after a run was lost: that one alone is run again, and nothing is decided otherwise.
    lost = here / "runs" / "up" / ladder.rungs[1].runs[1]
    times = {path: path.stat().st_mtime_ns for path in (here / "runs" / "up").glob("*/record.json")}
    for path in lost.glob("*"):
        path.unlink()
    assert "adam lr=0.01, seed 1: validation" in command(UP).err
    assert climbed(here) == ladder
    again = command(UP).err.splitlines()
    assert sum("already done" in line for line in again) == len(runs)  # each once, though two rungs share theirs
    assert not any(": validation 1" in line for line in again)
    assert {path for path, time in times.items() if path.stat().st_mtime_ns != time} == {lost / "record.json"}

    lines = (here / "runs" / "up" / "comparison.md").read_text().splitlines()
    start = lines.index("### Ladder") + 2
    names, _, *cells = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in lines[start : start + 6]]
    rows = [dict(zip(names, row, strict=True)) for row in cells]
    assert [row["kept"] for row in rows] == ["yes", "yes", "no", rows[3]["kept"]]
    means = [float(row["validation"].rstrip("%")) for row in rows]
    changes = [float(row["change"].split(" [")[0]) for row in rows[1:]]
    assert changes == pytest.approx([means[1] - means[0], means[2] - means[1], means[3] - means[1]], abs=0.011)

    before = (here / "runs" / "up" / "comparison.md").read_bytes()
    assert command("compare runs/up").code == 0
    assert (here / "runs" / "up" / "comparison.md").read_bytes() == before
    (here / "runs" / "up" / "ladder.json").write_text("{")
    torn = command("compare runs/up")
    assert torn.code == 0
    assert "ladder.json: not a whole JSON file" in torn.err


def test_leaves_out_one_ingredient_at_a_time(command, here: Path, mine: Path) -> None:
    text = EXPERIMENT.replace("lr: 1.0e-5", "lr: 0.01").split("ladder:")[0]
    text += 'leave_out: {rate: [lr=1e-5], nothing: [optimizer.eps=1e-8]}\nhydra: {mode: MULTIRUN, sweeper: {params: {seed: "0,1,2"}}}\n'
    mine.with_name("parts.yaml").write_text(text)
    words = UP.replace("experiment=up", "experiment=parts")
    listed = command(f"{words} --dry-run").out.splitlines()
    assert listed[0] == "9 runs"
    assert listed[4] == "without rate: lr=1e-5 seed=0"
    result = command(words)
    assert result.code == 0, result.err
    plan = climbed(here)
    assert [rung.name for rung in plan.rungs] == ["start", "without rate", "without nothing"]
    assert [(rung.without, rung.kept) for rung in plan.rungs] == [(False, True), (True, None), (True, None)]
    assert "without nothing: validation accuracy +0.00 points on start, not distinguishable" in result.err
    lines = (here / "runs" / "up" / "comparison.md").read_text().splitlines()
    start = lines.index("### Left out one at a time") + 2
    names, _, *cells = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in lines[start : start + 4]]
    whole, rate = (dict(zip(names, row, strict=True)) for row in cells)
    assert (whole["recipe"], rate["recipe"], rate["instead"], rate["it pays"]) == (
        "all of them", "without rate", "lr=1e-5", "yes",
    )  # fmt: skip
    lost = float(rate["validation"].rstrip("%")) - float(whole["validation"].rstrip("%"))
    assert float(rate["change"].split(" [")[0].split(" ")[0]) == pytest.approx(lost, abs=0.011)
    assert "### Ladder" not in lines


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("seed=0", "a ladder needs several"),
        ("seed=0,1 optimizer=sgd,adam", "optimizer=sgd: a ladder sweeps over seeds alone"),
        ("ladder=3", "ladder: must be a list of overrides for each name, such as {faster: [lr=0.1]}"),
    ],
)
def test_refuses_other_sweeps(command, here: Path, mine: Path, words: str, says: str) -> None:
    refused(command(f"{UP} {words}"), says, here)


@pytest.mark.parametrize(
    ("rung", "says"),
    [
        ("[optimzer=sgd]", "ladder, x: optimzer=sgd: there is no key 'optimzer'. Did you mean 'optimizer'?"),
        ("[lr=-1]", "ladder, x: lr=-1"),
        ("[data.limit=100]", "ladder, x: data.limit=100: a rung can't change data.limit, only the recipe"),
        ("[name=other]", "ladder, x: name=other: a rung can't change name"),
        ("[seed=5]", "ladder, x: seed: a rung has the start's seeds"),
        ('["seed=1,2,3"]', "ladder, x: seed=1: a rung can't change seed"),
        ('["optimizer=sgd,adam"]', "ladder, x: optimizer=sgd: a rung is no sweep"),
        ("lr=0.1", "experiment/up.yaml: ladder.x: must be a list of overrides"),
        ("[model.kernel_size=0]", "kernel_size"),
    ],
)
def test_refuses_a_rung(command, here: Path, mine: Path, rung: str, says: str) -> None:
    head, tail = EXPERIMENT.split("  rate")[0], EXPERIMENT[EXPERIMENT.index("hydra:") :]
    mine.write_text(f"{head}  x: {rung}\n{tail}")
    refused(command(UP), says, here)


def test_rungs_that_do_not_fit_the_images_are_left_out(command, here: Path, mine: Path) -> None:
    pooled = "  pooled: [model=speed_cnn]\n  colours: [model.whiten=true]\n  rate"  # digits: 8x8, grey
    omitted = "leave_out:\n  pooling: [model=all_cnn_c]\n  slow: [lr=0.02]\nhydra:"
    mine.write_text(EXPERIMENT.replace("  rate", pooled).replace("hydra:", omitted))
    result = command(f"{UP} --dry-run")
    warnings = result.err.splitlines()
    assert [line.split(" (")[0] for line in warnings] == [
        "warning: ladder, pooled: left out, as it doesn't fit the images",
        "warning: ladder, colours: left out, as it doesn't fit the images",
        "warning: leave_out, pooling: left out, as it doesn't fit the images",
    ]
    assert result.out.splitlines()[0] == "18 runs"  # 3 seeds of the start, 4 rungs and an omission
    assert "pool" not in result.out
    mine.write_text(EXPERIMENT.split("  rate")[0] + "  pooled: [model=speed_cnn]\n" + EXPERIMENT.split("0.1]\n")[1])
    assert command(f"{UP} seed=0,1").code == 0
    assert [rung.name for rung in climbed(here).rungs] == ["start"]


def test_a_later_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ladder.json").write_text('{"schema_version": 99, "rungs": []}')
    with pytest.raises(ConfigError, match="schema_version 99"):
        ladder.read(tmp_path)


def test_nothing_was_kept(command, here: Path, mine: Path) -> None:
    mine.write_text(
        EXPERIMENT.replace("  rate: [lr=0.01]\n", "").replace("  smoothing: [regularizer.label_smoothing=0.1]\n", "")
    )
    result = command(f"{UP} seed=0,1")
    assert "nothing was kept" in result.err.splitlines()
    assert "Nothing was kept." in " ".join(result.out.split())
    assert climbed(here).top == []
    lines = [line for line in result.err.splitlines() if ": epoch " not in line]  # of a slow machine
    assert len(lines) == 1 + 1 + 4 + 2 + 1  # data, the number of runs, the runs, two rungs, nothing


def test_a_gain_within_noise_is_left_out(here: Path, mine: Path) -> None:
    mine.write_text(EXPERIMENT.replace("1e-8", "1e-7"))  # the rung has runs of its own
    words = shlex.split(UP.replace("--config-dir mine", ""))
    results = {  # by rung, for seeds 0, 1 and 2; as judged above
        "start": [0.50, 0.51, 0.52],
        "+ rate": [0.50, 0.54, 0.58],  # 3 points more in the mean
        "+ nothing": [0.60, 0.62, 0.64],  # 11 points more, and better
        "+ harm": [0.5, 0.6, 0.7],
        "+ smoothing": [0.80, 0.82, 0.84],
        "top, fresh seeds": [0.80, 0.81, 0.83],
    }
    said: list[str] = []
    with config_source(here / "mine") as composer:

        def jobs_of(added: list[str]) -> list[Job]:
            return composer.jobs([*words, *added], multirun=False)

        climber = _Climber(jobs_of, jobs_of([]), [digits(Data())] * 3)
        climber.folder.mkdir(parents=True)
        due = climber.begin()
        while due:
            now, due = due, []
            accuracies = results[climber.ladder.rungs[-1].name]
            for task, accuracy in zip(now, accuracies, strict=True):
                assert due == []  # the next rung waits for the last seed
                values = made(f"seed={task[0].config.seed}", (accuracy,)) | {"run_id": folder_of(*task).name}
                values["data"]["sizes"]["val"] = 1000
                due = climber.after(decode(Record, values), said.append)
    assert [rung.kept for rung in climber.ladder.rungs] == [True, False, True, False, True, None]
    assert said[0] == "+ rate: validation accuracy +3.00 points on start, not distinguishable: left out"
    assert said[4] == "top, fresh seeds: validation accuracy 81.33%, on seeds that decided nothing"
    assert climber.ladder.rungs[-1].fresh
    assert said[3] == "+ smoothing: validation accuracy +20.00 points on + nothing, better: kept"
