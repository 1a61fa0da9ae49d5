"""Verdicts on pairs of contestants, intervals of a mean, and the difference that a number of seeds can find."""

import bisect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Literal, NamedTuple

import numpy as np
from scipy import special  # scipy.stats has the same under names that are better known, and takes a second to import

from cnnbench.analysis import corrections
from cnnbench.analysis.corrections import LEVEL, Corrected, Floats, Integers

Verdict = Literal["better", "worse", "equivalent", "not distinguishable"]

_POWER = 0.8

MOST_SEEDS = 999
"""The largest number of seeds that is said to find a difference."""

_Indices = tuple[Integers, Integers]


def interval(
    values: Sequence[float], lowest: float = -math.inf, highest: float = math.inf
) -> tuple[float, float] | None:
    """95 % interval of the mean by Student's t: mean +- t(0.975; n - 1) * s / sqrt(n).

    It holds the true mean in 95 % of cases, with 3 values as with 30, and in about 88 % where values are very skewed.

    Args:
        values: one for each seed.
        lowest: what no value can be below, such as 0 for an accuracy; the interval is cut off there.
        highest: what no value can be above.

    Returns:
        None for fewer than two values.
    """
    n = len(values)
    if n < 2:
        return None
    mean, variance = _moments(values)
    half = -float(special.stdtrit(n - 1, 0.025)) * math.sqrt(variance / n)
    return max(mean - half, lowest), min(mean + half, highest)


def power(difference: float, spreads: tuple[float, float], seeds: tuple[int, int], level: float = LEVEL) -> float:
    """Chance that the test of one pair finds a true difference, in the right direction.

        P(d + z > t(1 - level / 2; f) * e)  with e and f as in `welch`; d and e in units of the true error

    z is standard normal. e and f vary with the two estimated variances, which are independent and chi-squared. So this
    is the mean of a normal distribution over both, by Gauss and Legendre's rule on their quantiles: right to 0.1
    percentage points, with 2 seeds to 1. For a constant f it is that of a non-central t distribution.

    Args:
        difference: of the true means, above 0.
        spreads: true standard deviations of a single seed's result, not both 0.
        seeds: of each contestant, at least 2.
        level: what the p value has to be below.
    """
    error, share = _error(spreads, seeds)
    return _found(difference / error, _needed(share, seeds, level))


def smallest_difference(spreads: tuple[float, float], seeds: tuple[int, int], level: float = LEVEL) -> float:
    """Difference that the test of one pair finds in 80 % of cases: see `power`.

    Args:
        spreads: standard deviations of a single seed's result. An estimate from 3 seeds is often off by a factor of 2,
            and the difference with it.
        seeds: of each contestant, at least 2.
        level: what the p value has to be below; with several pairs 5 % divided by their number. That is on the safe
            side, because `verdicts` corrects by less than the number of pairs.
    """
    error, share = _error(spreads, seeds)
    return error * _smallest(round(share, 2), seeds, level)


def seeds_to_find(difference: float, spreads: tuple[float, float], level: float = LEVEL) -> int | None:
    """Seeds of each contestant with which the test of one pair finds a true difference in 80 % of cases.

    Args:
        difference: above 0.
        spreads: as in `power`.
        level: as in `smallest_difference`.

    Returns:
        None if they are more than `MOST_SEEDS`.
    """
    enough = bisect.bisect_left(
        range(MOST_SEEDS + 1), _POWER, lo=2, key=lambda n: power(difference, spreads, (n, n), level)
    )
    return enough if enough <= MOST_SEEDS else None


def _error(spreads: tuple[float, float], seeds: tuple[int, int]) -> tuple[float, float]:
    """The error of the difference, and the share of its square that is the first contestant's."""
    a, b = (spread**2 / n for spread, n in zip(spreads, seeds, strict=True))
    return math.sqrt(a + b), a / (a + b) if a + b > 0 else 0.0


@cache  # most pairs of a table have one of few shares
def _smallest(share: float, seeds: tuple[int, int], level: float) -> float:
    """The difference that is found in 80 % of cases, in true errors."""
    needed = _needed(share, seeds, level)
    low, high = 0.0, float(needed.max()) + 1  # the power grows with the difference, from below to above 80 %
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if _found(middle, needed) >= _POWER else (middle, high)
    return high


