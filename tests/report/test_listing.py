"""`cnnbench list` and `cnnbench show`: what is done, running or failed, and one run in full."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import record
from filelock import FileLock
from made_records import made, write

from cnnbench.results import jobs, records

DIGITS = "data=digits data.limit=60 data.val_fraction=0.2 batch_size=10 logger=none"


def test_list(command, here: Path) -> None:
    assert command(f"-m {DIGITS} epochs=2 optimizer=sgd lr=0.05,1e9").code == 1
    assert command(f"{DIGITS} epochs=3 optimizer=adam").code == 0
    path = next(path for path in records.find(here / "runs") if path.parent.name.startswith("adam"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"status": "interrupted"}))
    (here / "runs" / "default" / "torn").mkdir()
    (here / "runs" / "default" / "torn" / "record.json").write_text("{")

    result = command("list runs --json")
    assert (result.code, "torn" in result.err) == (0, True)
    found = {"".join(Path(row["run"]).name.split("-")[:2]): row for row in json.loads(result.out)}
    assert {name: row["status"] for name, row in found.items()} == {
        "adamlr0.001": "interrupted", "sgdlr0.05": "done", "sgdlr1e+09": "diverged"
    }  # fmt: skip
    done = record(here / "runs" / "default" / Path(found["sgdlr0.05"]["run"]).name)
    assert found["sgdlr0.05"] == {
        "run": f"default/{done['run_id']}",
        "contestant": "sgd lr=0.05",
        "seed": 0,
        "status": "done",
        "epochs": 2,
        "of": 2,
        "val_acc": max(row["val_acc"] for row in done["history"]),
        "test_acc": done["test"]["acc"],
        "untested": "",
        "seconds": sum(row["seconds"] for row in done["history"]),
        "config": done["config"],
        "job": "",
    }
    assert (found["sgdlr1e+09"]["test_acc"], found["adamlr0.001"]["epochs"]) == (None, 3)

    with FileLock(path.parent / ".lock"):  # as a run holds it
        lines = command("list").out.splitlines()
    assert lines[0].strip() == "runs: 3 runs"
    (adam,) = (line for line in lines if "adam" in line)
    assert [cell.strip() for cell in adam.split("│")[1:5:2]] == ["adam, seed 0", "running"]
    assert "3/3" in adam
    assert f"{done['test']['acc']:.2%}" in "".join(lines)


def test_runs_in_slurms_queue_are_listed(command, here: Path, monkeypatch) -> None:
    done, under_way = made("optimizer=sgd lr=0.1"), made("optimizer=sgd lr=0.2")
    folder = here / "runs" / "a"
    write(folder, done, under_way | {"status": "interrupted", "test": None})
    names = [done["run_id"], under_way["run_id"], "waits", "gone"]
    runs = [jobs.Submitted(name, f"sgd {name}, seed 7", 7, 30) for name in names]
    jobs.Submission("cnnbench-1", str(here), runs).write(folder)
    squeue = here / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text(
        "#!/bin/sh\necho 5_1 RUNNING cnnbench-1\necho 5_2 PENDING cnnbench-1\necho 6 RUNNING cnnbench-2\n"
    )
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(squeue.parent), prepend=os.pathsep)
    found = {Path(row["run"]).name: (row["status"], row["job"]) for row in json.loads(command("list --json").out)}
    assert found == dict(zip(names, [("done", ""), ("running", "5_1"), ("queued", "5_2"), ("lost", "")], strict=True))
    assert all(words in command("list").out for words in ("sgd waits, seed 7", "queued, job 5_2", "0/30"))
    squeue.write_text("#!/bin/sh\necho slurm_load_jobs error: Unable to contact slurm controller >&2\nexit 1\n")
    result = command("list --json")
    assert len(json.loads(result.out)) == 2
    assert result.err == (
        "left out: runs that wait in Slurm's queue (slurm_load_jobs error: Unable to contact slurm controller)\n"
    )


def test_what_was_swept_is_listed(command, here: Path) -> None:
    words = ("model.activation=tanh seed=1", "model.activation=relu seed=1", "model.activation=relu seed=2")
    write(here / "runs" / "a", *(made(f"optimizer=adam lr=0.01 {each}") for each in words))
    write(here / "runs" / "b", made("optimizer=adam lr=0.01 model.activation=tanh"))
    found = {(row["contestant"], row["seed"]): row for row in json.loads(command("list --json").out)}
    assert set(found) == {
        ("adam activation=tanh", 1),
        ("adam activation=relu", 1),
        ("adam activation=relu", 2),
        ("adam", 0),
    }
    assert found["adam activation=tanh", 1]["config"]["model"]["activation"] == "tanh"
    assert all(len(Path(row["run"]).name) < 40 for row in found.values())


def test_show(command, here: Path) -> None:
    assert command(f"{DIGITS} epochs=2 optimizer=momentum lr=0.02").code == 0
    done = record(here / "runs")
    folder = f"runs/default/{done['run_id']}"
    assert json.loads(command(f"show {folder} --json").out) == done
    shown = command(f"show {folder}").out
    assert shown.startswith(f"{done['run_id']}: done")
    settings = {cells[1].strip(): cells[2].strip() for line in shown.splitlines() if len(cells := line.split("│")) == 4}
    assert (settings["optimizer"], settings["lr"], settings["data.limit"]) == ("momentum", "0.02", "60")
    # clip is at its default, and 0.9 and the schedule's class are those of their options
    assert not {"clip", "optimizer.momentum", "scheduler._target_", "seed", "model"}.intersection(settings)
    assert settings["all"] == f"{done['test']['acc']:.2%}"
    epochs = [cells for line in shown.splitlines() if len(cells := line.split("│")) == 9]
    assert [cells[1].strip() for cells in epochs] == ["1", "2"]
    assert epochs[1][5].strip() == f"{done['history'][1]['val_acc']:.4g}"


def test_show_of_many_classes(command, here: Path) -> None:
    assert command(f"{DIGITS} epochs=1").code == 0
    (path,) = records.find(here / "runs")
    done = json.loads(path.read_text())
    done["data"]["classes"] = [f"class {i}" for i in range(70)]
    done["test"]["per_class"] = [(70 - i) / 100 for i in range(70)]  # of 100 images each: the last one is the worst
    done["test"]["confusion"] = [
        [70 - i if k == i else 30 + i if k == (i + 1) % 70 else 0 for k in range(70)] for i in range(70)
    ]
    path.write_text(json.dumps(done))
    result = command(f"show {path.parent}")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:3]] for line in lines if line.startswith("│ class ")]
    assert rows == [[f"class {69 - i}", f"{i + 1}.00%"] for i in range(57)]  # after three rows about all of them
    assert {"The worst classes come first.", "13 more rows are in record.json."} <= {line.strip() for line in lines}


@pytest.mark.parametrize(
    ("words", "typed"),
    [
        ("", {"data": "digits"}),
        ("regularizer=[l2,dropout] seed=4", {"data": "digits", "regularizer": "l2+dropout", "seed": "4"}),
        (
            "optimizer._target_=torch.optim.Adamax",
            {"data": "digits", "optimizer": "Adamax", "optimizer._target_": "torch.optim.Adamax"},
        ),
        ("lr=0.5 model.activation=tanh", {"data": "digits", "lr": "0.5", "model.activation": "tanh"}),
    ],
)
def test_show_lists_what_is_not_at_its_default(command, here: Path, words: str, typed: dict[str, str]) -> None:
    run = made(words)
    write(here / "runs", run)
    shown = command(f"show runs/{run['run_id']}").out
    table = shown[shown.index("Settings") : shown.index("Epochs")]
    cells = [line.split("│") for line in table.splitlines() if line.count("│") == 3]
    assert {key.strip(): value.strip() for _, key, value, _ in cells} == typed


def test_a_run_is_called_by_the_class_that_was_typed() -> None:
    run = made("optimizer._target_=torch.optim.Adamax lr=0.01")
    assert run["run_id"].startswith("Adamax-lr0.01-seed0-")
    assert run["choices"]["optimizer"] == "Adamax"
    assert made("optimizer=adam optimizer._target_=torch.optim.Adam")["run_id"].startswith("adam-lr0.001-seed0-")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("list nowhere", "nowhere: there is no such folder."),
        ("show nowhere", "nowhere: there is no such run."),
    ],
)
def test_nothing_there(command, here: Path, words: str, says: str) -> None:
    result = command(words)
    assert (result.code, result.out, result.err) == (2, "", f"cnnbench: {says}\n")
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("words", [["list", "."], ["show", "."]])
def test_no_torch(here: Path, words: list[str]) -> None:
    program = "import sys; from cnnbench.cli import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "False"
