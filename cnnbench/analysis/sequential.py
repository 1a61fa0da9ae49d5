"""Comparisons that are repeated while seeds are added, until every verdict is settled.

Who looks after every seed and stops at the first significant difference finds one sooner or later, also where there is
none. So the looks are planned, and each may use a share of the 5 % only.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cnnbench.analysis.stats import Pair
from cnnbench.config.composition import Job
from cnnbench.config.schema import FIRST_LOOK
from cnnbench.errors import ConfigError
from cnnbench.results import decoding
from cnnbench.runtime import files

FILE = "seeds.json"
"""In the folder of the runs."""

VERSION = 1

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


@dataclass
class Decision:
    """What the runs of a look have settled."""

    seeds: int
    """Of each contestant at this look."""
    pairs: int
    """How many pairs had to be settled."""
    unsettled: list[tuple[str, str]]
    """Those that are not."""


@dataclass
class Plan:
    """What `seeds=auto` has planned before any result was known, and decided since."""

    settle: str
    """All `pairs`, or those with the `leader`."""
    margin: float | None
    """The smallest difference of accuracies that matters, from 0 to 1."""
    looks: list[Look]
    contestants: list[str]
    """The id of each one's first run."""
    decisions: list[Decision] = field(default_factory=list)
    """One for each look so far."""

    @property
    def share(self) -> float:
        """The part of the 5 % that a comparison may use now: that of the last look that was taken."""
        return self.looks[max(len(self.decisions) - 1, 0)].share

    @property
    def settled(self) -> bool:
        """Whether the last look has settled all pairs."""
        return bool(self.decisions) and not self.decisions[-1].unsettled

    def write(self, folder: Path) -> None:
        """Writes it to `folder`, whole."""
        text = json.dumps({"schema_version": VERSION} | asdict(self), indent=1)
        files.write_whole(folder / FILE, lambda file: file.write(text.encode()))


def read(folder: Path) -> Plan | None:
    """The plan in `folder`, if there is one.

    Raises:
        ConfigError: it is damaged, or was written by another version.
    """
    return decoding.read_plan(folder / FILE, Plan, (VERSION,))


def check_contestants(jobs: list[Job]) -> None:
    """Checks that seeds can be added to these contestants.

    Args:
        jobs: one of each contestant.

    Raises:
        ConfigError: they can't.
    """
    configs = [job.config for job in jobs]
    if configs[0].ladder or configs[0].leave_out:
        raise ConfigError("seeds=auto: a ladder has the same seeds on each rung; give their number, such as seeds=5.")
    if len(jobs) < 2:
        raise ConfigError("seeds=auto: needs two contestants, such as optimizer=sgd,adam; seeds=5 runs one five times.")
    for key in ("seeds", "max_seeds", "settle", "margin", "runs_dir", "name"):
        values = dict.fromkeys(str(getattr(config, key)) for config in configs)
        if len(values) > 1:
            raise ConfigError(f"{key}={','.join(values)}: with seeds=auto all contestants have the same {key}.")