def _needed(share: float, seeds: tuple[int, int], level: float) -> Floats:
    """How far apart means have to be seen, in true errors, for a grid of values of the two estimated variances."""
    position, _ = _rule()
    a, b = (
        of * n / (n - 1) * special.chdtri(n - 1, 1 - position) for of, n in zip((share, 1 - share), seeds, strict=True)
    )
    variances = np.stack(np.broadcast_arrays(a[:, None], b), axis=-1)
    tests = welch(np.zeros_like(variances), variances, np.array(seeds))
    return np.asarray(-special.stdtrit(tests.freedom[..., 0, 1], level / 2) * tests.error[..., 0, 1])


def _found(distance: float, needed: Floats) -> float:
    """Share of tests that find a distance, given in true errors."""
    _, weight = _rule()
    return float(weight @ special.ndtr(distance - needed) @ weight)


@cache
def _rule() -> tuple[Floats, Floats]:
    """Positions from 0 to 1 and weights of Gauss and Legendre's rule."""
    position, weight = np.polynomial.legendre.leggauss(64)
    return (position + 1) / 2, weight / 2


@dataclass(frozen=True)
class Pair:
    """Two contestants, compared by the results of all their finished seeds."""

    first: str
    second: str
    seeds: tuple[int, int]
    """How many seeds the first and the second one finished; they need not be the same seeds."""
    verdict: Verdict
    """first is `better`, `worse`, `equivalent` within the margin, or `not distinguishable`."""
    difference: float | None = None
    """Mean of first minus mean of second; None if one of them has no result."""
    spreads: tuple[float, float] | None = None
    """Standard deviation of a single seed's result, of the first and of the second one."""
    freedom: float | None = None
    """Degrees of freedom of the t-test."""
    raw_interval: tuple[float, float] | None = None
    """95 % interval of the difference, as if this pair were the only one."""
    raw_p: float | None = None
    """p value, as if this pair were the only one."""
    interval: tuple[float, float] | None = None
    """Interval of the difference, so much wider for the number of pairs that it leaves out 0 exactly if p is below 5 %.

    It holds the true difference of this pair in at least 95 % of cases, but not those of all pairs at once."""
    p: float | None = None
    """p value corrected for the number of pairs; below 5 % the pair has a difference."""
    within: float | None = None
    """The smallest margin within which the pair would be equivalent; None if no margin was asked for."""

    @property
    def turned(self) -> "Pair":
        """The same comparison, seen from the second contestant."""
        opposite: dict[Verdict, Verdict] = {"better": "worse", "worse": "better"}
        return replace(
            self,
            first=self.second,
            second=self.first,
            seeds=self.seeds[::-1],
            spreads=None if self.spreads is None else self.spreads[::-1],
            verdict=opposite.get(self.verdict, self.verdict),
        ).negative

    @property
    def negative(self) -> "Pair":
        """The same comparison of a measure with the opposite sign."""
        return replace(
            self,
            difference=None if self.difference is None else -self.difference,
            raw_interval=None if self.raw_interval is None else (-self.raw_interval[1], -self.raw_interval[0]),
            interval=None if self.interval is None else (-self.interval[1], -self.interval[0]),
        )


