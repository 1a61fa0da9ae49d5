"""Searches before a run, from the command line to the record: results, resuming, baselines, bad input."""

import csv
import json
import os
import re
import shlex
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from board import Board
from conftest import all_records, record, without_times
from PIL import Image

import cnnbench
from cnnbench.analysis import tuning
from cnnbench.config.composition import config_source
from cnnbench.config.schema import Data
from cnnbench.data.datamodule import ImageData
from cnnbench.data.images import ImageSet, digits
from cnnbench.errors import ConfigError
from cnnbench.results import identity, records
from cnnbench.runtime.progress import Sweep
from cnnbench.search.space import left_out, searched
from cnnbench.sweeps.run import run
from cnnbench.training import checkpoints
from cnnbench.training.module import Classifier

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = "data=digits data.limit=200 model=plain_cnn epochs=2 batch_size=50 search.lr=0.1 logger=none"


def timeless(found: dict) -> dict:
    """A record's search without its times."""
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in found["history"]]
    return found | {"history": rows, "seconds": None}


def test_search_then_train(command, here: Path) -> None:
    result = command(f"{SMALL} search=joint logger=tensorboard")
    assert result.code == 0, result.err
    found = record(here)
    search = found["search"]
    records.read(here / "runs" / "default" / found["run_id"] / "record.json")
    assert (search["method"], search["start"]) == ("joint", "32 filters 3x3, stride 1, same, max pooling")
    # 180 training images in batches of 50, and for each as many of validation: 360 an epoch.
    assert [row["image_passes"] for row in search["history"]] == [360, 360]
    assert search["image_passes"] == 720
    for row in search["history"]:
        assert set(row["probabilities"]["conv1"]) == {"filters", "kernel_size", "stride", "padding", "pooling"}
        for chances in row["probabilities"]["conv1"].values():
            assert sum(chances.values()) == pytest.approx(1, abs=1e-6)
    conv = search["model"]["convs"][0]
    for key, chances in search["history"][-1]["probabilities"]["conv1"].items():
        assert str(conv[key]) == max(chances, key=chances.get)
    assert f"found {search['architecture']} (720 image passes)" in result.err
    assert found["config"]["model"]["convs"][0]["filters"] == 32  # as asked for

    folder = here / "runs" / "default" / found["run_id"]
    assert yaml.safe_load((folder / "conf" / "model" / "searched.yaml").read_text()) == search["model"]
    source = digits(Data())
    model = cnnbench.load(folder)
    assert sum(p.numel() for p in model.parameters()) == found["parameters"]
    with torch.no_grad():
        assert model(torch.from_numpy(source.test[:2]).permute(0, 3, 1, 2)).shape == (2, 10)

    tags = Board(here / "runs").get("plugin/scalars/tags")
    (shown,) = tags.values()
    assert {"search/conv1/kernel_size/5", "search/conv1/padding/valid", "search/entropy", "search/val_acc"} <= set(
        shown
    )

    # Trained by itself, the network found gives the same numbers.
    again = command(f"{SMALL} --config-dir {folder / 'conf'} model=searched name=again")
    assert again.code == 0, again.err
    alone = record(here / "runs" / "again")
    assert alone["search"] is None
    assert without_times(alone)["history"] == without_times(found)["history"]
    assert alone["test"] == found["test"]
    assert "already done" in command(f"{SMALL} search=joint").err


