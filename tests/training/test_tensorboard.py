"""TensorBoard, asked through its HTTP API, shows a sweep as its records have it."""

import json
from dataclasses import fields
from pathlib import Path

import pytest
from board import Board

from cnnbench.results import records


@pytest.fixture
def sweep(command, here: Path) -> dict[str, dict]:
    """Records of two optimizers with two seeds and a diverged run, by the name they must have in TensorBoard."""
    command("-m data=digits data.limit=200 epochs=2 optimizer=adam,momentum seed=0,1")
    command("data=digits data.limit=200 epochs=2 optimizer=sgd lr=1e30 seed=7")
    paths = {str(path.parent.relative_to(here / "runs")): path for path in records.find(here / "runs")}
    assert len(paths) == 5
    return {name: json.loads(path.read_text()) for name, path in paths.items()}


def test_one_folder_shows_the_sweep(here: Path, sweep: dict[str, dict]) -> None:
    board = Board(here / "runs")
    assert sorted(board.get("runs")) == sorted(sweep)
    assert {name.rsplit("-", 1)[0] for name in sweep} == {
        "default/adam-lr0.001-seed0", "default/adam-lr0.001-seed1", "default/momentum-lr0.01-seed0",
        "default/momentum-lr0.01-seed1", "default/sgd-lr1e+30-seed7",
    }  # fmt: skip

    done = {name: record for name, record in sweep.items() if record["status"] == "done"}
    assert len(done) == 4
    per_epoch = {field.name for field in fields(records.Epoch)} - {"epoch"}
    tags = board.get("plugin/scalars/tags")
    for name, record in done.items():
        assert set(tags[name]) == per_epoch | {"hp/val_acc_best", "hp/test_acc"}
        points = board.get(f"plugin/scalars/scalars?run={name}&tag=val_acc")
        assert [(step, value) for _, step, value in points] == [
            (row["epoch"], pytest.approx(row["val_acc"])) for row in record["history"]
        ]


def test_the_table_of_hyperparameters(here: Path, sweep: dict[str, dict]) -> None:
    board = Board(here / "runs")
    experiment = board.hparams("experiment")
    infos = {info["name"]: info for info in experiment["hparamInfos"]}
    differing = {name for name, info in infos.items() if info["differs"]}
    assert differing == {"run", "optimizer", "lr", "seed"}
    assert {"adam, seed 0", "momentum, seed 1", "sgd, seed 7"} <= set(infos["run"]["domainDiscrete"])
    assert set(infos["optimizer"]["domainDiscrete"]) == {"adam", "momentum", "sgd"}
    # One optimizer's own keys have a column though the others have no such key.
    assert {"optimizer.momentum", "optimizer.eps", "model", "batch_size", "epochs", "data.limit"} <= set(infos)
    shown = " ".join(str(value) for info in infos.values() for value in info.get("domainDiscrete", []))
    assert not any(part in f"{sorted(infos)} {shown}" for part in ("_target_", "torch", "{", "None", "runs"))
    assert len(infos) < 30

    metrics = [info["name"] for info in experiment["metricInfos"]]
    everything = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]
    answer = board.hparams(
        "session_groups", allowedStatuses=everything, colParams=[{"metric": m} for m in metrics], sliceSize=100
    )
    groups = {group["name"]: group for group in answer["sessionGroups"]}
    assert sorted(groups) == sorted(sweep)
    for name, record in sweep.items():
        said, config = groups[name]["hparams"], record["config"]
        assert (said["optimizer"], said["lr"], said["seed"], said["model"]) == (
            record["choices"]["optimizer"], config["lr"], config["seed"], "document_cnn",
        )  # fmt: skip
        values = {metric["name"]["tag"]: metric["value"] for metric in groups[name].get("metricValues", [])}
        if record["status"] == "done":
            assert values["hp/val_acc_best"] == pytest.approx(record["best"]["val_acc"])
            assert values["hp/test_acc"] == pytest.approx(record["test"]["acc"])
        else:
            assert values == {}