def verdicts(
    samples: Mapping[str, Mapping[int, float]],
    baseline: str | None = None,
    resolution: float = 0.0,
    margin: float | None = None,
    only: str | None = None,
    share: float = 1.0,
) -> list[Pair]:
    """Compares each pair of contestants, or each contestant with a baseline, by guarded Welch t-tests.

    The test of a pair uses the seeds of these two contestants alone (see `welch`), so that neither a third one that
    scatters nor one that is left out changes its raw p value and interval. Seeds are not paired: between the results of
    different contestants with the same seed there is hardly any correlation, and pairing would cost half the degrees of
    freedom. With a positive correlation the verdicts are on the safe side.

    The chance that a table contains any false `better` or `worse` is at most 5 %, whatever the spreads: p values of all
    pairs are corrected by `corrections.all_pairs`, those with a baseline by Holm. The method was chosen by
    `scripts/simulate_verdicts.py`, before any result was looked at.

    Two one-sided t-tests (Schuirmann 1987) show that a true difference is smaller than `margin`. Their p values are
    corrected by Holm: the chance that a table contains any false `equivalent` is at most 5 % as well. Of a single pair
    only one of both can be false. A difference that is significant and yet smaller than the margin is `equivalent`: the
    margin says which differences don't matter.

    Contestants with the same result for every seed count as one: they change nobody else's p value.

    Args:
        samples: for each contestant its result by seed, larger is better.
        baseline: the contestant that all others are compared with, chosen before its results were known; None compares
            all pairs.
        resolution: the smallest step of a result, such as 1 / test images; no spread is believed to be below it.
        margin: the smallest difference that matters.
        only: as `baseline`, for one that was chosen by its results, such as the leader: p values are corrected for all
            pairs, which covers that choice.
        share: the part of the 5 % that may be used, for a comparison that is repeated as seeds are added
            (`sequential.looks`). p values are divided by it, and so are still compared with 5 %.

    Returns:
        Pairs in the order of `samples`; with a baseline it is `second`. Fewer than two results of a contestant give no
        p value and no interval.

    Raises:
        ValueError: a result is not finite, or the margin is not positive.
    """
    if margin is not None and not margin > 0:
        raise ValueError(f"margin={margin}: it must be above 0.")
    for name, by_seed in samples.items():
        for seed, value in by_seed.items():
            if not math.isfinite(value):
                raise ValueError(f"{name}, seed {seed}: its result is {value}, which can't be compared.")
    names = list(samples)
    fixed = baseline or only
    chosen = list(itertools.combinations(names, 2)) if fixed is None else [(n, fixed) for n in names if n != fixed]
    rows: dict[tuple[tuple[int, float], ...], int] = {}
    row = {n: rows.setdefault(tuple(sorted(samples[n].items())), len(rows)) for n in names if len(samples[n]) > 1}
    moments = np.array([_moments([value for _, value in results]) for results in rows]).reshape(-1, 2)
    tests = welch(moments[:, 0], moments[:, 1], np.array([len(results) for results in rows]), resolution)

    level = LEVEL * share
    holm = partial(corrections.holm, level=level)
    if baseline is None:
        family = np.triu_indices(len(rows), 1)
        correct = partial(corrections.all_pairs, contestants=len(rows), level=level)
    else:
        reference = row.get(baseline, -1)  # with fewer than two results it has no row, and nothing is tested
        others = np.array([i for i in range(len(rows)) if i != reference], dtype=np.intp)
        family, correct = (others, np.full_like(others, reference)), holm
    raw_p = tests.p
    different = _over(family, raw_p, correct, level)
    near = None if margin is None else _over(family, tests.p_beyond(margin), holm, level)

    pairs = []
    for a, b in chosen:
        seeds = len(samples[a]), len(samples[b])
        if a not in row or b not in row:
            first, second = (list(samples[name].values()) for name in (a, b))
            difference = _moments(first)[0] - _moments(second)[0] if first and second else None
            pairs.append(Pair(a, b, seeds, "not distinguishable", difference))
            continue
        at = row[a], row[b]
        distance, p = float(tests.difference[at]), min(1.0, float(different.p[at]) / share)
        verdict: Verdict = "not distinguishable"
        if near is not None and near.p[at] < level:
            verdict = "equivalent"
        elif p < LEVEL:
            verdict = "better" if distance > 0 else "worse"
        raw, corrected = tests.half(at, LEVEL / 2), tests.half(at, float(different.levels[at]) / 2)
        pairs.append(
            Pair(
                first=a,
                second=b,
                seeds=seeds,
                verdict=verdict,
                difference=distance,
                spreads=(math.sqrt(moments[row[a], 1]), math.sqrt(moments[row[b], 1])),
                freedom=float(tests.freedom[at]),
                raw_interval=(distance - raw, distance + raw),
                raw_p=float(raw_p[at]),
                interval=(distance - corrected, distance + corrected),
                p=p,
                within=None if near is None else abs(distance) + tests.half(at, float(near.levels[at])),
            )
        )
    return pairs


