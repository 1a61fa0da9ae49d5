"""Tuning: the same number of trials for everyone, the test set closed until the winner is known, nothing repeated."""

import json
import shutil
from pathlib import Path

import pytest

from cnnbench.analysis import tuning
from cnnbench.config.spaces import Axis, grid, space_of
from cnnbench.errors import ConfigError
from cnnbench.results import records

pytestmark = pytest.mark.usefixtures("no_figures")

FAST = "data=digits data.limit=200 epochs=1"


def plan_of(folder: Path) -> tuning.Plan:
    plan = tuning.read(folder)
    assert plan is not None
    return plan


def runs_below(folder: Path) -> dict[str, dict]:
    return {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/record.json")}


def test_trials_then_the_winners(command, here: Path) -> None:
    result = command(f"tune {FAST} optimizer=sgd,adam trials=4 seeds=2 seed=5")
    assert result.code == 0, result.err
    folder = here / "runs" / "tuned"
    plan = plan_of(folder)
    tried, final = runs_below(folder / "trials"), runs_below(folder)
    assert [len(tuned.trials) for tuned in plan.contestants] == [4, 4]
    assert set(tried) == {run_id for tuned in plan.contestants for _, run_id in tuned.trials}
    assert all(run["test"] is None and run["protocol"]["test"] == "closed" for run in tried.values())
    assert all(run["config"]["seed"] == 5 for run in tried.values())
    assert len(final) == 4
    for entry in tuning.ledger(folder, plan):
        accuracies = [tried[trial.run_id]["best"]["val_acc"] for trial in entry.trials]
        assert entry.winner is entry.trials[accuracies.index(max(accuracies))]
        mine = [run for run in final.values() if run["choices"]["optimizer"] == entry.tuned.label]
        assert sorted(run["config"]["seed"] for run in mine) == [6, 7]  # fresh
        assert all(run["config"]["lr"] == entry.winner.params["lr"] for run in mine)
        assert all(run["test"] is not None for run in mine)
        assert all(
            0.003 <= p["lr"] <= 3 if entry.tuned.label == "sgd" else 3e-5 <= p["lr"] <= 0.03
            for p, _ in entry.tuned.trials
        )
    # The same points of both spaces: sgd's is adam's times 100.
    sgd, adam = ([params["lr"] for params, _ in tuned.trials] for tuned in plan.contestants)
    assert sgd == pytest.approx([100 * lr for lr in adam], rel=1e-3)
    markdown = (folder / "comparison.md").read_text()
    assert all(run_id in markdown for run_id in tried)
    assert "| sgd | lr 0.003 to 3 (log) |" in markdown
    assert "sampler=random" in markdown  # in place of a budget curve, which holds for it alone
    assert "tunings=3 repeats the tuning" in result.out

    before = {path: path.stat().st_mtime_ns for path in folder.rglob("record.json")}
    assert command(f"tune {FAST} optimizer=sgd,adam trials=4 seeds=2 seed=5").code == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("record.json")} == before

    # A trial that was lost is run again, more trials are added to those that there are.
    lost = next(iter(tried))
    shutil.rmtree(folder / "trials" / lost)
    assert command(f"tune {FAST} optimizer=sgd,adam trials=5 seeds=2 seed=5").code == 0
    more = plan_of(folder)
    assert [tuned.trials[:4] for tuned in more.contestants] == [tuned.trials for tuned in plan.contestants]
    again = runs_below(folder / "trials")
    assert len(again) == 10
    assert again[lost]["best"] == tried[lost]["best"]

    for words, expected in (
        ("trials=3", "has 5 already"),
        ("trials=5 sampler=tpe", "sampler=quasi_random"),
        ("trials=5 seed=6", "seed=5"),
        ("trials=5 epochs=2", "another config"),
        ("trials=5 lr=0.1", "nothing is left to tune"),
        ("trials=5 force=true", "force=true"),
    ):
        extra = "" if "seed=" in words else " seed=5"
        refused = command(f"tune {FAST} optimizer=sgd,adam seeds=2 {words}{extra}")
        assert (refused.code, refused.err.count("\n")) == (2, 1), refused.err
        assert expected in refused.err


