"""Planned looks, and when a comparison is settled."""

import itertools

import numpy as np
import pytest

from cnnbench.analysis.sequential import looks, settled
from cnnbench.analysis.stats import verdicts


def test_looks() -> None:
    assert [[look.seeds for look in looks(most)] for most in (3, 4, 5, 8, 12, 20)] == [
        [3], [3, 4], [3, 5], [3, 5, 8], [3, 5, 8, 12], [3, 5, 8, 12, 20],
    ]  # fmt: skip
    assert [look.share for look in looks(12)] == pytest.approx([3 / 28, 5 / 28, 8 / 28, 12 / 28])
    for most in range(3, 60):
        plan = looks(most)
        assert sum(look.share for look in plan) == pytest.approx(1)
        assert plan[-1].seeds == most
        assert all(a.seeds < b.seeds for a, b in itertools.pairwise(plan))
    with pytest.raises(ValueError, match="max_seeds=2: the first look is at 3 seeds"):
        looks(2)


def test_settled() -> None:
    samples = {name: dict(enumerate([i, i + 0.01, i - 0.01])) for i, name in enumerate("ab")}
    apart = {**samples, "c": {0: 0.005, 1: 0.002, 2: 0.0}}
    assert settled(verdicts(samples, share=looks(12)[0].share))
    assert not settled(verdicts(apart))
    assert settled(verdicts(apart, margin=0.1))
    assert settled(verdicts(apart, only="b"))
    assert not settled(verdicts({"a": {0: 0.1}, "b": {0: 0.2}}))


def test_stopping_early_stays_honest() -> None:
    generator = np.random.default_rng(2)
    times, wrong = 400, 0
    for _ in range(times):
        results = generator.normal(size=(2, 12)) * np.array([[1.0], [8.0]])
        wrong += any(
            settled(
                verdicts(
                    {str(i): dict(enumerate(row[: look.seeds])) for i, row in enumerate(results)}, share=look.share
                )
            )
            for look in looks(12)
        )
    assert 0 < wrong / times < 0.05 + 2.6 * np.sqrt(0.05 * 0.95 / times)
