"""The tables of a comparison, a tuning and a ladder: text in rows and columns."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cnnbench.analysis import stats
from cnnbench.analysis.comparison import CHOSEN, MOST_PAIRED, Comparison
from cnnbench.analysis.contestants import Contestant
from cnnbench.analysis.corrections import LEVEL
from cnnbench.analysis.ladder import Ladder, Rung, judge
from cnnbench.analysis.suite import Suite
from cnnbench.analysis.tuning import Entry
from cnnbench.analysis.tuning_results import Tuning
from cnnbench.results.metrics import METRICS, Metric


@dataclass
class Sheet:
    """A table for people: text in each cell, numbers to the right."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""
    left: int = 1
    """How many columns, from the left, are words."""


def main_sheets(comparison: Comparison) -> list[Sheet]:
    """Those that the terminal shows too."""
    found: list[Sheet] = []
    if not comparison.records:
        found = [reported(comparison)]
    if (ladder := comparison.ladder) is not None:
        found += [rungs(comparison, ladder)] if any(not rung.without for rung in ladder.rungs[1:]) else []
        found += [omissions(comparison, ladder)] if any(rung.without for rung in ladder.rungs) else []
    if comparison.records:
        found += [results(comparison), costs(comparison)]
    if len(comparison.targets) > bool(comparison.records):
        found.append(targets(comparison))
    if comparison.metric.key in ("balanced_acc", "macro_f1") or any(c.uneven for c in comparison.contestants):
        found.insert(-1, class_means(comparison))
    if len(comparison.contestants) > 1:
        found.append(verdicts(comparison))
        if comparison.failures:
            found.append(failures(comparison))
        if comparison.targets:
            found.append(cost_verdicts(comparison))
    if any(run.search for run in comparison.records):
        found.append(architectures(comparison))
    if comparison.claims:
        found.append(claims(comparison))
    return found


def results(comparison: Comparison) -> Sheet:
    """Accuracies and losses of the finished runs."""
    rows = []
    for c in comparison.contestants:
        tried = f" (best of {c.settings})" if c.settings > 1 else ""
        finished = str(len(c.done)) if not c.broken else f"{len(c.done)} of {c.ended}"
        cells = [f"{c.label}{tried}", finished]
        test = "not tested" if comparison.untested else _percent(c, "test_acc")
        cells += [test, *(_percent(c, measure) for measure in ("val_acc", "final_val_acc"))]
        worst = min(c.measured(comparison.measure), default=None)
        cells.append("-" if worst is None else f"{worst:.2%}")
        cells += [_mean(c, "train_loss", "{:.4g}"), _mean(c, "gap", "{:+.2%}")]
        rows.append([*cells, ", ".join(f"{count} {status}" for status, count in sorted(c.statuses.items()))])
    columns = ["contestant", "seeds", "test", "best validation", "final validation", "worst seed", "training loss"]
    columns += ["gap", "runs"]
    note = (
        f"Means over seeds with 95 % intervals (Student's t). Test accuracy is that of the epoch that was best on "
        f"validation, worst seed the lowest {comparison.judged}, training loss that of the last epoch, gap training "
        f"minus validation accuracy at the selected epoch."
    )
    if comparison.untested:
        note = f"{comparison.untested} {note}"
    if comparison.unit == "tuning":
        note += " An interval rests on the means of the tunings."
    if versions := {run.protocol.tta for run in comparison.records} - {"none"}:
        note += f" Validation and test with test-time augmentation ({', '.join(sorted(versions))})."
    if any(c.broken for c in comparison.contestants):
        note += " All of these are of the runs that finished; in the verdicts a run that diverged or failed counts too."
    if max((len(c.done) for c in comparison.contestants), default=0) == 1:
        note += " One seed: no interval can be given."
    return Sheet("Accuracy", columns, rows, note)