@pytest.mark.parametrize("after", ["a step", "an epoch"])
@pytest.mark.parametrize(
    "method",
    ["search=joint", "search=joint search.level=single update.accumulate=3", "search=random search.trial_epochs=2"],
    ids=["bilevel", "single", "random"],
)
def test_resumes_where_it_was_stopped(command, here: Path, monkeypatch, method: str, after: str) -> None:
    """Amid an epoch too: no step of the search is taken twice."""
    words = f"{SMALL} {method} epochs=3 augment=flip_crop optimizer=momentum"
    steps: list[int] = []
    real_step, real_save = Classifier.training_step, checkpoints.write

    def counting(self, batch) -> None:
        real_step(self, batch)
        steps.append(1)
        if after == "a step" and len(steps) == 6:  # 4 steps an epoch
            os.kill(os.getpid(), signal.SIGINT)

    def stopping(path: Path, *arguments, **keys) -> None:
        real_save(path, *arguments, **keys)
        if path.name == "search.ckpt" and after == "an epoch" and len(steps) == 4:
            os.kill(os.getpid(), signal.SIGINT)

    assert command(f"{words} name=whole").code == 0
    monkeypatch.setattr(Classifier, "training_step", counting)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it, and so should we
    monkeypatch.setattr(checkpoints, "write", stopping)
    assert command(f"{words} name=stopped").code == 130
    assert len(steps) == (6 if after == "a step" else 4)
    stopped = record(here / "runs" / "stopped")
    assert (stopped["status"], stopped["history"]) == ("interrupted", [])
    assert command(f"{words} name=stopped").code == 0
    passes = [record(here / "runs" / name)["search"]["image_passes"] for name in ("whole", "stopped")]
    assert passes[0] == passes[1]
    trained = 3 if "joint" in method else 2 * len(record(here / "runs" / "whole")["search"]["history"])
    assert len(steps) == 4 * (trained + 3)  # of the search, and of the run after it
    first, second = (record(here / "runs" / name) for name in ("whole", "stopped"))
    assert timeless(first["search"]) == timeless(second["search"])
    assert without_times(first)["history"] == without_times(second)["history"]


def test_a_damaged_search_starts_anew(command, here: Path, monkeypatch) -> None:
    words = f"{SMALL} search=joint"
    assert command(words).code == 0
    first = record(here)
    folder = here / "runs" / "default" / first["run_id"]
    for name in ("record.json", "last.ckpt", "best.ckpt"):
        (folder / name).unlink()
    (folder / "search.ckpt").write_bytes(b"PK")
    result = command(words)
    assert result.code == 0
    assert "the search starts again from the beginning" in result.err
    assert timeless(record(here)["search"]) == timeless(first["search"])


def test_a_sweep_compares_searches_at_equal_cost(command, here: Path) -> None:
    result = command(f"-m {SMALL} epochs=5 search=none,joint,random seed=0,1")
    assert result.code == 0, result.err
    runs = {(r["choices"]["search"], r["config"]["seed"]): r for r in all_records(here / "runs")}
    passes = {key: r["search"]["image_passes"] for key, r in runs.items() if r["search"]}
    # Joint: 5 epochs of 180 and 180. Random: 10 architectures with a fifth of the epochs, 180 images.
    assert set(passes.values()) == {1800}
    drawn = runs["random", 0]["search"]["history"]
    assert len({row["architecture"] for row in drawn}) == len(drawn) == 10
    best = min(drawn, key=lambda row: row["val_loss"])
    assert runs["random", 0]["search"]["architecture"] == best["architecture"]
    assert runs["random", 0]["parameters"] == best["parameters"]
    folder = here / "runs" / "default"
    with (folder / "comparison.csv").open() as file:
        assert {row["contestant"] for row in csv.DictReader(file)} == {"search=none", "search=joint", "search=random"}
    markdown = (folder / "comparison.md").read_text()
    sheet = markdown[markdown.index("### Architectures") :]
    for (method, seed), one in runs.items():
        architecture = one["search"]["architecture"] if one["search"] else "as given"
        assert f"| search={method} | {seed} | {architecture} | {one['parameters']:,} |" in sheet
    page = (folder / "report.html").read_text()
    assert "Probability of each candidate by epoch of the search" in page
    assert "by the number of trained parameters" in page
    for name in ("architecture.png", "parameters.png"):
        with Image.open(folder / name) as picture:
            assert picture.width > 900
    (typed,) = re.findall(r"cnnbench -m (.*?) search=joint", page)
    assert typed == f"{SMALL} epochs=5"


