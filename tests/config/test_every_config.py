"""Every YAML file under conf/ is composed, built and trained for one small epoch; none is left out."""

import json
import math
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import record, without_prefix, write_images
from omegaconf import OmegaConf
from small_archives import KINDS

from cnnbench.config.composition import config_source
from cnnbench.config.keys import CONF
from cnnbench.config.schema import Config, Data
from cnnbench.data.images import digits
from cnnbench.training import checkpoints
from cnnbench.training.checks import check_parts
from cnnbench.training.parts import make_model

pytestmark = pytest.mark.usefixtures("no_figures", "one_thread")

DIGITS = "data=digits data.limit=60 data.val_fraction=0.2 batch_size=10 epochs=1"
"""48 training images: 5 batches."""
FEW = "data=digits data.limit=20 data.val=test batch_size=10 epochs=1"
"""2 batches, for models that take their time."""
SPLIT = "data=digits data.limit=30 data.val_fraction=0.33 batch_size=10 epochs=1"
"""The same where validation on the test set is refused."""
COLOURS = "data=folder data.root=colours data.val=test batch_size=10 epochs=1"
"""18 training images, 3x8x8: 2 batches."""


@dataclass(frozen=True)
class Case:
    """How one option is run: what is typed beside it, and how many optimizer steps that makes."""

    words: str = DIGITS
    steps: int = 5


TABLE = {
    "augment/colour_jitter": Case(),
    "augment/cutmix": Case(),
    "augment/cutout": Case(),
    "augment/document": Case(),
    "augment/flip_crop": Case(),
    "augment/flip_translate": Case(),
    "augment/mixup": Case(),
    "augment/none": Case(),
    "average/ema": Case(),
    "average/lookahead": Case(DIGITS.replace("batch_size=10", "batch_size=8"), 6),
    "average/none": Case(),
    "average/swa": Case(),
    "augment/randaugment": Case(),
    "augment/resized_crop": Case(),
    "augment/trivialaugment": Case(),
    "augment/vertical_flip": Case(),
    "callbacks/lr_monitor": Case(),
    "callbacks/none": Case(),
    "data/digits": Case(),
    "data/folder": Case(COLOURS, 2),
    "hardware/auto": Case(),
    "hardware/cpu": Case(),
    "hardware/cpu_bf16": Case(),
    "hardware/deterministic": Case(),
    "logger/csv": Case(),
    "logger/none": Case(),
    "logger/tensorboard": Case(),
    "loss/cross_entropy": Case(),
    "loss/squared_error": Case(),
    "model/all_cnn_c": Case(f"{FEW} data.image_size=12", 2),
    "model/deepobs_3c3d": Case(f"{FEW} data.image_size=12", 2),
    "model/document_cnn": Case(),
    "model/ensemble": Case(),
    "model/googlenet": Case(f"{FEW} optimizer=sgd", 2),
    "model/mnist_cnn": Case(f"{FEW} data.image_size=28", 2),
    "model/plain_cnn": Case(),
    "model/resnet18": Case(f"{FEW} optimizer=sgd", 2),
    "model/resnet20": Case(FEW, 2),
    "model/small_vgg": Case(),
    "model/speed_cnn": Case(f"{COLOURS} data.image_size=12", 2),
    "model/timm": Case(f"{COLOURS} data.image_size=32", 2),
    "model/torchvision": Case(f"{COLOURS} data.image_size=32", 2),
    "model/vgg16_bn": Case(f"{FEW} optimizer=sgd", 2),
    "optimizer/adagrad": Case(),
    "optimizer/adam": Case(),
    "optimizer/adamw": Case(),
    "optimizer/adan": Case(),
    "optimizer/ademamix": Case(),
    "optimizer/adopt": Case(),
    "optimizer/came": Case(),
    "optimizer/kron": Case(),
    "optimizer/lamb": Case(),
    "optimizer/library": Case(),
    "optimizer/lion": Case(),
    "optimizer/mars": Case(),
    "optimizer/momentum": Case(),
    "optimizer/muon": Case(),
    "optimizer/muon_sgd": Case(),
    "optimizer/nadam": Case(),
    "optimizer/nesterov": Case(),
    "optimizer/prodigy": Case(),
    "optimizer/rmsprop": Case(),
    "optimizer/sam": Case(),
    "optimizer/schedule_free": Case(),
    "optimizer/sgd": Case(),
    "optimizer/shampoo": Case(),
    "optimizer/soap": Case(),
    "optimizer/sophia": Case(),
    "regularizer/batch_norm": Case(),
    "regularizer/dropout": Case(),
    "regularizer/elastic": Case(),
    "regularizer/l1": Case(),
    "regularizer/l2": Case(),
    "regularizer/label_smoothing": Case(),
    "regularizer/none": Case(),
    "regularizer/weight_decay": Case(),
    "scheduler/cosine": Case(),
    "scheduler/exponential": Case(),
    "scheduler/fixed": Case(),
    "scheduler/multistep": Case(),
    "scheduler/one_cycle": Case(),
    "scheduler/plateau": Case(),
    "scheduler/redwood": Case(),
    "scheduler/step": Case(),
    "scheduler/triangular": Case(),
    "search/document": Case(f"{DIGITS} model=plain_cnn"),
    "search/joint": Case(f"{DIGITS} model=plain_cnn"),
    "search/none": Case(),
    "search/random": Case(f"{DIGITS} model=plain_cnn"),
    "stop/early": Case(),
    "stop/none": Case(),
    "update/cag": Case(steps=2),  # 4 batches and 1
    "update/full_batch": Case(steps=1),
    "update/minibatch": Case(),
    "update/stochastic": Case(steps=48),
}

