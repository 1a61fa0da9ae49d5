"""Comparisons: contestants side by side, and the verdicts on their differences."""

import math
import statistics
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cached_property

from cnnbench.analysis import exact_tests, stats
from cnnbench.analysis.contestants import METRICS, Contestant
from cnnbench.analysis.corrections import LEVEL
from cnnbench.analysis.exact_tests import Exact
from cnnbench.analysis.ladder import Ladder
from cnnbench.analysis.stats import Pair
from cnnbench.analysis.tuning_results import Tuning

CHOSEN = "chosen on these runs"
"""What is said of a verdict on a setting that was chosen from several by the same results (`by=`)."""


MOST_PAIRED = 20
"""With more contestants than this each is compared with the best one alone."""


@dataclass
class Comparison:
    """Contestants that may be put side by side, the one with the best mean validation accuracy first."""

    title: str
    contestants: list[Contestant]
    baseline: str | None = None
    """The contestant that the others are compared with; None compares all pairs."""
    targets: tuple[float, ...] = ()
    """Validation accuracies whose cost was asked for; the verdicts on costs are about the first one."""
    ladder: Ladder | None = None
    """What the contestants are the rungs of."""
    margin: float | None = None
    """Differences of accuracy below it do not matter; None asks for no equivalence."""
    share: float = 1.0
    """The part of the 5 % that the verdicts may use, where seeds were added look by look."""
    tuning: Tuning | None = None
    """How the contestants' settings were found, if they were tuned."""
    metric: str = "acc"
    """What the contestants are compared by, one of `METRICS`."""

    @property
    def unit(self) -> str:
        """What a result of the verdicts is a mean of: one `seed`, or one `tuning` where that was repeated."""
        return "tuning" if any(c.tunings for c in self.contestants) else "seed"

    def chosen(self, pair: Pair) -> bool:
        """Whether one of the two was chosen from several settings by the very runs that the verdict rests on."""
        return any(c.settings > 1 for c in self.contestants if c.label in (pair.first, pair.second))

    @property
    def measure(self) -> str:
        """What the verdicts are about: `test_acc`, or `val_acc` where the test set stayed closed; or another metric."""
        test = f"test_{self.metric}"
        return test if any(c.measured(test) for c in self.contestants) else f"val_{self.metric}"

    @property
    def judged(self) -> str:
        """Name of the measure that the verdicts are about."""
        if self.measure.startswith("test_"):
            return f"test {METRICS[self.metric]}"
        return f"{'best ' if self.metric == 'acc' else ''}validation {METRICS[self.metric]}"

    @property
    def untested(self) -> str:
        """Why there is no test accuracy, as a sentence for tables; empty where a run has one, or will have."""
        reasons = {run.untested for c in self.contestants for run in c.runs}
        if "" in reasons:
            return ""
        return f"Not tested ({', '.join(sorted(reasons))}): these are accuracies on the validation images alone."

    @property
    def leader(self) -> Contestant:
        """The named baseline, or else the contestant with the best mean validation accuracy."""
        return next((c for c in self.contestants if c.label == self.baseline), self.contestants[0])

    @cached_property
    def pairs(self) -> list[Pair]:
        """The verdicts, by `measure`.

        A broken run counts as chance. A contestant all of whose runs broke is worse than one with a finished run, on
        that ground alone: such a pair has no p value.
        """
        samples = {c.label: c.samples(self.measure) for c in self.contestants}
        only = self.contestants[0].label if len(self.contestants) > MOST_PAIRED else None
        pairs = stats.verdicts(samples, self.baseline, self._resolution, self.margin, only, self.share)
        finished = {c.label: bool(c.done) for c in self.contestants if c.ended}
        return [_broken(pair) if self._one_broke(pair, finished) else pair for pair in pairs]

    @property
    def _resolution(self) -> float:
        """The smallest step of an accuracy: one image."""
        sizes = self.contestants[0].runs[0].data.sizes
        return 1 / max(sizes.test if self.measure.startswith("test_") else sizes.val, 1)

    @property
    def level(self) -> float:
        """The p value that a single pair has to undercut, if all were corrected by their number alone."""
        count = len(self.contestants)
        pairs = count - 1 if self.baseline else count * (count - 1) // 2
        return LEVEL * self.share / max(pairs, 1)

    @staticmethod
    def _one_broke(pair: Pair, finished: dict[str, bool]) -> bool:
        """Whether all runs of one contestant broke, and not all of the other."""
        both = pair.first in finished and pair.second in finished
        return both and finished[pair.first] != finished[pair.second]

    @cached_property
    def failures(self) -> list[Exact]:
        """The contestants compared by how many of their runs broke; nothing where none did.

        Nothing either where the tuning was repeated: the runs of a winner tend to break together.
        """
        if self.unit == "tuning" or not any(c.broken for c in self.contestants):
            return []
        counts = {c.label: (len(c.broken), c.ended) for c in self.contestants if c.ended}
        return exact_tests.failures(counts, self._few_pairs)

    @cached_property
    def finished_pairs(self) -> dict[tuple[str, str], Pair]:
        """The verdicts as they would be if no run had broken: those on the finished runs alone, by both contestants."""
        samples = {c.label: dict(enumerate(c.measured(self.measure))) for c in self.contestants}
        found = stats.verdicts(samples, self._few_pairs, self._resolution, share=self.share)
        return {(pair.first, pair.second): pair for pair in found}

    def cost_verdicts(self, unit: str) -> list[Exact]:
        """The contestants compared by what it cost to reach the target, in `epochs`, `images` or `seconds`."""
        samples = {c.label: c.cost_samples(unit, self.target) for c in self.contestants}
        return exact_tests.costs(samples, self._few_pairs)

    @property
    def _few_pairs(self) -> str | None:
        """The baseline of exact tests: with many contestants the leader, so that there are no thousands of pairs."""
        return self.leader.label if self.baseline or len(self.contestants) > MOST_PAIRED else None

    @cached_property
    def target(self) -> float:
        """Validation accuracy whose cost is shown: the given one, or what the middle contestant reaches."""
        if self.targets:
            return self.targets[0]
        means = [mean for c in self.contestants if (mean := c.mean("val_acc")) is not None]
        return math.floor(100 * statistics.median(means)) / 100 if means else 0.0

    @property
    def verdict(self) -> str:
        """The answer in a few sentences."""
        ended = [c for c in self.contestants if c.ended]
        if not any(c.done for c in ended) or len(ended) < 2:
            return "There are not two contestants with finished runs. So there is no verdict."
        leader = self.leader
        mean, tested = leader.mean(self.measure), self.measure.startswith("test_")
        if leader.label == self.baseline:
            head = f"The baseline is {leader.label}"
            head += f", with {mean:.2%} on the test images" if tested and mean is not None else ""
        else:
            head = f"{leader.label} has the best validation {METRICS[self.metric]}"
            head += f" and {mean:.2%} on the test images" if tested and mean is not None else ""
        if max(len(c.samples(self.measure)) for c in ended) < 2:
            more = "seed=0,1,2" if self.unit == "seed" else "tunings=3"
            return f"{head}. One {self.unit} does not show how sure a difference is: run at least three, {more}."
        sides: dict[str, list[str]] = defaultdict(list)
        for pair in self.pairs:
            if leader.label in (pair.first, pair.second):
                seen = pair if pair.first == leader.label else pair.turned
                unsure = seen.verdict == "not distinguishable"
                sides[seen.verdict].append(seen.second + (_difference(seen, self) if unsure else ""))
        chosen = any(c.settings > 1 for c in self.contestants)
        mark = f" ({CHOSEN})" if chosen else ""
        found = [f"{side}{mark} than {_enumerate(sides[side])}" for side in ("better", "worse") if sides[side]]
        text = (
            f"{head}; it is {' and '.join(found)}."
            if found
            else f"{head}; it is not shown to be better than any other."
        )
        if same := sides["equivalent"]:
            text += f" Equivalent to it within {100 * (self.margin or 0):g} points: {_enumerate(same)}."
            text += self._cheaper(leader, same)
        if open_ := sides["not distinguishable"]:
            text += f" Not distinguishable from it: {_enumerate(open_)}."
        tested = all(pair.p is not None for pair in self.pairs if leader.label in (pair.first, pair.second))
        if found and not same and not open_ and not chosen and tested:
            text += f" {'Each of these differences' if len(ended) > 2 else 'The difference'} is beyond noise."
        for c in ended:
            if not c.done:
                text += f" All {c.ended} runs of {c.label} diverged or failed: it is worse on that ground alone."
            elif c.broken:
                text += f" Of {c.label}, {len(c.broken)} of {c.ended} runs diverged or failed; they count as chance."
            if lost := sum(not seeds for seeds in c.tunings.values()):
                text += f" Of {c.label}, {lost} of {len(c.tunings)} tunings found no setting that trains; "
                text += f"{'it counts' if lost == 1 else 'they count'} as chance."
        if chosen:
            text += " Settings chosen on the runs that they are judged by look better than they are: run the chosen "
            text += "settings with fresh seeds."
        return f"{text} {self.tuning.scope}" if self.tuning else text

    def _cheaper(self, leader: Contestant, others: list[str]) -> str:
        """Names the cheapest of equivalent contestants, by seconds of training."""
        equal = [c for c in self.contestants if c is leader or c.label in others]
        seconds = {c.label: c.mean("seconds") or math.inf for c in equal}
        cheapest = min(seconds, key=lambda label: seconds[label])
        return f" The cheapest of these is {cheapest}, with {seconds[cheapest]:,.1f} s of training."

    @property
    def claims(self) -> list[tuple[str, str, str, float, list[float]]]:
        """What documents claim of these contestants: (source, contestant, measure, claimed, measured).

        Only claims about these images, all of them. A folder may hold them too.
        """
        found = []
        for contestant in self.contestants:
            run = contestant.runs[0]
            for claim in run.claims:
                if run.limit is not None or (claim.data not in (None, run.data.name) and run.data.name != "folder"):
                    continue
                if all(run.choices.get(group) == option for group, option in claim.match.items()):
                    measure = "val_acc" if claim.metric == "best_val_acc" else "test_acc"
                    measured = contestant.measured(measure)
                    found.append((claim.source, contestant.label, measure, claim.value, measured))
        return found


def _broken(pair: Pair) -> Pair:
    """The pair without what a t-test says, where one contestant has only broken runs."""
    verdict: stats.Verdict = "better" if (pair.difference or 0) > 0 else "worse"
    return replace(
        pair, verdict=verdict, p=None, raw_p=None, interval=None, raw_interval=None, freedom=None, within=None
    )


def _difference(pair: Pair, comparison: Comparison) -> str:
    """The difference of a pair with its interval, in percentage points, and the seeds that would find one so large."""
    if pair.difference is None or pair.interval is None:
        return ""
    low, high = (f"{100 * bound:+.1f}" for bound in pair.interval)
    text = f"difference {100 * pair.difference:+.1f}, between {low} and {high}"
    few = len(comparison.contestants) <= MOST_PAIRED
    if few and pair.difference and pair.spreads and any(pair.spreads):
        needed = stats.seeds_to_find(abs(pair.difference), pair.spreads, comparison.level)
        count = f"about {needed}" if needed else f"over {stats.MOST_SEEDS}"
        text += f"; {count} {comparison.unit}s of each would find one so large"
    return f" ({text})"


def _enumerate(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