def test_the_tuning_repeated(command, here: Path) -> None:
    words = f"tune {FAST} logger=none optimizer=sgd,adam trials=2 seeds=1 sampler=random seed=5"
    assert command(words).code == 0
    folder = here / "runs" / "tuned"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("record.json")}
    assert len(before) == 6  # (2 trials + 1 fresh seed) of both
    first = plan_of(folder)

    assert command(f"{words} tunings=3 workers=2").code == 0
    plan = plan_of(folder)
    assert {path: path.stat().st_mtime_ns for path in before} == before  # nothing was done again
    assert plan.contestants[:2] == first.contestants
    assert [(tuned.label, tuned.tuning, len(tuned.trials)) for tuned in plan.contestants] == [
        (label, number, 2) for number in (1, 2, 3) for label in ("sgd", "adam")
    ]
    tried, final = runs_below(folder / "trials"), runs_below(folder)
    seeds = {
        (tried[run_id]["config"]["seed"], tuned.tuning) for tuned in plan.contestants for _, run_id in tuned.trials
    }
    assert seeds == {(5, 1), (1005, 2), (2005, 3)}
    assert len({params["lr"] for tuned in plan.contestants for params, _ in tuned.trials}) == 12  # draws of its own
    assert sorted(run["config"]["seed"] for run in final.values()) == [6, 6, 1006, 1006, 2006, 2006]

    compared = command("compare --json runs/tuned")
    (comparison,) = json.loads(compared.out)["comparisons"]
    (pair,) = comparison["pairs"]
    assert pair["seeds"] == [3, 3]
    assert {c["label"]: c["tunings"] for c in comparison["contestants"]} == {
        label: {"1": [6], "2": [1006], "3": [2006]} for label in ("sgd", "adam")
    }
    refused = command(f"{words} tunings=2")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "tunings=2: runs/tuned has 3 already. Take at least that many." in refused.err


def test_a_plan_of_version_1(command, here: Path) -> None:
    assert command(f"tune {FAST} logger=none optimizer=sgd trials=1 seeds=1").code == 0
    path = here / "runs" / "tuned" / "tuning.json"
    plan = json.loads(path.read_text())
    assert plan["schema_version"] == 2
    for tuned in plan["contestants"]:
        del tuned["tuning"]
    path.write_text(json.dumps(plan | {"schema_version": 1}))
    assert command(f"tune {FAST} logger=none optimizer=sgd trials=1 seeds=1").err.count("already done") == 1
    assert json.loads(path.read_text())["schema_version"] == 2


def test_tpe_learns_from_what_has_ended(command, here: Path) -> None:
    (here / "mine" / "space").mkdir(parents=True)
    (here / "mine" / "space" / "two.yaml").write_text("lr: {low: 1.0e-4, high: 0.1, log: true}\nbatch_size: [20, 50]\n")
    words = f"tune {FAST} optimizer=adam,adamw sampler=tpe trials=4 seeds=1 space=two name=t --config-dir mine"
    result = command(words)
    assert result.code == 0, result.err
    plan = plan_of(here / "runs" / "t")
    assert "space=two" in (here / "runs" / "t" / "report.html").read_text()
    for tuned in plan.contestants:
        assert all(params["batch_size"] in (20, 50) for params, _ in tuned.trials)
        assert len({params["lr"] for params, _ in tuned.trials}) == 4
    sizes = {run["config"]["batch_size"] for run in runs_below(here / "runs" / "t" / "trials").values()}
    assert sizes <= {20, 50}
    # Trial 4 rests on the records of trials 1 to 3: asked again with the same ones it is the same.
    for tuned in plan.contestants:
        tuned.trials.pop()
    plan.write(here / "runs" / "t")
    expected = set(runs_below(here / "runs" / "t" / "trials"))
    assert command(words).code == 0
    assert set(runs_below(here / "runs" / "t" / "trials")) == expected


