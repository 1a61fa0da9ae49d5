"""One answer over many problems, with numbers worked out by hand."""

import json
import math
from pathlib import Path

import polars as pl
import pytest

from cnnbench.analysis.frames import compare_frame, suite_of
from cnnbench.analysis.suite import Suite

MEANS = {
    "one": {"a": 0.9, "b": 0.8, "c": 0.7},
    "two": {"a": 0.6, "b": 0.5, "c": 0.7},
    "three": {"a": 0.4, "b": 0.4, "c": 0.3},
}


def frame(means: dict[str, dict[str, float]] = MEANS) -> pl.DataFrame:
    """Three seeds each, 0.01 apart; epoch e has e / 4 of the last one's accuracy."""
    return pl.DataFrame(
        [
            {"problem": problem, "optimizer": name, "seed": s, "epoch": e, "acc": e / 4 * (mean + 0.01 * (s - 1))}
            for problem, of in means.items() for name, mean in of.items() for s in range(3) for e in (1, 2, 3, 4)
        ]
    )  # fmt: skip


def suite(means: dict[str, dict[str, float]] = MEANS, **options) -> Suite:
    found = suite_of(compare_frame(frame(means), **options))
    assert found is not None
    return found


def test_mean_ranks_and_their_interval() -> None:
    found = suite()
    assert found.names == ["one", "three", "two"]
    assert found.ranks == {"a": [1, 1.5, 2], "b": [2, 1.5, 3], "c": [3, 3, 1]}  # equal results share their ranks
    assert found.labels == ["a", "b", "c"]
    assert found.mean_rank("a") == pytest.approx(1.5)
    # t(0.975; 2) = 4.3027, standard deviation 0.5: 1.5 -+ 4.3027 * 0.5 / sqrt(3) = 0.258, cut off at 1, and 2.742
    assert found.interval("a") == pytest.approx((1.0, 2.742), abs=1e-3)


def test_verdicts_are_counted_and_share_five_percent() -> None:
    found = suite()
    # All pairs are 10 standard deviations apart but a and b on problem three, which are equal.
    assert found.counts["a"] == {"better": 4, "worse": 1, "neither": 1}
    assert found.counts["b"] == {"better": 2, "worse": 3, "neither": 1}
    assert found.counts["c"] == {"better": 2, "worse": 4, "neither": 0}
    assert "it is better than another contestant in 4 of 6 comparisons and worse in 1." in found.verdict
    close = {problem: {"a": 0.9, "b": 0.873} for problem in ("one", "two", "three", "four")}
    (one, *_), many = compare_frame(frame(close)), suite(close)
    assert one.pairs[0].verdict == "better"  # alone it would be: p is between 5 % / 4 and 5 %
    assert 0.05 / 4 < one.pairs[0].p < 0.05
    assert many.counts["a"] == {"better": 0, "worse": 0, "neither": 4}


def test_what_one_problem_changes() -> None:
    found = suite()
    assert found.leaders_without == {"one": "a", "three": "a", "two": "a"}
    assert found.verdict.endswith("It leads whichever problem is left out.")
    other = suite({"one": {"a": 0.9, "b": 0.8}, "two": {"a": 0.5, "b": 0.6}, "three": {"a": 0.9, "b": 0.8}})
    assert other.leaders_without == {"one": "a", "two": "a", "three": "a"}
    few = suite({"one": {"a": 0.9, "b": 0.8, "c": 0.1}, "two": {"a": 0.5, "b": 0.6, "c": 0.55}})
    assert few.ranks == {"a": [1, 3], "b": [2, 1], "c": [3, 2]}
    assert few.verdict.endswith("This rests on single problems: a would lead without two.")


def test_performance_profile() -> None:
    found = suite(targets=[0.4])
    # Epochs until 0.4, medians: one 2, 2, 3 (0.35 after 2); two 3, 4, 3; three 4, 4, never.
    assert found.costs == {"a": [2, 4, 3], "b": [2, 4, 4], "c": [3, math.inf, 3]}
    assert [found.solved("a", factor) for factor in (1, 2)] == [1, 1]
    assert [found.solved("b", factor) for factor in (1, 4 / 3)] == pytest.approx([2 / 3, 1])
    assert [found.solved("c", factor) for factor in (1, 1.5, math.inf)] == pytest.approx([1 / 3, 2 / 3, 2 / 3])


def test_contestants_that_a_problem_lacks() -> None:
    found = suite({"one": {"a": 0.9, "b": 0.8, "c": 0.7}, "two": {"a": 0.6, "b": 0.5}})
    assert (found.labels, found.left_out) == (["a", "b"], ["c"])
    assert suite_of(compare_frame(frame({"one": {"a": 0.9, "b": 0.8}}))) is None


def test_all_outputs_have_it(command, here: Path) -> None:
    frame().write_csv("a.csv")
    shown = command("compare a.csv target=0.4").out
    assert "Over 3 problems a has the best mean rank, 1.50 of 3" in shown
    out = here / "compared" / "a.csv_target=0.4"
    assert (out / "profile.png").exists()
    for name in ("report.html", "comparison.md", "comparison.tex"):
        assert "Over all problems" in (out / name).read_text()
    facts = json.loads(command("compare a.csv --json").out)["suite"]
    assert [c["mean_rank"] for c in facts["contestants"]] == pytest.approx([1.5, 13 / 6, 7 / 3])
