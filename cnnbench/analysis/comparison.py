"""Contestants, what is measured of them, and the verdicts on their differences.

Runs that differ only in their seed are one contestant. Contestants are put side by side only where data, split and
validation source are the same.
"""

import json
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from cnnbench.analysis import budget, exact_tests, ladder, sequential, stats, tuning
from cnnbench.analysis.exact_tests import Exact
from cnnbench.analysis.ladder import Ladder
from cnnbench.analysis.stats import Pair
from cnnbench.config.schema import ROLES, Decides
from cnnbench.errors import ConfigError, RecordError, nearest
from cnnbench.results import identity, records
from cnnbench.results.records import Record

_Plan = TypeVar("_Plan")

CHOSEN = "chosen on these runs"
"""What is said of a verdict on a setting that was chosen from several by the same results (`by=`)."""

MOST_PAIRED = 20
"""With more contestants than this each is compared with the best one alone."""


@dataclass
class Contestant:
    """One setting with all its seeds; or, where the tuning was repeated, the winners of all its tunings."""

    label: str
    runs: list[Record]
    settings: int = 1
    """How many settings this one was chosen from, by its results on these runs (`by=`)."""
    tunings: dict[int, list[int]] = field(default_factory=dict)
    """Where the tuning was repeated: by the number of each tuning the seeds of its winner; none if all trials broke."""
    _measures: dict[float, list[dict[str, float | None]]] = field(default_factory=dict, repr=False)
    """By target."""

    @cached_property
    def done(self) -> list[Record]:
        """The runs that were trained to their end."""
        return [run for run in self.runs if run.status == "done"]

    @cached_property
    def broken(self) -> list[Record]:
        """The runs that diverged or failed: results too, though without a trained network."""
        return [run for run in self.runs if run.status in ("diverged", "failed")]

    @property
    def ended(self) -> int:
        """How many runs came to an end, whatever it was; those interrupted did not."""
        return len(self.done) + len(self.broken)

    @property
    def chance(self) -> float:
        """Accuracy of guessing, from 0 to 1: what a broken run counts as."""
        return 1 / max(len(self.runs[0].data.classes), 1)

    def measured(self, measure: str, target: float = math.inf) -> list[float]:
        """A measure of each finished run, by its name in `measure`."""
        return list(self._finished(measure, target).values())

    def _finished(self, measure: str, target: float) -> dict[int, float]:
        if target not in self._measures:
            self._measures[target] = [measures(run, target) for run in self.done]
        values = ((run.seed, found[measure]) for run, found in zip(self.done, self._measures[target], strict=True))
        return {seed: value for seed, value in values if value is not None}

    def by_seed(self, measure: str) -> dict[int, float]:
        """An accuracy of each run that ended, by its seed; a broken run counts as chance."""
        return self._finished(measure, math.inf) | {run.seed: self.chance for run in self.broken}

    def samples(self, measure: str) -> dict[int, float]:
        """What verdicts rest on: `by_seed`, or the mean of each tuning's seeds by its number.

        A tuning all of whose trials broke counts as chance.
        """
        lost = {number: self.chance for number, seeds in self.tunings.items() if not seeds}
        return self._by_tuning(self.by_seed(measure), statistics.fmean) | lost

    def _by_tuning(self, values: Mapping[int, float], middle: Callable[[Iterable[float]], float]) -> dict[int, float]:
        """Values by seed as they are or, where the tuning was repeated, the middle of each tuning's."""
        if not self.tunings:
            return dict(values)
        found = {number: [values[s] for s in seeds if s in values] for number, seeds in self.tunings.items()}
        return {number: middle(each) for number, each in found.items() if each}

    def score(self, measure: str) -> float | None:
        """Mean of `samples`: what contestants are ordered by. None before any run has ended."""
        values = self.samples(measure).values()
        return sum(values) / len(values) if values else None

    def mean(self, measure: str) -> float | None:
        """Mean of the finished runs; None where there are none."""
        values = self.measured(measure)
        return sum(values) / len(values) if values else None

    def interval(self, measure: str, target: float = math.inf) -> tuple[float, float] | None:
        """95 % interval of that mean, by Student's t; None for fewer than two runs (or tunings)."""
        bounds = (0.0, 1.0) if measure.endswith("_acc") else (-math.inf, math.inf)
        values = self._by_tuning(self._finished(measure, target), statistics.fmean)
        return stats.interval(list(values.values()), *bounds)

    def costs(self, unit: str, target: float) -> list[float]:
        """What each run that ended needed to reach a validation accuracy; infinite where it never did, or broke.

        Args:
            unit: `epochs`, `images` or `seconds`.
            target: from 0 to 1.
        """
        return [*self.measured(f"target_{unit}", target), *(math.inf for _ in self.broken)]

    def cost_samples(self, unit: str, target: float) -> list[float]:
        """What verdicts on costs rest on: `costs`, or the median of each tuning's."""
        values = self._finished(f"target_{unit}", target) | {run.seed: math.inf for run in self.broken}
        return list(self._by_tuning(values, statistics.median).values())

    @property
    def statuses(self) -> Counter[str]:
        """How many runs ended how."""
        return Counter(run.status for run in self.runs)

    @property
    def per_class(self) -> list[float | None]:
        """Test accuracy of each class, the mean over seeds; None where there are no test images of it."""
        columns = zip(*(run.test.per_class for run in self.done if run.test), strict=True)
        return [None if None in column else sum(column) / len(column) for column in columns]

    @property
    def confusion(self) -> list[list[int]]:
        """Test images of all seeds together by true class (rows) and predicted class (columns)."""
        tables = [run.test.confusion for run in self.done if run.test]
        return [[sum(cells) for cells in zip(*rows, strict=True)] for rows in zip(*tables, strict=True)]


