"""Verdicts and intervals: by hand, from the literature, and what must not depend on what."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from scipy import stats as reference

from cnnbench.analysis.corrections import LEVEL, bergmann_hommel
from cnnbench.analysis.stats import Pair, Welch, interval, power, seeds_to_find, smallest_difference, verdicts, welch

DEXTRO = dict(enumerate([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]))
LAEVO = dict(enumerate([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]))

Samples = dict[str, dict[int, float]]


@pytest.fixture(autouse=True)
def _no_warnings() -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_student_s_sleep_data() -> None:
    # Student 1908, table I, taken as two samples. Welch: t = -1.8608, f = 17.776, p = 0.0794 (as in R's manual). The
    # guard: 9 + (17.776 - 9)^2 / (18 - 9) = 17.558. t(0.975; 17.558) = 2.1047 times the error 0.84909 is 1.7871.
    (pair,) = verdicts({"d": DEXTRO, "l": LAEVO})
    assert (pair.first, pair.second, pair.seeds, pair.verdict) == ("d", "l", (10, 10), "not distinguishable")
    assert pair.difference == pytest.approx(-1.58)
    assert pair.freedom == pytest.approx(17.558, abs=5e-4)
    assert pair.raw_p == pytest.approx(0.0796, abs=5e-5)
    assert pair.raw_interval == pytest.approx((-1.58 - 1.7871, -1.58 + 1.7871), abs=2e-4)
    assert (pair.p, pair.interval, pair.within) == (pair.raw_p, pair.raw_interval, None)
    assert pair.spreads == pytest.approx((1.789010, 2.002249), abs=1e-5)


def test_welch_by_hand() -> None:
    # Variances 1 and 9 of 4 and 3 seeds: A = 0.25, B = 3; f = 3.25^2 / (0.0625 / 3 + 9 / 2) = 2.336401;
    # guard: 2 + 0.336401^2 / (5 - 2) = 2.037722. Three errors of 1.802776 apart.
    tests = welch(np.array([5.408327, 0.0]), np.array([1.0, 9.0]), np.array([4, 3]))
    assert tests.difference[0, 1] == pytest.approx(5.408327)
    assert tests.error[0, 1] == pytest.approx(math.sqrt(3.25))
    assert tests.freedom[0, 1] == pytest.approx(2.037722, abs=1e-6)
    assert tests.p[0, 1] == pytest.approx(2 * reference.t.sf(3, 2.037722), abs=1e-6)
    assert tests.p[1, 0] == tests.p[0, 1] < 1 - 3 / math.sqrt(11)  # that is p with 2 degrees of freedom
    assert tests.p_beyond(1.0)[0, 1] == pytest.approx(reference.t.cdf(4.408327 / 1.802776, 2.037722), abs=1e-6)
    # No spread in both: the guard's lower end, and the resolution as the error.
    floor = welch(np.array([0.5, 0.4]), np.zeros(2), np.array([2, 5]), resolution=0.01)
    assert floor.freedom[0, 1] == 1
    assert floor.error[0, 1] == pytest.approx(0.01 * math.sqrt((1 / 2 + 1 / 5) / 2))


def test_a_loud_contestant_does_not_blind_the_others() -> None:
    quiet: Samples = {"a": {0: 0.90, 1: 0.91, 2: 0.92}, "b": {0: 0.80, 1: 0.81, 2: 0.82}}
    loud = {0: 0.1, 1: 0.9, 2: 0.5}
    (alone,) = verdicts(quiet)
    beside = verdicts({**quiet, "loud": loud})[0]
    # t = 0.1 / sqrt(2 * 0.0001 / 3) = 12.247 with 4 degrees of freedom.
    assert alone.raw_p == beside.raw_p == pytest.approx(0.000255, abs=1e-6)
    assert beside.p == pytest.approx(3 * 0.000255, abs=3e-6)
    assert (alone.verdict, beside.verdict) == ("better", "better")


def test_margin() -> None:
    # Means 0.1 apart with an error of sqrt(2 * 0.01 / 3) = 0.08165 and 4 degrees of freedom. Of "0.5 apart or more":
    # t = (0.5 - 0.1) / 0.08165 = 4.899, p = 0.0040. What is left out at one side in 5 %: t(0.95; 4) = 2.1318.
    samples = {"a": {0: 0.5, 1: 0.6, 2: 0.7}, "b": {3: 0.4, 4: 0.5, 5: 0.6}}
    (pair,) = verdicts(samples, margin=0.5)
    assert pair.verdict == "equivalent"
    assert pair.within == pytest.approx(0.1 + 2.1318 * 0.08165, abs=1e-4)
    assert verdicts(samples, margin=0.275)[0].verdict == "equivalent"
    assert verdicts(samples, margin=0.274)[0].verdict == "not distinguishable"
    # Significant, and yet too small to matter.
    small = {"a": {0: 0.50, 1: 0.51, 2: 0.52}, "b": {0: 0.40, 1: 0.41, 2: 0.42}}
    assert verdicts(small)[0].verdict == "better"
    assert verdicts(small, margin=0.2)[0].verdict == "equivalent"
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="margin"):
            verdicts(samples, margin=wrong)


def test_three_margins_are_corrected_by_holm() -> None:
    # Means 0, 0.1, 0.2 with errors of 0.08165. With a margin of 0.37 the neighbours have t = 0.27 / 0.08165 = 3.307,
    # p = 0.0149 and 3 * p = 0.045, the outer ones t = 2.082, p = 0.053. With 0.35: t = 3.062, p = 0.0188, 3 * p = 0.056.
    samples = {name: {0: i / 10 - 0.1, 1: i / 10, 2: i / 10 + 0.1} for i, name in enumerate("abc")}
    assert [p.verdict for p in verdicts(samples, margin=0.37)] == ["equivalent", "not distinguishable", "equivalent"]
    assert {p.verdict for p in verdicts(samples, margin=0.35)} == {"not distinguishable"}
    assert verdicts({name: samples[name] for name in "ab"}, margin=0.35)[0].verdict == "equivalent"
    for margin in (0.35, 0.37, 0.5):
        for pair in verdicts(samples, margin=margin):
            assert (pair.verdict == "equivalent") == (pair.within is not None and pair.within < margin)


def test_baseline_leader_and_share() -> None:
    generator = np.random.default_rng(0)
    samples = {name: dict(enumerate(generator.normal(i, 1, 4))) for i, name in enumerate("abcd")}
    every = {(p.first, p.second): p for p in verdicts(samples)}
    to_d = verdicts(samples, baseline="d")
    assert [(p.first, p.second) for p in to_d] == [("a", "d"), ("b", "d"), ("c", "d")]
    smallest = min(p.raw_p or 1 for p in to_d)
    assert min(p.p or 1 for p in to_d) == pytest.approx(3 * smallest)  # Holm: three comparisons
    assert verdicts(samples, only="d") == [every[pair] for pair in (("a", "d"), ("b", "d"), ("c", "d"))]
    assert [(p.first, p.second) for p in verdicts(samples, baseline="b")] == [("a", "b"), ("c", "b"), ("d", "b")]
    # A look with a fifth of the 5 %.
    for pair, fifth in zip(every.values(), verdicts(samples, share=0.2), strict=True):
        assert fifth.p == pytest.approx(min(1, 5 * (pair.p or 0)))
        assert (fifth.raw_p, fifth.raw_interval) == (pair.raw_p, pair.raw_interval)


def test_what_can_not_be_said() -> None:
    (alone,) = verdicts({"a": {0: 0.9}, "b": {0: 0.1}})
    assert alone == Pair("a", "b", (1, 1), "not distinguishable", pytest.approx(0.8))
    pairs = verdicts({"a": {0: 0.9, 1: 0.8}, "b": {0: 0.1}, "c": {}, "d": {2: 0.1, 3: 0.2}})
    assert [(p.first + p.second, p.p is None) for p in pairs] == [
        ("ab", True), ("ac", True), ("ad", False), ("bc", True), ("bd", True), ("cd", True),
    ]  # fmt: skip
    assert [pairs[i].difference for i in (1, 3, 5)] == [None] * 3
    assert [p.p for p in verdicts({"a": {0: 0.9}, "b": {0: 0.1, 1: 0.2}, "c": {0: 0.1, 1: 0.3}}, baseline="a")] == [
        None
    ] * 2
    assert verdicts({}) == []
    assert verdicts({"a": {0: 0.9, 1: 0.8}}) == []
    with pytest.raises(ValueError, match="b, seed 7: its result is nan"):
        verdicts({"a": {0: 0.1}, "b": {7: math.nan}})


def test_no_spread() -> None:
    perfect = {name: dict.fromkeys(range(n), 0.1) for n, name in ((3, "a"), (4, "b"), (3, "c"))}
    for pair in verdicts(perfect):
        assert (pair.difference, pair.p, pair.interval, pair.verdict) == (0, 1, (0, 0), "not distinguishable")
    assert {pair.verdict for pair in verdicts(perfect, margin=0.01)} == {"equivalent"}
    # One of 355 test images more, twice: without a floor the spread would be 0 and p too.
    near = {"a": dict.fromkeys(range(2), 101 / 355), "b": dict.fromkeys(range(2), 100 / 355)}
    assert verdicts(near)[0].p == 0
    (pair,) = verdicts(near, resolution=1 / 355)
    # t = 1 / sqrt(1 / 2) with one degree of freedom: p = 1 - 2 / pi * atan(sqrt(2)) = 0.3918.
    assert pair.p == pytest.approx(0.3918, abs=1e-4)


def test_more_than_nine_contestants() -> None:
    samples = {str(i): {0: float(i), 1: i + 0.001, 2: i - 0.001} for i in range(12)}
    assert {pair.verdict for pair in verdicts(samples)} == {"worse"}


def values(size: int = 8) -> st.SearchStrategy[dict[int, float]]:
    return st.dictionaries(st.integers(0, 9), st.integers(0, 1000).map(lambda i: i / 1000), min_size=2, max_size=size)


tables = st.lists(values(), min_size=2, max_size=6).map(lambda rows: dict(zip("abcdef", rows, strict=False)))


def turned(pair: Pair) -> tuple[object, ...]:
    def around(bounds: tuple[float, float] | None) -> tuple[float, float] | None:
        return None if bounds is None else (-bounds[1], -bounds[0])

    other = {"better": "worse", "worse": "better"}.get(pair.verdict, pair.verdict)
    return other, -(pair.difference or 0), pair.p, around(pair.interval), around(pair.raw_interval), pair.within


@settings(max_examples=100, deadline=None)
@given(tables, st.sampled_from([None, 0.2]))
def test_the_order_of_names_is_of_no_account(samples: Samples, margin: float | None) -> None:
    found = {(p.first, p.second): p for p in verdicts(samples, margin=margin, resolution=0.001)}
    for pair in verdicts(dict(reversed(samples.items())), margin=margin, resolution=0.001):
        same = found[pair.second, pair.first]
        verdict, *numbers = turned(pair)
        assert verdict == same.verdict
        for ours, theirs in zip(
            numbers, (same.difference, same.p, same.interval, same.raw_interval, same.within), strict=True
        ):
            assert ours == (None if theirs is None else pytest.approx(theirs, abs=1e-9))


@settings(max_examples=100, deadline=None)
@given(tables)
def test_raw_values_are_those_of_the_pair_alone(samples: Samples) -> None:
    for pair in verdicts(samples, resolution=0.001):
        (alone,) = verdicts({name: samples[name] for name in (pair.first, pair.second)}, resolution=0.001)
        assert (alone.raw_p, alone.raw_interval) == (pair.raw_p, pair.raw_interval)
        assert (pair.p or 0) >= (pair.raw_p or 0) - 1e-12


@settings(max_examples=100, deadline=None)
@given(tables, st.sampled_from([None, "a"]), st.sampled_from([None, 0.2]))
def test_a_twin_changes_nobody_else(samples: Samples, baseline: str | None, margin: float | None) -> None:
    with_twin = {**samples, "twin": dict(samples["b"])}
    kept = [p for p in verdicts(with_twin, baseline, 0.001, margin) if "twin" not in (p.first, p.second)]
    assert kept == verdicts(samples, baseline, 0.001, margin)


@settings(max_examples=200, deadline=None)
@given(tables, st.sampled_from([None, "a"]), st.sampled_from([1.0, 0.2]))
def test_interval_p_and_verdict_agree(samples: Samples, baseline: str | None, share: float) -> None:
    for pair in verdicts(samples, baseline, 0.001, share=share):
        assert pair.interval is not None
        low, high = pair.interval
        verdict = "better" if low > 0 else "worse" if high < 0 else "not distinguishable"
        assert (pair.verdict, pair.p is not None and pair.p < LEVEL) == (verdict, verdict != "not distinguishable")
        assert pair.raw_interval is not None
        assert low <= pair.raw_interval[0] + 1e-12


@pytest.mark.parametrize(("contestants", "seeds", "loudest"), [(2, 3, 1), (2, 5, 8), (3, 3, 8), (5, 3, 8), (5, 5, 1)])
def test_equal_contestants_are_told_apart_in_at_most_one_of_twenty_tables(
    contestants: int, seeds: int, loudest: int
) -> None:
    times = 4000
    spread = np.ones(contestants)
    spread[-1] = loudest
    results = np.random.default_rng(seeds).normal(size=(times, contestants, seeds)) * spread[:, None]
    tests = welch(results.mean(-1), results.var(-1, ddof=1), np.full(contestants, seeds))
    p = bergmann_hommel(tests.p[:, *np.triu_indices(contestants, 1)], contestants).p
    assert 0.01 < (p < LEVEL).any(-1).mean() < 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / times)


@pytest.mark.parametrize(
    ("contestants", "seeds", "least"), [(2, 3, 0.6), (2, 5, 0.96), (3, 3, 0.36), (3, 5, 0.93), (5, 5, 0.76)]
)
def test_three_standard_deviations_are_found(contestants: int, seeds: int, least: float) -> None:
    results = np.random.default_rng(1).normal(size=(4000, contestants, seeds))
    results[:, 0] += 3
    tests = welch(results.mean(-1), results.var(-1, ddof=1), np.full(contestants, seeds))
    p = bergmann_hommel(tests.p[:, *np.triu_indices(contestants, 1)], contestants).p
    assert (p[:, : contestants - 1] < LEVEL).mean() > least - 2.6 * math.sqrt(0.25 / 4000)


def central(found: float, freedom: float, level: float) -> tuple[float, float]:
    """A critical t, and the distance in errors at which a t-test finds about this share."""
    critical = reference.t.isf(level / 2, freedom)
    return critical, max(critical + reference.t.ppf(found, freedom), 0.1)


@pytest.mark.parametrize("seeds", [2, 3, 5, 12, 200])
@pytest.mark.parametrize("level", [0.05, 0.05 / 45])
@pytest.mark.parametrize("found", [0.1, 0.5, 0.8, 0.99])
def test_power_is_that_of_a_noncentral_t(seeds: int, level: float, found: float) -> None:
    """If one contestant alone scatters, the test is Student's with its n - 1 degrees of freedom."""
    critical, distance = central(found, seeds - 1, level)
    ours = power(distance / math.sqrt(seeds), (1, 0), (seeds, seeds), level)
    assert ours == pytest.approx(reference.nct.sf(critical, seeds - 1, distance), abs=0.001 if seeds > 2 else 0.01)


