"""Identity, and files that are written whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from made_records import made, write

from cnnbench.config.composition import config_source
from cnnbench.errors import ConfigError, RecordError
from cnnbench.results import identity, records
from cnnbench.results.decoding import decode
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
    history = [epoch(number, accuracy) for number, accuracy in [(1, 0.5), (2, 0.7), (3, 0.7), (4, 0.6)]]
    assert records.best(history) == records.Best(epoch=2, val_acc=0.7, val_loss=0.5)
    assert records.best([]) is None


def epoch(number: int, accuracy: float) -> records.Epoch:
    return records.Epoch(number, 0.0, 0.0, 0.0, 1 / number, accuracy, 0.0, 0, 0.0, 0.0)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    record = decode(records.Record, made("optimizer=sgd augment=[flip_crop,cutout] optimizer.momentum=0.5"))
    records.write(tmp_path / "record.json", record)
    found = records.read(tmp_path / "record.json")
    assert found == record
    assert found.folder == tmp_path
    assert found.overrides == ["data=digits", "optimizer=sgd", "augment=[flip_crop,cutout]", "optimizer.momentum=0.5"]
    assert json.loads((tmp_path / "record.json").read_text())["schema_version"] == 2


def test_records_of_version_1_are_read(tmp_path: Path) -> None:
    old = made("optimizer=sgd seed=3") | {"schema_version": 1}
    del old["overrides"], old["config_dir"], old["search"], old["test"]["members"]
    (tmp_path / "record.json").write_text(json.dumps(old))
    found = records.read(tmp_path / "record.json")
    assert (found.overrides, found.config_dir, found.search) == (None, None, None)
    assert (found.seed, found.best) == (3, records.Best(2, 0.6, 0.4))


def refused(path: Path) -> str:
    with pytest.raises(RecordError) as error:
        records.read(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not a whole JSON file"),
        (b'{"schema_version": 1, "run', "not a whole JSON file"),
        (b"[" * 100_000, "not a whole JSON file"),
        (b"[]", "schema_version None"),
        (json.dumps({"schema_version": 99}).encode(), "schema_version 99; this cnnbench reads 1 and 2"),
        (json.dumps({"schema_version": 1}).encode(), "without run_id, config, choices, protocol, data"),
    ],
)
def test_what_is_no_record_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "record.json").write_bytes(content)
    assert says in refused(tmp_path / "record.json")


NESTED: list = []
for _ in range(40):
    NESTED = [NESTED]


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("run_id", 3, "run_id: 3 must be text"),
        ("status", "finished", "status: 'finished' must be one of done, diverged"),
        ("parameters", "x", "parameters: 'x' must be a whole number"),
        ("parameters", True, "parameters: True must be a whole number"),
        ("choices", {"data": "digits"}, "choices: without optimizer"),
        ("choices.a\nb", 1, "choices.a b: 1 must be text"),
        ("choices.optimizer", None, "choices.optimizer: None must be text"),
        ("protocol.validation", ..., "protocol: without validation"),
        ("data.shape", [8, 8], "data.shape: [8, 8] must be a list of 3"),
        ("data.sizes", 5, "data.sizes: 5 must be a mapping"),
        ("data.classes", ["0"], "test: its results are not those of the classes"),
        ("history.1.val_acc", float("nan"), "history[1].val_acc: nan must be a number"),
        ("history.1.lr", 10**400, "history[1].lr: 1000000000"),
        ("history.1.seconds", ..., "history[1]: without seconds"),
        ("best.epoch", 3, "best.epoch: 3 is not in the history"),
        ("best", None, "done without a result"),
        ("test", None, "done without a result"),
        ("test.per_class.0", "x", "test.per_class[0]: 'x' must be a number"),
        ("test.confusion.1.0", 0.5, "test.confusion[1][0]: 0.5 must be a whole number"),
        ("config.epochs", ..., "config: without epochs"),
        ("config.seed", "x", "config.seed: 'x' must be a whole number"),
        ("config.hardware", ..., "config: KeyError"),
        ("config.model", "x", "config: AttributeError"),
        ("config.model.dense", float("inf"), "config.model: inf must be a number"),
        ("config.model.dense", NESTED, "config.model: more than 30 lists and mappings inside each other"),
        ("config.claims", [{"metric": "x"}], "claims.metric=x: must be best_val_acc or test_acc"),
        ("config.data.limit", "x", "config.data.limit: 'x' must be a whole number"),
        ("search", {"method": "joint"}, "search: without history"),
        ("overrides", ["a", 1], "overrides[1]: 1 must be text"),
    ],
)
def test_what_is_wrong_in_a_record_is_named(tmp_path: Path, key: str, value: Any, says: str) -> None:
    record = made()
    *path, last = [int(word) if word.isdigit() else word for word in key.split(".")]
    at: Any = record
    for step in path:
        at = at[step]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    (tmp_path / "record.json").write_text(json.dumps(record))
    assert f"edited or damaged ({says}" in refused(tmp_path / "record.json")


def test_a_pipe_is_no_record(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "record.json")
    assert "not a regular file" in refused(tmp_path / "record.json")


def test_numbers_that_are_whole_stay_whole(tmp_path: Path) -> None:
    record = made() | {"parameters": 7}
    record["history"][0]["lr"] = 1
    (tmp_path / "record.json").write_text(json.dumps(record))
    assert json.loads(records.read(tmp_path / "record.json").as_json()) == record


def test_a_run_is_found_by_its_folder_or_the_beginning_of_its_name(tmp_path: Path) -> None:
    adam, sgd, other = made("optimizer=adam"), made("optimizer=sgd"), made("optimizer=sgd seed=1")
    two, one = write(tmp_path / "two", adam, sgd), write(tmp_path / "one", other)
    (one / "comparisons").mkdir()
    write(one / other["run_id"] / ".old", made("optimizer=rmsprop"))  # an earlier result is no run of its own
    assert records.run_folder(two / sgd["run_id"]) == two / sgd["run_id"]
    assert records.run_folder(two / "sg") == two / sgd["run_id"]
    for only in (one, tmp_path / "on", one / "sgd"):
        assert records.run_folder(only) == one / other["run_id"]
    for several in (two, tmp_path / "tw"):
        with pytest.raises(ConfigError) as ambiguous:
            records.run_folder(several)
        assert str(ambiguous.value) == (f"{several}: 2 runs. Name one of {two / adam['run_id']}, {two / sgd['run_id']}")
    with pytest.raises(ConfigError, match=r"two/adma: there is no such run\. Allowed: adam-lr"):
        records.run_folder(two / "adma")
    with pytest.raises(ConfigError, match=r"comparisons: holds no run \(no record\.json\)"):
        records.run_folder(one / "comparisons")
