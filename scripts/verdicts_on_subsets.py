"""Whether verdicts from 3 or 5 seeds agree with those from all seeds, on results that somebody published.

    python scripts/verdicts_on_subsets.py FILE.csv

The file has a row for each epoch of each run, with the columns problem, optimizer, seed, epoch and test_acc. The test
accuracies of the last epoch are compared, for each problem on its own.
"""

import argparse
import csv
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from cnnbench.analysis.stats import Pair, verdicts

Samples = dict[str, dict[int, float]]


def final_accuracies(path: Path) -> dict[str, Samples]:
    """By problem, optimizer and seed."""
    last: dict[tuple[str, str, int], tuple[int, float]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            run = row["problem"], row["optimizer"], int(row["seed"])
            last[run] = max(last.get(run, (-1, 0.0)), (int(row["epoch"]), float(row["test_acc"])))
    found: dict[str, Samples] = defaultdict(lambda: defaultdict(dict))
    for (problem, optimizer, seed), (_, accuracy) in last.items():
        found[problem][optimizer][seed] = accuracy
    return found


def subset(samples: Samples, seeds: Iterable[int]) -> Samples:
    """The results of some of the seeds."""
    return {name: {seed: by_seed[seed] for seed in seeds} for name, by_seed in samples.items()}


def points(bounds: tuple[float, float] | None) -> str:
    """An interval in percentage points."""
    return "-" if bounds is None else f"{100 * bounds[0]:+.2f} to {100 * bounds[1]:+.2f}"


def main() -> None:
    """Prints the verdicts from all seeds, and how those from fewer seeds compare."""
    parser = argparse.ArgumentParser(description="Verdicts from few seeds beside those from all seeds.")
    parser.add_argument("file", type=Path)
    problems = final_accuracies(parser.parse_args().file)
    head = ["problem", "pair", "difference", "interval (corrected)", "p (corrected)", "verdict, all seeds"]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    whole: dict[str, list[Pair]] = {problem: verdicts(samples) for problem, samples in problems.items()}
    for problem, pairs in whole.items():
        for pair in pairs:
            difference = f"{100 * (pair.difference or 0):+.2f}"
            shown = [f"{pair.first} - {pair.second}", difference, points(pair.interval), f"{pair.p:.4f}", pair.verdict]
            print(f"| {problem} | {' | '.join(shown)} |")
    head = [
        "problem",
        "seeds",
        "subsets",
        "same, %",
        "opposite, %",
        "difference that all seeds don't show, %",
        "missed, %",
    ]
    print(f"\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for problem, samples in problems.items():
        for size in (3, 5):
            subsets = list(itertools.combinations(sorted(next(iter(samples.values()))), size))
            counts: Counter[str] = Counter()
            for seeds in subsets:
                for few, every in zip(verdicts(subset(samples, seeds)), whole[problem], strict=True):
                    sides = {few.verdict, every.verdict}
                    if len(sides) == 1:
                        counts["same"] += 1
                    elif sides == {"better", "worse"}:
                        counts["opposite"] += 1
                    else:
                        counts["missed" if few.verdict == "not distinguishable" else "unshown"] += 1
            shares = [
                f"{100 * counts[kind] / counts.total():.1f}" for kind in ("same", "opposite", "unshown", "missed")
            ]
            print(f"| {problem} | {size} | {len(subsets)} | {' | '.join(shares)} |")


if __name__ == "__main__":
    main()
