"""Random mutations of valid configs and records: never a traceback, and the exit code is a documented one."""

import copy
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_records import made, write

from cnnbench.cli import main
from cnnbench.config.composition import config_source
from cnnbench.config.keys import CONF, GROUPS
from cnnbench.config.schema import Data
from cnnbench.data.images import digits
from cnnbench.errors import ConfigError
from cnnbench.results import identity
from cnnbench.training.checks import check_parts

QUICK = settings(
    deadline=None, database=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
OPTIONS = {group: sorted(path.stem for path in (CONF / group).glob("*.yaml")) for group in GROUPS}
VALUES = [
    "0",
    "1",
    "-1",
    "0.5",
    "1e-3",
    "1e400",
    "nan",
    "inf",
    "null",
    "true",
    "abc",
    "[1,2]",
    "{a:1}",
    "a,b",
    "''",
    "é",
]
KEYS = [
    "lr", "epochs", "batch_size", "clip", "seed", "name", "runs_dir", "optimizer.lr", "optimizer.momentum", "optimizer.eps",
    "optimizer.betas", "data.limit", "data.val", "data.val_fraction", "data.normalize", "data.image_size", "data.grayscale",
    "model.dense", "model.convs", "model.dropout", "model.activation", "augment.crop", "update.accumulate",
    "update.max_step", "stop.patience", "stop.metric", "hardware.threads", "hardware.precision", "checkpoint.every",
    "scheduler.gamma", "optimizer._target_", "model._target_", "data", "optimizer", "model", "nonsense", "data.nonsense",
]  # fmt: skip
GOOD = st.sampled_from([f"{group}={option}" for group in GROUPS for option in OPTIONS[group] if group != "experiment"])
BAD = st.builds(
    "{}{}={}".format, st.sampled_from(["", "", "", "+", "++", "~"]), st.sampled_from(KEYS), st.sampled_from(VALUES)
)


@settings(QUICK, max_examples=50)
@given(good=st.lists(GOOD, max_size=3), bad=st.lists(BAD | st.text(min_size=1, max_size=6), min_size=1, max_size=2))
def test_configs(good: list[str], bad: list[str]) -> None:
    with config_source(None) as composer:
        try:
            jobs = composer.jobs(["data=digits", *good, *bad], multirun=False)
            for job in jobs:
                job.config.data = job.config.data if job.choices["data"] == "digits" else Data()
                check_parts(job.config, digits(job.config.data))
        except ConfigError as error:
            lines = str(error).splitlines()
        else:
            lines = ["legal"]
    assert len(lines) == 1


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """A record with one value somewhere replaced or removed."""
    record = copy.deepcopy(made("optimizer=adam"))
    at: Any = record
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        key = draw(st.sampled_from(keys))
        deeper = isinstance(at[key], dict | list) and at[key] and draw(st.booleans())
        if not deeper:
            break
        at = at[key]
    if draw(st.booleans()):
        del at[key]
    else:
        at[key] = draw(st.sampled_from([None, "x", "", -1, 0, 1e308, float("nan"), [], {}, [1], {"a": 1}, True]))
    return record


@settings(QUICK, max_examples=12)
@given(record=mutated(), cut=st.none() | st.integers(0, 3000))
def test_records(record: Any, cut: int | None) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        write(folder, made("optimizer=sgd"))
        (folder / "changed").mkdir()
        (folder / "changed" / "record.json").write_text(json.dumps(record)[:cut])
        with patch("cnnbench.report.figures.draw", return_value=[]):  # seconds
            assert main(["compare", str(folder), "apart=true", f"out={folder}"]) == 0
        assert "sgd" in (folder / "comparison.csv").read_text()
    finally:
        shutil.rmtree(folder)


CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "lr": st.sampled_from(["0.1", "0.01"]), "seed": st.sampled_from(["1", "2"]), "epochs": st.sampled_from(["1", "2"]),
        "batch_size": st.sampled_from(["32", "64"]), "clip": st.sampled_from(["1", "2"]),
        "optimizer": st.sampled_from(OPTIONS["optimizer"]), "augment": st.sampled_from(["flip_crop", "document"]),
        "update": st.sampled_from(OPTIONS["update"]), "stop": st.just("early"), "scheduler": st.sampled_from(["step", "cosine"]),
        "data.limit": st.sampled_from(["100", "200"]), "model.dropout": st.sampled_from(["0.1", "0.2"]),
        "data.val": st.just("test"), "hardware.precision": st.just("bf16-mixed"),
    },
)  # fmt: skip
ELSEWHERE = st.fixed_dictionaries(
    {},
    optional={
        "name": st.just("other"), "runs_dir": st.just("there"), "hardware.threads": st.just("1"), "retry": st.just("true"),
        "checkpoint.every": st.just("5"), "data.in_memory": st.just("true"), "hardware.channels_last": st.just("false"),
    },
)  # fmt: skip


@settings(QUICK, max_examples=6)
@given(a=CHANGES, b=CHANGES, elsewhere=ELSEWHERE, order=st.randoms(use_true_random=False))
def test_identity(a: dict[str, str], b: dict[str, str], elsewhere: dict[str, str], order: Any) -> None:
    """Two experiments have two ids; one has one, in whatever order and wherever it runs."""

    def job(changes: dict[str, str], shuffled: bool) -> Any:
        words = [f"{key}={value}" for key, value in changes.items()]
        if shuffled:
            order.shuffle(words)
        return composer.jobs(["data=digits", *words], multirun=False)[0]

    with config_source(None) as composer:
        first, second, moved = job(a, False), job(b, False), job(a | elsewhere, True)
    ids = [identity.run_id(j.config, j.choices["optimizer"], "f" * 16) for j in (first, second, moved)]
    assert ids[0] == ids[2]
    # What the two configs come to is compared, not what was typed: lr=0.01 is also sgd's default.
    same = identity.experiment(vars_of(first), "") == identity.experiment(vars_of(second), "")
    assert (ids[0] == ids[1]) == (same and first.choices["optimizer"] == second.choices["optimizer"])


def vars_of(job: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(job.config)
