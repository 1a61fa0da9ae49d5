"""Exact tests of failures and costs: counted by hand, and against scipy."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as reference

from cnnbench.analysis.exact_tests import costs, failures, fisher, rank_test, smallest_p

INF = math.inf
COSTS = st.lists(st.sampled_from([1.0, 2.0, 3.5, 4.0, INF]), min_size=1, max_size=5)


def test_fisher_by_hand() -> None:
    # 3 of 3 against 0 of 3: C(3, 3) of C(6, 3) = 20 ways, and the opposite.
    assert fisher(3, 3, 0, 3) == pytest.approx(2 / 20)
    # 2 of 3 against 0 of 2: of C(5, 2) = 10 ways x = 0, 1, 2 take 1, 6 and 3; as likely or less are 3 + 1.
    assert fisher(2, 3, 0, 2) == pytest.approx(4 / 10)
    assert fisher(0, 5, 0, 5) == 1
    assert fisher(0, 0, 3, 5) == 1


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(1, 12), st.integers(1, 12))
def test_fisher_against_scipy(data: st.DataObject, runs_a: int, runs_b: int) -> None:
    a, b = data.draw(st.integers(0, runs_a)), data.draw(st.integers(0, runs_b))
    expected = reference.fisher_exact([[a, runs_a - a], [b, runs_b - b]]).pvalue
    assert fisher(a, runs_a, b, runs_b) == pytest.approx(expected)
    assert fisher(a, runs_a, b, runs_b) >= smallest_p(runs_a, runs_b) - 1e-12


def test_ranks_by_hand() -> None:
    # All of one are cheaper: 2 of C(6, 3) ways.
    assert rank_test([1, 2, 3], [4, 5, INF]) == pytest.approx(2 / 20)
    # Ranks 1, 2.5, 2.5, 4.5, 4.5 of 1, 2 | 2, never, never: 3.5 is 2.5 below the mean of 6. Of ten choices of two
    # 1 + 2.5 (twice) and 4.5 + 4.5 are as far.
    assert rank_test([1, 2], [2, INF, INF]) == pytest.approx(3 / 10)
    assert rank_test([INF, INF], [INF, INF]) == 1


@settings(max_examples=100, deadline=None)
@given(COSTS, COSTS)
def test_ranks_by_counting_all_ways(a: list[float], b: list[float]) -> None:
    ranks = reference.rankdata(a + b)
    middle = len(a) * (len(a) + len(b) + 1) / 2
    seen = abs(ranks[: len(a)].sum() - middle)
    ways = list(itertools.combinations(ranks, len(a)))
    assert rank_test(a, b) == pytest.approx(sum(abs(sum(way) - middle) >= seen for way in ways) / len(ways))
    assert rank_test(a, b) == pytest.approx(rank_test(b, a))
    assert rank_test(a, b) >= smallest_p(len(a), len(b)) - 1e-12


def test_ranks_of_many_runs() -> None:
    # Without ties scipy counts too; 20 runs of each have 1.4e11 ways.
    a, b = [float(3 * i) for i in range(20)], [float(2 * i + 0.5) for i in range(20)]
    assert rank_test(a, b) == pytest.approx(reference.mannwhitneyu(a, b, method="exact").pvalue)


def test_verdicts_on_failures() -> None:
    # 5 of 5 against 0 of 5: 2 / C(10, 5) = 0.0079; three pairs.
    pairs = failures({"a": (0, 5), "b": (5, 5), "c": (0, 5)})
    assert [(p.first, p.second, p.verdict) for p in pairs] == [
        ("a", "b", "better"), ("a", "c", "not distinguishable"), ("b", "c", "worse"),
    ]  # fmt: skip
    assert [p.raw_p for p in pairs] == pytest.approx([2 / 252, 1, 2 / 252])
    assert [p.p for p in pairs] == pytest.approx([6 / 252, 1, 6 / 252])
    assert [p.smallest_p for p in pairs] == pytest.approx([6 / 252] * 3)
    # Three runs can never show anything.
    (pair,) = failures({"a": (0, 3), "b": (3, 3)})
    assert (pair.verdict, pair.p, pair.smallest_p) == ("not distinguishable", pytest.approx(0.1), pytest.approx(0.1))
    # With a baseline there are two comparisons. More runs may fail in a smaller share.
    assert [p.p for p in failures({"a": (0, 5), "b": (5, 5), "c": (0, 5)}, baseline="b")] == pytest.approx(
        [4 / 252] * 2
    )
    assert failures({"a": (10, 100), "b": (9, 10)})[0].verdict == "better"
    assert failures({"a": (0, 0), "b": (3, 5)})[0].p == 1
    assert failures({}) == failures({"a": (1, 2)}) == []


def test_verdicts_on_costs() -> None:
    fast, slow, never = [1.0, 2, 3, 4, 5], [6.0, 7, 8, 9, INF], [INF] * 5
    pairs = costs({"slow": slow, "fast": fast, "never": never, "none": []})
    # Slow against never: one tie of five infinite costs with one more, 8 / C(10, 5) or so; the others 2 / 252.
    assert [(p.first, p.second, p.verdict) for p in pairs] == [
        ("slow", "fast", "worse"), ("slow", "never", "better"), ("fast", "never", "better"),
    ]  # fmt: skip
    assert pairs[0].p == pytest.approx(6 / 252)
    assert pairs[1].raw_p == pytest.approx(12 / 252)  # 6 of 252 choices hold the four finite ones, 6 none of them
    assert [p.p for p in costs({"fast": fast, "never": never}, baseline="never")] == pytest.approx([2 / 252])