def measures(run: Record, target: float = math.inf) -> dict[str, float | None]:
    """What is measured of a finished run.

    Args:
        run: its record.
        target: a validation accuracy from 0 to 1.

    Returns:
        `test_acc`: at the selected epoch; `val_acc`: the best; `final_val_acc`: that of the last epoch; `train_loss`:
        of the last epoch; `gap`: training minus validation accuracy at the selected epoch; `best_epoch`: the selected
        one; `epochs`, `images_seen`, `seconds`, `images_per_second`: of the whole training; `target_epochs`,
        `target_images`, `target_seconds`: until the target was first reached, infinite if never; `parameters`: trained.
    """
    history, best, last, seconds = run.history, run.best, run.history[-1], run.seconds
    assert best is not None, "a run that is done has one"
    selected = history[best.epoch - 1]
    hit = next((i for i, row in enumerate(history) if row.val_acc >= target), None)
    return {
        "test_acc": run.test.acc if run.test else None,
        "val_acc": best.val_acc,
        "final_val_acc": last.val_acc,
        "train_loss": last.train_loss,
        "gap": selected.train_acc - selected.val_acc,
        "best_epoch": best.epoch,
        "epochs": len(history),
        "images_seen": last.images_seen,
        "seconds": seconds,
        "images_per_second": last.images_seen / seconds if seconds else None,
        "parameters": run.parameters,
        "target_epochs": math.inf if hit is None else hit + 1,
        "target_images": math.inf if hit is None else history[hit].images_seen,
        "target_seconds": math.inf if hit is None else sum(row.seconds for row in history[: hit + 1]),
    }


