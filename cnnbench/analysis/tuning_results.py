"""The results of a tuning: winners, budget curves and samples."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from cnnbench.analysis import budget, tuning
from cnnbench.results.records import Record


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
