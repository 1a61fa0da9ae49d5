"""Which tables does a comparison have? (imports no torch)"""

import math
import statistics
from dataclasses import dataclass
from typing import Any

from cnnbench.analysis import stats
from cnnbench.analysis.comparison import MOST_PAIRED, Comparison, Contestant, Tuning
from cnnbench.analysis.ladder import Ladder, judge


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
    found = [] if comparison.ladder is None else [rungs(comparison, comparison.ladder)]
    found += [results(comparison), costs(comparison)]
    if len(comparison.contestants) > 1:
        found.append(verdicts(comparison))
    if any(run.search for c in comparison.contestants for run in c.runs):
        found.append(architectures(comparison))
    if comparison.claims:
        found.append(claims(comparison))
    return found


def results(comparison: Comparison) -> Sheet:
    """Accuracies and losses."""
    rows = []
    for c in comparison.contestants:
        tried = f" (best of {c.settings})" if c.settings > 1 else ""
        cells = [f"{c.label}{tried}", str(len(c.done))]
        cells += [_percent(c, measure) for measure in ("test_acc", "val_acc", "final_val_acc")]
        cells += [_mean(c, "train_loss", "{:.4g}"), _mean(c, "gap", "{:+.2%}")]
        rows.append([*cells, ", ".join(f"{count} {status}" for status, count in sorted(c.statuses.items()))])
    columns = ["contestant", "seeds", "test", "best validation", "final validation", "training loss", "gap", "runs"]
    note = (
        "Means over seeds with 95 % bootstrap intervals; test accuracy at the epoch that was best on validation; "
        "training loss of the last epoch; gap: training minus validation accuracy at the selected epoch."
    )
    most = max((len(c.done) for c in comparison.contestants), default=0)
    if most == 1:
        note += " One seed: no interval can be given."
    elif most < 5:
        note += f" From {most} seeds an interval is too narrow; the verdicts do not rest on it."
    return Sheet("Accuracy", columns, rows, note)


def costs(comparison: Comparison) -> Sheet:
    """What it took."""
    rows = []
    for c in comparison.contestants:
        reach = [_reached(c, measure, comparison.target) for measure in ("epochs", "images", "seconds")]
        hit = sum(math.isfinite(v) for v in c.measured("target_epochs", comparison.target))
        forms = {"best_epoch": "{:.1f}", "epochs": "{:,.0f}", "images_seen": "{:,.0f}", "seconds": "{:.1f}"}
        spent = [_mean(c, measure, form) for measure, form in (forms | {"images_per_second": "{:,.0f}"}).items()]
        rows.append([c.label, *spent, f"{hit} of {len(c.done)}", *reach])
    goal = f"{comparison.target:.4g}"
    columns = ["contestant", "best epoch", "epochs", "images seen", "seconds", "images/s"]
    columns += [f"reach {goal}", "after epochs", "images", "seconds"]
    note = "Means over seeds, seconds of training alone. Until validation accuracy is at least "
    note += f"{goal}: medians over seeds, infinite (∞) where it was missed."
    if comparison.given_target is None:
        note += f" {goal} is what the middle contestant reaches; target= sets another."
    return Sheet("Cost", columns, rows, note)


def verdicts(comparison: Comparison) -> Sheet:
    """Each pair: its difference and whether that is significant."""
    rows = []
    for pair in comparison.pairs:
        seeds = str(pair.seeds[0]) if pair.seeds[0] == pair.seeds[1] else f"{pair.seeds[0]}, {pair.seeds[1]}"
        p = "-" if pair.p is None else _p(pair.p)
        rows.append([pair.first, pair.verdict, pair.second, seeds, *_change(pair), p, *_finds(pair, comparison)])
    columns = ["contestant", "is", "compared with", "seeds", "difference", "interval", "p", "finds", "with 10 seeds"]
    note = (
        f"{comparison.judged.capitalize()} in percentage points. Welch's t-tests; p values and intervals are corrected "
        f"for the number of pairs, so that the chance of any false verdict in this table is at most 5 %. Finds: the "
        f"difference that this many seeds would find in 80 % of cases, if the spreads are as seen."
    )
    if comparison.margin is not None:
        note += f" Equivalent: the true difference lies within ±{100 * comparison.margin:g}."
    if comparison.share < 1:
        note += (
            f" Seeds are added until the pairs are settled, so this look may use {100 * comparison.share:.1f} % of "
            f"the 5 %: p values are divided by that share."
        )
    if len(comparison.contestants) > MOST_PAIRED:
        note += f" With over {MOST_PAIRED} contestants each is compared with the best one alone."
    return Sheet("Verdicts", columns, rows, note, left=3)


def _finds(pair: stats.Pair, comparison: Comparison) -> list[str]:
    """The smallest difference that the pair's seeds, and that 10 seeds, would find."""
    if pair.spread is None:
        return ["-", "-"]
    count = len(comparison.contestants)
    pairs = count - 1 if comparison.baseline else count * (count - 1) // 2
    pairs = math.ceil(pairs / comparison.share)
    sizes = (min(pair.seeds), 10)
    return [f"{100 * stats.smallest_difference(pair.spread, seeds, pairs):.2f}" for seeds in sizes]


def architectures(comparison: Comparison) -> Sheet:
    """What each search has found, and what it cost."""
    rows = []
    for c in comparison.contestants:
        for run in c.done:
            found, test = run.search, "-" if run.test is None else f"{run.test.acc:.2%}"
            entropy = "-" if found is None or found.entropy is None else f"{found.entropy:.3f}"
            cost = ["-", "-"] if found is None else [f"{found.image_passes:,}", f"{found.seconds:,.1f}"]
            name = "as given" if found is None else found.architecture
            parameters = "-" if run.parameters is None else f"{run.parameters:,}"
            rows.append([c.label, str(run.seed), name, parameters, test, entropy, *cost])
    columns = ["contestant", "seed", "architecture", "parameters", "test", "entropy", "image passes", "seconds"]
    note = (
        "Entropy of the architecture at the search's end: 1 is undecided, 0 decided. Image passes: images through a "
        "network, forward and backward; they and the seconds are those of the search, in front of the training."
    )
    return Sheet("Architectures", columns, rows, note, left=3)