ARCHIVES = {f"data/{kind.name}": kind for kind in KINDS}

DEFAULTS = {
    "data": "cifar10",
    "augment": "none",
    "callbacks": "none",
    "model": "document_cnn",
    "optimizer": "adam",
    "regularizer": "none",
    "loss": "cross_entropy",
    "average": "none",
    "scheduler": "fixed",
    "update": "minibatch",
    "stop": "none",
    "search": "none",
    "hardware": "auto",
    "logger": "tensorboard",
}

SPACES = [
    *("space/adagrad", "space/adam", "space/momentum", "space/rmsprop", "space/sgd"),
    *("space/ademamix", "space/adan", "space/adopt", "space/came", "space/kron", "space/lamb", "space/mars"),
    *("space/prodigy", "space/sam", "space/shampoo", "space/soap", "space/sophia"),
]

SPEEDRUNS = ["experiment/speedrun", "experiment/speedrun_94", "experiment/speedrun_parts"]

SEEDS = 3
EXPERIMENTS = {  # runs of one seed, and the side of the images that its model takes
    "experiment/doc0_joint": (4, 8),
    "experiment/joint_two_layer": (3, 32),
    "experiment/doc1_cag": (2 * 2, 8),
    "experiment/doc2_activations": (3, 28),
    "experiment/doc2_regularization": (3, 28),
    "experiment/doc2_schedules": (3, 28),
    "experiment/doc3_as_printed": (4, 8),
    "experiment/doc3_optimizers": (5, 8),
    "experiment/doc4_batchnorm_dropout": (4, 28),
    "experiment/doc4_convolution": (2 * 2, 28),
    "experiment/doc4_pooling": (2 * 2, 28),
    "experiment/quickstart": (5, 8),
}


def test_no_file_is_left_out() -> None:
    found = sorted(str(path.relative_to(CONF).with_suffix("")) for path in CONF.rglob("*.y*ml"))
    assert found == sorted(
        [
            *TABLE,
            *ARCHIVES,
            *EXPERIMENTS,
            "experiment/reach_92",
            *SPEEDRUNS,
            *SPACES,
            "hardware/ddp",
            "hardware/gpu",
            "hardware/gpu_fp32",
            "logger/wandb",
            "config",
        ]
    )