def test_power_of_equal_spreads_by_another_integral() -> None:
    # The sum of both variances has 4 degrees of freedom and does not depend on their ratio; the share w of the first
    # is Beta(1, 1). f = 1 / ((w^2 + (1 - w)^2) / 2), guarded: 2 + (f - 2)^2 / 2.
    w = (np.arange(2000) + 0.5) / 2000
    f = 2 + (2 / (w**2 + (1 - w) ** 2) - 2) ** 2 / 2
    expected = reference.nct.sf(reference.t.isf(0.025, f), 4, 3 / math.sqrt(2 / 3)).mean()
    assert power(3, (1, 1), (3, 3)) == pytest.approx(expected, abs=5e-4)
    assert power(3, (1, 1), (3, 3)) == pytest.approx(0.614, abs=0.01)  # docs/verdict_simulation.md: 61.4 %


def simulated(spreads: tuple[float, float], seeds: tuple[int, int], tables: int) -> Welch:
    """Tests of so many pairs with equal means."""
    rng = np.random.default_rng(sum(seeds))
    columns = [rng.normal(size=(tables, n)) * spread for n, spread in zip(seeds, spreads, strict=True)]
    means, variances = np.array([c.mean(-1) for c in columns]).T, np.array([c.var(-1, ddof=1) for c in columns]).T
    return welch(means, variances, np.array(seeds))


