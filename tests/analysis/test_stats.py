"""Intervals, tests and verdicts: by hand, from the literature, and on records whose truth is known."""

import math

import numpy as np
import pytest

from cnnbench.analysis import stats
from cnnbench.analysis.stats import expected_best, holm, interval, leaders, verdicts


def test_holm_by_hand() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, never falling: 0.02, 0.03, 0.06, 0.06.
    corrected, level = holm(np.array([0.01, 0.04, 0.03, 0.005]))
    assert corrected == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert level == pytest.approx([0.05 / 3, 0.05, 0.05 / 2, 0.05 / 4])
    assert holm(np.array([0.01, 0.04]), family=10)[0] == pytest.approx([0.1, 0.36])


def test_student_s_sleep_data() -> None:
    # Student 1908, table I: paired t = -4.0621 with 9 degrees of freedom, p = 0.00283, interval -2.46 to -0.70.
    dextro = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    laevo = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    (pair,) = verdicts({"d": dict(enumerate(dextro)), "l": dict(enumerate(laevo))})
    assert (pair.first, pair.second, pair.seeds, pair.verdict) == ("d", "l", 10, "worse")
    assert pair.difference == pytest.approx(-1.58)
    assert pair.p == pytest.approx(0.002833, abs=1e-6)
    assert pair.interval == pytest.approx((-2.4598858, -0.7001142))
    assert pair.seeds_needed is None


def test_seeds_needed() -> None:
    # Differences 0, 1, 2: mean 1, deviation 1. At an effect of 1 a paired t-test of 5 % has a power of 80 % from 10 pairs
    # on (Cohen 1988, table 2.4.1).
    (pair,) = verdicts({"a": {0: 0.0, 1: 1.0, 2: 2.0}, "b": dict.fromkeys(range(3), 0.0)})
    assert (pair.verdict, pair.seeds_needed) == ("not distinguishable", 10)


def test_what_can_not_be_said() -> None:
    assert interval([0.5]) is None
    assert interval([]) is None
    (alone,) = verdicts({"a": {0: 0.9}, "b": {0: 0.1}})
    assert (alone.difference, alone.interval, alone.p, alone.verdict) == (
        pytest.approx(0.8),
        None,
        None,
        "not distinguishable",
    )
    (nothing,) = verdicts({"a": {0: 0.9, 1: 0.9}, "b": {2: 0.1, 3: 0.1}})
    assert (nothing.seeds, nothing.difference) == (0, None)
    (same,) = verdicts({"a": {0: 0.9, 1: 0.8}, "b": {0: 0.9, 1: 0.8}})
    assert (same.p, same.verdict, same.seeds_needed) == (1.0, "not distinguishable", None)


def test_two_equal_differences_are_no_certainty() -> None:
    # One of 355 test images more, twice: without a floor the spread would be 0 and p too.
    pair = {"a": {0: 0.5 + 1 / 355, 1: 0.6 + 1 / 355}, "b": {0: 0.5, 1: 0.6}}
    assert verdicts(pair, resolution=1 / 355)[0].verdict == "not distinguishable"


def test_interval_of_the_mean() -> None:
    # Of two values the resampled means are low, middle (half of the time) and high: the 2.5 % points are the ends.
    assert interval([0.2, 0.4]) == pytest.approx((0.2, 0.4))
    # Of many: the mean +- 1.96 standard errors.
    values = np.random.default_rng(1).normal(0.7, 0.05, 400)
    error = values.std() / 20
    assert interval(list(values)) == pytest.approx(
        (values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=4e-4
    )
    assert interval(list(values)) == interval(list(values))


def simulate(contestants: int, seeds: int, spread: list[float], shift: float, times: int) -> list[list[stats.Pair]]:
    generator = np.random.default_rng(0)
    found = []
    for _ in range(times):
        common = generator.normal(0, 0.02, seeds)  # what a seed does to all contestants
        results = 0.6 + common + generator.normal(0, 0.01, (contestants, seeds)) * np.array(spread)[:, None]
        results[0] += shift
        found.append(verdicts({str(i): dict(enumerate(row)) for i, row in enumerate(results)}))
    return found


@pytest.mark.parametrize(
    ("contestants", "seeds", "spread"),
    [
        (2, 3, [1, 1]),
        (2, 5, [1, 3]),
        (3, 3, [1, 1, 1]),
        (5, 5, [1] * 5),
        (5, 3, [0.2, 0.2, 0.2, 2, 2]),
        (5, 5, [0.3, 0.5, 1, 2, 3]),
    ],
)
def test_equal_contestants_are_told_apart_in_about_one_of_twenty_comparisons(
    contestants: int, seeds: int, spread: list[float]
) -> None:
    times = 150
    wrong = sum(
        any(pair.verdict != "not distinguishable" for pair in pairs)
        for pairs in simulate(contestants, seeds, spread, 0.0, times)
    )
    assert wrong / times < 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / times)  # 5 %, and chance in 150 draws
    if contestants == 2:
        assert wrong > 0


@pytest.mark.parametrize(("contestants", "least"), [(2, 0.92), (3, 0.85), (5, 0.8)])
def test_three_deviations_are_found_with_five_seeds(contestants: int, least: float) -> None:
    first = [p for pairs in simulate(contestants, 5, [1] * contestants, 0.03, 200) for p in pairs if p.first == "0"]
    assert np.mean([pair.verdict == "better" for pair in first]) >= least
    assert not any(pair.verdict == "worse" for pair in first)


def test_a_difference_with_a_baseline_is_that_of_the_pair() -> None:
    samples = {name: dict(enumerate(values)) for name, values in (("a", [1, 2, 4]), ("b", [1, 1, 1]), ("c", [0, 1, 0]))}
    pairs = verdicts(samples, baseline="b")
    assert [(p.first, p.second) for p in pairs] == [("a", "b"), ("c", "b")]
    assert [p.difference for p in pairs] == pytest.approx([4 / 3, -2 / 3])


def test_expected_best_by_hand() -> None:
    # One of 0.1, 0.2, 0.6; of the three pairs two hold 0.6 and one's best is 0.2; all three.
    assert expected_best([0.6, 0.1, 0.2]) == pytest.approx([0.3, (0.2 + 2 * 0.6) / 3, 0.6])
    values = list(np.random.default_rng(0).random(6))
    draws = np.random.default_rng(1)
    mean = np.mean([max(draws.choice(values, 3, replace=False)) for _ in range(20_000)])
    assert expected_best(values)[2] == pytest.approx(mean, abs=0.005)


def test_leaders() -> None:
    assert leaders({"a": [0.5, 0.6, 0.65], "b": [0.4, 0.6, 0.7]}) == [(1, "a"), (3, "b")]
    assert leaders({}) == []