@dataclass
class Comparison:
    """Contestants that may be put side by side, the one with the best mean validation accuracy first."""

    title: str
    contestants: list[Contestant]
    baseline: str | None = None
    """The contestant that the others are compared with; None compares all pairs."""
    given_target: float | None = None
    ladder: Ladder | None = None
    """What the contestants are the rungs of."""
    margin: float | None = None
    """Differences of accuracy below it do not matter; None asks for no equivalence."""
    share: float = 1.0
    """The part of the 5 % that the verdicts may use, where seeds were added look by look."""
    tuning: "Tuning | None" = None
    """How the contestants' settings were found, if they were tuned."""

    @property
    def unit(self) -> str:
        """What a result of the verdicts is a mean of: one `seed`, or one `tuning` where that was repeated."""
        return "tuning" if any(c.tunings for c in self.contestants) else "seed"

    def chosen(self, pair: Pair) -> bool:
        """Whether one of the two was chosen from several settings by the very runs that the verdict rests on."""
        return any(c.settings > 1 for c in self.contestants if c.label in (pair.first, pair.second))

    @property
    def measure(self) -> str:
        """What the verdicts are about: `test_acc`, or `val_acc` where the test set stayed closed."""
        return "test_acc" if any(c.measured("test_acc") for c in self.contestants) else "val_acc"

    @property
    def judged(self) -> str:
        """Name of the measure that the verdicts are about."""
        return "test accuracy" if self.measure == "test_acc" else "best validation accuracy"

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
        sizes = self.contestants[0].runs[0].data.sizes
        images = sizes.test if self.measure == "test_acc" else sizes.val
        only = self.contestants[0].label if len(self.contestants) > MOST_PAIRED else None
        pairs = stats.verdicts(samples, self.baseline, 1 / max(images, 1), self.margin, only, self.share)
        finished = {c.label: bool(c.done) for c in self.contestants if c.ended}
        return [_broken(pair) if self._one_broke(pair, finished) else pair for pair in pairs]

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
        if self.given_target is not None:
            return self.given_target
        means = [mean for c in self.contestants if (mean := c.mean("val_acc")) is not None]
        return math.floor(100 * statistics.median(means)) / 100 if means else 0.0

    @property
    def verdict(self) -> str:
        """The answer in a few sentences."""
        ended = [c for c in self.contestants if c.ended]
        if not any(c.done for c in ended) or len(ended) < 2:
            return "There are not two contestants with finished runs. So there is no verdict."
        leader = self.leader
        mean = leader.mean(self.measure)
        if leader.label == self.baseline:
            head = f"The baseline is {leader.label}"
            head += f", with {mean:.2%} on the test images" if self.measure == "test_acc" and mean is not None else ""
        else:
            head = f"{leader.label} has the best validation accuracy"
            head += f" and {mean:.2%} on the test images" if self.measure == "test_acc" and mean is not None else ""
        if max(len(c.samples(self.measure)) for c in ended) < 2:
            more = "seed=0,1,2" if self.unit == "seed" else "tunings=3"
            return f"{head}. One {self.unit} does not show how sure a difference is: run at least three, {more}."
        sides: dict[str, list[str]] = defaultdict(list)
        for pair in self.pairs:
            if leader.label in (pair.first, pair.second):
                seen = pair if pair.first == leader.label else pair.turned
                unsure = seen.verdict == "not distinguishable"
                sides[seen.verdict].append(seen.second + (_difference(seen) if unsure else ""))
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
        if found and not same and not open_ and not chosen:
            text += f" {'Each of these differences' if len(ended) > 2 else 'The difference'} is beyond noise."
        for c in ended:
            if c.broken:
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
        """What documents claim of these contestants: (source, contestant, measure, claimed, measured)."""
        found = []
        for contestant in self.contestants:
            run = contestant.runs[0]
            for claim in run.claims:
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


def _difference(pair: Pair) -> str:
    """The difference of a pair with its interval, in percentage points."""
    if pair.difference is None or pair.interval is None:
        return ""
    low, high = (f"{100 * bound:+.1f}" for bound in pair.interval)
    return f" (difference {100 * pair.difference:+.1f}, between {low} and {high})"


