"""Comparisons: contestants side by side, and the verdicts on their differences."""

import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from cnnbench.analysis import exact_tests, stats
from cnnbench.analysis.contestants import Contestant
from cnnbench.analysis.corrections import LEVEL
from cnnbench.analysis.exact_tests import Exact
from cnnbench.analysis.ladder import Ladder
from cnnbench.analysis.stats import Pair
from cnnbench.analysis.tuning_results import Tuning
from cnnbench.results.metrics import METRICS, Metric
from cnnbench.results.records import Record

CHOSEN = "chosen on these runs"
"""What is said of a verdict on a setting that was chosen from several by the same results (`by=`)."""


MOST_PAIRED = 20
"""With more contestants than this each is compared with the best one alone."""


@dataclass
class Comparison:
    """Contestants that may be put side by side, the best first: by validation accuracy, or a table's own metric."""

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
    metric: Metric = METRICS["acc"]
    """What the contestants are compared by."""
    reading: str = ""
    """Where another program's table is compared: what its columns were taken for."""
    command: str = ""
    """Where another program's table is compared: the command."""

    @property
    def records(self) -> list[Record]:
        """All runs that are ours; none where another program's table is compared."""
        return [run for c in self.contestants for run in c.records]

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
        if not self.records:
            return self.metric.key
        test = f"test_{self.metric.key}"
        return test if any(c.measured(test) for c in self.contestants) else f"val_{self.metric.key}"

    @property
    def judged(self) -> str:
        """Name of the measure that the verdicts are about."""
        if not self.records:
            return self.metric.name
        if self.measure.startswith("test_"):
            return f"test {self.metric.name}"
        return f"{'best ' if self.metric.key == 'acc' else ''}validation {self.metric.name}"

    @property
    def untested(self) -> str:
        """Why there is no test accuracy, as a sentence for tables; empty where a run has one, or will have."""
        reasons = {run.untested for run in self.records}
        if not reasons or "" in reasons:
            return ""
        return f"Not tested ({', '.join(sorted(reasons))}): these are accuracies on the validation images alone."

    @property
    def leader(self) -> Contestant:
        """The named baseline, or else the contestant with the best mean validation accuracy."""
        return next((c for c in self.contestants if c.label == self.baseline), self.contestants[0])

    @cached_property
    def pairs(self) -> list[Pair]:
        """The verdicts, by `measure`.

        A broken run counts as chance; in another program's table it does not count. A contestant all of whose runs
        broke is worse than one with a finished run, on that ground alone: such a pair has no p value.
        """
        samples = {c.label: c.samples(self.measure) for c in self.contestants}
        only = self.contestants[0].label if len(self.contestants) > MOST_PAIRED else None
        pairs = self._tested(samples, self.baseline, self.margin, only)
        finished = {c.label: bool(c.done) for c in self.contestants if c.ended}
        return [_broken(pair, finished) if self._one_broke(pair, finished) else pair for pair in pairs]

    def _tested(
        self,
        samples: Mapping[str, Mapping[int, float]],
        baseline: str | None,
        margin: float | None = None,
        only: str | None = None,
    ) -> list[Pair]:
        """The verdicts on these samples. Where less is better the tests see them with their signs turned."""
        sign = 1 if self.metric.higher else -1
        signed = {label: {seed: sign * v for seed, v in values.items()} for label, values in samples.items()}
        pairs = stats.verdicts(signed, baseline, self._resolution, margin, only, self.share)
        return pairs if self.metric.higher else [pair.negative for pair in pairs]

    @property
    def _resolution(self) -> float:
        """The smallest step of the measure: one image, or the smallest difference between two values of a table."""
        if not self.records:
            values = sorted({value for c in self.contestants for value in c.measured(self.measure)})
            return min((b - a for a, b in itertools.pairwise(values)), default=0.0)
        sizes = self.records[0].data.sizes
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
        found = self._tested(samples, self._few_pairs)
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
        """Validation accuracy whose cost is shown: the given one, or what the middle contestant reaches.

        In another program's table a value of its metric, and infinite if none was given.
        """
        if self.targets:
            return self.targets[0]
        if not self.records:
            return math.inf if self.metric.higher else -math.inf
        means = [mean for c in self.contestants if (mean := c.mean("val_acc")) is not None]
        return math.floor(100 * statistics.median(means)) / 100 if means else 0.0

    @property
    def verdict(self) -> str:
        """The answer in a few sentences."""
        ended = [c for c in self.contestants if c.ended]
        if not any(c.done for c in ended) or len(ended) < 2:
            text = "There are not two contestants with finished runs. So there is no verdict."
            return text if self.records else f"{text} contestant=COLUMN names what sets contestants apart."
        leader = self.leader
        head = self._head(leader)
        if max(len(c.samples(self.measure)) for c in ended) < 2:
            text = f"{head}. One {self.unit} does not show how sure a difference is"
            more = "seed=0,1,2" if self.unit == "seed" else "tunings=3"
            return f"{text}: run at least three, {more}." if self.records else f"{text}: at least three would."
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
            points = f"{100 * (self.margin or 0):g} points" if self.metric.share else f"{self.margin:g}"
            text += f" Equivalent to it within {points}: {_enumerate(same)}."
            text += self._cheaper(leader, same) if self.records else ""
        if open_ := sides["not distinguishable"]:
            text += f" Not distinguishable from it: {_enumerate(open_)}."
        tested = all(pair.p is not None for pair in self.pairs if leader.label in (pair.first, pair.second))
        if found and not same and not open_ and not chosen and tested:
            text += f" {'Each of these differences' if len(ended) > 2 else 'The difference'} is beyond noise."
        for c in ended:
            if not c.done:
                text += f" All {c.ended} runs of {c.label} diverged or failed: it is worse on that ground alone."
            elif c.broken:
                text += f" Of {c.label}, {len(c.broken)} of {c.ended} runs diverged or failed; they "
                text += "count as chance." if c.records else "are counted, but not averaged."
            if lost := sum(not seeds for seeds in c.tunings.values()):
                text += f" Of {c.label}, {lost} of {len(c.tunings)} tunings found no setting that trains; "
                text += f"{'it counts' if lost == 1 else 'they count'} as chance."
        if chosen:
            text += " Settings chosen on the runs that they are judged by look better than they are: run the chosen "
            text += "settings with fresh seeds."
        return f"{text} {self.tuning.scope}" if self.tuning else text

    def _head(self, leader: Contestant) -> str:
        """Names the leader and its result: the mean on the test images, or of another program's metric."""
        mean, baseline = leader.mean(self.measure), leader.label == self.baseline
        value = "" if mean is None else self.metric.value(mean)
        if not self.records:
            head = f"The baseline {leader.label} has a mean" if baseline else f"{leader.label} has the best mean"
            return f"{head} {self.metric.name}" + (f", {value}" if value else "")
        tested = f"{value} on the test images" if value and self.measure.startswith("test_") else ""
        if baseline:
            return f"The baseline is {leader.label}" + (f", with {tested}" if tested else "")
        return f"{leader.label} has the best validation {self.metric.name}" + (f" and {tested}" if tested else "")

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
        for contestant in (c for c in self.contestants if c.records):
            run = contestant.records[0]
            for claim in run.claims:
                if run.limit is not None or (claim.data not in (None, run.data.name) and run.data.name != "folder"):
                    continue
                if all(run.choices.get(group) == option for group, option in claim.match.items()):
                    measure = "val_acc" if claim.metric == "best_val_acc" else "test_acc"
                    measured = contestant.measured(measure)
                    found.append((claim.source, contestant.label, measure, claim.value, measured))
        return found


def _broken(pair: Pair, finished: Mapping[str, bool]) -> Pair:
    """The pair without what a t-test says, where one contestant has only broken runs."""
    verdict: stats.Verdict = "better" if finished[pair.first] else "worse"
    return replace(
        pair, verdict=verdict, p=None, raw_p=None, interval=None, raw_interval=None, freedom=None, within=None
    )


def _difference(pair: Pair, comparison: Comparison) -> str:
    """The difference of a pair with its interval, in percentage points, and the seeds that would find one so large."""
    if pair.difference is None or pair.interval is None:
        return ""
    form = "{:+.1f}" if comparison.metric.share else "{:+.3g}"
    scale = 100 if comparison.metric.share else 1
    change, low, high = (form.format(scale * value) for value in (pair.difference, *pair.interval))
    text = f"difference {change}, between {low} and {high}"
    few = len(comparison.contestants) <= MOST_PAIRED
    if few and pair.difference and pair.spreads and any(pair.spreads):
        needed = stats.seeds_to_find(abs(pair.difference), pair.spreads, comparison.level)
        count = f"about {needed}" if needed else f"over {stats.MOST_SEEDS}"
        text += f"; {count} {comparison.unit}s of each would find one so large"
    return f" ({text})"


def _enumerate(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
