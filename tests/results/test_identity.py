"""What a run's identity is made of, and that the identities of finished runs outlive every change."""

from dataclasses import asdict
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from cnnbench.config.schema import ROLES, Config, Data, Decides
from cnnbench.results import bundles, identity, records

RESULTS = Path(__file__).parents[2] / "docs" / "results"
ARITHMETIC = {"tune_optimizers": 1}
"""Results that were computed before `identity.ARITHMETIC` was raised to 2."""
COUNTS = {
    "doc0_joint": 12,
    "doc3_optimizers": 15,
    "joint_two_layer": 9,
    "reach_92": 36,
    "speedrun": 4,
    "tune_optimizers": 85,
}


@pytest.mark.parametrize("name", COUNTS)
def test_committed_records_have_the_ids_of_their_configs(name: str, monkeypatch) -> None:
    monkeypatch.setattr(identity, "ARITHMETIC", ARITHMETIC.get(name, identity.ARITHMETIC))
    with bundles.unpack(RESULTS / name / "records.tar.xz") as folder:
        found_records = [records.read(path) for path in records.find(folder)]
    assert len(found_records) == COUNTS[name]
    for record in found_records:
        if isinstance(record.config["loss"], str):  # a word before it was a group
            record.config["loss"] = {"name": record.config["loss"]}
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), record.config))
        found = identity.run_id(config, record.choices["optimizer"], record.data.fingerprint)
        assert found == record.run_id


def test_all_archives_are_looked_at() -> None:
    assert {path.parent.name for path in RESULTS.glob("*/records.tar.xz")} == set(COUNTS)


def test_roles_by_hand() -> None:
    nothing = {name for name, role in ROLES.items() if role.decides is Decides.NOTHING and "." not in name}
    assert nothing == {
        "checkpoint", "claims", "force", "hardware", "ladder", "leave_out", "logger", "margin", "max_seeds", "name", "retry", "runs_dir",
        "seeds", "settle", "size", "small", "workers",
    }  # fmt: skip
    assert ROLES["hardware.precision"].decides is Decides.SETTING
    assert ROLES["hardware.threads"].decides is Decides.NOTHING  # as its group
    assert [name for name, role in ROLES.items() if role.decides is Decides.REPETITION] == ["seed"]
    assert [name for name, role in ROLES.items() if role.decides is Decides.MEASURE] == ["test"]
    held = {name for name, role in ROLES.items() if not role.rung}
    assert {"data.limit", "data.root", "seed", "name"} <= held
    assert not {"data.normalize", "lr", "model", "hardware.precision"} & held


def test_an_experiment_by_hand() -> None:
    config = asdict(Config(lr=0.1, optimizer={"lr": 0.1}, model={"dense": [3], "init_from": "a", "init_digest": "b"}))
    whole = identity.experiment(config, "f" * 16)
    assert set(whole) == {
        "arithmetic", "augment", "average", "batch_size", "callbacks", "clip", "data", "epochs", "evaluation", "loss",
        "loss_class_weights", "loss_reduction", "model", "optimizer", "precision",
        "regularizer", "scheduler", "search", "seed", "select", "stop", "test", "update",
    }  # fmt: skip
    assert whole["data"] == {
        "fingerprint": "f" * 16, "grayscale": False, "image_size": None, "labels": "class", "limit": None,
        "normalize": "standard", "sampler": "shuffle", "val": "split", "val_fraction": 0.1,
    }  # fmt: skip
    for val in ("split", "folder"):  # the same runs: validation images of the folder are in the fingerprint
        assert identity.experiment(asdict(Config(lr=0.1, data=Data(val=val))), "f" * 16)["data"] == whole["data"]
    assert identity.experiment(asdict(Config(lr=0.1, data=Data(val="test"))), "f" * 16)["data"]["val"] == "test"
    assert whole["model"] == {"dense": [3], "init_digest": "b"}
    assert config["model"]["init_from"] == "a"  # the config itself is left alone
    without = identity.experiment(config, "f" * 16, without=[Decides.REPETITION, Decides.MEASURE])
    assert set(whole) - set(without) == {"seed", "test"}


def test_defaults_stand_once() -> None:
    composed = OmegaConf.load(Path(__file__).parents[2] / "conf" / "config.yaml")
    assert list(composed) == ["defaults"]