@pytest.mark.usefixtures("no_figures")
def test_a_tuning_of_searches(command, here: Path) -> None:
    result = command(f"tune {SMALL} epochs=1 search=none,joint trials=2 seeds=1")
    assert result.code == 0, result.err
    plan = tuning.read(here / "runs" / "tuned")
    assert [tuned.label for tuned in plan.contestants] == ["search=none", "search=joint"]
    for entry in tuning.ledger(here / "runs" / "tuned", plan):
        for trial in entry.trials:
            assert trial.record.test is None  # stays closed
            assert (trial.record.search is not None) == (entry.tuned.label == "search=joint")


def test_cost_moves_the_search_to_small_networks(command, here: Path) -> None:
    for weight, cost in (("0", "parameters"), ("10", "parameters"), ("10", "flops")):
        words = f"{SMALL} epochs=3 search=joint search.lr=0.2 search.cost_weight={weight} search.cost={cost}"
        assert command(f"{words} name={cost}{weight}").code == 0
    free, few, fast = (record(here / "runs" / name) for name in ("parameters0", "parameters10", "flops10"))
    assert few["parameters"] < free["parameters"]
    assert fast["search"]["model"]["convs"][0] | {"pooling": ""} == {
        "filters": 16, "kernel_size": 1, "stride": 2, "padding": "valid", "pool": 2, "pooling": "",
    }  # fmt: skip
    expected = [row["parameters"] for row in few["search"]["history"]]
    assert expected == sorted(expected, reverse=True)


@pytest.mark.parametrize(
    "words",
    [
        "search.order=second",
        "search.level=single search.order=second regularizer=l2",
        "search=document update=cag augment=[flip_crop,mixup] clip=1",
        "search.layers=[1] model=document_cnn regularizer=[batch_norm,dropout] optimizer=schedule_free data.image_size=16",
        "search=random optimizer=muon model=document_cnn data.image_size=32",
        "hardware.precision=bf16-mixed hardware.channels_last=false scheduler=cosine scheduler.warmup=0.5",
        "search.optimizer._target_=torch.optim.Adam search.optimizer.betas=[0.5,0.9] data.in_memory=false",
    ],
)
def test_whatever_else_is_asked_for(command, here: Path, words: str) -> None:
    given = {word.partition("=")[0] for word in shlex.split(words)}
    rest = [word for word in f"{SMALL} search=joint epochs=1".split() if word.partition("=")[0] not in given]
    result = command(" ".join([*rest, words]))
    assert result.code == 0, result.err
    found = record(here)
    assert found["status"] == "done", found["error"]
    passes = {"search.order=second": 5, "search=document": 1}.get(words.split()[0], 2)
    if "single" in words:
        passes = 5
    assert found["search"]["image_passes"] == 180 * passes


