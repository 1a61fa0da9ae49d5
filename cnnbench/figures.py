"""How does a comparison look? Curves of training and validation. (imports no torch)"""

from pathlib import Path
from typing import Any

from cnnbench import record as records
from cnnbench.compare import Comparison, Tuning

# Okabe and Ito's colours, told apart with every kind of colour vision; the dashes tell them apart in grey print.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)))


MOST = 12
"""Contestants in a figure, the first ones; more can't be told apart."""


def draw(comparisons: list[Comparison], tuning: Tuning | None, folder: Path) -> list[str]:
    """Writes the figures; returns the names of their files."""
    _curves(comparisons, folder / "curves.png")
    return ["curves.png"]


def _curves(comparisons: list[Comparison], path: Path) -> None:
    """Training loss and validation accuracy by epoch: mean over seeds, and the range of the seeds as a band."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogFormatter, MaxNLocator, PercentFormatter

    height = 4.6 * len(comparisons)
    figure, grid = plt.subplots(len(comparisons), 2, figsize=(12, height), squeeze=False, layout="constrained")
    for axes, comparison in zip(grid, comparisons, strict=True):
        panels = (("train_loss", "training loss"), ("val_acc", "validation accuracy"))
        for axis, (key, name) in zip(axes, panels, strict=True):
            for i, contestant in enumerate(comparison.contestants[:MOST]):
                if not contestant.done:
                    continue
                curves = [[row[key] for row in run["history"]] for run in contestant.done]
                by_epoch = list(zip(*curves, strict=False))  # as far as every seed went
                epochs = range(1, len(by_epoch) + 1)
                style: dict[str, Any] = {"color": _COLOURS[i % len(_COLOURS)], "linestyle": _DASHES[i % len(_DASHES)]}
                marker = {"marker": "o", "markersize": 4} if len(by_epoch) == 1 else {}
                axis.plot(epochs, [sum(v) / len(v) for v in by_epoch], label=contestant.label, **style, **marker)
                low, high = [min(v) for v in by_epoch], [max(v) for v in by_epoch]
                axis.fill_between(epochs, low, high, color=style["color"], alpha=0.15, linewidth=0)
            axis.set(xlabel="epoch", ylabel=name)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.grid(color="0.9")
            axis.spines[["top", "right"]].set_visible(False)
        axes[0].set_yscale("log")
        axes[0].yaxis.set_major_formatter(LogFormatter())
        axes[0].yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))
        axes[1].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        title = f"{comparison.title}\nlines: mean of the seeds; bands: their range"
        axes[0].set_title(title, loc="left", fontsize=9)
        if any(c.done for c in comparison.contestants):
            axes[1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    records.write_whole(path, lambda file: figure.savefig(file, format="png", dpi=150, metadata={"Software": None}))
    plt.close(figure)
