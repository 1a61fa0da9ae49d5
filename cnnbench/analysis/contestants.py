"""Contestants, each one setting with all its seeds, and what is measured of them."""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from cnnbench.analysis import stats
from cnnbench.results.records import Record, Test
from cnnbench.results.reported import Reported

Run = Record | Reported
"""A run of ours, or one that another program's table tells of."""


@dataclass
class Contestant:
    """One setting with all its seeds; or, where the tuning was repeated, the winners of all its tunings."""

    label: str
    runs: Sequence[Run]
    settings: int = 1
    """How many settings this one was chosen from, by its results on these runs (`by=`)."""
    tunings: dict[int, list[int]] = field(default_factory=dict)
    """Where the tuning was repeated: by the number of each tuning the seeds of its winner; none if all trials broke."""
    _measures: dict[float, list[dict[str, float | None]]] = field(default_factory=dict, repr=False)
    """By target."""

    @cached_property
    def records(self) -> list[Record]:
        """The runs that are ours; none where another program's table is compared."""
        return [run for run in self.runs if isinstance(run, Record)]

    @cached_property
    def done(self) -> list[Run]:
        """The runs that were trained to their end."""
        return [run for run in self.runs if run.status == "done"]

    @cached_property
    def broken(self) -> list[Run]:
        """The runs that diverged or failed: results too, though without a trained network."""
        return [run for run in self.runs if run.status in ("diverged", "failed")]

    @property
    def ended(self) -> int:
        """How many runs came to an end, whatever it was; those interrupted did not."""
        return len(self.done) + len(self.broken)

    @property
    def chance(self) -> float | None:
        """Accuracy of guessing, from 0 to 1: what a broken run counts as. None where the number of classes is unknown.

        Broken runs are then counted, but not averaged.
        """
        return 1 / max(len(self.records[0].data.classes), 1) if self.records else None

    def measured(self, measure: str, target: float = math.inf) -> list[float]:
        """A measure of each finished run, by its name in `measure`."""
        return list(self._finished(measure, target).values())

    def _finished(self, measure: str, target: float) -> dict[int, float]:
        if target not in self._measures:
            self._measures[target] = [measures(run, target) for run in self.done]
        values = ((run.seed, found.get(measure)) for run, found in zip(self.done, self._measures[target], strict=True))
        return {seed: value for seed, value in values if value is not None}

    def by_seed(self, measure: str) -> dict[int, float]:
        """A measure of each run that ended, by its seed; a broken run counts as chance, if that is known."""
        return self._finished(measure, math.inf) | self._as_chance(run.seed for run in self.broken)

    def _as_chance(self, numbers: Iterable[int]) -> dict[int, float]:
        chance = self.chance
        return {} if chance is None else dict.fromkeys(numbers, chance)

    def samples(self, measure: str) -> dict[int, float]:
        """What verdicts rest on: `by_seed`, or the mean of each tuning's seeds by its number.

        A tuning all of whose trials broke counts as chance.
        """
        lost = self._as_chance(number for number, seeds in self.tunings.items() if not seeds)
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
        share = any(run.metric.share for run in self.runs if isinstance(run, Reported) and run.metric.key == measure)
        bounds = (0.0, 1.0) if share or measure.endswith(("_acc", "_f1")) else (-math.inf, math.inf)
        values = self._by_tuning(self._finished(measure, target), statistics.fmean)
        return stats.interval(list(values.values()), *bounds)

    def costs(self, unit: str, target: float) -> list[float]:
        """What each run that ended needed to reach a validation accuracy; infinite where it never did, or broke.

        Args:
            unit: `epochs`, `images` or `seconds`.
            target: from 0 to 1; another program's metric in its own units.
        """
        return list(self._costs_by_seed(unit, target).values())

    def _costs_by_seed(self, unit: str, target: float) -> dict[int, float]:
        return self._finished(f"target_{unit}", target) | {run.seed: math.inf for run in self.broken}

    def cost_samples(self, unit: str, target: float) -> list[float]:
        """What verdicts on costs rest on: `costs`, or the median of each tuning's."""
        return list(self._by_tuning(self._costs_by_seed(unit, target), statistics.median).values())

    @property
    def statuses(self) -> Counter[str]:
        """How many runs ended how."""
        return Counter(run.status for run in self.runs)

    @property
    def uneven(self) -> bool:
        """Whether the largest class has at least twice the test images of the smallest one."""
        sizes = [sum(row) for row in self.confusion]
        return bool(sizes) and max(sizes) >= 2 * min(sizes)

    @property
    def per_class(self) -> list[float | None]:
        """Test accuracy of each class, the mean over seeds; None where there are no test images of it."""
        columns = zip(*(test.per_class for test in self._tested), strict=True)
        return [None if None in column else sum(column) / len(column) for column in columns]

    @property
    def confusion(self) -> list[list[int]]:
        """Test images of all seeds together by true class (rows) and predicted class (columns)."""
        tables = [test.confusion for test in self._tested]
        return [[sum(cells) for cells in zip(*rows, strict=True)] for rows in zip(*tables, strict=True)]

    @property
    def _tested(self) -> list[Test]:
        return [run.test for run in self.records if run.status == "done" and run.test]


def measures(run: Run, target: float = math.inf) -> dict[str, float | None]:
    """What is measured of a finished run.

    Args:
        run: its record.
        target: a validation accuracy from 0 to 1; another program's metric in its own units.

    Returns:
        Of another program's run the metric under its own name, `epochs`, and `target_epochs`.
        Of ours `test_acc`, `test_balanced_acc`, `test_macro_f1`: at the selected epoch; `val_acc`, `val_balanced_acc`,
        `val_macro_f1`: at the selected epoch; `final_val_acc`: that of the last epoch; `train_loss`:
        of the last epoch; `gap`: training minus validation accuracy at the selected epoch; `best_epoch`: the selected
        one; `epochs`, `images_seen`, `seconds`, `images_per_second`: of the whole training; `target_epochs`,
        `target_images`, `target_seconds`: until the target was first reached, infinite if never; `parameters`: trained;
        `operations`: of the whole training, three times those of a forward pass for each image.
    """
    if isinstance(run, Reported):
        reached = next((epoch for epoch, value in run.curve if run.reaches(value, target)), math.inf)
        return {run.metric.key: run.value, "epochs": run.epochs, "target_epochs": reached}
    history, best, last, seconds = run.history, run.best, run.history[-1], run.seconds
    assert best is not None, "a run that is done has one"
    selected = history[best.epoch - 1]
    hit = next((i for i, row in enumerate(history) if row.val_acc >= target), None)
    return {
        "test_acc": run.test.acc if run.test else None,
        "test_balanced_acc": run.test.balanced_acc if run.test else None,
        "test_macro_f1": run.test.macro_f1 if run.test else None,
        "val_acc": best.val_acc,
        "val_balanced_acc": selected.val_balanced_acc,
        "val_macro_f1": selected.val_macro_f1,
        "final_val_acc": last.val_acc,
        "train_loss": last.train_loss,
        "gap": selected.train_acc - selected.val_acc,
        "best_epoch": best.epoch,
        "epochs": len(history),
        "images_seen": last.images_seen,
        "seconds": seconds,
        "images_per_second": last.images_seen / seconds if seconds else None,
        "parameters": run.parameters,
        "operations": None if run.flops is None else 3.0 * run.flops * last.images_seen,
        "target_epochs": math.inf if hit is None else hit + 1,
        "target_images": math.inf if hit is None else history[hit].images_seen,
        "target_seconds": math.inf if hit is None else sum(row.seconds for row in history[: hit + 1]),
    }