def assert_trained(here: Path, steps: int) -> dict[str, Any]:
    """One epoch of so many steps came to its end, and moved all of the model. Returns the record."""
    found = record(here)
    assert (found["status"], found["error"]) == ("done", None)
    (row,) = found["history"]
    assert all(math.isfinite(value) for value in row.values())
    assert sum(map(sum, found["test"]["confusion"])) == found["data"]["sizes"]["test"]

    folder = here / "runs" / found["config"]["name"] / found["run_id"]
    last = checkpoints.read(folder / "last.ckpt")
    assert last["schedule"]["step"] == steps
    assert (last["schedule"]["scheduler"] is None) == (found["config"]["scheduler"]["_target_"] is None)
    assert ("stop" not in last["callbacks"]) == (found["config"]["stop"]["patience"] is None)

    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), found["config"]))
    assert isinstance(config, Config)
    if found["search"]:
        config.model = found["search"]["model"]
    torch.manual_seed(config.seed)
    channels, height, width = found["data"]["shape"]
    fresh = make_model(config, (channels, height, width), len(found["data"]["classes"]))
    best = checkpoints.read(folder / "best.ckpt")["model"]
    for weights in (best, without_prefix(last["lightning"]["state_dict"], "model.")):
        for name, before in fresh.named_parameters():
            after = weights[f"network.{name}"]
            assert after.isfinite().all(), name
            if config.model.get("norm_scale") is False and "norm" in name and name.endswith(".weight"):
                continue  # not trained
            assert not torch.equal(after, before), name
    shutil.rmtree(here / "runs")
    return found


def assert_says(config: dict[str, Any], said: dict[str, Any], but: tuple[str, ...] = ()) -> None:
    """The config holds all that a file says, but for what the test itself gave."""
    for key in said.keys() - set(but):
        if isinstance(said[key], dict):
            assert_says(config[key], said[key], but)
        elif isinstance(said[key], list):
            assert len(config[key]) == len(said[key])
            for item, said_item in zip(config[key], said[key], strict=True):
                if isinstance(said_item, dict):
                    assert_says(item, said_item)
                else:
                    assert item == said_item
        else:
            assert config[key] == said[key], key


def read_yaml(name: str) -> dict[str, Any]:
    return yaml.safe_load((CONF / f"{name}.yaml").read_text())


def assert_taken(found: dict[str, Any], name: str, but: tuple[str, ...] = ()) -> None:
    """The record names the option and holds all that its file says."""
    group, option = name.split("/")
    assert found["choices"][group] == option
    taken = found["config"][group]
    if group == "callbacks":  # each under its name
        taken = taken.get(option, taken)
    assert_says(taken, read_yaml(name), but)


@pytest.mark.parametrize("name", TABLE)
def test_option(command, here: Path, name: str) -> None:
    case, (group, option) = TABLE[name], name.split("/")
    if case.words.startswith(COLOURS):
        write_images(here / "colours", {"red": 6, "green": 6, "blue": 6})
    result = command(case.words if group == "data" else f"{case.words} {group}={option}")
    assert result.code == 0, result.err
    # an ensemble's members are named in its file and written out in the record; a search may rest on another's file
    assert_taken(assert_trained(here, case.steps), name, but=("members", "defaults"))


@pytest.mark.parametrize("name", ARCHIVES)
def test_archive(command, here: Path, name: str) -> None:
    kind = ARCHIVES[name]
    root = here / read_yaml(name)["root"]
    kind.write(root)
    words = f"data={kind.name} data.val=test batch_size=10 epochs=1"
    refused = command(words)
    assert refused.code == 2
    assert refused.err.startswith("cnnbench: data.md5=")
    result = command(f"{words} \"data.md5='{kind.md5(root)}'\"")
    assert result.code == 0, result.err
    assert_taken(assert_trained(here, 1), name, but=("md5",))


@pytest.mark.parametrize("name", SPACES)
def test_space(command, here: Path, name: str) -> None:
    option = name.split("/")[1]
    result = command(f"tune {FEW} optimizer={option} sampler=grid trials=2 seeds=1")
    assert result.code == 0, result.err
    ends = [read_yaml(name)["lr"][end] for end in ("low", "high")]
    (tuned,) = json.loads((here / "runs" / "tuned" / "tuning.json").read_text())["contestants"]
    assert [params["lr"] for params, _ in tuned["trials"]] == pytest.approx(ends)
    assert ends[1] / ends[0] == pytest.approx(1000)  # as wide as everyone's


@pytest.mark.parametrize("name", ["config"])
def test_the_defaults(command, here: Path, name: str) -> None:
    kind = KINDS[0]
    assert kind.name == DEFAULTS["data"]
    kind.write(here / "data")
    result = command(f"data.val=test data.md5={kind.md5(here / 'data')} epochs=1")
    assert result.code == 0, result.err
    found = assert_trained(here, 1)
    assert found["choices"] == DEFAULTS
    assert_says(found["config"], read_yaml(name), but=("defaults", "epochs", "lr"))
    assert found["config"]["lr"] == 0.001  # Adam's own


