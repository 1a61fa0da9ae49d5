"""Corrections of p values for the number of comparisons: Bergmann and Hommel, Shaffer, Holm.

A table of ten comparisons has ten chances to be wrong. Each correction here keeps the chance that a table contains any
false rejection below a level, however the p values depend on each other. A corrected p value is compared with the level
itself.

"a equals b" and "b equals c" together say "a equals c". So not every set of comparisons can be the set of those without
a difference: the contestants fall into blocks of equals, and the comparisons without a difference are the ones inside
the blocks. Bergmann and Hommel, and in part Shaffer, use this to find more than Holm.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.05
"""Largest chance that a table contains any false verdict."""

MOST_EXHAUSTIVE = 9
"""Contestants up to which all ways to fall into blocks are looked at: 21,147 of 9, but 115,975 of 10."""

MOST_SHAFFER = 100
"""Contestants up to which Shaffer's factors are used; beyond, they are less than 2 % smaller than Holm's."""

Floats = NDArray[np.float64]
Integers = NDArray[np.intp]


class Corrected(NamedTuple):
    """Corrected p values, and the level that each raw p value has to stay below."""

    p: Floats
    """At most 1; below the level exactly where the comparison is significant."""
    levels: Floats
    """Raw p value at which each comparison would just cease to be significant, all others being as they are.

    An interval that leaves out this much never contradicts the corrected p value.
    """


def all_pairs(p: Floats, contestants: int, level: float = LEVEL) -> Corrected:
    """Corrects the p values of all pairs of contestants, by the strongest method that is quick enough.

    Args:
        p: for each pair, in the order of `itertools.combinations`.
        contestants: how many there are.
        level: largest chance of any false rejection.

    Returns:
        By Bergmann and Hommel for up to 9 contestants, by Shaffer for up to 100, by Holm for more.
    """
    if contestants <= MOST_EXHAUSTIVE:
        return bergmann_hommel(p, contestants, level)
    if contestants > MOST_SHAFFER:
        return holm(p, level)
    return step_down(p, shaffer_factors(contestants), level)


def bergmann_hommel(p: Floats, contestants: int, level: float = LEVEL) -> Corrected:
    """Corrects the p values of all pairs by the exhaustive procedure of Bergmann and Hommel (1988).

    Let I be the pairs inside the blocks of one way to divide the contestants into blocks of equals. If just these pairs
    have no difference, then by Bonferroni the chance of |I| * min(p in I) <= level is at most the level. A pair is
    significant if this holds for every I that contains it:

        corrected p of a pair = max over all I that contain it of min(1, |I| * min(p in I))

    Args:
        p: shape (..., pairs), pairs in the order of `itertools.combinations`.
        contestants: how many there are; 9 take a tenth of a second the first time, 11 take seconds.
        level: largest chance of any false rejection.

    Returns:
        Both of the shape of `p`.
    """
    sizes, members = index_sets(contestants)
    smallest = np.ones((*p.shape[:-1], len(sizes)))
    hits = np.zeros(smallest.shape, dtype=np.int8)
    for j, sets in enumerate(members):
        own = p[..., j, None]
        smallest[..., sets] = np.minimum(smallest[..., sets], own)
        hits[..., sets] += own * sizes[sets] < level
    bounds = np.minimum(1, sizes * smallest)
    corrected, levels = np.empty(p.shape), np.empty(p.shape)
    for j, sets in enumerate(members):
        corrected[..., j] = bounds[..., sets].max(axis=-1)
        # What stands between this pair and significance are the sets that no other pair of theirs rejects.
        unhelped = hits[..., sets] == (p[..., j, None] * sizes[sets] < level)
        levels[..., j] = level / (unhelped * sizes[sets]).max(axis=-1)
    return Corrected(corrected, levels)


@cache
def index_sets(contestants: int) -> tuple[Integers, list[Integers]]:
    """The sets of pairs that can be all pairs without a difference.

    Returns:
        Size of each set, and for each pair the sets that contain it.
    """
    # A row gives each contestant its block; a new contestant joins one of the blocks there are, or opens another.
    blocks = np.zeros((1, 1), dtype=np.int8)
    for _ in range(contestants - 1):
        choices = blocks.max(axis=1) + 2
        joined = np.concatenate([np.arange(c, dtype=np.int8) for c in choices])
        blocks = np.column_stack([np.repeat(blocks, choices, axis=0), joined])
    first, second = np.triu_indices(contestants, 1)
    inside = blocks[:, first] == blocks[:, second]
    inside = inside[inside.any(axis=1)]
    return inside.sum(axis=1), [np.flatnonzero(column) for column in inside.T]


def shaffer_factors(contestants: int) -> Integers:
    """Factors by which Shaffer (1986) multiplies the smallest, the second, ... p value of all pairs.

    After i rejections at most `pairs - i` comparisons can be without a difference, and their number must be one that
    blocks of equals can have: with 4 contestants 6, 3 (blocks of 3 and 1), 2 (2 and 2) or 1, but not 5 or 4.
    """
    # Bit s of possible[k] says whether k contestants can fall into blocks with s pairs inside.
    possible = [1]
    for k in range(1, contestants + 1):
        possible.append(0)
        for block in range(1, k + 1):
            possible[k] |= possible[k - block] << (block * (block - 1) // 2)
    pairs = contestants * (contestants - 1) // 2
    numbers = np.array([s for s in range(pairs + 1) if possible[contestants] >> s & 1])
    return numbers[np.searchsorted(numbers, np.arange(pairs, 0, -1), side="right") - 1]


def holm(p: Floats, level: float = LEVEL) -> Corrected:
    """Corrects p values by Holm's step-down procedure (1979), which asks nothing of the comparisons.

    Args:
        p: p values, one-dimensional.
        level: largest chance of any false rejection.
    """
    return step_down(p, np.arange(len(p), 0, -1), level)


def step_down(p: Floats, factors: Integers, level: float = LEVEL) -> Corrected:
    """Multiplies the smallest p value with the first factor, the next with the second, ..., and lets none fall back.

    Args:
        p: p values, one-dimensional.
        factors: as many; they never rise.
        level: largest chance of any false rejection.
    """
    if not len(p):
        return Corrected(p, p)
    order = np.argsort(p, kind="stable")
    bounds = factors * p[order]
    corrected, levels = np.empty(len(p)), np.empty(len(p))
    corrected[order] = np.minimum(1, np.maximum.accumulate(bounds))
    # Without the comparison in place i the later ones move up by one place, and would stop at the first that fails.
    # A comparison in a later place than the first failure doesn't change where that is.
    last = len(p) - 1
    fails = np.append(factors[:-1] * p[order][1:] >= level, True)
    stops = np.minimum.accumulate(np.where(fails, np.arange(len(p)), last)[::-1])[::-1]
    first_failure = int(np.argmax(bounds >= level)) if (bounds >= level).any() else last
    levels[order] = level / factors[np.minimum(stops, first_failure)]
    return Corrected(corrected, levels)
