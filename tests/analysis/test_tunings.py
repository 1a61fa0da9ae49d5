"""The tuning as the unit of the verdicts, on records written by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from made_records import made, write

from cnnbench.analysis.comparison import Comparison
from cnnbench.analysis.grouping import compare
from cnnbench.analysis.loading import load, load_tuning
from cnnbench.analysis.tuning import FOLDER, Plan, Tuned
from cnnbench.analysis.tuning_results import Tuning
from cnnbench.config.spaces import Axis
from cnnbench.errors import ConfigError

TEST = {("adam", 1): (0.70, 0.72), ("adam", 2): (0.60, 0.64), ("sgd", 1): (0.50, 0.52), ("sgd", 2): (0.54, 0.56)}
"""Test accuracies of the winner's two fresh seeds, by contestant and number of the tuning."""

WON = {1: 0.01, 2: 0.001}
"""The learning rate that wins in each tuning."""


def tuned(here: Path, sampler: str = "random", lost: tuple[tuple[str, int], ...] = ()) -> Path:
    """A folder as `tune tunings=2 trials=2 seeds=2 seed=5` leaves it; in the `lost` tunings every trial diverged."""
    folder, contestants = here / "runs", []
    for (name, number), accuracies in TEST.items():
        first, trials = 5 + 1000 * (number - 1), []
        for lr in WON.values():
            words = f"optimizer={name} lr={lr} seed={first}"
            broken = (name, number) in lost
            trial = made(words, () if broken else (0.8 if lr == WON[number] else 0.3,), **{"status": "diverged"} if broken else {})  # fmt: skip
            write(folder / FOLDER, trial)
            trials.append(({"lr": lr}, trial["run_id"]))
        if not broken:
            for seed, accuracy in enumerate(accuracies, first + 1):
                write(folder, made(f"optimizer={name} lr={WON[number]} seed={seed}", (0.4, 0.8), accuracy))
        contestants.append(Tuned(name, [f"optimizer={name}"], {"lr": Axis(1e-4, 1.0, True)}, trials, number))
    contestants.sort(key=lambda each: each.tuning)
    Plan(sampler, 2, 2, 5, ["data=digits", "name=t"], contestants).write(folder)
    return folder


def compared(folder: Path, target: float | None = None) -> tuple[Comparison, Tuning]:
    tuning = load_tuning(folder)
    assert tuning is not None
    (comparison,) = compare(load([folder]), targets=[] if target is None else [target], tuning=tuning)
    return comparison, tuning


def test_a_tuning_counts_once(here: Path) -> None:
    folder = tuned(here)
    write(folder, made("optimizer=adam lr=0.5 seed=6", (0.9,), 0.99))  # of a setting that is no winner any more
    write(folder, made("optimizer=adam lr=0.01 seed=1006", (0.9,), 0.99))  # tuning 2 found another winner
    comparison, _ = compared(folder)
    samples = {c.label: c.samples("test_acc") for c in comparison.contestants}
    assert samples == {
        "adam": {1: pytest.approx(0.71), 2: pytest.approx(0.62)}, "sgd": {1: pytest.approx(0.51), 2: pytest.approx(0.55)}
    }  # fmt: skip
    (pair,) = comparison.pairs
    assert (pair.first, pair.second, pair.seeds) == ("adam", "sgd", (2, 2))
    assert pair.difference == pytest.approx(0.665 - 0.53)
    # A = 0.09^2 / 2 / 2, B = 0.04^2 / 2 / 2, e = sqrt(A + B), f = (A + B)^2 / (A^2 + B^2) = 1.38, guarded 1 + 0.38^2.
    assert pair.freedom == pytest.approx(1.14458, abs=1e-4)
    assert pair.spreads == pytest.approx((0.00405**0.5, 0.0008**0.5))
    # Student's t with one degree of freedom: 0.665 +- 12.7062 * 0.045
    assert comparison.contestants[0].interval("test_acc") == pytest.approx((0.665 - 12.7062 * 0.045, 1.0), abs=1e-4)
    assert "tuned 2 times" in comparison.verdict