def reported(comparison: Comparison) -> Sheet:
    """The results in another program's table."""
    metric, rows = comparison.metric, []
    worst = min if metric.higher else max
    for c in comparison.contestants:
        values = c.measured(metric.key)
        finished = str(len(c.done)) if not c.broken else f"{len(c.done)} of {c.ended}"
        deviation = metric.spread(statistics.stdev(values)) if len(values) > 1 else "-"
        row = [c.label, finished, _percent(c, metric.key, metric), deviation]
        row += [metric.value(worst(values)) if values else "-", _mean(c, "epochs", "{:,.4g}")]
        rows.append([*row, ", ".join(f"{count} {status}" for status, count in sorted(c.statuses.items()))])
    columns = ["contestant", "seeds", metric.name, "standard deviation", "worst seed", "last epoch", "runs"]
    note = f"Means over seeds with 95 % intervals (Student's t). {comparison.reading}"
    for c in comparison.contestants:
        if len(ends := sorted(set(c.measured("epochs")))) > 1:
            note += f" Runs of {c.label} end after {ends[0]:g} to {ends[-1]:g} epochs."
    if max((len(c.done) for c in comparison.contestants), default=0) == 1:
        note += " One seed: no interval can be given."
    return Sheet("Results", columns, rows, note)


def class_means(comparison: Comparison) -> Sheet:
    """Balanced accuracy and macro F1 of the finished runs."""
    measures = [f"{part}_{metric}" for part in ("test", "val") for metric in ("balanced_acc", "macro_f1")]
    rows = [[c.label, *(_percent(c, measure) for measure in measures)] for c in comparison.contestants]
    columns = ["contestant", "test balanced accuracy", "test macro F1"]
    columns += ["validation balanced accuracy", "validation macro F1"]
    note = (
        "At the selected epoch, means over seeds with 95 % intervals. Balanced accuracy: the mean over classes of the "
        "accuracy on a class's images. Macro F1: the mean over classes of 2 hits / (images + predictions)."
    )
    if comparison.metric.key == "acc":
        note += " metric=balanced_acc and metric=macro_f1 compare by them."
    return Sheet("Each class counts the same", columns, rows, note)


def costs(comparison: Comparison) -> Sheet:
    """What training took, and what it took to reach the target."""
    rows = []
    for c in comparison.contestants:
        reach = [_reached(c, unit, comparison.target) for unit in UNITS]
        hit = sum(map(math.isfinite, c.costs("epochs", comparison.target)))
        forms = {"best_epoch": "{:.1f}", "epochs": "{:,.0f}", "images_seen": "{:,.0f}", "seconds": "{:.1f}"}
        spent = [_mean(c, measure, form) for measure, form in (forms | {"images_per_second": "{:,.0f}"}).items()]
        rows.append([c.label, *spent, f"{hit} of {c.ended}", *reach])
    goal = f"{comparison.target:.4g}"
    columns = ["contestant", "best epoch", "epochs", "images seen", "seconds", "images/s"]
    columns += [f"reach {goal}", "after epochs", "images", "seconds"]
    note = f"Means over seeds, seconds of training alone. Until validation accuracy is at least {goal}: medians over "
    note += "all runs that ended, infinite (∞) where it was missed."
    if not comparison.targets:
        note += f" {goal} is what the middle contestant reaches; target= sets another."
    return Sheet("Cost", columns, rows, note)


def targets(comparison: Comparison) -> Sheet:
    """What it took to reach each of several targets."""
    rows = []
    units = units_of(comparison)
    for c in comparison.contestants:
        for target in comparison.targets:
            hit = sum(map(math.isfinite, c.costs("epochs", target)))
            rows.append([c.label, f"{target:.4g}", f"{hit} of {c.ended}", *(_reached(c, u, target) for u in units)])
    name = "validation accuracy" if comparison.records else comparison.judged
    note = f"Medians over all runs that ended, infinite (∞) where {name} never was that good."
    return Sheet("Time to targets", ["contestant", "target", "reached", *units], rows, note)


UNITS = ("epochs", "images", "seconds")
"""In which the cost to a target is counted."""


