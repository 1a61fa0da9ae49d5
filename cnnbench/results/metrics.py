"""What contestants are compared by, and how its values are shown."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """What contestants are compared by, and how its values are shown."""

    key: str
    """Its name among the measures: without `test_` and `val_`, or a column of a table."""
    name: str
    """As people read it."""
    higher: bool = True
    """Whether more is better."""
    share: bool = True
    """Whether it is a share from 0 to 1, shown in percent, and its differences in percentage points."""

    def value(self, value: float) -> str:
        """A value as tables show it."""
        return f"{value:.2%}" if self.share else f"{value:.4g}"

    def change(self, difference: float) -> str:
        """A difference as tables show it."""
        return f"{100 * difference:+.2f}" if self.share else f"{difference:+.4g}"

    def bounds(self, bounds: tuple[float, float], signed: bool = False) -> str:
        """An interval as tables show it."""
        sign = "+" if signed else ""
        low, high = (f"{100 * b:{sign}.2f}" if self.share else f"{b:{sign}.4g}" for b in bounds)
        return f"[{low}, {high}]"

    def spread(self, deviation: float) -> str:
        """A standard deviation as tables show it."""
        return f"{100 * deviation:.2f}" if self.share else f"{deviation:.3g}"

    @property
    def unit(self) -> str:
        """In what differences are shown."""
        return "percentage points" if self.share else f"units of {self.name}"


METRICS = {
    metric.key: metric
    for metric in (
        Metric("acc", "accuracy"),
        Metric("balanced_acc", "balanced accuracy"),
        Metric("macro_f1", "macro F1"),
    )
}
"""What our own runs can be compared by (`metric=`); each is measured in validation and test."""