@pytest.mark.parametrize(
    ("spreads", "seeds", "level"),
    [((1, 1), (2, 2), 0.05), ((1, 8), (3, 3), 0.05), ((1, 2), (3, 7), 0.01), ((3, 1), (12, 5), 0.005)],
)
def test_the_smallest_difference_is_found_in_80_percent(
    spreads: tuple[float, float], seeds: tuple[int, int], level: float
) -> None:
    difference, tables = smallest_difference(spreads, seeds, level), 20_000
    found = simulated(spreads, seeds, tables)
    t = (found.difference[:, 0, 1] + difference) / found.error[:, 0, 1]
    share = (reference.t.sf(t, found.freedom[:, 0, 1]) < level / 2).mean()
    assert share == pytest.approx(0.8, abs=0.012)  # 4 standard errors
    assert power(difference, spreads, seeds, level) == pytest.approx(0.8, abs=0.01)


def test_smallest_difference_of_many_seeds() -> None:
    # 1.96 + 0.8416, times sqrt(2 / n) or, with spreads of 3 and 4, 5 / sqrt(n); of ten pairs the quantile at 0.9975.
    many = 10_000, 10_000
    assert smallest_difference((1, 1), many) == pytest.approx(2.8016 * math.sqrt(2e-4), rel=1e-3)
    assert smallest_difference((3, 4), many) == pytest.approx(2.8016 * 5 / 100, rel=1e-3)
    assert smallest_difference((1, 1), many, 0.005) == pytest.approx((2.807 + 0.8416) * math.sqrt(2e-4), rel=1e-3)
    assert smallest_difference((0, 0), (3, 3)) == 0