def test_candidates_that_do_not_fit_the_images_are_left_out(command, here: Path) -> None:
    # Both convolutions of document_cnn are 3x3 and pool by 2. Of 8 pixels conv1 with 5x5, valid, stride 1 leaves
    # (8 - 4) / 2 = 2, which conv2 needs: 2 / 2 = 1. A stride of 2 in either, or 3x3 without padding in conv2, leaves 0.
    with config_source(None) as composer:
        (job,) = composer.jobs(["search=joint"], multirun=False)
    search, model = job.config.search, job.config.model
    layers = searched(model, search, (1, 8, 8))
    assert left_out(search, layers) == ["stride 2 of conv1", "stride 2 of conv2", "padding valid of conv2"]
    assert layers[0].candidates["kernel_size"] == layers[1].candidates["kernel_size"] == [1, 3, 5]
    assert left_out(search, searched(model, search, (3, 32, 32))) == []
    with pytest.raises(ConfigError, match=r"model.convs\[1\]"):
        searched(model, search, (1, 3, 3))

    result = command("search=joint data=digits data.limit=200 epochs=1 logger=none")
    assert result.code == 0, result.err
    said = (
        "warning: search=joint: images of 8x8 are too small for stride 2 of conv1, stride 2 of conv2, padding valid of"
    )
    assert result.err.count(said) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("search.filters=[]", ["search.filters=[]", "at least one"]),
        ("search.kernel_size=[3,3]", ["search.kernel_size=[3, 3]", "repetition"]),
        ("search.stride=[0,1]", ["search.stride=[0, 1]", "at least 1"]),
        ("search.padding=[same,full]", ["search.padding", "same and valid"]),
        ("search.pooling=[max,min]", ["search.pooling", "avg and max"]),
        ("search.filters=3", ["search.filters", "a list"]),
        ("search.layers=[3]", ["search.layers=[3]", "model.convs[3]"]),
        ("search.layers=[]", ["search.layers=[]", "at least one"]),
        ("search.filters=[8,16]", ["search.filters=[8, 16]", "must include 32", "model.convs[0]"]),
        ("model.convs=[{filters:32,padding:1}]", ["search.padding", "must include 1,"]),
        (
            "search.filters=[32] search.kernel_size=[3] search.stride=[1] search.padding=[same] search.pooling=[max]",
            ["one candidate", "nothing to search"],
        ),
        ("data.val=test", ["data.val=test", "test set", "split"]),
        ("model=resnet20", ["search=joint", "cnnbench.models.ResNet20", "plain_cnn"]),
        ("model=ensemble", ["search=joint", "Ensemble"]),
        ("model=resnet20 search=random", ["search=random", "ResNet20"]),
        ("search.level=upper", ["search.level=upper", "single or bilevel"]),
        ("search.order=third", ["search.order=third", "first or second"]),
        ("search.cost=seconds", ["search.cost=seconds", "parameters or flops"]),
        ("search.lr=0", ["search.lr=0", "above 0"]),
        ("search.margin=-1", ["search.margin=-1", "at least 0"]),
        ("search.epochs=0", ["search.epochs=0", "at least 1"]),
        ("search.optimizer.lr=1", ["search.optimizer.lr=1", "search.lr"]),
        ("search.optimizer.beta=1", ["search.optimizer.beta=1", "Did you mean 'betas'?"]),
        ("search.optimizer._target_=torch.optim.Addam", ["search.optimizer._target_", "no such class"]),
        ("search.optimizer._target_=null", ["search.optimizer._target_ is null"]),
        ("search.optimizer._target_=schedulefree.AdamWScheduleFree", ["search.optimizer._target_", "averaging"]),
        ("model.freeze=[conv1]", ["model.freeze", "new weights"]),
        ("scheduler=cosine scheduler.warmup=1 search.epochs=1", ["scheduler.warmup=1", "epochs=1"]),
        ("hardware.devices=2", ["hardware.devices=2", "one process"]),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(command, here: Path, words: str, says: list[str]) -> None:
    given = {word.partition("=")[0] for word in shlex.split(words)}
    rest = [word for word in f"{SMALL} search=joint".split() if word.partition("=")[0] not in given]
    result = command(" ".join([*rest, words]))
    assert (result.code, result.err.count("\n")) == (2, 1), result.err
    for part in says:
        assert part in result.err
    assert list(here.iterdir()) == []


def test_ids_of_runs_without_a_search_stay(here: Path, monkeypatch) -> None:
    monkeypatch.setattr(identity, "ARITHMETIC", 1)  # with which the id below was made, before there were searches

    def run_id(words: str) -> str:
        with config_source(None) as composer:
            (job,) = composer.jobs(words.split(), multirun=False)
        return identity.run_id(job.config, job.choices["optimizer"], "f" * 16)

    assert run_id("optimizer=adam") == run_id("search.lr=0.5") == "adam-lr0.001-seed0-6531526955"
    assert len({run_id(f"search={method}") for method in ("none", "joint", "random", "document")}) == 4


