"""How sure are we? Intervals, tests, verdicts and budget curves. (imports no torch)"""

import itertools
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special  # scipy.stats has the same under names that are better known, and takes a second to import

LEVEL = 0.05
"""Largest chance of calling any two equal contestants of a comparison different."""

_POWER = 0.8
_MOST_SEEDS = 1000

Floats = NDArray[np.float64]


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean: percentile bootstrap with a generator of its own; None for fewer than two values.

    With fewer than about five values it is too narrow; the verdicts do not rest on it.
    """
    return _interval(tuple(values)) if len(values) > 1 else None


@lru_cache(maxsize=100_000)  # each is shown in several forms
def _interval(values: tuple[float, ...]) -> tuple[float, float]:
    # scipy.stats.bootstrap gives the same, but takes ten times as long to prepare for it.
    drawn = np.random.default_rng(0).integers(0, len(values), (2000, len(values)))
    low, high = np.percentile(np.asarray(values)[drawn].mean(axis=1), (2.5, 97.5))
    return float(low), float(high)


@dataclass(frozen=True)
class Pair:
    """Two contestants on the seeds that both finished."""

    first: str
    second: str
    seeds: int
    """How many seeds both finished."""
    difference: float | None
    """Mean of first - second over these seeds."""
    interval: tuple[float, float] | None
    """95 % interval of the difference, of this pair alone (Student's t)."""
    p: float | None
    """Corrected for the number of pairs (Holm 1979)."""
    verdict: str
    """first is `better`, `worse`, or `not distinguishable`."""
    seeds_needed: int | None = None
    """About how many seeds would settle it with a chance of 80 %, if difference and spread are as seen; None if that is
    over 1,000, or can't be said."""


def verdicts(
    samples: Mapping[str, Mapping[int, float]],
    baseline: str | None = None,
    resolution: float = 0.0,
    only: str | None = None,
) -> list[Pair]:
    """Compares each pair, or each with a baseline, by a t-test of the differences paired by seed.

    Three seeds say little of a spread, so with more than two contestants each pair's variance is drawn towards that of
    all pairs, by as much as the pairs agree (Smyth 2004, "Linear models and empirical Bayes methods", section 3; prior
    mean: the plain mean; prior degrees of freedom: at most half of what the other contestants add). p values are
    Holm's. By simulation the chance of any false verdict among 2 to 8 equal contestants stays at about 5 %, with equal
    and with very unequal spreads.

    Args:
        samples: for each contestant its result by seed, larger is better.
        baseline: the contestant that all others are compared with; None compares all pairs.
        resolution: the smallest step of a result, such as 1 / test images; no spread is believed to be below it.
        only: as `baseline`, for one that was chosen by its result: p values are corrected for all pairs.

    Returns:
        Pairs in the order of `samples`; with a baseline it is `second`.
    """
    names = list(samples)
    fixed = baseline or only
    chosen = list(itertools.combinations(names, 2)) if fixed is None else [(n, fixed) for n in names if n != fixed]
    family = len(names) * (len(names) - 1) // 2 if only else len(chosen)
    differences = [
        [samples[a][s] - samples[b][s] for s in sorted(samples[a].keys() & samples[b].keys())] for a, b in chosen
    ]
    testable = [i for i, found in enumerate(differences) if len(found) > 1]
    tested: dict[int, tuple[float, float, float, float]] = {}
    if testable:
        n = np.array([len(differences[i]) for i in testable])
        mean = np.array([np.mean(differences[i]) for i in testable])
        variance = np.array([np.var(differences[i], ddof=1) for i in testable])
        variance, freedom = _moderated(np.maximum(variance, resolution**2), n - 1, len(names))
        error = np.sqrt(variance / n)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.where(mean == 0, 0.0, np.abs(mean) / error)
        corrected, level = holm(2 * special.stdtr(freedom, -t), family)
        half = special.stdtrit(freedom, 0.975) * error
        tested = dict(zip(testable, zip(corrected, level, half, np.sqrt(variance), strict=True), strict=True))
    pairs = []
    for i, (a, b) in enumerate(chosen):
        found = differences[i]
        if i not in tested:
            pairs.append(Pair(a, b, len(found), found[0] if found else None, None, None, "not distinguishable"))
            continue
        p, level_, half_, spread = map(float, tested[i])
        middle = float(np.mean(found))
        verdict = "not distinguishable" if p >= LEVEL else "better" if middle > 0 else "worse"
        needed = _seeds_needed(abs(middle), spread, level_, len(found)) if p >= LEVEL else None
        pairs.append(Pair(a, b, len(found), middle, (middle - half_, middle + half_), p, verdict, needed))
    return pairs


def _moderated(variance: Floats, freedom: NDArray[np.int64], contestants: int) -> tuple[Floats, Floats]:
    """Variances drawn towards their mean, and the degrees of freedom that they then have."""
    most = (contestants - 2) * float(np.median(freedom)) / 2
    if len(variance) < 2 or most <= 0 or not variance.all():
        return variance, freedom.astype(float)
    logs = np.log(variance) - special.digamma(freedom / 2) + np.log(freedom / 2)
    disagreement = float(logs.var(ddof=1) - special.polygamma(1, freedom / 2).mean())
    prior = most
    if disagreement > float(special.polygamma(1, most / 2)):
        low, high = 1e-6, most / 2
        for _ in range(60):  # trigamma falls
            middle = (low + high) / 2
            low, high = (middle, high) if special.polygamma(1, middle) > disagreement else (low, middle)
        prior = 2 * low
    drawn: Floats = (prior * variance.mean() + freedom * variance) / (prior + freedom)
    return drawn, np.asarray(prior + freedom, dtype=float)


def holm(p: Floats, family: int | None = None) -> tuple[Floats, Floats]:
    """Holm's step-down correction (1979), which bounds the chance of any false rejection.

    Args:
        p: p values.
        family: how many were, or could have been, tested; the others count as not rejected.

    Returns:
        Corrected p values, and the level that each one is held against.
    """
    order = np.argsort(p, kind="stable")
    factor = (family or len(p)) - np.arange(len(p))
    corrected, level = np.empty(len(p)), np.empty(len(p))
    corrected[order] = np.minimum(1, np.maximum.accumulate(factor * p[order]))
    level[order] = LEVEL / factor
    return corrected, level


def _seeds_needed(difference: float, spread: float, level: float, seeds: int) -> int | None:
    if difference == 0 or spread == 0:
        return None

    def settles(n: int) -> bool:
        critical = special.stdtrit(n - 1, 1 - level / 2)
        return bool(1 - special.nctdtr(n - 1, difference / spread * math.sqrt(n), critical) >= _POWER)

    # Power grows with n.
    found = bisect_left(range(_MOST_SEEDS + 1), True, lo=seeds + 1, key=settles)
    return found if found <= _MOST_SEEDS else None


def expected_best(results: Sequence[float]) -> list[float]:
    """Expected best of 1, 2, ... N results, drawn from the N given ones without putting any back.

    The unbiased estimator of Tang et al. 2020 ("Showing your work doesn't always work", equation 4): with the results
    sorted, x_1 <= ... <= x_N, the best of n is x_i in C(i-1, n-1) of C(N, n) draws.
    """
    ordered, total = sorted(results), len(results)
    return [
        sum(x * (math.comb(i, n - 1) / math.comb(total, n)) for i, x in enumerate(ordered) if i >= n - 1)
        for n in range(1, total + 1)
    ]


def leaders(curves: Mapping[str, Sequence[float]]) -> list[tuple[int, str]]:
    """Who leads from which number of trials on, as in `[(1, "adam"), (5, "momentum")]`; equals keep the lead."""
    found: list[tuple[int, str]] = []
    for n in range(min(map(len, curves.values()), default=0)):
        best = max(curves, key=lambda name: (curves[name][n], bool(found) and name == found[-1][1]))
        if not found or found[-1][1] != best:
            found.append((n + 1, best))
    return found
