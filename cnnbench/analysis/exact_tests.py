"""Exact comparisons of how many runs failed, and of costs to a target that some runs never reach.

"Exact" means that the p values are counted, not approximated: if both contestants were the same, each way to hand their
runs out to the two names would be equally likely. p is the share of ways that look at least as different as what was
seen. With few runs there are few ways, so that even the clearest result may say nothing: `Exact.smallest_p` tells.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from cnnbench.analysis import corrections
from cnnbench.analysis.corrections import LEVEL

_Sample = TypeVar("_Sample")
_Verdict = Literal["better", "worse", "not distinguishable"]


@dataclass(frozen=True)
class Exact:
    """Two contestants, compared by an exact test."""

    first: str
    second: str
    verdict: _Verdict
    """first has fewer failures or smaller costs (`better`), more or larger ones (`worse`), or neither is shown."""
    raw_p: float
    """p value, as if this pair were the only one."""
    p: float
    """p value corrected for the number of pairs; below 5 % the pair has a difference."""
    smallest_p: float
    """The smallest `p` that these numbers of runs and pairs could give; from 5 % on nothing could have been shown."""


def failures(counts: Mapping[str, tuple[int, int]], baseline: str | None = None) -> list[Exact]:
    """Compares how many runs of each contestant failed, by Fisher's exact test.

    Args:
        counts: for each contestant how many runs failed, and how many there were.
        baseline: the contestant that all others are compared with; None compares all pairs.

    Returns:
        Pairs in the order of `counts`; the chance of any false `better` or `worse` is at most 5 %.
    """
    return _compared(
        counts,
        baseline,
        test=lambda a, b: fisher(*a, *b),
        sign=lambda a, b: b[0] * a[1] - a[0] * b[1],
        runs=lambda count: count[1],
    )


def costs(samples: Mapping[str, Sequence[float]], baseline: str | None = None) -> list[Exact]:
    """Compares what it cost each contestant to reach a target, by an exact rank test.

    A run that never reached the target has an infinite cost: it is larger than all others and equal to its like. What
    a run would have cost later doesn't matter to ranks.

    Args:
        samples: for each contestant the costs of its runs, such as epochs or seconds.
        baseline: the contestant that all others are compared with; None compares all pairs.

    Returns:
        Pairs of contestants with runs, in the order of `samples`; the chance of any false `better` or `worse`, among
        contestants whose costs are distributed alike, is at most 5 %. Where the costs of one scatter many times as
        widely around the same middle it is up to 6 % with 5 runs and 9 % with 20.
    """
    return _compared(
        {name: values for name, values in samples.items() if values},
        baseline,
        test=rank_test,
        sign=lambda a, b: sum((y > x) - (y < x) for x in a for y in b),
        runs=len,
    )


def fisher(failed_a: int, runs_a: int, failed_b: int, runs_b: int) -> float:
    """Two-sided p value of Fisher's exact test (1935) of equal chances to fail.

    If `failed` of all runs failed, x of them belong to a in C(runs_a, x) * C(runs_b, failed - x) ways. p is the
    share of these ways whose x is no more likely than the one seen.
    """
    failed = failed_a + failed_b
    ways = [math.comb(runs_a, x) * math.comb(runs_b, failed - x) for x in range(failed + 1)]
    return sum(way for way in ways if way <= ways[failed_a]) / sum(ways)


def rank_test(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided p value of the exact rank-sum test of Wilcoxon (1945), Mann and Whitney.

    Equal values share the mean of their ranks. p is the share of all C(n_a + n_b, n_a) ways to choose the runs of a
    whose sum of ranks is at least as far from its mean as the one seen. Where runs are censored at their end alone, as
    here, Gehan's test (1965) is the same.
    """
    values = np.concatenate([a, b])
    # Twice the rank, which is whole: how many are smaller, plus how many are not larger, plus 1.
    ordered = np.sort(values)
    ranks = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right") + 1
    ways = _rank_sums(tuple(sorted(ranks.tolist())), len(a))
    middle = len(a) * (len(values) + 1)
    far = np.abs(np.arange(len(ways)) - middle) >= abs(int(ranks[: len(a)].sum()) - middle)
    return float(ways[far].sum() / ways.sum())


@cache
def _rank_sums(ranks: tuple[int, ...], chosen: int) -> NDArray[np.float64]:
    """In how many ways so many of the ranks add up to 0, 1, 2, ..."""
    ways = np.zeros((chosen + 1, sum(ranks) + 1))
    ways[0, 0] = 1
    for rank in ranks:
        ways[1:, rank:] += ways[:-1, :-rank]
    return np.asarray(ways[chosen].copy())  # not a view, which would keep all rows


def smallest_p(runs_a: int, runs_b: int) -> float:
    """The smallest p value that an exact test of so many runs can give: all of one beyond all of the other.

    With as many runs of both this can happen in two of C(n_a + n_b, n_a) ways, else (with ties) in one.
    """
    return (2 if runs_a == runs_b else 1) / math.comb(runs_a + runs_b, runs_a)


def _compared(
    samples: Mapping[str, _Sample],
    baseline: str | None,
    test: Callable[[_Sample, _Sample], float],
    sign: Callable[[_Sample, _Sample], float],
    runs: Callable[[_Sample], int],
) -> list[Exact]:
    """Tests and corrects all pairs, or those with a baseline; a positive `sign` says that the first one did better."""
    if baseline is None:
        chosen = list(itertools.combinations(samples, 2))
    else:
        chosen = [(name, baseline) for name in samples if name != baseline]
    raw = np.array([test(samples[a], samples[b]) for a, b in chosen])
    least = np.array([smallest_p(runs(samples[a]), runs(samples[b])) for a, b in chosen])
    corrected, least = (
        corrections.all_pairs(p, len(samples)).p if baseline is None else corrections.holm(p).p for p in (raw, least)
    )
    found = []
    for (a, b), raw_p, p, smallest in zip(chosen, raw.tolist(), corrected.tolist(), least.tolist(), strict=True):
        verdict: _Verdict = "not distinguishable"
        if p < LEVEL:
            verdict = "better" if sign(samples[a], samples[b]) > 0 else "worse"
        found.append(Exact(a, b, verdict, raw_p, p, smallest))
    return found