@pytest.mark.usefixtures("no_figures")
def test_records_of_before_there_were_searches_are_read(command, here: Path) -> None:
    assert command(SMALL).code == 0
    (path,) = here.rglob("record.json")
    old = json.loads(path.read_text())
    del old["search"], old["choices"]["search"], old["config"]["search"], old["overrides"], old["config_dir"]
    old["schema_version"] = 1
    path.write_text(json.dumps(old))
    assert records.read(path).search is None
    assert command(f"{SMALL} seed=1").code == 0
    result = command("compare runs")
    assert result.code == 0
    assert "Architectures" not in result.out
    assert result.out.count("2 done") == 1  # one contestant with two seeds


def test_what_only_a_larger_kernel_can_see_is_found(here: Path, monkeypatch) -> None:
    # Two dots side by side with four pixels from one to the other; the class is whether they have the same colour. A
    # 3x3 filter sees one of them at a time, and what comes after the pooling is a sum over single sights: chance. A 5x5
    # filter sees both. The search starts at 3x3; it has 12 epochs of 8 batches, Adam 0.02 for weights and 0.05 for H.
    rng = np.random.default_rng(0)
    n = 560
    images, same = np.full((n, 8, 8, 1), 128, np.uint8), rng.integers(2, size=n)
    for image, equal in zip(images, same, strict=True):
        (y, x), first = rng.integers((8, 4)), rng.integers(2)
        image[y, x, 0], image[y, x + 4, 0] = 255 * first, 255 * (first if equal else 1 - first)
    planted = ImageSet(images, same, images[:20], same[:20], ("different", "same"), "planted")
    words = "data=digits data.normalize=standard data.val_fraction=0.1 batch_size=63 optimizer=adam lr=0.02 logger=none"
    words += " model.convs=[{filters:8,pool:8,pooling:avg}] model.dense=[] epochs=1 test=false"
    words += " search=joint search.epochs=12 search.lr=0.05 search.filters=[8] search.stride=[1] search.padding=[same]"
    words += " search.pooling=[avg] search.kernel_size=[1,3,5]"
    found = []
    for seed in range(10):
        with config_source(None) as composer:
            (job,) = composer.jobs([*shlex.split(words), f"seed={seed}"], multirun=False)
        result = run(job, planted, Sweep(1, 1, quiet=True).line())
        assert result.status == "done", result.error
        found.append(result.search.model["convs"][0]["kernel_size"])
    assert found.count(5) >= 9, found


def test_batches_of_validation_images(here: Path) -> None:
    source = digits(Data())
    data = ImageData(source, Data(limit=200), 50, 0)
    data.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu")))
    batches = list(data.held_out(0))
    assert [len(labels) for _, labels, _ in batches] == [50] * 4  # 180 training images are 4 batches
    order = torch.cat([positions for *_, positions in batches])
    for i in range(0, 200, 20):  # all 20 before one comes again
        assert sorted(order[i : i + 20].tolist()) == sorted(data.split.val.tolist())
    assert not torch.equal(order[:20], order[20:40])
    for images, labels, positions in batches:
        assert torch.equal(labels, torch.from_numpy(source.train_labels)[positions])
        assert torch.equal(images, torch.from_numpy(source.train)[positions].permute(0, 3, 1, 2))
    assert all(torch.equal(a[2], b[2]) for a, b in zip(batches, data.held_out(0), strict=True))
    assert not torch.equal(next(data.held_out(1))[2], batches[0][2])


def test_a_search_that_diverges(command, here: Path) -> None:
    result = command(f"{SMALL} search=joint optimizer=sgd lr=1e30 name=joint")
    assert (result.code, record(here / "runs" / "joint")["status"]) == (1, "diverged")
    assert "in the search the loss was" in record(here / "runs" / "joint")["error"]
    result = command(f"{SMALL} search=random optimizer=sgd lr=1e30 name=random")
    found = record(here / "runs" / "random")
    assert (result.code, found["status"]) == (1, "diverged")
    assert "of all 4 random architectures" in found["error"]
    assert [row["score"] for row in found["search"]["history"]] == [None] * 4
    assert found["search"]["image_passes"] == 720