def test_seeds_to_find() -> None:
    # A table of two-sample t-tests at 5 % has 17 for a difference of one standard deviation, and 64 for half of one.
    assert (seeds_to_find(1, (1, 1)), seeds_to_find(0.5, (1, 1))) == (17, 64)
    assert seeds_to_find(50, (1, 1)) == 2
    assert seeds_to_find(0.001, (1, 1)) is None
    for spreads, level in (((1, 1), 0.05), ((1, 5), 0.05 / 3), ((2, 1), 0.05 / 45)):
        for distance in (1.3, 4):
            n = seeds_to_find(distance, spreads, level)
            assert n is not None
            assert smallest_difference(spreads, (n, n), level) <= distance * 1.001
            assert smallest_difference(spreads, (n - 1, n - 1), level) > distance * 0.999


@pytest.mark.slow
def test_power_in_ten_thousand_cases() -> None:
    """No case is off by more than a percentage point and the noise of the simulation, or than 1 without noise."""
    tables, cases = 40_000, 0
    for seeds in (2, 3, 4, 5, 6, 8, 10, 15, 20, 30):
        for quiet in (0.0, 0.125, 0.25, 0.5, 1.0):
            tests = simulated((1, quiet), (seeds, seeds), tables)
            for level in np.geomspace(0.05, 0.05 / 190, 10):
                critical = -special.stdtrit(tests.freedom[:, 0, 1], level / 2) * tests.error[:, 0, 1]
                needed = np.sort(critical - tests.difference[:, 0, 1])
                for share in np.linspace(0.025, 0.975, 20):
                    difference = max(float(np.quantile(needed, share)), 0.01)
                    simulation = np.searchsorted(needed, difference) / tables
                    ours = power(difference, (1, quiet), (seeds, seeds), level)
                    case = seeds, quiet, level, difference, simulation, ours
                    assert ours == pytest.approx(simulation, abs=0.01 + 4 * math.sqrt(0.25 / tables)), case
                    if quiet == 0:
                        t, distance = reference.t.isf(level / 2, seeds - 1), difference * math.sqrt(seeds)
                        assert ours == pytest.approx(reference.nct.sf(t, seeds - 1, distance), abs=0.012), case
                    cases += 1
    assert cases == 10_000


def test_interval_of_the_mean() -> None:
    # Student: 0.3 +- 12.706 * 0.1414 / sqrt(2); and t(0.975; 2) = 4.3027 with three.
    assert interval([0.2, 0.4]) == pytest.approx((0.3 - 1.2706, 0.3 + 1.2706), abs=1e-4)
    assert interval([0.2, 0.4], 0, 1) == (0, 1)
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 4.3027 / math.sqrt(3), 2 + 4.3027 / math.sqrt(3)), abs=1e-4)
    assert interval([0.7, 0.7]) == (0.7, 0.7)
    assert interval([0.5]) is None
    assert interval([]) is None
