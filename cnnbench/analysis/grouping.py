"""Records grouped into contestants and comparisons.

Runs that differ only in their seed are one contestant. Contestants are put side by side only where data, split and
validation source are the same.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cnnbench.analysis.comparison import Comparison
from cnnbench.analysis.contestants import Contestant
from cnnbench.analysis.ladder import Ladder
from cnnbench.analysis.tuning_results import Tuning
from cnnbench.config.schema import ROLES, Decides
from cnnbench.errors import ConfigError, nearest
from cnnbench.results import identity
from cnnbench.results.metrics import METRICS
from cnnbench.results.records import Record


def compare(
    runs: list[Record],
    by: str | None = None,
    baseline: str | None = None,
    targets: Sequence[float] = (),
    apart: bool = False,
    ladder: Ladder | None = None,
    margin: float | None = None,
    share: float = 1.0,
    tuning: Tuning | None = None,
    metric: str = "acc",
) -> list[Comparison]:
    """Groups runs into contestants.

    Args:
        runs: the records.
        by: a config group; of all settings with the same option of it only the one with the best mean validation
            accuracy is kept.
        baseline: the label of the contestant that all others are compared with.
        targets: validation accuracies whose cost is shown.
        apart: runs that can't stand in one table get a table for each data, split and validation source.
        ladder: its rungs lend their names to the contestants.
        margin: differences of accuracy below it do not matter, from 0 to 1; None asks for no equivalence.
        share: the part of the 5 % that the verdicts may use.
        tuning: what found the settings. Where it was repeated its contestants are those of the comparison, and runs of
            no winner are left out.
        metric: what the contestants are ordered and compared by, one of `METRICS`.

    Raises:
        ConfigError: there is no such group, baseline or metric, or the runs can't stand in one table, or none is a
            winner's.
    """
    groups = sorted({group for run in runs for group in run.choices})
    if by is not None and by not in groups:
        raise ConfigError(f"by={by}: not a group of these runs.{nearest(by, groups)}")
    if metric not in METRICS:
        raise ConfigError(f"metric={metric}: nothing that runs are compared by.{nearest(metric, METRICS)}")
    settings: dict[str, dict[str, dict[int, Record]]] = defaultdict(lambda: defaultdict(dict))
    for run in runs:
        parts = identity.experiment(run.config, run.data.fingerprint, without=[Decides.REPETITION])
        rung = "" if ladder is None else ladder.labels.get(run.run_id, "")  # fresh seeds of the top are a rung's own
        name = identity.canonical(parts) + rung
        if tuning is not None and tuning.repeated:
            if (tuned := tuning.tuned(run)) is None:
                continue
            name = tuned.label
        seeds = settings[_setting(run)][name]
        if run.seed not in seeds or run.status == "done":  # the same run in two folders is one run
            seeds[run.seed] = run
    if len(settings) > 1 and not apart:
        raise ConfigError(
            f"data, split or validation source differ, so these runs can't stand in one table: "
            f"{' | '.join(sorted(settings))}. apart=true makes a table for each."
        )
    if not settings:
        raise ConfigError("no winner of the tuning has been run with fresh seeds yet; the same tune command does it.")
    comparisons = []
    for title, contestants in settings.items():
        ordered = [[seeds[seed] for seed in sorted(seeds)] for seeds in contestants.values()]
        labels = shortest_labels([seeds[0] for seeds in ordered])
        if ladder is not None:
            labels = [ladder.labels.get(seeds[0].run_id, label) for label, seeds in zip(labels, ordered, strict=True)]
        labelled = [Contestant(*pair) for pair in zip(labels, ordered, strict=True)]
        if tuning is not None and tuning.repeated:
            for contestant, label in zip(labelled, contestants, strict=True):
                ended = [run.seed for run in (*contestant.done, *contestant.broken)]
                contestant.label, contestant.tunings = label, tuning.numbered(label, ended)
        labelled.sort(key=lambda c: (not c.done, -(c.score(f"val_{metric}") or -1.0), c.label))
        shown = labelled if by is None else _best(labelled, by)
        comparisons.append(
            Comparison(title, shown, None, tuple(targets), ladder, margin, share, tuning, METRICS[metric])
        )
    if baseline is not None:
        for comparison in comparisons:
            if baseline in (labels := [c.label for c in comparison.contestants]):
                comparison.baseline = baseline
            elif len(comparisons) == 1:
                raise ConfigError(f"baseline={baseline}: not a contestant.{nearest(baseline, labels)}")
        if not any(comparison.baseline for comparison in comparisons):
            raise ConfigError(f"baseline={baseline}: not a contestant of any of these {len(comparisons)} tables.")
    return sorted(comparisons, key=lambda comparison: comparison.title)


def _setting(run: Record) -> str:
    """What must be equal for two runs to be compared, in words."""
    data, config = run.data, run.config["data"]
    sizes = data.sizes
    if run.protocol.validation == "test":
        split = f"{sizes.train:,} training images; VALIDATION IS THE TEST SET ({sizes.test:,} images)"
    else:
        own = " (data.val=folder)" if run.protocol.validation == "folder" else ""
        test = f"{sizes.test:,} test images" if sizes.test else "NO TEST IMAGES"
        split = f"{sizes.train:,} training, {sizes.val:,} validation{own}, {test}"
    limit = "" if config["limit"] is None else f", limit {config['limit']}"
    shape = "x".join(map(str, data.shape))
    name = f"folder {Path(config['root'] or '').name}" if data.name == "folder" else data.name
    return f"{name} ({data.fingerprint[:6]}{limit}), {shape}, {split}"


def _best(contestants: list[Contestant], by: str) -> list[Contestant]:
    chosen: dict[str, Contestant] = {}
    counts = Counter(c.records[0].choices.get(by, "none") for c in contestants)
    for contestant in contestants:  # best first
        option = contestant.records[0].choices.get(by, "none")
        chosen.setdefault(option, contestant).settings = counts[option]
    return list(chosen.values())


def shortest_labels(runs: list[Record]) -> list[str]:
    """The shortest names that tell the settings of these runs apart: options that differ, then keys that still differ.

    Runs of one setting have one name.
    """
    first = ["optimizer", "model"]
    told = {name for name, role in ROLES.items() if role.decides is Decides.SETTING}
    groups = [*first, *sorted(told.intersection(runs[0].choices).difference(first))]
    # An older record lacks the groups that came later, and had none of what they add.
    options = {group: [run.choices.get(group, "none") for run in runs] for group in groups}
    varying = [group for group in groups if len(set(options[group])) > 1] or ["optimizer"]
    alike: dict[str, list[int]] = defaultdict(list)
    for i in range(len(runs)):
        words = (f"{'' if group in first else f'{group}='}{options[group][i]}" for group in varying)
        alike[" ".join(words)].append(i)
    labels = [""] * len(runs)
    for name, same in alike.items():
        flat = [_told(runs[i]) for i in same]
        values: dict[str, set[str]] = defaultdict(set)
        for config in flat:
            for key, value in config.items():
                values[key].add(json.dumps(value))
        missing = {key for key in values if any(key not in config for config in flat)}
        differing = sorted(k for k in values if (len(values[k]) > 1 or k in missing))
        for i, config in zip(same, flat, strict=True):
            values_told = (f"{k.removeprefix('optimizer.').removeprefix('model.')}={config.get(k)}" for k in differing)
            labels[i] = " ".join([name, *values_told])
    return labels


def _told(run: Record) -> dict[str, Any]:
    """What a setting is told by; the run or file that a model's first weights come from by its name."""
    values = identity.flat(identity.experiment(run.config, "", without=[Decides.REPETITION]))
    values.pop("model.init_digest", None)
    for key in ("init_from", "weights"):
        path = Path(run.config["model"].get(key) or "none")
        values[f"model.{key}"] = path.parent.name if path.suffix == ".ckpt" else path.name
    return values