class Welch(NamedTuple):
    """Guarded Welch t-tests of all contestants with each other: arrays of shape (..., contestants, contestants)."""

    difference: Floats
    """Mean of the row's contestant minus mean of the column's."""
    error: Floats
    """Standard error of the difference."""
    freedom: Floats
    """Degrees of freedom."""

    @property
    def p(self) -> Floats:
        """Two-sided p values of "the true means are equal"."""
        return np.asarray(2 * special.stdtr(self.freedom, -self._in_errors(np.abs(self.difference))))

    def p_beyond(self, margin: float) -> Floats:
        """p values of "the true means are at least `margin` apart": the larger one of two one-sided t-tests."""
        return np.asarray(special.stdtr(self.freedom, self._in_errors(np.abs(self.difference) - margin)))

    def half(self, at: tuple[int, int], tail: float) -> float:
        """Half the width of the interval of one difference that leaves out `tail` at each side."""
        return -float(special.stdtrit(self.freedom[at], tail) * self.error[at])

    def _in_errors(self, distance: Floats) -> Floats:
        beyond = np.where(distance == 0, 0.0, np.copysign(np.inf, distance))  # what any distance is without an error
        return np.divide(distance, self.error, out=beyond, where=self.error > 0)


def welch(mean: Floats, variance: Floats, seeds: Integers, resolution: float = 0.0) -> Welch:
    """Tests each pair of means by Welch's t-test (1947), with a guard on its degrees of freedom.

    With A = s_a^2 / n_a and B = s_b^2 / n_b of the contestants a and b, and nu = n - 1:

        error e = sqrt(A + B), not below resolution * sqrt((1 / n_a + 1 / n_b) / 2)
        t = (mean_a - mean_b) / e
        Welch and Satterthwaite: f = (A + B)^2 / (A^2 / nu_a + B^2 / nu_b)
        guard: f <- m + (f - m)^2 / (M - m)  with m = min(nu_a, nu_b), M = nu_a + nu_b

    f lies between m (one contestant alone scatters) and M (both do alike). Estimated from few seeds it is often too
    large: with 3 seeds two very unequal spreads can look alike. So it is moved towards m, unless it is M.

    Args:
        mean: shape (..., contestants).
        variance: as `mean`, with n - 1 in the denominator.
        seeds: results of each contestant, at least 2; shape (contestants,).
        resolution: the smallest step of a result.
    """
    part, nu = variance / seeds, np.asarray(seeds - 1, dtype=float)
    a, b = np.broadcast_arrays(part[..., :, None], part[..., None, :])
    least, most = np.minimum(nu[:, None], nu), nu[:, None] + nu
    total = a + b
    weight = np.divide(a, total, out=np.zeros_like(total), where=total > 0)
    freedom = 1 / (weight**2 / nu[:, None] + (1 - weight) ** 2 / nu)
    guarded = np.where(total > 0, least + (freedom - least) ** 2 / (most - least), least)
    floor = resolution * np.sqrt((1 / seeds[:, None] + 1 / seeds) / 2)
    return Welch(mean[..., :, None] - mean[..., None, :], np.maximum(np.sqrt(total), floor), guarded)


def _over(family: _Indices, p: Floats, correct: Callable[[Floats], Corrected], level: float) -> Corrected:
    """Corrects the p values of a family of pairs; all are given and returned as matrices of contestants.

    Outside the family stand only pairs of contestants with equal results; they are corrected by Bonferroni.
    """
    pairs = max(1, len(family[0]))
    whole = Corrected(np.minimum(1, pairs * p), np.full(p.shape, level / pairs))
    for matrix, corrected in zip(whole, correct(p[family]), strict=True):
        matrix[family] = matrix[family[::-1]] = corrected
    return whole


def _moments(values: Sequence[float]) -> tuple[float, float]:
    """Mean and variance (0 of a single value); of equal values exactly that value and 0."""
    deviations = np.asarray(values, dtype=float) - values[0]
    return values[0] + float(deviations.mean()), float(deviations.var(ddof=1)) if len(values) > 1 else 0.0