def test_one_tuning_is_as_before(here: Path) -> None:
    folder = tuned(here)
    tuning = load_tuning(folder)
    assert tuning is not None
    once = replace(tuning.plan, contestants=[each for each in tuning.plan.contestants if each.tuning == 1])
    (comparison,) = compare(load([folder]), tuning=Tuning(once, tuning.entries[:2]))
    assert {c.label: c.samples("test_acc") for c in comparison.contestants}["adam lr=0.01"] == {6: 0.70, 7: 0.72}
    assert comparison.verdict.endswith("not for the contestants in general; tunings=3 repeats the tuning.")


def test_a_tuning_without_any_trained_network_counts_as_chance(here: Path) -> None:
    comparison, _ = compared(tuned(here, lost=(("adam", 2),)))
    assert {c.label: c.samples("test_acc") for c in comparison.contestants} == {
        "adam": {1: pytest.approx(0.71), 2: 0.5}, "sgd": {1: pytest.approx(0.51), 2: pytest.approx(0.55)}
    }  # fmt: skip
    (pair,) = comparison.pairs
    assert (pair.first, pair.second) == ("sgd", "adam")  # on validation 0.8 against (0.8 + 0.5) / 2
    assert pair.difference == pytest.approx(0.53 - (0.71 + 0.5) / 2)
    assert "Of adam, 1 of 2 tunings found no setting that trains; it counts as chance." in comparison.verdict


def test_costs_and_failures_by_tuning(here: Path) -> None:
    folder = tuned(here)
    for path in folder.glob("adam-lr0.01-seed*/record.json"):  # both runs of its first tuning reach nothing
        found = json.loads(path.read_text())
        path.write_text(json.dumps(found | {"status": "diverged", "test": None, "error": "broken"}))
    comparison, _ = compared(folder, target=0.8)
    costs = {c.label: sorted(c.cost_samples("epochs", 0.8)) for c in comparison.contestants}
    assert costs == {"adam": [2.0, float("inf")], "sgd": [2.0, 2.0]}
    assert comparison.contestants[0].label == "sgd"  # adam: (0.5 + 0.8) / 2 on validation
    assert comparison.failures == []


def test_no_winner_has_been_run_yet(here: Path) -> None:
    folder = tuned(here)
    alien = load([write(here / "other", made("optimizer=adam lr=0.5 seed=6"))])
    with pytest.raises(ConfigError, match="no winner of the tuning has been run"):
        compare(alien, tuning=load_tuning(folder))


def test_the_budget_curve_is_of_random_trials_alone(here: Path) -> None:
    _, tuning = compared(tuned(here))
    # Four trials of adam, 0.8 0.3 0.3 0.8: the best of two is 0.3 in one of six pairs.
    assert tuning.curves["adam"] == pytest.approx([0.55, 0.8 - 0.5 / 6, 0.8, 0.8])
    assert tuning.flips == "With one trial adam leads, and with any other number of trials too."
    sobol = Tuning(replace(tuning.plan, sampler="quasi_random"), tuning.entries)
    assert sobol.curves == {}
    assert "sampler=random" in sobol.flips


def test_no_two_tunings_share_a_training_seed() -> None:
    once = Tuned("sgd", [], {})
    plan = Plan("random", 2, 999, 5, [], [replace(once, tuning=k) for k in (1, 2, 3)])
    used = [plan.first_seed(k) + i for k in (1, 2, 3) for i in range(plan.seeds + 1)]
    assert used[0] == 5
    assert len(set(used)) == len(used) == 3000
    assert [plan.tuning_of(seed) for seed in (5, 6, 1004, 1005, 2004, 2005)] == [1, 1, 1, 2, 2, 3]