def units_of(comparison: Comparison) -> tuple[str, ...]:
    """Those of `UNITS` that the runs tell: of another program's table only the epochs are known."""
    return UNITS if comparison.records else UNITS[:1]


def cost_verdicts(comparison: Comparison) -> Sheet:
    """Each pair: who needs less to reach the target."""
    units = units_of(comparison)
    verdicts = [comparison.cost_verdicts(unit) for unit in units]
    rows = []
    for row in zip(*verdicts, strict=True):
        cells = []
        for found in row:
            word = {"better": "cheaper", "worse": "costlier"}.get(found.verdict, found.verdict)
            cells.append(f"{word} (p {_p(found.p)})" if found.smallest_p < LEVEL else "too few seeds to say")
        rows.append([row[0].first, row[0].second, *cells])
    name = "validation accuracy" if comparison.records else comparison.judged
    least = "at least" if comparison.metric.higher else "at most"
    note = (
        f"Cost until {name} is {least} {comparison.target:.4g}, by exact rank tests of all runs that "
        f"ended. One that never gets there costs more than any other. p is corrected for the number of pairs."
    )
    few = min((found.smallest_p for found in verdicts[0]), default=0.0)
    if few >= LEVEL:
        note += f" With this many seeds and pairs p can't be below {_p(few)}, so nothing can be shown."
        note += "" if comparison.baseline else " baseline= makes fewer pairs."
    return Sheet("Cost to the target", ["contestant", "compared with", *units], rows, note, left=5)


def failures(comparison: Comparison) -> Sheet:
    """Each pair of which one has broken runs: whether it breaks more often, and how the finished runs compare."""
    counts = {c.label: f"{len(c.broken)} of {c.ended}" for c in comparison.contestants}
    words = {"better": "breaks less often", "worse": "breaks more often"}
    rows = []
    for found in comparison.failures:
        if any(c.broken for c in comparison.contestants if c.label in (found.first, found.second)):
            said = words.get(found.verdict, found.verdict) if found.smallest_p < LEVEL else "too few runs to say"
            finished = comparison.finished_pairs[found.first, found.second]
            rows.append([found.first, counts[found.first], said, found.second, counts[found.second], _p(found.p)])
            rows[-1] += [*_change(finished, comparison.metric), "-" if finished.p is None else _p(finished.p)]
    columns = ["contestant", "broken", "verdict", "compared with", "broken", "p"]
    columns += ["finished runs: difference", "interval", "p"]
    note = (
        f"Runs that diverged or failed, compared by Fisher's exact test, and beside it the {comparison.judged} of the "
        f"finished runs alone, by Welch's t-test; both corrected for the number of pairs. Read them together: "
        f"runs that break can leave the lucky ones."
    )
    if (few := min((f.smallest_p for f in comparison.failures), default=0.0)) >= LEVEL:
        note += f" With this many seeds the p of counts can't be below {_p(few)}, so they alone can show nothing."
    return Sheet("Runs that broke", columns, rows, note, left=1)


