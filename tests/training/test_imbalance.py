"""Classes of different sizes: balanced accuracy, macro F1, weights of classes, the balanced sampler, and a warning."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import all_records, record, write_images
from made_records import made, write
from sklearn.metrics import balanced_accuracy_score, f1_score

from cnnbench.config.schema import Data
from cnnbench.data.datamodule import ImageData
from cnnbench.data.images import ImageSet
from cnnbench.results import records
from cnnbench.results.decoding import decode
from cnnbench.sweeps.sweep import _missed
from cnnbench.training.parts import Weighted, squared_error


def test_balanced_accuracy_and_macro_f1_by_hand() -> None:
    # Hits / images: 6/8 and 1/2. F1: 12 / (8 + 7) and 2 / (2 + 3). The third class has neither images nor predictions.
    assert records.class_means([[6, 2, 0], [1, 1, 0], [0, 0, 0]]) == pytest.approx((0.625, 0.6))
    # A class without images that is predicted once has F1 = 0.
    assert records.class_means([[6, 2, 0], [1, 0, 1], [0, 0, 0]]) == pytest.approx((0.375, 0.8 / 3))
    assert records.class_means([[0, 0], [0, 0]]) == (0, 0)


def test_balanced_accuracy_and_macro_f1_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(0, 4, (2, 50))
    confusion = np.zeros((4, 4), int)
    np.add.at(confusion, (true, predicted), 1)
    found = records.class_means(confusion.tolist())
    assert found == pytest.approx(
        (balanced_accuracy_score(true, predicted), f1_score(true, predicted, average="macro"))
    )


def test_an_older_record_has_both_from_its_confusion() -> None:
    old = made("optimizer=sgd")
    old["test"]["confusion"] = [[9, 1], [5, 5]]
    del old["test"]["balanced_acc"], old["test"]["macro_f1"]
    for row in old["history"]:
        del row["val_balanced_acc"], row["val_macro_f1"]
    found = decode(records.Record, old)
    assert found.test.balanced_acc == pytest.approx((0.9 + 0.5) / 2)
    assert found.test.macro_f1 == pytest.approx((18 / 24 + 10 / 16) / 2)
    assert found.history[0].val_balanced_acc is None


def test_the_selected_epoch_is_the_best_by_what_is_asked_for() -> None:
    found = [(0.9, 0.5, 0.4), (0.8, 0.7, 0.6), (0.7, 0.6, 0.7)]
    history = [records.Epoch(i + 1, 0, 0, 0, 1, acc, 0, 0, 0, 0, *other) for i, (acc, *other) in enumerate(found)]
    assert [records.best(history, key).epoch for key in ("val_acc", "val_balanced_acc", "val_macro_f1")] == [1, 2, 3]


def test_weighted_loss_by_hand() -> None:
    loss = Weighted(F.cross_entropy, [8, 2, 0])
    assert loss.weights.tolist() == [0.625, 2.5, 0]  # 10 / (2 * 8) and 10 / (2 * 2)
    assert loss.state_dict() == {}
    logits, labels = torch.zeros(4, 2), torch.tensor([0, 0, 0, 1])
    assert loss(logits, labels).item() == pytest.approx(math.log(2) * (3 * 0.625 + 2.5) / 4)
    whole, parts = loss(logits, labels), [loss(logits[i : i + 1], labels[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(whole, sum(parts) / 4)  # however images are divided into batches
    squared = Weighted(squared_error, [8, 2])
    assert squared(logits, labels).item() == pytest.approx(0.5 * (3 * 0.625 + 2.5) / 4)  # 0.5^2 + 0.5^2 each


def image_data(counts: list[int], seed: int = 0) -> ImageData:
    labels = np.repeat(np.arange(len(counts)), counts)
    pixels = np.zeros((len(labels), 2, 2, 1), np.uint8)
    names = tuple(map(str, range(len(counts))))
    return ImageData(
        ImageSet(pixels, labels, pixels, labels, names, "f"), Data(sampler="balanced", val="test"), 10, seed
    )


def test_the_balanced_sampler_draws_each_class_equally_often() -> None:
    data = image_data([100, 50, 30])
    order = data.order(0).tolist()
    assert len(order) == 180
    large, middle, small = (
        sorted(i for i in order if low <= i < high) for low, high in ((0, 100), (100, 150), (150, 180))
    )
    assert len(large) == len(set(large)) == 60  # none twice
    assert len(middle) == 60
    assert set(middle) == set(range(100, 150))  # ten of them twice
    assert small == sorted([*range(150, 180)] * 2)
    assert order != sorted(order)
    assert data.order(0).tolist() == order  # by seed and epoch alone, so that a resumed run repeats it
    assert set(data.order(1).tolist()) & set(range(100)) != set(large)
    assert image_data([100, 50, 30], seed=1).order(0).tolist() != order
    assert data.class_counts == [100, 50, 30]
    uneven = np.bincount(np.digitize(image_data([100, 50, 31]).order(0), [100, 150]))
    assert sorted(uneven.tolist()) == [60, 60, 61]


def test_a_run_on_uneven_classes(command, here: Path) -> None:
    write_images(here / "colours", {"red": 40, "green": 4, "blue": 4})
    words = "data=folder data.root=colours data.val=test epochs=1 batch_size=8 lr=1e-12 seed=0"
    runs = {}
    for name, more in (
        ("plain", ""),
        ("weighted", "loss.class_weights=balanced"),
        ("sampled", "data.sampler=balanced"),
    ):
        result = command(f"{words} {more} name={name}")
        assert result.code == 0, result.err
        runs[name] = record(here / "runs" / name)
        test = runs[name]["test"]
        assert test["balanced_acc"] == pytest.approx(sum(test["per_class"]) / 3)
        (row,) = runs[name]["history"]
        assert row["val_balanced_acc"] == pytest.approx(test["balanced_acc"])  # validation is the test set here
        assert row["val_macro_f1"] == pytest.approx(test["macro_f1"])
        missed = [
            each for each, share in zip(runs[name]["data"]["classes"], test["per_class"], strict=True) if not share
        ]
        assert missed  # the network knows nothing
        assert f"warning: no test image of these classes is classified correctly: {', '.join(missed)}\n" in result.out
    plain, weighted, sampled = (runs[name]["history"][0] for name in ("plain", "weighted", "sampled"))
    assert plain["val_loss"] == pytest.approx(weighted["val_loss"], abs=1e-6)  # without weights
    assert plain["train_loss"] != pytest.approx(weighted["train_loss"], rel=1e-3)
    # In both each class weighs a third, and without learning the mean over the images is the same.
    assert sampled["train_loss"] == pytest.approx(weighted["train_loss"], rel=1e-3)
    shown = command(f"show runs/plain/{runs['plain']['run_id']}").out
    assert "balanced accuracy" in shown
    assert "macro F1" in shown


def test_classes_without_a_correct_image_are_named(command, here: Path, no_figures) -> None:
    found = decode(records.Record, made())
    found.data.classes = [f"class {i}" for i in range(15)]
    found.test.per_class = [None, 0.5, 0.0, *[0.0] * 11, 1.0]  # the first one has no test images
    assert _missed(found) == ", ".join(f"class {i}" for i in range(2, 12)) + " and 2 more"
    found.test.per_class = [0.1] * 15
    assert _missed(found) == ""
    result = command("-m data=digits data.limit=100 epochs=1 lr=1e-30 seed=0,1")
    for run in all_records(here):
        missed = [
            name for name, share in zip(run["data"]["classes"], run["test"]["per_class"], strict=True) if share == 0
        ]
        assert f"; no correct image of: {', '.join(missed)}\n" in result.err


def test_selection_and_early_stopping_by_balanced_accuracy(command, here: Path) -> None:
    words = "data=digits data.limit=100 epochs=5 lr=1e-30 select=val_balanced_acc stop=early stop.patience=2"
    assert command(f"{words} stop.metric=val_macro_f1").code == 0
    found = record(here)
    assert len(found["history"]) == 3
    assert found["best"]["epoch"] == 1
    assert found["protocol"]["selection"] == "highest balanced validation accuracy, the first of equals"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("loss.class_weights=blanced", "loss.class_weights=blanced: must be none or balanced."),
        ("data.sampler=random", "data.sampler=random: must be shuffle or balanced."),
        (
            "loss.class_weights=balanced data.sampler=balanced",
            "loss.class_weights=balanced: must be none with data.sampler",
        ),
        ("select=acc", "select=acc: must be val_acc, val_balanced_acc or val_macro_f1."),
    ],
)
def test_what_is_refused(command, here: Path, words: str, says: str) -> None:
    result = command(f"data=digits epochs=1 {words}")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert says in result.err


@pytest.fixture
def two_recipes(here: Path, no_figures: None) -> None:
    """`adam` is right on all images of the large class; `sgd` is fairly right on both."""
    write(
        here / "runs",
        *(
            run
            for seed in range(4)
            for run in (
                one("adam", seed, [[90, 0], [10 - seed, seed]]),
                one("sgd", seed, [[72 - seed, 18 + seed], [2, 8]]),
            )
        ),
    )


def one(optimizer: str, seed: int, confusion: list[list[int]]) -> dict[str, Any]:
    hits, images = confusion[0][0] + confusion[1][1], sum(map(sum, confusion))
    run = made(f"optimizer={optimizer} seed={seed}", (hits / images,))
    shares = [row[i] / sum(row) for i, row in enumerate(confusion)]
    run["test"] = asdict(records.Test(hits / images, 1.0, shares, confusion, None, *records.class_means(confusion)))
    run["history"][0] |= {"val_balanced_acc": run["test"]["balanced_acc"], "val_macro_f1": run["test"]["macro_f1"]}
    return run


def test_contestants_are_compared_by_another_metric(command, here: Path, two_recipes) -> None:
    plain = command("compare runs").out
    assert "adam has the best validation accuracy and 91.50% on the test images; it is better than sgd." in plain
    assert "Each class counts the same" in plain  # 90 images against 10
    assert "57.50%" in plain  # (1 + 0.15) / 2
    balanced = command("compare runs metric=balanced_acc").out
    assert (
        "sgd has the best validation balanced accuracy and 79.17% on the test images; it is better than adam."
        in balanced
    )
    assert "Test balanced accuracy in percentage points." in balanced
    assert "metric=macro_f1" not in balanced
    assert command("compare runs metric=macro_f1").code == 0
    refused = command("compare runs metric=balanced_ac")
    assert refused.code == 2
    assert "metric=balanced_ac: nothing that runs are compared by. Did you mean 'balanced_acc'?" in refused.err
