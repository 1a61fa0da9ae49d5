"""The comparison, on records written by hand."""

import copy
import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from cnnbench import record as records
from cnnbench.compose import config_source


def made(words: str = "", accuracies: tuple[float, ...] = (0.5, 0.6), test: float = 0.55, status: str = "done") -> dict:
    """A record as `cnnbench data=digits WORDS` would write it, with these validation accuracies."""
    from dataclasses import asdict

    with config_source(None) as composer:
        (job,) = composer.jobs(["data=digits", *words.split()], multirun=False)
    history = [
        dict.fromkeys(records.HISTORY, 0.0)
        | {"epoch": i + 1, "val_acc": a, "val_loss": 1 - a, "train_loss": 2.0 / (i + 1), "seconds": 1.5}
        for i, a in enumerate(accuracies)
    ]
    done = status == "done"
    values = {
        "schema_version": records.SCHEMA_VERSION,
        "run_id": records.run_id(job.config, job.choices["optimizer"], "ab" * 8),
        "status": status,
        "config": asdict(job.config),
        "choices": job.choices,
        "protocol": {"validation": job.config.data.val, "selection": "", "test": ""},
        "data": {
            "name": "digits",
            "fingerprint": "ab" * 8,
            "sizes": {"train": 90, "val": 10, "test": 20},
            "shape": [1, 8, 8],
            "classes": ["0", "1"],
        },
        "parameters": 10,
        "history": history,
        "best": records.best(history) if history else None,
        "test": {"acc": test, "loss": 1.0, "per_class": [test, test], "confusion": [[5, 5], [5, 5]]} if done else None,
        "environment": {},
        "error": None if done else "broken",
    }
    return copy.deepcopy(values)


def write(root: Path, *runs: dict) -> Path:
    for run in runs:
        folder = root / run["run_id"]
        folder.mkdir(parents=True)
        records.write(folder / "record.json", run)
    return root


def table(here: Path, name: str = "comparison.csv") -> dict[str, dict[str, str]]:
    with (here / name).open() as file:
        return {row["contestant"]: row for row in csv.DictReader(file)}


def test_runs_that_differ_only_in_seed_are_one_contestant(command, here: Path) -> None:
    write(
        here / "runs",
        made("optimizer=adam seed=0", (0.5, 0.7, 0.6), 0.6),
        made("optimizer=adam seed=1", (0.5, 0.8), 0.8),
        made("optimizer=sgd seed=0", (0.3, 0.4), 0.35),
        made("optimizer=sgd seed=1", (), status="diverged"),
        made("optimizer=momentum seed=0", (), status="failed"),
    )
    result = command("compare runs")
    assert result.code == 0
    rows = table(here / "runs")
    assert list(rows) == ["adam", "sgd", "momentum"]  # best first
    adam = rows["adam"]
    assert adam["seeds"] == "2"
    assert float(adam["val_acc_mean"]) == pytest.approx(0.75)
    assert float(adam["val_acc_sd"]) == pytest.approx(0.0707106781)  # sqrt((0.05^2 + 0.05^2) / 1)
    assert float(adam["test_acc_mean"]) == pytest.approx(0.7)
    assert float(adam["best_epoch_mean"]) == 2
    assert float(adam["seconds_mean"]) == pytest.approx((4.5 + 3.0) / 2)
    assert rows["sgd"]["seeds"] == "1"
    assert rows["sgd"]["val_acc_sd"] == ""  # one seed has no spread
    assert (rows["sgd"]["done"], rows["sgd"]["diverged"], rows["momentum"]["failed"]) == ("1", "1", "1")
    assert "75.00% ± 7.07" in result.out
    assert "40.00%" in result.out
    assert "1 diverged, 1 done" in result.out
    markdown = (here / "runs" / "comparison.md").read_text()
    assert "| adam | 2 | 75.00% ± 7.07 | 70.00% ± 14.14 | 2.0 | 3.8 | 2 done |" in markdown
    with Image.open(here / "runs" / "curves.png") as picture:
        assert picture.width > 1000


def test_labels_say_what_differs(command, here: Path) -> None:
    write(
        here / "runs",
        made("optimizer=adam lr=0.001", (0.5,)),
        made("optimizer=adam lr=0.01", (0.6,)),
        made("optimizer=sgd lr=0.1", (0.4,)),
        made("optimizer=sgd lr=0.1 augment=flip_crop", (0.3,)),
    )
    command("compare runs")
    assert list(table(here / "runs")) == [
        "adam augment=none lr=0.01",
        "adam augment=none lr=0.001",
        "sgd augment=none",
        "sgd augment=flip_crop",
    ]
    result = command("compare runs by=optimizer")
    rows = table(here / "runs")
    assert list(rows) == ["adam augment=none lr=0.01", "sgd augment=none"]
    assert rows["adam augment=none lr=0.01"]["settings_tried"] == "2"
    assert "(best of 2)" in result.out
    result = command("compare runs by=optimiser")
    assert result.code == 2
    assert "Did you mean 'optimizer'?" in result.err


def test_one_setting_alone(command, here: Path) -> None:
    write(here / "runs", made("optimizer=adam"))
    command("compare runs")
    assert list(table(here / "runs")) == ["adam"]


def test_different_data_or_protocol_are_not_put_side_by_side(command, here: Path) -> None:
    other = made("optimizer=sgd seed=5")
    other["data"] |= {"fingerprint": "cd" * 8}
    write(here / "runs", made("optimizer=adam"), made("optimizer=sgd data.val=test"), other)
    out = command("compare runs").out
    assert out.count("contestant") == 3
    assert "VALIDATION IS THE TEST SET" in out


def test_one_bad_record_hides_no_other(command, here: Path) -> None:
    write(here / "runs", made("optimizer=adam"), made("optimizer=sgd"), made("optimizer=momentum"))
    broken, edited = sorted(here.glob("runs/*/record.json"))[1:]
    broken.write_text(broken.read_text()[:300])
    changed = json.loads(edited.read_text())
    changed["history"][0]["val_acc"] = "high"
    edited.write_text(json.dumps(changed))
    result = command("compare runs")
    assert result.code == 0
    assert list(table(here / "runs")) == ["adam"]
    assert result.err.count("left out:") == 2
    assert str(broken.relative_to(here)) in result.err
    assert "'high' is no number" in result.err


def test_several_folders_and_runs_that_were_put_aside(command, here: Path) -> None:
    write(here / "a", made("optimizer=adam"))
    write(here / "b", made("optimizer=sgd"))
    write(here / "a" / "adam" / ".old", made("optimizer=rmsprop"))
    command("compare a b")
    assert sorted(table(here / "a")) == ["adam", "sgd"]


def test_the_same_records_give_the_same_files(command, here: Path) -> None:
    write(here / "runs", made("optimizer=adam seed=1"), made("optimizer=adam seed=0"), made("optimizer=sgd"))
    files = ("comparison.csv", "comparison.md", "curves.png")
    command("compare runs")
    first = [(here / "runs" / name).read_bytes() for name in files]
    command("compare runs")
    assert [(here / "runs" / name).read_bytes() for name in files] == first