def _enumerate(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


@dataclass
class Tuning:
    """How the contestants' settings were found."""

    plan: tuning.Plan
    entries: list[tuning.Entry] = field(default_factory=list)

    @property
    def repeated(self) -> bool:
        """Whether there are several tunings, which makes them the unit of the verdicts."""
        return self.plan.tunings > 1

    @property
    def scope(self) -> str:
        """What the verdicts hold for, in one sentence."""
        if not self.repeated:
            return (
                "Each contestant was tuned once, so the verdicts hold for the settings that were found, not for the "
                "contestants in general; tunings=3 repeats the tuning."
            )
        return (
            f"Each contestant was tuned {self.plan.tunings} times. A result is the mean of one tuning's winner over "
            "its fresh seeds, so that the verdicts hold for contestants that are tuned in this way."
        )

    def tuned(self, run: Record) -> tuning.Tuned | None:
        """The tuning whose winner this run repeats with a fresh seed, if it is one."""
        return self._winners.get((self.plan.tuning_of(run.seed), tuning.setting_of(run)))

    def numbered(self, label: str, seeds: Iterable[int]) -> dict[int, list[int]]:
        """By the number of each tuning of a contestant its fresh seeds among these; none where all trials broke."""
        mine = [e for e in self.entries if e.tuned.label == label]
        found: dict[int, list[int]] = {
            e.tuned.tuning: [] for e in mine if e.winner is None and len(e.ended) >= self.plan.trials
        }
        for seed in seeds:
            found.setdefault(self.plan.tuning_of(seed), []).append(seed)
        return found

    @cached_property
    def _winners(self) -> dict[tuple[int, str], tuning.Tuned]:
        """By number of the tuning and setting."""
        won = ((e.tuned, e.winner.record) for e in self.entries if e.winner and e.winner.record)
        return {(tuned.tuning, tuning.setting_of(record)): tuned for tuned, record in won}

    @cached_property
    def curves(self) -> dict[str, list[float]]:
        """Expected best validation accuracy of 1, 2, ... trials of each contestant; a diverged trial counts as 0.

        Nothing unless the trials were random: for others the estimator does not hold.
        """
        results: dict[str, list[float]] = defaultdict(list)
        for e in self.entries if self.plan.sampler == "random" else []:
            results[e.tuned.label] += [trial.val_acc or 0.0 for trial in e.ended]
        return {label: budget.expected_best(found) for label, found in results.items() if found}

    @property
    def flips(self) -> str:
        """Who leads at which number of trials, in words; or why that is not said."""
        if self.plan.sampler != "random":
            return "No curve by number of trials: it can be estimated from independent trials alone, sampler=random."
        found = budget.leaders(self.curves)
        if len(self.curves) < 2 or not found:
            return ""
        then = [f"{label} from {n} on" for n, label in found[1:]]
        first = f"With one trial {found[0][1]} leads"
        return f"{first}, {', '.join(then)}." if then else f"{first}, and with any other number of trials too."


def load(folders: Iterable[Path]) -> list[Record]:
    """All records below `folders`, each once; what can't be read is named on the screen and left out.

    Trials of a tuning are left out too: they are in its ledger.

    Raises:
        ConfigError: a folder isn't there, or there is no record at all.
    """
    found: dict[Path, Record] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{folder}: there is no such folder.")
        tried = folder / tuning.FOLDER if (folder / tuning.FILE).exists() else None
        for path in records.find(folder):
            if tried is None or tried not in path.parents:
                try:
                    found[path.resolve()] = records.read(path)
                except RecordError as error:
                    _say_left_out(error)
    if not found:
        raise ConfigError(f"{', '.join(map(str, folders))}: no records there (runs/NAME/RUN/record.json).")
    return list(found.values())


def load_tuning(folder: Path) -> Tuning | None:
    """The tuning whose folder this is, if it is one; a damaged plan is named on the screen and left out."""
    plan = _or_left_out(tuning.read, folder)
    return None if plan is None else Tuning(plan, tuning.ledger(folder, plan))


def load_ladder(folder: Path) -> Ladder | None:
    """The ladder whose folder this is, in the same way."""
    return _or_left_out(ladder.read, folder)


def load_seeds(folder: Path) -> sequential.Plan | None:
    """The plan of `seeds=auto` in this folder, in the same way."""
    return _or_left_out(sequential.read, folder)


def _or_left_out(read: Callable[[Path], _Plan | None], folder: Path) -> _Plan | None:
    try:
        return read(folder)
    except ConfigError as error:
        _say_left_out(error)
        return None


def _say_left_out(error: Exception) -> None:
    Console(stderr=True).print(f"left out: {error}", highlight=False, markup=False, soft_wrap=True)


def compare(
    runs: list[Record],
    by: str | None = None,
    baseline: str | None = None,
    target: float | None = None,
    apart: bool = False,
    ladder: Ladder | None = None,
    margin: float | None = None,
    share: float = 1.0,
    tuning: Tuning | None = None,
) -> list[Comparison]:
    """Groups runs into contestants.

    Args:
        runs: the records.
        by: a config group; of all settings with the same option of it only the one with the best mean validation
            accuracy is kept.
        baseline: the label of the contestant that all others are compared with.
        target: validation accuracy whose cost is shown.
        apart: runs that can't stand in one table get a table for each data, split and validation source.
        ladder: its rungs lend their names to the contestants.
        margin: differences of accuracy below it do not matter, from 0 to 1; None asks for no equivalence.
        share: the part of the 5 % that the verdicts may use.
        tuning: what found the settings. Where it was repeated its contestants are those of the comparison, and runs of
            no winner are left out.

    Raises:
        ConfigError: there is no such group or baseline, or the runs can't stand in one table, or none is a winner's.
    """
    groups = sorted({group for run in runs for group in run.choices})
    if by is not None and by not in groups:
        raise ConfigError(f"by={by}: not a group of these runs.{nearest(by, groups)}")
    settings: dict[str, dict[str, dict[int, Record]]] = defaultdict(lambda: defaultdict(dict))
    for run in runs:
        parts = identity.experiment(run.config, run.data.fingerprint, without=[Decides.REPETITION])
        rung = "" if ladder is None else ladder.labels.get(run.run_id, "")  # fresh seeds of the top are a rung's own
        name = identity.canonical(parts) + rung
        if tuning is not None and tuning.repeated:
            if (tuned := tuning.tuned(run)) is None:
                continue
            name = tuned.label
        seeds = settings[_setting(run)][name]
        if run.seed not in seeds or run.status == "done":  # the same run in two folders is one run
            seeds[run.seed] = run
    if len(settings) > 1 and not apart:
        raise ConfigError(
            f"data, split or validation source differ, so these runs can't stand in one table: "
            f"{' | '.join(sorted(settings))}. apart=true makes a table for each."
        )
    if not settings:
        raise ConfigError("no winner of the tuning has been run with fresh seeds yet; the same tune command does it.")
    comparisons = []
    for title, contestants in settings.items():
        ordered = [[seeds[seed] for seed in sorted(seeds)] for seeds in contestants.values()]
        labels = _labels([seeds[0] for seeds in ordered])
        if ladder is not None:
            labels = [ladder.labels.get(seeds[0].run_id, label) for label, seeds in zip(labels, ordered, strict=True)]
        labelled = [Contestant(*pair) for pair in zip(labels, ordered, strict=True)]
        if tuning is not None and tuning.repeated:
            for contestant, label in zip(labelled, contestants, strict=True):
                ended = [run.seed for run in (*contestant.done, *contestant.broken)]
                contestant.label, contestant.tunings = label, tuning.numbered(label, ended)
        labelled.sort(key=lambda c: (not c.done, -(c.score("val_acc") or -1.0), c.label))
        shown = labelled if by is None else _best(labelled, by)
        comparisons.append(Comparison(title, shown, None, target, ladder, margin, share, tuning))
    if baseline is not None:
        for comparison in comparisons:
            if baseline in (labels := [c.label for c in comparison.contestants]):
                comparison.baseline = baseline
            elif len(comparisons) == 1:
                raise ConfigError(f"baseline={baseline}: not a contestant.{nearest(baseline, labels)}")
        if not any(comparison.baseline for comparison in comparisons):
            raise ConfigError(f"baseline={baseline}: not a contestant of any of these {len(comparisons)} tables.")
    return sorted(comparisons, key=lambda comparison: comparison.title)


def _setting(run: Record) -> str:
    """What must be equal for two runs to be compared, in words."""
    data, config = run.data, run.config["data"]
    sizes = data.sizes
    if run.protocol.validation == "test":
        split = f"{sizes.train:,} training images; VALIDATION IS THE TEST SET ({sizes.test:,} images)"
    else:
        split = f"{sizes.train:,} training, {sizes.val:,} validation, {sizes.test:,} test images"
    limit = "" if config["limit"] is None else f", limit {config['limit']}"
    shape = "x".join(map(str, data.shape))
    name = f"folder {Path(config['root'] or '').name}" if data.name == "folder" else data.name
    return f"{name} ({data.fingerprint[:6]}{limit}), {shape}, {split}"


def _best(contestants: list[Contestant], by: str) -> list[Contestant]:
    chosen: dict[str, Contestant] = {}
    counts = Counter(c.runs[0].choices.get(by, "none") for c in contestants)
    for contestant in contestants:  # best first
        option = contestant.runs[0].choices.get(by, "none")
        chosen.setdefault(option, contestant).settings = counts[option]
    return list(chosen.values())


def _labels(runs: list[Record]) -> list[str]:
    """The shortest names that tell the settings apart: options that differ, then keys that still differ."""
    first = ["optimizer", "model"]
    told = {name for name, role in ROLES.items() if role.decides is Decides.SETTING}
    groups = [*first, *sorted(told.intersection(runs[0].choices).difference(first))]
    # An older record lacks the groups that came later, and had none of what they add.
    options = {group: [run.choices.get(group, "none") for run in runs] for group in groups}
    varying = [group for group in groups if len(set(options[group])) > 1] or ["optimizer"]
    alike: dict[str, list[int]] = defaultdict(list)
    for i in range(len(runs)):
        words = (f"{'' if group in first else f'{group}='}{options[group][i]}" for group in varying)
        alike[" ".join(words)].append(i)
    labels = [""] * len(runs)
    for name, same in alike.items():
        flat = [_told(runs[i]) for i in same]
        values: dict[str, set[str]] = defaultdict(set)
        for config in flat:
            for key, value in config.items():
                values[key].add(json.dumps(value))
        missing = {key for key in values if any(key not in config for config in flat)}
        differing = sorted(k for k in values if (len(values[k]) > 1 or k in missing))
        for i, config in zip(same, flat, strict=True):
            values_told = (f"{k.removeprefix('optimizer.').removeprefix('model.')}={config.get(k)}" for k in differing)
            labels[i] = " ".join([name, *values_told])
    return labels


def _told(run: Record) -> dict[str, Any]:
    """What a setting is told by; the run that a model's first weights come from by its name."""
    values = identity.flat(identity.experiment(run.config, "", without=[Decides.REPETITION]))
    path = Path(run.config["model"].get("init_from") or "none")
    values.pop("model.init_digest", None)
    return values | {"model.init_from": path.parent.name if path.suffix == ".ckpt" else path.name}
