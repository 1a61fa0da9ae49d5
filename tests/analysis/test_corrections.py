"""Corrections of p values: by hand, from the literature, and against the definition."""

import itertools
import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnbench.analysis.corrections import (
    LEVEL,
    all_pairs,
    bergmann_hommel,
    holm,
    index_sets,
    shaffer_factors,
    step_down,
)


def partitions(names: list[int]) -> Iterator[list[list[int]]]:
    """All ways to divide them into blocks."""
    if not names:
        yield []
        return
    for rest in partitions(names[1:]):
        yield [[names[0]], *rest]
        for i, block in enumerate(rest):
            yield [*rest[:i], [names[0], *block], *rest[i + 1 :]]


def by_definition(p: list[float], contestants: int) -> list[float]:
    """Bergmann and Hommel's corrected p values, one set after the other."""
    values = dict(zip(itertools.combinations(range(contestants), 2), p, strict=True))
    corrected = dict.fromkeys(values, 0.0)
    for blocks in partitions(list(range(contestants))):
        inside = [pair for block in blocks for pair in itertools.combinations(sorted(block), 2)]
        for pair in inside:
            corrected[pair] = max(corrected[pair], min(1, len(inside) * min(values[other] for other in inside)))
    return list(corrected.values())


def p_values(contestants: int) -> st.SearchStrategy[list[float]]:
    pairs = contestants * (contestants - 1) // 2
    return st.lists(
        st.sampled_from([0.0, 0.0004, 0.003, 0.007, 0.012, 0.02, 0.04, 0.3, 1.0]), min_size=pairs, max_size=pairs
    )


def test_holm_by_hand() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, never falling: 0.02, 0.03, 0.06, 0.06.
    corrected, levels = holm(np.array([0.01, 0.04, 0.03, 0.005]))
    assert corrected == pytest.approx([0.03, 0.06, 0.06, 0.02])
    # 0.03 fails at 0.05 / 2, and so would 0.04. Were 0.005 larger, it would still pass in the second place, at 0.05 / 3.
    assert levels == pytest.approx([0.05 / 3, 0.05 / 2, 0.05 / 2, 0.05 / 3])
    assert [len(part) for part in holm(np.array([]))] == [0, 0]


def test_bergmann_and_hommel_by_hand() -> None:
    # The sets of 3 contestants are all pairs (3 * 0.01) and each pair alone.
    corrected, levels = bergmann_hommel(np.array([0.01, 0.02, 0.04]), 3)
    assert corrected == pytest.approx([0.03, 0.03, 0.04])
    # The first one has to reject the set of all pairs itself; it does that for the others.
    assert levels == pytest.approx([0.05 / 3, 0.05, 0.05])
    assert bergmann_hommel(np.array([0.03]), 2).p == pytest.approx([0.03])
    assert len(bergmann_hommel(np.array([]), 1).p) == 0


@pytest.mark.parametrize("contestants", [3, 4, 5])
def test_bergmann_and_hommel_follow_their_definition(contestants: int) -> None:
    generator = np.random.default_rng(contestants)
    p = generator.random((100, contestants * (contestants - 1) // 2)) ** 4
    assert bergmann_hommel(p, contestants).p == pytest.approx(
        np.array([by_definition(list(row), contestants) for row in p])
    )


def test_how_many_sets_there_are() -> None:
    # Bell's numbers 15, 52, 21147, without the division into single contestants; a pair stays together in Bell(k - 1).
    assert [len(index_sets(k)[0]) for k in (4, 5, 9)] == [14, 51, 21146]
    assert [len(sets) for sets in index_sets(5)[1]] == [15] * 10


def test_nine_contestants_take_no_time() -> None:
    index_sets.cache_clear()
    start = time.process_time()
    bergmann_hommel(np.random.default_rng(0).random(36), 9)
    assert time.process_time() - start < 0.2


def test_shaffer_s_factors() -> None:
    # Shaffer 1986, table 2: how many of 3, 6 and 10 comparisons can be without a difference.
    assert list(shaffer_factors(3)) == [3, 1, 1]
    assert list(shaffer_factors(4)) == [6, 3, 3, 3, 2, 1]
    assert list(shaffer_factors(5)) == [10, 6, 6, 6, 6, 4, 4, 3, 2, 1]


def test_methods_by_the_number_of_contestants() -> None:
    for contestants in (9, 10, 100, 101):
        p = np.random.default_rng(contestants).random(contestants * (contestants - 1) // 2) ** 8
        stepped = step_down(p, shaffer_factors(contestants)).p
        expected = {9: bergmann_hommel(p, 9).p, 101: holm(p).p}.get(contestants, stepped)
        assert all_pairs(p, contestants).p == pytest.approx(expected)
    p = np.random.default_rng(0).random(45) ** 8
    assert (holm(p).p >= all_pairs(p, 10).p).all()
    assert (holm(p).p > all_pairs(p, 10).p).any()


@settings(max_examples=300, deadline=None)
@given(st.data(), st.integers(2, 5), st.sampled_from([bergmann_hommel, "shaffer", "holm"]))
def test_levels_say_what_p_values_say(data: st.DataObject, contestants: int, method: object) -> None:
    def correct(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if method == "holm":
            return holm(p)
        return step_down(p, shaffer_factors(contestants)) if method == "shaffer" else bergmann_hommel(p, contestants)

    p = np.array(data.draw(p_values(contestants)))
    corrected, levels = correct(p)
    assert ((corrected < LEVEL) == (p < levels)).all()
    # One p value just above or below its level turns its own verdict.
    one = data.draw(st.integers(0, len(p) - 1))
    for factor, significant in ((0.999, True), (1.001, False)):
        moved = p.copy()
        moved[one] = levels[one] * factor
        assert (correct(moved)[0][one] < LEVEL) is np.bool_(significant) or (
            correct(moved)[0][one] < LEVEL
        ) == significant
