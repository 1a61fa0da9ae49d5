"""Runs on people's own images: validation folders, no test images, large photos, images that are not square."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import all_records, record, write_images

from cnnbench.cli.completion import OPTIONS
from cnnbench.config.composition import config_source
from cnnbench.data.images import ImageSet
from cnnbench.training.checks import check_parts

SHORT = "data=folder epochs=1 batch_size=10 hardware=cpu model.convs=[{filters:4}] model.dense=[]"


@pytest.fixture
def photos(here: Path) -> Path:
    """Training and test images, without validation images."""
    return write_images(here / "photos", {"red": 20, "green": 20})


def test_a_validation_folder_is_used_and_said(command, photos: Path) -> None:
    words = f"{SHORT} data.root=photos"
    assert "validation, 40 test images\n" in command(f"{words} name=before").out
    write_images(photos / "more", {"red": 6, "green": 6}, seed=1)
    (photos / "more" / "test").rename(photos / "Valid")
    (photos / "more").rename(photos / "docs")
    said = command(words).out
    assert "40 training, 12 validation (data.val=folder), 40 test images\n" in said
    assert "data.root: folders train/, Valid/, test/ (not read: docs/)\n" in said
    found, before = record(photos.parent / "runs" / "default"), record(photos.parent / "runs" / "before")
    assert found["protocol"]["validation"] == "folder"
    assert found["run_id"] != before["run_id"]
    assert "already done" in command(f"{words} data.val=folder").err  # the same run, said aloud
    assert "47 training, 5 validation, 40 test images\n" in command(f"{words} data.val=split").out
    both = command("compare runs/default apart=true").out
    assert "12 validation (data.val=folder), 40 test images" in both
    assert "5 validation, 40 test images" in both


def test_without_test_images_every_table_says_so(command, photos: Path, here: Path, no_figures: None) -> None:
    shutil.rmtree(photos / "test")
    said = command(f"-m {SHORT} data.root=photos seed=0,1 optimizer=sgd,adam workers=2")
    assert said.code == 0
    assert "36 training, 4 validation, NO TEST IMAGES" in said.out
    why = "Not tested (there are no test images): these are accuracies on the validation images alone."
    assert " ".join(said.out.split()).count(why) == 2  # under the accuracies and under the verdicts
    folder = here / "runs" / "default"
    for found in all_records(folder):
        assert (found["status"], found["test"], found["data"]["sizes"]["test"]) == ("done", None, 0)
        assert found["protocol"]["test"] == "closed"
        assert found["data"]["note"] == "folders train/; no test images"  # workers know it too
    for name in ("report.html", "comparison.md", "comparison.tex"):
        assert why in (folder / name).read_text()
    (compared,) = json.loads(command("compare runs/default --json").out)["comparisons"]
    assert compared["measure"] == "val_acc"
    assert command("list runs/default").out.count("not tested") == 4
    rows = json.loads(command("list runs/default --json").out)
    assert {row["untested"] for row in rows} == {"there are no test images"}
    assert "Not tested: there are no test images." in command(f"show runs/default/{rows[0]['run']}").out
    single = command(f"{SHORT} data.root=photos")
    assert "4 validation, 0 test images\n" in single.out
    assert "not tested: there are no test images\n" in single.out


def test_a_closed_test_set_is_said_too(command, photos: Path) -> None:
    said = command(f"{SHORT} data.root=photos test=false").out
    assert "not tested: test=false\n" in said
    assert "Not tested (test=false): these are accuracies" in " ".join(command("compare runs/default").out.split())


@pytest.mark.parametrize(("units", "warned"), [(35, True), (34, False)])
def test_large_photos_are_warned_of_before_the_network_is_built(units: int, warned: bool) -> None:
    photos = ImageSet(*(np.zeros((4, 300, 400, 3), np.uint8), np.array([0, 0, 1, 1])) * 2, ("a", "b"), "f" * 16)
    with config_source(None) as composer:
        words = f"data.val_fraction=0.5 batch_size=2 hardware=cpu model.convs=[{{filters:48}}] model.dense=[{units}]"
        (job,) = composer.jobs(words.split(), multirun=False)
    weights = 48 * 300 * 400 * units  # 201,600,000 or 195,840,000
    found = [warning for warning in check_parts(job.config, photos).warnings if f"{weights:,} weights" in warning]
    assert bool(found) == warned
    if warned:
        assert "0.8 GB" in found[0]
        assert "300 x 400 pixels. data.image_size=N, or [H,W]" in found[0]


def test_images_that_are_not_square(command, photos: Path, here: Path) -> None:
    assert command(f"{SHORT} data.root=photos data.image_size=[6,12]").code == 0
    assert record(here / "runs")["data"]["shape"] == [3, 6, 12]
    run = next((here / "runs" / "default").glob("*/record.json")).parent
    predicted = command(f"predict {run} {photos}/test/red/0001.png")
    assert predicted.code == 0
    assert "red" in predicted.out


def test_the_cache_command(command, photos: Path, tmp_path: Path) -> None:
    place = tmp_path / "cache" / "cnnbench" / "folder"
    assert command("cache").out == f"{place}: 0.0 MB\n"
    command(f"preview {SHORT} data.root=photos data.image_size=[6,12]")
    shown = command("cache").out.splitlines()
    assert len(shown) == 2
    assert shown[1].endswith(f"MB  80 images of 6 x 12 x 3 from {photos}")
    assert command("cache --clear").out == f"{place}: 0.0 MB removed\n"  # 80 x 216 bytes
    assert command("cache").out == f"{place}: 0.0 MB\n"
    assert command("cache --cfg job").out == "clear: false\n"
    assert command("cache --clera").code == 2
    assert "--clear" in OPTIONS["cache"]
