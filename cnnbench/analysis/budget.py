"""Budget curves: the best result to expect of a number of random trials, and who leads at which number."""

from collections.abc import Mapping, Sequence

import numpy as np


def expected_best(results: Sequence[float]) -> list[float]:
    """Expected best of 1, 2, ... N results, drawn from the N given ones without putting any back.

    The unbiased estimator of Tang et al. 2020 ("Showing your work doesn't always work", equation 4): with the results
    sorted, x_1 <= ... <= x_N, the best of n is x_i with probability w_i(n) = C(i-1, n-1) / C(N, n). From n to n + 1:

        w_i(1) = 1 / N,   w_i(n + 1) = w_i(n) * (i - n) / n * (n + 1) / (N - n)

    It is valid for random search alone: there each trial could have come first as well as last. The points of a Sobol
    sequence or a grid are spread on purpose, and those of TPE are chosen by the results before them.

    Args:
        results: accuracies; one that is not finite counts as 0, as that of a trial that gave nothing.
    """
    values = np.asarray(results, dtype=float)
    ordered, total = np.sort(np.where(np.isfinite(values), values, 0.0)), len(values)
    rank = np.arange(1, total + 1)
    weights = np.full(total, 1 / total) if total else ordered
    best = []
    for n in range(1, total + 1):
        best.append(float(weights @ ordered))
        if n < total:
            weights = weights * ((rank - n) / n * (n + 1) / (total - n))
    return best


def leaders(curves: Mapping[str, Sequence[float]]) -> list[tuple[int, str]]:
    """Who leads from which number of trials on, as in `[(1, "adam"), (5, "momentum")]`; equals keep the lead."""
    found: list[tuple[int, str]] = []
    for n in range(min(map(len, curves.values()), default=0)):
        best = max(curves, key=lambda name: (curves[name][n], bool(found) and name == found[-1][1]))
        if not found or found[-1][1] != best:
            found.append((n + 1, best))
    return found
