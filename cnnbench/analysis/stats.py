"""Verdicts on pairs of contestants, intervals of a mean, and the difference that a number of seeds can find."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
from scipy import special  # scipy.stats has the same under names that are better known, and takes a second to import

from cnnbench.analysis import corrections
from cnnbench.analysis.corrections import LEVEL, Corrected, Floats, Integers

Verdict = Literal["better", "worse", "equivalent", "not distinguishable"]

_POWER = 0.8

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


def smallest_difference(spread: float, seeds: int, pairs: int = 1) -> float:
    """Difference that a comparison with this many seeds would find in about 80 % of cases.

        (t(1 - 0.05 / (2 * pairs); f) + t(0.8; f)) * spread * sqrt(2 / seeds)
        f = (1.75 - 1.5 / seeds) * (seeds - 1)

    f is what gives `verdicts` this power where both contestants spread alike (fitted by simulation: by Student's own
    2 * (seeds - 1) the power with 3 seeds would be 62 %). With several pairs it is on the safe side, because `verdicts`
    corrects by less than the number of pairs.

    Args:
        spread: standard deviation of a single seed's result. An estimate from 3 seeds is often off by a factor of 2,
            and the difference with it.
        seeds: of each contestant, at least 2.
        pairs: how many comparisons there are.
    """
    freedom = (1.75 - 1.5 / seeds) * (seeds - 1)
    quantiles = -special.stdtrit(freedom, LEVEL / (2 * pairs)) + special.stdtrit(freedom, _POWER)
    return float(quantiles) * spread * math.sqrt(2 / seeds)


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
    spread: float | None = None
    """Standard deviation of a single seed's result: the root of the mean of both variances."""
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
            verdict=opposite.get(self.verdict, self.verdict),
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
                spread=math.sqrt(moments[at, 1].mean()),
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
