"""What does a comparison say to a script? All its numbers, as JSON. (imports no torch)"""

import json
import math
from dataclasses import asdict
from typing import Any

from cnnbench import stats
from cnnbench.compare import Comparison, Contestant, Tuning, measures


def as_json(comparisons: list[Comparison], tuning: Tuning | None = None) -> str:
    """All numbers, for scripts; null is what is infinite (a target that was missed) or can't be said."""
    found = {"comparisons": [_facts(c) for c in comparisons], "tuning": None if tuning is None else _found(tuning)}
    return json.dumps(json.loads(json.dumps(found), parse_constant=lambda infinite: None), indent=1)


def _facts(comparison: Comparison) -> dict[str, Any]:
    claimed = ("source", "contestant", "measure", "claimed", "measured")
    return {
        "title": comparison.title,
        "protocol": comparison.contestants[0].runs[0]["protocol"],
        "verdict": comparison.verdict,
        "measure": comparison.measure,
        "baseline": comparison.baseline,
        "target": comparison.target,
        "contestants": [
            {
                "label": c.label,
                "settings_tried": c.settings,
                "statuses": c.statuses,
                "seeds": [run["config"]["seed"] for run in c.done],
                "runs": [run["run_id"] for run in c.done],
                "measures": _measured(c, comparison.target),
            }
            for c in comparison.contestants
        ],
        "pairs": [asdict(pair) for pair in comparison.pairs],
        "ladder": None if comparison.ladder is None else asdict(comparison.ladder)["rungs"],
        "claims": [dict(zip(claimed, claim, strict=True)) for claim in comparison.claims],
    }


def _measured(contestant: Contestant, target: float) -> dict[str, Any]:
    """Each measure's values in the order of the seeds, their mean and its interval."""
    runs = [measures(run, target) for run in contestant.done]
    found = {}
    for name in runs[0] if runs else ():
        values = [run[name] for run in runs]
        known = [value for value in values if value is not None]
        mean = sum(known) / len(known) if known else None
        interval = stats.interval(known) if mean is not None and math.isfinite(mean) else None
        found[name] = {"mean": mean, "interval": interval, "values": values}
    return found


def _found(tuning: Tuning) -> dict[str, Any]:
    plan = tuning.plan
    return {key: getattr(plan, key) for key in ("sampler", "trials", "seeds", "seed")} | {
        "contestants": [
            {
                "label": entry.tuned.label,
                "space": {key: asdict(axis) for key, axis in entry.tuned.space.items()},
                "winner": None if entry.winner is None else entry.winner.params,
                "edges": entry.edges,
                "trials": [
                    {key: getattr(trial, key) for key in ("number", "params", "run_id", "status", "val_acc")}
                    for trial in entry.trials
                ],
            }
            for entry in tuning.entries
        ],
        "expected_best": tuning.curves,
    }