def verdicts(comparison: Comparison) -> Sheet:
    """Each pair: its difference and whether that is significant."""
    rows, metric = [], comparison.metric
    for pair in comparison.pairs:
        seeds = str(pair.seeds[0]) if pair.seeds[0] == pair.seeds[1] else f"{pair.seeds[0]}, {pair.seeds[1]}"
        p = "-" if pair.p is None else _p(pair.p)
        row = [pair.first, _in_words(pair, comparison), pair.second, seeds, *_change(pair, metric), p]
        rows.append([*row, _alone(pair, metric), _finds(pair, comparison)])
    units = f"{comparison.unit}s"
    columns = ["contestant", "is", "compared with", units, "difference", "interval", "p", "this pair alone"]
    columns.append(f"finds / 10 {units}")
    note = (
        f"{capitalised(comparison.judged)} in {metric.unit}. Welch's t-tests; p values and intervals are corrected "
        f"for the number of pairs, so that the chance of any false verdict in this table is at most 5 %; this pair "
        f"alone: both without that correction. Finds: the difference that this many {units}, and 10 {units}, would "
        f"find in 80 % of cases, if the spreads are as seen."
    )
    if comparison.untested:
        note = f"{comparison.untested} {note}"
    if any(map(comparison.chosen, comparison.pairs)):
        note += (
            f" Settings {CHOSEN} look better than they are, and these verdicts can be false more often: run the chosen "
            f"settings with fresh seeds."
        )
    if not comparison.records:
        note += " Seeds are not paired." + ("" if metric.higher else f" Less {metric.name} is better.")
    if comparison.margin is not None:
        points = f"{100 * comparison.margin:g} points" if metric.share else f"{comparison.margin:g}"
        note += f" Equivalent: the difference is shown to be smaller than {points}."
    if comparison.share < 1:
        note += (
            f" Seeds are added until the pairs are settled, so this look may use {100 * comparison.share:.1f} % of "
            f"the 5 %: p values are divided by that share."
        )
    if any(c.broken for c in comparison.contestants):
        chance = comparison.contestants[0].chance
        counted = "is counted, but not averaged" if chance is None else f"counts as chance, {chance:.2%}"
        note += f" A run that diverged or failed {counted}; with only such runs a contestant is worse."
    if len(comparison.contestants) > MOST_PAIRED:
        note += f" With over {MOST_PAIRED} contestants each is compared with the best one alone."
    return Sheet("Verdicts", columns, rows, note, left=3)


def _in_words(pair: stats.Pair, comparison: Comparison) -> str:
    """The verdict of a pair, and its ground where that is not the t-test."""
    broken = [c for c in comparison.contestants if c.label in (pair.first, pair.second) and not c.done]
    if pair.p is None and pair.verdict in ("better", "worse"):
        return f"{pair.verdict}: all {broken[0].ended} runs of {broken[0].label} broke"
    claims = pair.verdict in ("better", "worse") and comparison.chosen(pair)
    return f"{pair.verdict} ({CHOSEN})" if claims else pair.verdict


def _alone(pair: stats.Pair, metric: Metric) -> str:
    """Interval and p value as if the pair were the only one."""
    if pair.raw_interval is None or pair.raw_p is None:
        return "-"
    return f"{metric.bounds(pair.raw_interval, signed=True)} p {_p(pair.raw_p)}"


def _finds(pair: stats.Pair, comparison: Comparison) -> str:
    """The smallest difference that the pair's seeds, and that 10 seeds, would find."""
    if pair.spreads is None or pair.p is None:
        return "-"
    found = (stats.smallest_difference(pair.spreads, seeds, comparison.level) for seeds in (pair.seeds, (10, 10)))
    if comparison.metric.share:
        return " / ".join(f"{100 * difference:.2f}" if difference < 1 else ">100" for difference in found)
    return " / ".join(f"{difference:.3g}" for difference in found)


def architectures(comparison: Comparison) -> Sheet:
    """What each search has found, and what it cost."""
    rows = []
    for c in comparison.contestants:
        for run in (run for run in c.records if run.status == "done"):
            found = run.search
            entropy = "-" if found is None or found.entropy is None else f"{found.entropy:.3f}"
            cost = ["-", "-"] if found is None else [f"{found.image_passes:,}", f"{found.seconds:,.1f}"]
            name = "as given" if found is None else found.architecture
            parameters = "-" if run.parameters is None else f"{run.parameters:,}"
            rows.append([c.label, str(run.seed), name, parameters, run.test_accuracy, entropy, *cost])
    columns = ["contestant", "seed", "architecture", "parameters", "test", "entropy", "image passes", "seconds"]
    note = (
        "Entropy of the architecture at the search's end: 1 is undecided, 0 decided. Image passes: images through a "
        "network, forward and backward; they and the seconds are those of the search, in front of the training."
    )
    return Sheet("Architectures", columns, rows, note, left=3)