def test_a_diverged_trial_is_data(command, here: Path) -> None:
    (here / "mine" / "space").mkdir(parents=True)
    (here / "mine" / "space" / "wild.yaml").write_text("lr: {low: 1.0e-2, high: 1.0e+30, log: true}\n")
    result = command(f"tune {FAST} optimizer=sgd sampler=grid trials=3 seeds=1 space=wild --config-dir mine")
    assert result.code == 0, result.err
    folder = here / "runs" / "tuned"
    (entry,) = tuning.ledger(folder, plan_of(folder))
    assert [trial.params["lr"] for trial in entry.trials] == [0.01, 1e14, 1e30]
    assert [trial.status for trial in entry.trials] == ["done", "diverged", "diverged"]
    assert entry.winner is entry.trials[0]
    assert entry.edges == ["lr"]
    assert "on the edge: lr" in result.out
    assert "3 trials for each contestant" in result.out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("optimizer=sgd,adamm", "Did you mean 'adam'?"),
        ("sampler=tpee", "sampler=tpee: there is no such sampler. Did you mean 'tpe'?"),
        ("trials=0", "trials=0: must be a whole number at least 1."),
        ("seeds=two", "seeds=two: must be a whole number from 1 to 999."),
        ("tunings=0", "tunings=0: must be a whole number at least 1."),
        ("seed=0,1", "seeds=N"),
        ("space=sdg", "space=sdg: there is no such space. Did you mean 'sgd'?"),
        ("lr=0.1", "nothing is left to tune"),
        ("sampler=grid trials=4 space=both --config-dir mine", "Near: 2, 4"),
        ("space=up --config-dir mine", "space/up.yaml: lr={'low': 2, 'high': 1}: low must be below high."),
        ("space=odd --config-dir mine", "batch_size=0.5: must be a whole number."),
    ],
)
def test_bad_words(command, here: Path, words: str, expected: str) -> None:
    space = here / "mine" / "space"
    space.mkdir(parents=True)
    (space / "up.yaml").write_text("lr: {low: 2, high: 1}\n")
    (space / "odd.yaml").write_text("batch_size: {low: 0.5, high: 2.5}\n")
    (space / "both.yaml").write_text("batch_size: [20, 50]\nlr: {low: 0.1, high: 1}\n")
    if "Near" in expected:
        words = words.replace("trials=4", "trials=3")
    result = command(f"tune data=digits {words}")
    assert (result.code, result.err.count("\n")) == (2, 1), result.err
    assert expected in result.err
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (None, "holds no keys"),
        ({"lr": 0.1}, "must be {low: .., high: ..} or a list"),
        ({"lr": [1]}, "at least two values"),
        ({"lr": {"low": 0.1, "high": 1, "lgg": True}}, "Did you mean 'log'?"),
        ({"lr": {"low": 0, "high": 1, "log": True}}, "above 0"),
        ({"lr": {"low": "a", "high": 1}}, "low must be below high"),
    ],
)
def test_spaces_that_are_none(written, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected.replace("?", r"\?").replace("..", r"\.\.")):
        space_of("space/x.yaml", written)


def test_grids_by_hand() -> None:
    assert Axis(1e-3, 1e-1, log=True).points(3) == [0.001, 0.01, 0.1]
    assert Axis(0.0, 1.0).points(3) == [0.0, 0.5, 1.0]
    assert Axis(1, 4).points(4) == [1, 2, 3, 4]
    space = {"lr": Axis(0.1, 1.0), "batch_size": Axis(choices=(32, 64))}
    assert list(grid(space, 4)) == [
        {"lr": 0.1, "batch_size": 32}, {"lr": 0.1, "batch_size": 64}, {"lr": 1.0, "batch_size": 32}, {"lr": 1.0, "batch_size": 64},
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="Near: 2, 4, 6"):
        grid(space, 5)


def test_a_damaged_plan_is_named(command, here: Path) -> None:
    (here / "runs" / "tuned").mkdir(parents=True)
    (here / "runs" / "tuned" / "tuning.json").write_text('{"schema_version": 1, "contestants": [')
    result = command(f"tune {FAST} trials=1")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "tuning.json: not a whole JSON file" in result.err
    assert records.find(here / "runs") == []
    assert command(f"{FAST} name=tuned").code == 0
    compared = command("compare runs/tuned")
    assert compared.code == 0
    assert "left out: runs/tuned/tuning.json: not a whole JSON file" in compared.err
