"""Comparisons that are repeated while seeds are added, until every verdict is settled. (imports no torch)

Who looks after every seed and stops at the first significant difference finds one sooner or later, also where there is
none. So the looks are planned, and each may use a share of the 5 % only.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from cnnbench.analysis.stats import Pair

FIRST_LOOK = 3
"""Seeds at the first look: the spread of fewer says next to nothing."""

_GROWTH = 1.6


@dataclass(frozen=True)
class Look:
    """A planned number of seeds at which the contestants are compared."""

    seeds: int
    share: float
    """The part of the 5 % that this look may use: give it to `stats.verdicts` as `share`."""


def looks(max_seeds: int) -> list[Look]:
    """Plans the looks, such as at 3, 5, 8 and 12 seeds.

    Each look has about 1.6 times the seeds of the one before. Its share of the 5 % is in proportion to its seeds: 3/28,
    5/28, 8/28 and 12/28. The shares add up to 1, so by Bonferroni the chance of any false verdict over all looks is at
    most 5 %. Equal shares stop one look earlier where differences are huge, but find less at the end; shares that grow
    faster hardly ever stop early (`scripts/simulate_verdicts.py`).

    Args:
        max_seeds: the last look.

    Raises:
        ValueError: that is below 3, the first look.
    """
    if max_seeds < FIRST_LOOK:
        raise ValueError(f"max_seeds={max_seeds}: the first look is at {FIRST_LOOK} seeds.")
    ratio = max_seeds / FIRST_LOOK
    steps = max(round(math.log(ratio) / math.log(_GROWTH)), min(1, max_seeds - FIRST_LOOK))
    seeds = [round(FIRST_LOOK * ratio ** (i / max(steps, 1))) for i in range(steps + 1)]
    return [Look(n, n / sum(seeds)) for n in seeds]


def settled(pairs: Iterable[Pair]) -> bool:
    """Whether more seeds are of no use: every pair is better, worse or equivalent.

    Args:
        pairs: what `stats.verdicts` says at a look, given the look's share. For the leader's pairs alone call it with
            `only=`; without a margin equal contestants are never settled.
    """
    return all(pair.verdict != "not distinguishable" for pair in pairs)