def rungs(comparison: Comparison, ladder: Ladder) -> Sheet:
    """What each addition brought, and what it cost."""
    rows = []
    for rung, change, _, accuracies, spent in _rungs(comparison, ladder):
        if not rung.without:
            decided = {None: "", True: "yes", False: "no"}[rung.kept]
            rows.append([rung.name, " ".join(rung.words), accuracies[0], change, decided, accuracies[1], *spent])
    kept = f"Kept: {' '.join(ladder.top)}" if ladder.top else "Nothing was kept"
    columns = ["rung", "adds", "validation", "change", "kept", "test", *_RUNG_COSTS]
    note = (
        f"Each rung adds to what was kept below it. It is kept if its best validation accuracy is better, by Welch's "
        f"t-test. The tests share 5 % among all rungs: the chance of keeping any useless one is at most 5 %. Change: "
        f"on the last rung that was kept, in percentage points with its interval; of the top with fresh seeds, on the "
        f"start. The test accuracy decides nothing. {kept}."
    )
    return Sheet("Ladder", columns, rows, note, left=2)


def omissions(comparison: Comparison, ladder: Ladder) -> Sheet:
    """What the recipe loses without each of its ingredients."""
    pays = {"worse": "yes", "better": "no, it harms"}
    top = ladder.below(len(ladder.rungs))
    rows = []
    for rung, change, verdict, accuracies, spent in _rungs(comparison, ladder):
        if rung is top:
            rows.append(["all of them", "", accuracies[0], "", "", accuracies[1], *spent])
        elif rung.without:
            said = [change, pays.get(verdict, "not shown")]
            rows.append([rung.name, " ".join(rung.words), accuracies[0], *said, accuracies[1], *spent])
    columns = ["recipe", "instead", "validation", "change", "it pays", "test", *_RUNG_COSTS]
    note = (
        "Each ingredient is left out on its own. Change: of the best validation accuracy, on the recipe with all of "
        "them, in percentage points with its interval. The ingredient pays if the recipe is worse without it, by "
        "Welch's t-test; the tests share 5 % among all ingredients. The test accuracy decides nothing."
    )
    return Sheet("Left out one at a time", columns, rows, note, left=2)


_RUNG_COSTS = {
    "parameters": ("parameters", "{:,.0f}"),
    "images seen": ("images_seen", "{:,.0f}"),
    "operations": ("operations", "{:.2g}"),
    "seconds": ("seconds", "{:,.0f}"),
}


def _rungs(comparison: Comparison, ladder: Ladder) -> Iterator[tuple[Rung, str, str, list[str], list[str]]]:
    """Each rung that has runs, with its change, verdict, accuracies (validation and test) and costs."""
    found = {run.run_id: c for c in comparison.contestants for run in c.records}
    for i, rung in enumerate(ladder.rungs):
        contestant, below = found.get(rung.runs[0]), ladder.rungs[0] if rung.fresh else ladder.below(i)
        if contestant is None:
            continue
        change = verdict = ""
        if below is not None and (standard := found.get(below.runs[0])) is not None:
            run = contestant.records[0]
            planned = len(run.config.get("leave_out" if rung.without else "ladder", {}))
            pair = judge(standard.by_seed("val_acc"), contestant.by_seed("val_acc"), run.data.sizes.val, planned)
            change, verdict = " ".join(_change(pair, METRICS["acc"])), pair.verdict
        accuracies = [_mean(contestant, measure, "{:.2%}") for measure in ("val_acc", "test_acc")]
        yield rung, change, verdict, accuracies, [_mean(contestant, *each) for each in _RUNG_COSTS.values()]


