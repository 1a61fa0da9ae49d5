"""Runs that another program's table tells of: a metric, by epoch if the table has epochs."""

from dataclasses import dataclass

from cnnbench.results.metrics import Metric


@dataclass(frozen=True)
class Reported:
    """A run that another program's table tells of."""

    seed: int
    """Its seed, or its number among the contestant's runs where the table has no seeds that are numbers."""
    metric: Metric
    """What it is judged by."""
    status: str
    """`done`; `diverged` if the last value is NaN or infinite; `interrupted` if there is no value."""
    curve: list[tuple[int, float]]
    """Epoch and value, in order; a table without epochs has the single epoch 0."""
    name: str = ""
    """How the table calls it, such as its seed."""

    @property
    def value(self) -> float | None:
        """The metric at the end."""
        return self.curve[-1][1] if self.curve else None

    @property
    def epochs(self) -> int | None:
        """The last epoch; None in a table without epochs."""
        return self.curve[-1][0] or None if self.curve else None

    def reaches(self, value: float, target: float) -> bool:
        """Whether a value is at least as good as a target."""
        return value >= target if self.metric.higher else value <= target
