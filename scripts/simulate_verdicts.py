"""How often verdicts are wrong, and how often they find a true difference, by simulation.

    OMP_NUM_THREADS=1 python scripts/simulate_verdicts.py [--tables 20000] [--seed 1]

Prints the Markdown tables of `docs/verdict_simulation.md`, within ten minutes on one core.
"""

import argparse
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnnbench.analysis.corrections import LEVEL, Floats, bergmann_hommel, holm, index_sets
from cnnbench.analysis.exact_tests import fisher, rank_test
from cnnbench.analysis.sequential import looks
from cnnbench.analysis.stats import Welch, interval, smallest_difference, welch

AT_ONCE = 1000
"""Tables in memory at a time."""

Draw = Callable[[np.random.Generator, int], Floats]
"""Gives so many tables of equal contestants, shape (tables, contestants, seeds)."""


@dataclass
class Scenario:
    """One kind of table; contestants 0 and 1 are quiet."""

    name: str
    contestants: int
    seeds: int
    draw: Draw
    kinds: Sequence[int]
    """Contestants of the same kind can change places."""
    sound: int = 99
    """So many contestants have a mean that an interval can be about; the others fail to train at times."""
    shift: float = 3.0
    """The true difference that is to be found."""


def normal(contestants: int, seeds: int, loudest: float = 1.0) -> Scenario:
    """Independent seeds; the last contestant has another spread than the others."""
    spread = np.ones((contestants, 1))
    spread[-1] = loudest
    name = f"{contestants}x{seeds} " + ("equal spreads" if loudest == 1 else f"one with {loudest:g} times the spread")
    kinds = [int(loudest != 1 and i == contestants - 1) for i in range(contestants)]
    return Scenario(
        name, contestants, seeds, lambda r, tables: r.normal(size=(tables, contestants, seeds)) * spread, kinds
    )


def scenarios() -> list[Scenario]:
    """The rows of the first table."""

    def log_uniform(r: np.random.Generator, tables: int) -> Floats:
        return r.normal(size=(tables, 5, 5)) * 10 ** r.random((tables, 5, 1))

    def correlated(r: np.random.Generator, tables: int) -> Floats:
        return math.sqrt(0.7) * r.normal(size=(tables, 1, 5)) + math.sqrt(0.3) * r.normal(size=(tables, 5, 5))

    def grouped(r: np.random.Generator, tables: int) -> Floats:
        common = r.normal(size=(tables, 2, 5))[:, [0, 0, 0, 1, 1]]
        return math.sqrt(0.8) * common + math.sqrt(0.2) * r.normal(size=(tables, 5, 5))

    def failing(r: np.random.Generator, tables: int) -> Floats:
        results = r.normal(size=(tables, 5, 5))
        results[:, -1] -= 60 * (r.random((tables, 5)) < 0.2)
        return results

    middle = math.sqrt(10)  # the geometric mean of the spreads 1 to 10
    return [
        normal(2, 3), normal(2, 5), normal(3, 3), normal(3, 5), normal(5, 3), normal(5, 5), normal(8, 3), normal(8, 5),
        normal(2, 3, 8), normal(2, 5, 8), normal(3, 3, 8), normal(3, 5, 8),
        normal(5, 3, 8), normal(5, 5, 8), normal(8, 3, 8), normal(8, 5, 8),
        Scenario("5x5 spreads log-uniform 1 to 10", 5, 5, log_uniform, [0] * 5, shift=3 * middle),
        Scenario("5x5 seeds correlated 0.7", 5, 5, correlated, [0] * 5),
        Scenario("5x5 two groups with common seed effects 0.8", 5, 5, grouped, [0, 0, 0, 1, 1]),
        Scenario("5x5 one fails to train in a fifth of its seeds", 5, 5, failing, [0, 0, 0, 0, 1], sound=4),
    ]  # fmt: skip