def claims(comparison: Comparison) -> Sheet:
    """What documents say, beside what was measured."""
    rows = []
    names = {"val_acc": "best validation", "test_acc": "test"}
    for source, label, measure, claimed, measured in comparison.claims:
        mean = sum(measured) / len(measured) if measured else None
        told = ["-", "-"] if mean is None else [f"{mean:.2%}", f"{100 * (mean - claimed):+.2f}"]
        rows.append([source, label, names[measure], f"{claimed:.2%}", *told])
    columns = ["source", "contestant", "measure", "claimed", "measured", "difference"]
    note = "Differences in percentage points."
    run = comparison.records[0]
    if about := sorted({claim.data for claim in run.claims if claim.data and claim.data != run.data.name}):
        note += f" Claimed of {', '.join(about)}: they say nothing of this folder unless it holds the same images."
    return Sheet("What the documents claim", columns, rows, note, left=3)


def overall(suite: Suite) -> Sheet:
    """The contestants over all problems of a suite."""
    rows = []
    for label in suite.labels:
        bounds, counts = suite.interval(label), suite.counts[label]
        interval = "-" if bounds is None else f"[{bounds[0]:.2f}, {bounds[1]:.2f}]"
        ranks = [f"{rank:g}" for rank in suite.ranks[label]]
        reached = [f"{suite.solved(label, factor):.0%}" for factor in (1, 2, math.inf)] if suite.costs else []
        rows.append([label, f"{suite.mean_rank(label):.2f}", interval, *map(str, counts.values()), *reached, *ranks])
    columns = ["contestant", "mean rank", "interval", "better", "worse", "neither"]
    columns += ["cheapest", "within 2x", "reached"] if suite.costs else []
    note = (
        "Rank 1 is the best mean on a problem. Interval: 95 %, over problems such as these (Student's t). Better, "
        "worse, neither: verdicts on all problems, which share 5 %: the chance of any false one is at most that."
    )
    if suite.costs:
        unit = "images" if suite.comparisons[0].records else "epochs"
        note += f" Cheapest, within 2x, reached: share of the problems whose target took the fewest {unit}, at most "
        note += "twice as many, or any number."
    if suite.left_out:
        note += f" Without {', '.join(suite.left_out)}, which some problem lacks."
    return Sheet("Over all problems", [*columns, *suite.names], rows, note)


def winners(tuning: Tuning) -> Sheet:
    """The winners, and what finding them cost."""
    rows = []
    for entry in tuning.entries:
        winner, counts = entry.winner, [trial.status for trial in entry.trials]
        setting = "none: no trial came to its end" if winner is None else _setting(winner.params)
        edge = "" if not entry.edges else f"on the edge: {', '.join(entry.edges)}"
        best = "-" if winner is None or winner.val_acc is None else f"{winner.val_acc:.2%}"
        space = ", ".join(f"{key} {axis}" for key, axis in entry.tuned.space.items())
        numbers = [str(len(counts)), *(str(counts.count(word)) for word in ("done", "diverged", "failed"))]
        rows.append([_name(entry, tuning), space, setting, edge, *numbers, best])
    columns = ["contestant", "space", "winner", "warning", "trials", "done", "diverged", "failed", "best validation"]
    plan = tuning.plan
    seeds = ", ".join(str(plan.first_seed(k)) for k in range(1, plan.tunings + 1))
    each, seed = ("each contestant and tuning", "seeds") if tuning.repeated else ("each contestant", "seed")
    note = (
        f"{plan.trials} trials for {each}, {plan.sampler}, with {seed} {seeds}; selected on validation, the test set "
        f"closed; the winners run again with {plan.seeds} fresh seeds. On the edge: no trial lies beyond the winner's "
        f"value, what is best may lie outside the space."
    )
    return Sheet("Tuning", columns, rows, note, left=4)


def ledger(tuning: Tuning) -> Sheet:
    """Every trial."""
    rows = []
    for entry in tuning.entries:
        for trial in entry.trials:
            best = "-" if trial.val_acc is None else f"{trial.val_acc:.2%}"
            name = _name(entry, tuning)
            rows.append([name, str(trial.number), _setting(trial.params), trial.status, best, trial.run_id])
    columns = ["contestant", "trial", "setting", "status", "best validation", "run"]
    return Sheet("Every trial of every contestant", columns, rows)


