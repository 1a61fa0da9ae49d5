"""Identity, and files that are written whole or not at all."""

import json
from pathlib import Path

import pytest

from cnnbench.config.compose import config_source
from cnnbench.errors import RecordError
from cnnbench.results import identity, records
from cnnbench.runtime import files


def run_id(words: str) -> str:
    with config_source(None) as composer:
        (job,) = composer.jobs(words.split(), multirun=False)
    return identity.run_id(job.config, job.choices["optimizer"], "f" * 16)


def test_the_id_is_readable() -> None:
    assert run_id("optimizer=adam lr=1e-3 seed=4").startswith("adam-lr0.001-seed4-")


@pytest.mark.parametrize(
    "words",
    [
        "lr=0.002", "seed=1", "epochs=49", "batch_size=64", "clip=1", "optimizer=sgd", "optimizer.betas=[0.8,0.999]",
        "data.limit=100", "data.val=test", "data.normalize=unit", "augment=flip_crop", "scheduler=step", "stop=early",
        "hardware=cpu_bf16", "model.dense=[64]", "data.image_size=16",
        "test=false",
    ],
)  # fmt: skip
def test_what_defines_an_experiment_is_in_the_id(words: str) -> None:
    assert run_id(words) != run_id("")


@pytest.mark.parametrize(
    "words",
    [
        "name=other", "runs_dir=/elsewhere", "force=true", "retry=true", "data.root=/elsewhere", "data.in_memory=false",
        "hardware.threads=1", "hardware.channels_last=false", "hardware=cpu", "lr=0.001", "workers=2", "optimizer.lr=0.001",
        "optimizer=adam seed=0", "logger=[csv,none]",
    ],
)  # fmt: skip
def test_nothing_else_is(words: str) -> None:
    assert run_id(words) == run_id("")


def test_a_key_that_a_later_version_adds_leaves_ids_alone(monkeypatch) -> None:
    before = run_id("optimizer=sgd")
    old = identity.experiment
    monkeypatch.setattr(identity, "_DEFAULTS", identity._DEFAULTS | {"new": {"key": 1}})
    monkeypatch.setattr(identity, "experiment", lambda *a: old(*a) | {"new": {"key": 1}})
    assert run_id("optimizer=sgd") == before
    monkeypatch.setattr(identity, "experiment", lambda *a: old(*a) | {"new": {"key": 2}})
    assert run_id("optimizer=sgd") != before


def test_the_order_of_overrides_does_not_matter() -> None:
    assert run_id("lr=0.1 optimizer=sgd seed=3") == run_id("seed=3 optimizer=sgd lr=0.1")


def test_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write_whole(path, lambda file: file.write(b"first"))

    def torn(file) -> None:
        file.write(b"half of the sec")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        files.write_whole(path, torn)
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_the_first_of_equals_is_selected() -> None:
    history = [{"epoch": e, "val_acc": a, "val_loss": 1.0 / e} for e, a in [(1, 0.5), (2, 0.7), (3, 0.7), (4, 0.6)]]
    assert records.best(history) == {"epoch": 2, "val_acc": 0.7, "val_loss": 0.5}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not a whole JSON file"),
        (b'{"schema_version": 1, "run', "not a whole JSON file"),
        (b"[]", "schema_version None"),
        (json.dumps({"schema_version": 99}).encode(), "schema_version 99"),
        (json.dumps({"schema_version": 1}).encode(), "without run_id"),
        (json.dumps(dict.fromkeys(records.FIELDS) | {"schema_version": 1}).encode(), "status None"),
        (
            json.dumps(dict.fromkeys(records.FIELDS) | {"schema_version": 1, "status": "done"}).encode(),
            "edited or damaged",
        ),
    ],
)
def test_what_is_no_record_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "record.json").write_bytes(content)
    with pytest.raises(RecordError, match=r"record\.json") as error:
        records.read(tmp_path / "record.json")
    assert says in str(error.value)