@pytest.mark.parametrize("name", ["hardware/gpu", "hardware/gpu_fp32"])
def test_gpu_is_used_or_refused(command, here: Path, name: str) -> None:
    result = command(f"{DIGITS} hardware={name.split('/')[1]}")
    if torch.cuda.is_available():
        assert result.code == 0, result.err
        assert_taken(assert_trained(here, 5), name)
    else:
        assert result.code == 2
        assert "hardware.accelerator=gpu" in result.err
        assert list(here.iterdir()) == []


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="would start this test anew for each GPU")
@pytest.mark.parametrize("name", ["hardware/ddp"])
def test_several_gpus_are_refused_where_there_are_none(command, here: Path, name: str) -> None:
    said = read_yaml(name)
    result = command(f"{DIGITS} hardware=ddp")
    assert (said["accelerator"], said["devices"], result.code) == ("gpu", 2, 2)
    assert result.err.startswith("cnnbench: hardware.")
    assert result.err.count("\n") == 1
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment(command, here: Path, name: str) -> None:
    (runs, size), option = EXPERIMENTS[name], name.split("/")[1]
    listed = command(f"experiment={option} --dry-run")
    assert listed.code == 0, listed.err
    count, *jobs = listed.out.splitlines()
    seeds = 5 if option == "quickstart" else SEEDS
    assert count == f"{runs * seeds} runs"
    assert len(set(jobs)) == len(jobs) == runs * seeds
    assert all(job.endswith(f" seed={i % seeds}") for i, job in enumerate(jobs))

    few = SPLIT if "joint" in option else FEW
    reduced = f"experiment={option} {few} batch_size=5 data.image_size={size}"
    with config_source(None) as composer:  # all of them can be built
        due = composer.jobs(shlex.split(f"{reduced} seed=0"), multirun=False)
    images = digits(Data(image_size=size))
    for job in due:
        check_parts(job.config, images)
    assert len(due) == runs

    result = command(f"{reduced} {jobs[0]}")
    assert result.code == 0, result.err
    found = assert_trained(here, 4)
    assert found["choices"]["experiment"] == option
    assert found["config"]["name"] == option
    assert_says(found["config"], read_yaml(name), but=("defaults", "hydra", "epochs", "batch_size", "val"))


@pytest.mark.parametrize("name", ["experiment/reach_92"])
def test_ladder(command, here: Path, name: str) -> None:
    said = read_yaml(name)
    listed = command("experiment=reach_92 --dry-run").out.splitlines()
    assert listed[0] == f"{4 * (1 + len(said['ladder']))} runs"
    write_images(here / "colours", {"red": 6, "green": 6, "blue": 6})
    result = command(f"experiment=reach_92 {COLOURS} data.image_size=12 seed=0,1")
    assert result.code == 0, result.err
    folder = here / "runs" / said["name"]
    rungs = json.loads((folder / "ladder.json").read_text())["rungs"]
    assert [rung["words"] for rung in rungs] == [[], *said["ladder"].values()]
    for rung in rungs:
        for run_id in rung["runs"]:
            found = json.loads((folder / run_id / "record.json").read_text())
            assert (found["status"], found["error"]) == ("done", None)
            assert found["config"]["claims"] == said["claims"]


@pytest.mark.parametrize("name", SPEEDRUNS)
def test_speedrun(command, here: Path, name: str) -> None:
    """On images of 12x12, which leave room for all three poolings, with a small network."""
    write_images(here / "colours", {"red": 6, "green": 6, "blue": 6})
    said = read_yaml(name)
    words = f"{COLOURS} experiment={name.split('/')[1]} data.image_size=12 model.widths=[4,8,8] update.batch_size=2"
    result = command(words)
    assert result.code == 0, result.err
    for path in (here / "runs" / said["name"]).glob("*/record.json"):
        found = json.loads(path.read_text())
        assert (found["status"], found["error"]) == ("done", None)
    assert len(list((here / "runs" / said["name"]).iterdir())) >= 1 + len(said.get("leave_out", {}))