def _name(entry: Entry, tuning: Tuning) -> str:
    """The contestant, and which of its tunings where there are several."""
    return f"{entry.tuned.label}, tuning {entry.tuned.tuning}" if tuning.repeated else entry.tuned.label


MOST_CLASSES = 20
"""With more classes a confusion matrix can't be read: the page has the worst classes and the most confused pairs."""

MOST_CONFUSED = 50
"""Pairs of classes in a table."""


def per_class(comparison: Comparison) -> Sheet | None:
    """Test accuracy by class, with many classes the worst ones first; None where no test set was opened."""
    shown = [c for c in comparison.contestants if c.per_class]
    if not shown:
        return None
    names = shown[0].records[0].data.classes
    found = list(zip(names, zip(*(c.per_class for c in shown), strict=True), strict=True))
    note = "Means over seeds."
    if len(names) > MOST_CLASSES:
        found.sort(key=lambda row: _mean_of(row[1]))
        note += " The classes that are worst over all contestants come first."
    rows = [[name, *("-" if v is None else f"{v:.1%}" for v in row)] for name, row in found]
    return Sheet("Test accuracy by class", ["class", *(c.label for c in shown)], rows, note)


def _mean_of(shares: Sequence[float | None]) -> float:
    """Mean of what is known; a class without images comes last."""
    known = [share for share in shares if share is not None]
    return statistics.fmean(known) if known else math.inf


def confused(comparison: Comparison) -> Sheet | None:
    """The pairs of classes that are confused most; None with few classes, whose confusion matrix is a figure."""
    shown = [c for c in comparison.contestants if c.confusion]
    if not shown or len(shown[0].confusion) <= MOST_CLASSES:
        return None
    names = shown[0].records[0].data.classes
    shares: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0] * len(shown))
    for i, contestant in enumerate(shown):
        for true, row in zip(names, contestant.confusion, strict=True):
            for taken, images in zip(names, row, strict=True):
                if images and taken != true:
                    shares[true, taken][i] = images / sum(row)
    pairs = sorted(shares, key=lambda pair: -sum(shares[pair]))
    rows = [[*pair, *(f"{share:.1%}" for share in shares[pair])] for pair in pairs[:MOST_CONFUSED]]
    note = "Share of a class's test images that were taken for another class, all seeds together. The first "
    note += f"{len(rows)} of {len(pairs):,} pairs."
    columns = ["class", "taken for", *(c.label for c in shown)]
    return Sheet("Classes that are confused most", columns, rows, note, left=2)


def _setting(params: dict[str, Any]) -> str:
    return " ".join(
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in params.items()
    )


def _percent(contestant: Contestant, measure: str, metric: Metric = METRICS["acc"]) -> str:
    mean, bounds = contestant.mean(measure), contestant.interval(measure)
    if mean is None:
        return "-"
    return metric.value(mean) if bounds is None else f"{metric.value(mean)} {metric.bounds(bounds)}"


def _change(pair: stats.Pair, metric: Metric) -> tuple[str, str]:
    """Difference and its interval."""
    difference = "-" if pair.difference is None else metric.change(pair.difference)
    return difference, "-" if pair.interval is None else metric.bounds(pair.interval, signed=True)


def capitalised(text: str) -> str:
    """The text with a capital letter first; a column's own name such as `test_acc` as it is."""
    return text if "_" in text or "/" in text else text[:1].upper() + text[1:]


def _p(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _mean(contestant: Contestant, measure: str, form: str) -> str:
    mean = contestant.mean(measure)
    return "-" if mean is None else form.format(mean)


def _reached(contestant: Contestant, unit: str, target: float) -> str:
    values = contestant.costs(unit, target)
    if not values:
        return "-"
    middle = statistics.median(values)
    return "∞" if math.isinf(middle) else f"{middle:,.1f}" if unit == "seconds" else f"{middle:,.0f}"