def guarded(results: Floats) -> Welch:
    """The method of `stats.verdicts`, of many tables at once."""
    return welch(results.mean(-1), results.var(-1, ddof=1), np.full(results.shape[1], results.shape[2]))


def half_paired(results: Floats) -> Welch:
    """A relative that keeps half of the correlation that seeds give: variance a + b - c, with the covariance c."""
    nu = results.shape[2] - 1
    centred = results - results.mean(-1, keepdims=True)
    c = centred @ centred.swapaxes(-1, -2) / nu
    variance = np.diagonal(c, axis1=-2, axis2=-1)
    a, b = np.broadcast_arrays(variance[:, :, None], variance[:, None, :])
    total, known = a + b - c, np.maximum(c, 0)
    freedom = 2 * nu * total**2 / (2 * (a - known) ** 2 + 2 * (b - known) ** 2 + a * b + known**2)
    alike = (a + b) ** 2 / (a**2 + b**2)
    freedom = np.maximum(np.minimum(freedom, 2 * nu) * (1 + (alike - 1) ** 2) / alike, nu)
    mean = results.mean(-1)
    return Welch(mean[:, :, None] - mean[:, None, :], np.sqrt(total / results.shape[2]), freedom)


def of_pairs(matrix: Floats) -> Floats:
    """A matrix of contestants as a row of pairs."""
    first, second = np.triu_indices(matrix.shape[-1], 1)
    return np.asarray(matrix[..., first, second])


