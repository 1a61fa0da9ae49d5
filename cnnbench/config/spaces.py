"""Search spaces of a tuning: the values that it may try, as the files of `conf/space/` give them."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cnnbench.errors import ConfigError, nearest

Params = dict[str, Any]
"""A setting of a contestant: values by key, such as `{"lr": 0.01}`."""


@dataclass(frozen=True)
class Axis:
    """The values that a key may take: a range, or a list."""

    low: float = 0.0
    high: float = 0.0
    log: bool = False
    """Whether the range is uniform in the logarithm."""
    choices: tuple[Any, ...] = ()
    """A list of values instead of a range."""

    def __str__(self) -> str:
        """As tables show it: `0.0001 to 0.1 (log)` or `64/128`."""
        if self.choices:
            return "/".join(map(str, self.choices))
        return f"{self.low:g} to {self.high:g}{' (log)' if self.log else ''}"

    @property
    def whole(self) -> bool:
        """Whether the range holds whole numbers only."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def points(self, count: int) -> list[Any]:
        """`count` values from `low` to `high`, evenly spaced; all choices of a list."""
        if self.choices:
            return list(self.choices)
        shares = [0.5] if count == 1 else [i / (count - 1) for i in range(count)]
        values = [
            self.low * (self.high / self.low) ** s if self.log else self.low + s * (self.high - self.low)
            for s in shares
        ]
        return sorted({round(v) for v in values}) if self.whole else [float(f"{v:.6g}") for v in values]


Space = dict[str, Axis]


def space_of(name: str, written: Any) -> Space:
    """Checks a search space: `KEY: {low: 1e-4, high: 1e-1, log: true}` or `KEY: [64, 128]`.

    Args:
        name: the file's name, for messages.
        written: the content of the YAML file.

    Raises:
        ConfigError: it isn't a search space; the line names file and key.
    """
    if not isinstance(written, dict) or not written:
        raise ConfigError(f"{name}: holds no keys. One is written as lr: {{low: 1e-4, high: 1e-1, log: true}}.")
    space = {}
    for key, value in written.items():
        where = f"{name}: {key}"
        if isinstance(value, list):
            if len(value) < 2:
                raise ConfigError(f"{where}: a list needs at least two values.")
            space[str(key)] = Axis(choices=tuple(value))
            continue
        if not isinstance(value, dict) or not {"low", "high"} <= set(value):
            raise ConfigError(f"{where}={value}: must be {{low: .., high: ..}} or a list of values.")
        for word in set(value) - {"low", "high", "log"}:
            raise ConfigError(f"{where}: there is no key '{word}'.{nearest(str(word), ['low', 'high', 'log'])}")
        low, high, log = value["low"], value["high"], value.get("log", False)
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in (low, high))
        if not numbers or not isinstance(log, bool) or not low < high or (log and low <= 0):
            raise ConfigError(f"{where}={value}: low must be below high{', and above 0' if log else ''}.")
        space[str(key)] = Axis(low, high, log)
    return space


def grid(space: Space, trials: int) -> Iterator[Params]:
    """All points of a grid with `trials` points.

    Raises:
        ConfigError: no grid has that many points; the line names the nearest numbers.
    """
    ranges = [axis for axis in space.values() if not axis.choices]
    fixed = math.prod(len(axis.choices) for axis in space.values() if axis.choices)
    side = round((trials / fixed) ** (1 / len(ranges))) if ranges else 1
    columns = [axis.points(max(side, 1)) for axis in space.values()]
    if math.prod(map(len, columns)) != trials:
        near = sorted({fixed * n ** len(ranges) for n in (max(side - 1, 1), max(side, 1), side + 1)})
        raise ConfigError(
            f"trials={trials}: no grid over {', '.join(space)} has that many points. Near: {', '.join(map(str, near))}."
        )
    return (dict(zip(space, point, strict=True)) for point in itertools.product(*columns))