def rungs(comparison: Comparison, ladder: Ladder) -> Sheet:
    """What each addition brought, and what it cost."""
    found = {run.run_id: c for c in comparison.contestants for run in c.runs}
    rows = []
    for i, rung in enumerate(ladder.rungs):
        contestant, below = found.get(rung.runs[0]), ladder.below(i)
        if contestant is None:
            continue
        change = ""
        if below is not None and (without := found.get(below.runs[0])) is not None:
            images = contestant.runs[0].data.sizes.val
            pair = judge(without.by_seed("val_acc"), contestant.by_seed("val_acc"), images)
            change = " ".join(_change(pair))
        decided = {None: "", True: "yes", False: "no"}[rung.kept]
        forms = {"parameters": "{:,.0f}", "images_seen": "{:,.0f}", "seconds": "{:,.0f}"}
        cost = [_mean(contestant, measure, form) for measure, form in forms.items()]
        best, test = (_mean(contestant, measure, "{:.2%}") for measure in ("val_acc", "test_acc"))
        rows.append([rung.name, " ".join(rung.words), best, change, decided, test, *cost])
    columns = ["rung", "adds", "validation", "change", "kept", "test", "parameters", "images seen", "seconds"]
    note = (
        f"Each rung adds to what was kept below it, and is kept if its best validation accuracy is better: a t-test "
        f"paired by seed, p below 5 % for each rung alone. Change: on the last one kept, in percentage "
        f"points, with 95 % interval. The test accuracy decides nothing. Kept: {' '.join(ladder.top) or 'nothing'}."
    )
    return Sheet("Ladder", columns, rows, note, left=2)


def claims(comparison: Comparison) -> Sheet:
    """What documents say, beside what was measured."""
    rows = []
    names = {"val_acc": "best validation", "test_acc": "test"}
    for source, label, measure, claimed, measured in comparison.claims:
        mean = sum(measured) / len(measured) if measured else None
        told = ["-", "-"] if mean is None else [f"{mean:.2%}", f"{100 * (mean - claimed):+.2f}"]
        rows.append([source, label, names[measure], f"{claimed:.2%}", *told])
    columns = ["source", "contestant", "measure", "claimed", "measured", "difference"]
    return Sheet("What the documents claim", columns, rows, "Differences in percentage points.", left=3)


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
        rows.append([entry.tuned.label, space, setting, edge, *numbers, best])
    columns = ["contestant", "space", "winner", "warning", "trials", "done", "diverged", "failed", "best validation"]
    plan = tuning.plan
    note = (
        f"{plan.trials} trials for each contestant, {plan.sampler}, with seed {plan.seed}; selected on validation, the "
        f"test set closed; the winners run again with {plan.seeds} fresh seeds. On the edge: no trial lies beyond the "
        f"winner's value, what is best may lie outside the space."
    )
    return Sheet("Tuning", columns, rows, note, left=4)


def ledger(tuning: Tuning) -> Sheet:
    """Every trial."""
    rows = []
    for entry in tuning.entries:
        for trial in entry.trials:
            best = "-" if trial.val_acc is None else f"{trial.val_acc:.2%}"
            rows.append(
                [entry.tuned.label, str(trial.number), _setting(trial.params), trial.status, best, trial.run_id]
            )
    columns = ["contestant", "trial", "setting", "status", "best validation", "run"]
    return Sheet("Every trial of every contestant", columns, rows)


def per_class(comparison: Comparison) -> Sheet | None:
    """Test accuracy by class; None where no test set was opened."""
    shown = [c for c in comparison.contestants if c.per_class]
    if not shown:
        return None
    names = shown[0].runs[0].data.classes
    columns = zip(*(c.per_class for c in shown), strict=True)
    rows = [[name, *("-" if v is None else f"{v:.1%}" for v in row)] for name, row in zip(names, columns, strict=True)]
    return Sheet("Test accuracy by class", ["class", *(c.label for c in shown)], rows, "Means over seeds.")


def _setting(params: dict[str, Any]) -> str:
    return " ".join(
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in params.items()
    )


def _percent(contestant: Contestant, measure: str) -> str:
    values = contestant.measured(measure)
    if not values:
        return "-"
    bounds = stats.interval(values, 0, 1)
    mean = f"{sum(values) / len(values):.2%}"
    return mean if bounds is None else f"{mean} {_bounds(bounds, '{:.2f}')}"


def _bounds(bounds: tuple[float, float], form: str) -> str:
    low, high = (form.format(100 * bound) for bound in bounds)
    return f"[{low}, {high}]"


def _change(pair: stats.Pair) -> tuple[str, str]:
    """Difference and its interval, in percentage points."""
    difference = "-" if pair.difference is None else f"{100 * pair.difference:+.2f}"
    return difference, "-" if pair.interval is None else _bounds(pair.interval, "{:+.2f}")


def _p(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _mean(contestant: Contestant, measure: str, form: str) -> str:
    mean = contestant.mean(measure)
    return "-" if mean is None else form.format(mean)


def _reached(contestant: Contestant, unit: str, target: float) -> str:
    values = contestant.measured(f"target_{unit}", target)
    if not values:
        return "-"
    middle = statistics.median(values)
    return "∞" if math.isinf(middle) else f"{middle:,.1f}" if unit == "seconds" else f"{middle:,.0f}"