def chunks(tables: int) -> Iterable[int]:
    """Sizes of the parts that fit into memory."""
    return [AT_ONCE] * (tables // AT_ONCE) + [tables % AT_ONCE] * (tables % AT_ONCE > 0)


class Nulls:
    """Counts tables with any false verdict, for every way to divide the contestants into blocks of equals.

    Blocks are infinitely far apart, which is the worst case: then all other pairs are significant, and there is a false
    verdict on the pairs I inside the blocks exactly where |I| * min(p in I) < 0.05.
    """

    def __init__(self, kinds: Sequence[int]) -> None:
        self.contestants = len(kinds)
        self.sizes, self.members = index_sets(len(kinds))
        self.false = np.zeros(len(self.sizes))
        self.tables = 0
        first, second = np.triu_indices(len(kinds), 1)
        partners = np.zeros((len(self.sizes), len(kinds)), dtype=int)
        for pair, sets in enumerate(self.members):
            partners[sets, first[pair]] += 1
            partners[sets, second[pair]] += 1
        # Divisions that differ only in which of several contestants of one kind stands where are one case.
        self.case = [tuple(sorted(zip(kinds, row, strict=True))) for row in partners.tolist()]

    def add(self, p: Floats) -> None:
        """Counts tables of equal contestants, given by the p values of all pairs."""
        smallest = np.ones((len(p), len(self.sizes)))
        for pair, sets in enumerate(self.members):
            smallest[:, sets] = np.minimum(smallest[:, sets], p[:, pair, None])
        self.false += (smallest * self.sizes < LEVEL).sum(0)
        self.tables += len(p)

    @property
    def complete(self) -> float:
        """Share of tables with a false verdict, all contestants being equal."""
        return float(self.false[np.argmax(self.sizes)]) / self.tables

    @property
    def worst(self) -> float:
        """The same of the worst division."""
        rates = defaultdict(list)
        for case, false in zip(self.case, self.false, strict=True):
            rates[case].append(false / self.tables)
        return float(max(np.mean(found) for found in rates.values()))


def percent(*shares: float) -> list[str]:
    """As they are printed."""
    return [f"{100 * share:.1f}" for share in shares]


def show(title: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints a Markdown table."""
    print(f"\n**{title}**\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |", flush=True)


def verdict_rows(tables: int, r: np.random.Generator) -> Iterable[list[str]]:
    """False verdicts, power and coverage of each scenario, and what the half-paired test would do."""
    for scenario in scenarios():
        pairs = list(itertools.combinations(range(scenario.contestants), 2))
        asked = [i for i, (a, b) in enumerate(pairs) if a == 0 and scenario.kinds[b] == scenario.kinds[0]] or [0]
        sound = [i for i, (_, b) in enumerate(pairs) if b < scenario.sound]
        nulls, power = [Nulls(scenario.kinds), Nulls(scenario.kinds)], np.zeros(2)
        raw, corrected = np.zeros(len(pairs)), np.zeros(len(pairs))
        for n in chunks(tables):
            results = scenario.draw(r, n)
            shifted = results.copy()
            shifted[:, 0] += scenario.shift
            for i, method in enumerate((guarded, half_paired)):
                p = of_pairs(method(results).p)
                nulls[i].add(p)
                found = bergmann_hommel(of_pairs(method(shifted).p), scenario.contestants)
                power[i] += (found.p[:, asked] < LEVEL).mean(-1).sum()
                if method is guarded:
                    # An interval around a difference holds the truth if that around the difference less the truth
                    # holds 0, that is, if p without the truth is not below what the interval leaves out.
                    raw += (p >= LEVEL).sum(0)
                    corrected += (p >= found.levels).sum(0)
        covered = raw[sound].min() / tables, corrected[sound].min() / tables
        yield [
            scenario.name, *percent(nulls[0].complete, nulls[0].worst, power[0] / tables, *covered),
            " / ".join(percent(nulls[1].worst, power[1] / tables)),
        ]  # fmt: skip


def apart_rows(tables: int, r: np.random.Generator) -> Iterable[list[str]]:
    """False verdicts between two equal contestants, among others that are a finite distance away."""
    for seeds, distance, loud in itertools.product((3, 5, 10), (2, 5, 20), (None, 1, 4)):
        means = np.array([0, 0, 1, 2, 3]) * distance
        spread = np.ones((5, 1))
        if loud is not None:
            spread[loud] = 8
        wrong = 0.0
        for n in chunks(tables):
            results = r.normal(size=(n, 5, seeds)) * spread + means[:, None]
            wrong += (bergmann_hommel(of_pairs(guarded(results).p), 5).p[:, 0] < LEVEL).sum()
        where = {None: "nobody", 1: "one of the equal ones", 4: "the furthest"}[loud]
        yield [str(seeds), str(distance), where, *percent(wrong / tables)]


def equivalent(tests: Welch, margin: float, level: float = LEVEL) -> NDArray[np.bool_]:
    """Which pairs of each table are shown to be within the margin."""
    return np.array([holm(p, level).p < level for p in of_pairs(tests.p_beyond(margin))])


def margin_rows(tables: int, r: np.random.Generator) -> Iterable[list[str]]:
    """False verdicts with a margin, where some pairs are equal and the others exactly that far apart."""
    for means, seeds, margin, loud in [
        ((0, 1), 3, 2, 1), ((0, 1), 5, 2, 1), ((0, 1), 10, 2, 1), ((0, 1), 3, 12, 8), ((0, 1), 5, 12, 8),
        ((0, 1), 10, 12, 8), ((0, 0, 1), 5, 2, 1), ((0, 0, 1), 10, 2, 1), ((0, 0, 1), 20, 1, 1), ((0, 0, 1), 20, 3, 8),
        ((0, 0, 0, 0, 1), 10, 2, 1), ((0, 0, 0, 1, 1), 20, 1, 1),
    ]:  # fmt: skip
        k = len(means)
        spread = np.ones((k, 1))
        spread[-1] = loud
        first, second = np.triu_indices(k, 1)
        equal = np.equal.outer(means, means)[first, second]
        counts = np.zeros(4)
        for n in chunks(tables):
            noise = r.normal(size=(n, k, seeds)) * spread
            tests = guarded(noise + margin * np.array(means)[:, None])
            within = equivalent(tests, margin)
            different = (bergmann_hommel(of_pairs(tests.p), k).p < LEVEL) & ~within
            false = (different & equal).any(-1), (within & ~equal).any(-1)
            alike = equivalent(guarded(noise), margin)
            counts += [false[1].sum(), false[0].sum(), (false[0] | false[1]).sum(), alike[:, 0].sum()]
        apart = " ".join("0" if mean == 0 else "m" for mean in means)
        yield [apart, str(seeds), str(margin), str(loud), *percent(*counts / tables)]


def auto_rows(tables: int, r: np.random.Generator) -> Iterable[list[object]]:
    """What comes of adding seeds until every pair is settled."""
    for means, spread, most, margin in [
        ((0, 0), (1, 1), 20, None), ((0, 0), (1, 8), 20, None), ((0, 0, 0), (1, 1, 8), 12, None),
        ((0, 0, 20, 40, 60), (1, 1, 1, 1, 8), 12, None), ((0, 0, 20, 40, 60), (1, 8, 1, 1, 1), 20, None),
        ((0, 0), (1, 1), 20, 1.5), ((0, 1), (1, 1), 20, 1), ((0, 2), (1, 1), 12, 2), ((0, 0, 1), (1, 1, 1), 20, 1),
        ((0, 0, 2), (1, 1, 1), 12, 2), ((0, 0, 0, 2, 2), (1,) * 5, 20, 2),
        ((0, 1.5), (1, 1), 20, None), ((0, 3), (1, 1), 12, None), ((0, 6), (1, 1), 12, None),
        ((0, 2, 4, 6, 8), (1,) * 5, 12, None), ((0, 0, 3), (1, 1, 1), 12, 1.5),
    ]:  # fmt: skip
        k, plan = len(means), looks(most)
        first, second = np.triu_indices(k, 1)
        truth = np.array(means)[first] - np.array(means)[second]
        wrong, used, settled, ever = 0, 0, 0.0, 0
        for n in chunks(tables):
            results = r.normal(size=(n, k, most)) * np.array(spread)[:, None] + np.array(means)[:, None]
            running, false_ever = np.ones(n, dtype=bool), np.zeros(n, dtype=bool)
            for look in plan:
                tests, level = guarded(results[..., : look.seeds]), LEVEL * look.share
                within = equivalent(tests, margin, level) if margin else np.zeros((n, len(truth)), dtype=bool)
                different = (bergmann_hommel(of_pairs(tests.p), k, level).p < level) & ~within
                false = (different & (np.sign(of_pairs(tests.difference)) != np.sign(truth))).any(-1)
                false |= (within & (np.abs(truth) >= (margin or 0))).any(-1)
                false_ever |= false
                stops = running & ((different | within).all(-1) | (look is plan[-1]))
                wrong += int(false[stops].sum())
                used += look.seeds * int(stops.sum())
                settled += float((different | within)[stops].mean(-1).sum())
                running &= ~stops
            ever += int(false_ever.sum())
        case = [", ".join(map(str, values)) for values in (means, spread)]
        shares = percent(wrong / tables, ever / tables, settled / tables)
        yield [*case, margin or "none", most, *shares, f"{used / tables:.1f}"]


def exact_rows(tables: int, r: np.random.Generator) -> Iterable[list[str]]:
    """False verdicts of the exact tests, contestants being equal."""
    for k, seeds in itertools.product((2, 3, 5), (3, 5, 10, 20)):
        table = np.array([[fisher(a, seeds, b, seeds) for b in range(seeds + 1)] for a in range(seeds + 1)])
        first, second = np.triu_indices(k, 1)
        shares = []
        for chance in (0.1, 0.3, 0.5):
            failed = r.binomial(seeds, chance, (tables, k))
            p = table[failed[:, first], failed[:, second]]
            shares.append(
                np.mean([(bergmann_hommel(part, k).p < LEVEL).any(-1).mean() for part in np.array_split(p, 20)])
            )
        few = min(tables, 5000)
        for censored, loudest in ((0.0, 1), (0.4, 1), (0.0, 8)):
            spread = np.ones((k, 1))
            spread[-1] = loudest
            cost = np.exp(r.normal(size=(few, k, seeds)) * spread)
            cost[cost > np.quantile(cost, 1 - censored)] = np.inf
            p = np.array([[rank_test(row[a], row[b]) for a, b in zip(first, second, strict=True)] for row in cost])
            shares.append((bergmann_hommel(p, k).p < LEVEL).any(-1).mean())
        yield [f"{k}x{seeds}", *percent(*shares)]


def smallest_rows(tables: int, r: np.random.Generator) -> Iterable[list[str]]:
    """How often `smallest_difference` is found, with one contestant that much better than the others."""
    for seeds in (2, 3, 5, 10, 20):
        row = [str(seeds)]
        for k in (2, 3, 5):
            distance = smallest_difference((1.0, 1.0), (seeds, seeds), LEVEL * 2 / (k * (k - 1)))
            found = 0
            for n in chunks(tables):
                results = r.normal(size=(n, k, seeds))
                results[:, 0] += distance
                found += int((bergmann_hommel(of_pairs(guarded(results).p), k).p[:, 0] < LEVEL).sum())
            row += [f"{distance:.2f}", *percent(found / tables)]
        yield row


def mean_rows(tables: int, r: np.random.Generator) -> Iterable[list[str]]:
    """How often the interval of a mean holds the true one."""
    for seeds in (2, 3, 5, 10):
        row = [str(seeds)]
        for values, truth in ((r.normal(size=(tables, seeds)), 0.0), (r.exponential(size=(tables, seeds)), 1.0)):
            bounds = np.array([interval(list(found)) for found in values])
            row += percent(((bounds[:, 0] <= truth) & (truth <= bounds[:, 1])).mean())
        yield row


def main() -> None:
    """Prints all tables."""
    parser = argparse.ArgumentParser(description="Simulates verdicts.")
    parser.add_argument("--tables", type=int, default=20_000, help="tables for each line")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    tables, r = options.tables, np.random.default_rng(options.seed)
    show(
        "False verdicts, power and coverage, %",
        ["contestants x seeds", "false, all equal", "false, worst", "power", "interval covers", "corrected one covers",
         "half-paired: false, worst / power"],
        verdict_rows(tables, r),
    )  # fmt: skip
    show(
        "Two equal contestants and three others apart: false verdicts, %",
        ["seeds", "steps of (standard deviations)", "who has 8 times the spread", "false"],
        apart_rows(tables, r),
    )
    show(
        "With a margin m: false verdicts, %, and how often a pair is found equivalent that is equal",
        ["true means", "seeds", "m", "spread of the last", "false equivalent", "false difference", "any", "equivalent"],
        margin_rows(tables, r),
    )
    show(
        "Adding seeds until all pairs are settled",
        ["true means", "spreads", "margin", "max_seeds", "false at the end, %", "false at any look, %",
         "pairs settled, %", "seeds used"],
        auto_rows(tables, r),
    )  # fmt: skip
    show(
        "Exact tests of equal contestants: false verdicts, %",
        [
            "contestants x runs",
            "failures, chance 0.1",
            "0.3",
            "0.5",
            "costs, all reach the target",
            "40 % don't",
            "all do, one scatters 8 times as widely",
        ],
        exact_rows(tables, r),
    )
    show(
        "The smallest difference that is found in 80 % of cases (standard deviations), and how often it is, %",
        ["seeds", "2 contestants", "found", "3 contestants", "found", "5 contestants", "found"],
        smallest_rows(tables, r),
    )
    show(
        "The interval of a mean covers it, %",
        ["seeds", "normal results", "very skewed (exponential)"],
        mean_rows(tables, r),
    )


if __name__ == "__main__":
    main()
