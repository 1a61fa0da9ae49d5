"""Budget curves: by hand, against the formula, and by drawing."""

import math
import time

import numpy as np
import pytest

from cnnbench.analysis.budget import expected_best, leaders


def test_expected_best_by_hand() -> None:
    # One of 0.1, 0.2, 0.6; of the three pairs two hold 0.6 and one's best is 0.2; all three.
    assert expected_best([0.6, 0.1, 0.2]) == pytest.approx([0.3, (0.2 + 2 * 0.6) / 3, 0.6])
    assert expected_best([]) == []
    assert expected_best([0.4]) == [0.4]
    # What is not a number counts as 0, wherever it stands.
    assert expected_best([0.6, math.nan, 0.2]) == pytest.approx([0.8 / 3, (0.2 + 2 * 0.6) / 3, 0.6])


def test_expected_best_by_the_formula() -> None:
    values = np.random.default_rng(0).random(30)
    for n, found in enumerate(expected_best(list(values)), start=1):
        ways = [math.comb(i, n - 1) for i in range(30)]
        assert found == pytest.approx(float(np.sort(values) @ ways) / math.comb(30, n))


def test_expected_best_of_a_thousand_trials() -> None:
    values = list(np.random.default_rng(0).random(1000))
    start = time.process_time()
    best = expected_best(values)
    assert time.process_time() - start < 0.1
    assert best[-1] == pytest.approx(max(values))
    assert best == sorted(best)


def test_leaders() -> None:
    assert leaders({"a": [0.5, 0.6, 0.65], "b": [0.4, 0.6, 0.7]}) == [(1, "a"), (3, "b")]
    assert leaders({}) == []
