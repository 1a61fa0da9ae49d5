"""One answer over many problems: mean ranks, counted verdicts, performance profiles, the weight of each problem."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from cnnbench.analysis import stats
from cnnbench.analysis.comparison import Comparison


@dataclass
class Suite:
    """The same contestants on several problems."""

    comparisons: list[Comparison]
    """One for each problem."""
    names: list[str]
    """The problems, in the same order."""

    @cached_property
    def labels(self) -> list[str]:
        """The contestants that ran on every problem, best mean rank first."""
        everywhere = [c.label for c in self.comparisons[0].contestants]
        for comparison in self.comparisons[1:]:
            found = {c.label for c in comparison.contestants}
            everywhere = [label for label in everywhere if label in found]
        return sorted(everywhere, key=lambda label: (statistics.fmean(self._ranks(everywhere)[label]), label))

    @property
    def left_out(self) -> list[str]:
        """The contestants that some problem lacks."""
        known = dict.fromkeys(c.label for comparison in self.comparisons for c in comparison.contestants)
        return [label for label in known if label not in self.labels]

    def _ranks(self, labels: Sequence[str], without: int | None = None) -> dict[str, list[float]]:
        """By contestant its rank on each problem; equal results share the mean of their ranks."""
        found: dict[str, list[float]] = {label: [] for label in labels}
        for i, comparison in enumerate(self.comparisons):
            if i == without:
                continue
            sign = -1 if comparison.metric.higher else 1
            scores = {c.label: c.score(comparison.measure) for c in comparison.contestants if c.label in found}
            values = {label: math.inf if score is None else sign * score for label, score in scores.items()}
            for label, value in values.items():
                better = sum(other < value for other in values.values())
                same = sum(other == value for other in values.values())
                found[label].append(better + (same + 1) / 2)
        return found

    @cached_property
    def ranks(self) -> dict[str, list[float]]:
        """By contestant its rank on each problem, 1 for the best mean."""
        return self._ranks(self.labels)

    def mean_rank(self, label: str) -> float:
        """Mean of a contestant's ranks."""
        return statistics.fmean(self.ranks[label])

    def interval(self, label: str) -> tuple[float, float] | None:
        """95 % interval of the mean rank over problems such as these (Student's t); None for one problem."""
        return stats.interval(self.ranks[label], 1.0, float(len(self.labels)))

    @cached_property
    def counts(self) -> dict[str, dict[str, int]]:
        """How often each contestant is `better` and `worse` than another one, and how often neither is shown.

        The verdicts of all problems share 5 %, so that the chance of any false one among them is at most that.
        """
        found = {label: dict.fromkeys(("better", "worse", "neither"), 0) for label in self.labels}
        for comparison in self.comparisons:
            shared = replace(comparison, baseline=None, share=comparison.share / len(self.comparisons))
            for pair in shared.pairs:
                for seen in (pair, pair.turned):
                    if seen.first in found and seen.second in found:
                        kind = seen.verdict if seen.verdict in ("better", "worse") else "neither"
                        found[seen.first][kind] += 1
        return found

    @cached_property
    def costs(self) -> dict[str, list[float]]:
        """By contestant and problem the median cost to reach the problem's target; infinite where it was missed.

        In training images, or in epochs where another program's table has no more; nothing without a target.
        """
        found: dict[str, list[float]] = {label: [] for label in self.labels}
        for comparison in self.comparisons:
            if not math.isfinite(comparison.target):
                return {}
            unit = "images" if comparison.records else "epochs"
            for c in comparison.contestants:
                if c.label in found:
                    values = c.costs(unit, comparison.target)
                    found[c.label].append(statistics.median(values) if values else math.inf)
        return found

    def solved(self, label: str, factor: float) -> float:
        """Share of the problems whose target a contestant reached at no more than `factor` times the lowest cost.

        This is the performance profile of Dolan and More (2002), as AlgoPerf (Dahl et al. 2023) uses it.
        """
        lowest = [min(column) for column in zip(*self.costs.values(), strict=True)]
        own = zip(self.costs[label], lowest, strict=True)
        return statistics.fmean(math.isfinite(cost) and cost <= factor * best for cost, best in own)

    @cached_property
    def leaders_without(self) -> dict[str, str]:
        """By problem the contestant that would have the best mean rank if that problem were left out."""
        found = {}
        for i, name in enumerate(self.names):
            ranks = self._ranks(self.labels, without=i)
            found[name] = min(self.labels, key=lambda label: (statistics.fmean(ranks[label]), self.labels.index(label)))
        return found

    @property
    def verdict(self) -> str:
        """The answer in two sentences."""
        if len(self.labels) < 2:
            return "There are not two contestants that ran on every problem. So there is no answer over all of them."
        leader, count = self.labels[0], len(self.comparisons)
        of = f"{self.mean_rank(leader):.2f} of {len(self.labels)}"
        shown, pairs = self.counts[leader], count * (len(self.labels) - 1)
        text = f"Over {count} problems {leader} has the best mean rank, {of}: it is better than another contestant in "
        text += f"{shown['better']} of {pairs} comparisons and worse in {shown['worse'] or 'none'}."
        others = {name: other for name, other in self.leaders_without.items() if other != leader}
        if not others:
            return f"{text} It leads whichever problem is left out."
        changes = " and ".join(f"{other} would lead without {name}" for name, other in others.items())
        return f"{text} This rests on single problems: {changes}."
