"""What other programs have logged, imported; and our results exported."""

import math
from pathlib import Path

import polars as pl
import pytest
from made_records import made, write

ACCURACIES = {("adam", 0): [0.5, 0.9], ("adam", 1): [0.6, 0.8], ("sgd", 0): [0.3, 0.4], ("sgd", 1): [0.2, math.nan]}


def check(path: str) -> None:
    """The table has the runs of `ACCURACIES`."""
    frame = pl.read_parquet(path).sort("epoch") if path.endswith("parquet") else pl.read_csv(path).sort("epoch")
    found = {key: part["val_acc"].drop_nulls().to_list() for key, part in frame.group_by("optimizer", "seed")}
    assert {key: pytest.approx(values, nan_ok=True) for key, values in ACCURACIES.items()} == found
    assert frame["run"].n_unique() == 4


def by_lightning(here: Path) -> None:
    for (name, seed), values in ACCURACIES.items():
        folder = here / "logs" / f"{name}{seed}" / "version_0"
        folder.mkdir(parents=True)
        rows = [f"{epoch},{10 * epoch},,0.7\n{epoch},{10 * epoch},{value},\n" for epoch, value in enumerate(values)]
        (folder / "metrics.csv").write_text("epoch,step,val_acc,train_loss\n" + "".join(rows))
        (folder / "hparams.yaml").write_text(f"optimizer: {name}\nseed: {seed}\nmodel:\n  width: 8\n")


def by_tensorboard(here: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    for (name, seed), values in ACCURACIES.items():
        with SummaryWriter(str(here / "logs" / f"{name}{seed}")) as writer:
            for epoch, value in enumerate(values):
                writer.add_scalar("val_acc", value, 10 * epoch)
                writer.add_scalar("epoch", epoch, 10 * epoch)
        (here / "logs" / f"{name}{seed}" / "hparams.yaml").write_text(f"optimizer: {name}\nseed: {seed}\n")


def by_mlflow(here: Path) -> None:
    pytest.importorskip("mlflow")
    from cnnbench.results.importing import quiet_mlflow

    with quiet_mlflow():
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri="sqlite:///logs")
        experiment = client.create_experiment("mine")
        for (name, seed), values in ACCURACIES.items():
            run = client.create_run(experiment).info.run_id
            client.log_param(run, "optimizer", name)
            client.log_param(run, "seed", seed)
            for epoch, value in enumerate(values):
                client.log_metric(run, "val_acc", value, step=10 * epoch)
                client.log_metric(run, "epoch", epoch, step=10 * epoch)


@pytest.mark.parametrize("program", ["lightning", "tensorboard", "mlflow"])
def test_one_table_from_all_programs(command, here: Path, no_figures: None, program: str) -> None:
    {"lightning": by_lightning, "tensorboard": by_tensorboard, "mlflow": by_mlflow}[program](here)
    result = command(f"import {program} logs")
    assert result.code == 0, result.err
    assert "logs.parquet: 4 runs" in result.out
    check("logs.parquet")
    last = result.out.splitlines()[-1].partition("cnnbench ")[2]  # the command that it says
    shown = command(last).out
    assert "adam" in shown
    assert "85.00%" in shown  # (0.9 + 0.8) / 2
    assert "1 diverged, 1 done" in shown
    assert command(f"import {program} logs").err.startswith("cnnbench: logs.parquet: is there already.")
    command(f"import {program} logs metric=val_acc out=other.csv")
    check("other.csv")


def test_a_panel_of_weights_and_biases(command, here: Path) -> None:
    names = ["a-0", "a-1"]
    head = ",".join(["Step", *(f"{n} - val_acc{end}" for n in names for end in ("", "__MIN", "__MAX"))])
    Path("wb.csv").write_text(f"{head}\n0,0.1,0,1,0.2,0,1\n1,0.3,0,1,,,\n")
    assert "wb.parquet: 2 runs, 3 rows; columns val_acc" in command("import wandb wb.csv").out
    assert pl.read_parquet("wb.parquet").filter(run="a-0")["val_acc"].to_list() == [0.1, 0.3]
    Path("runs.csv").write_text("Name,lr,val_acc\na,0.1,0.5\n")
    assert "A table of runs needs no import: cnnbench compare runs.csv" in command("import wandb runs.csv").err


def test_a_broken_file_is_named_and_left_out(command, here: Path) -> None:
    by_tensorboard(here)
    (here / "logs" / "bad").mkdir()
    (here / "logs" / "bad" / "events.out.tfevents.1").write_bytes(b"no events at all")
    result = command("import tensorboard logs")
    assert result.code == 0
    assert "left out: " in result.err
    assert "bad/events.out.tfevents.1: no event can be read" in result.err
    check("logs.parquet")
    by_lightning(here / "csv")
    (here / "csv" / "logs" / "adam0" / "version_0" / "metrics.csv").write_bytes(b"\xff\xfe")
    result = command("import lightning csv")
    assert "is not UTF-8 text" in result.err
    assert pl.read_parquet("csv.parquet")["run"].n_unique() == 3


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("import", "there is no such program. Allowed: lightning, mlflow, tensorboard, wandb"),
        ("import tensorbord logs", "Did you mean 'tensorboard'?"),
        ("import tensorboard", "import tensorboard: name the place"),
        ("import tensorboard nothing", "nothing: there is no such folder"),
        ("import tensorboard logs metric=val_ac", "metric=val_ac: none of these runs has it. Did you mean 'val_acc'?"),
        ("import tensorboard logs out=a.txt", "must end in .parquet or .csv"),
        ("import tensorboard logs step=3", "step=3: import has no such setting"),
        ("import lightning logs", "no run of lightning with a metric was found there"),
        ("import mlflow logs", "is no store of MLflow's"),
        ("import wandb nothing.csv", "can't be read"),
    ],
)  # fmt: skip
def test_bad_words_get_one_line(command, here: Path, words: str, says: str) -> None:
    by_tensorboard(here)
    result = command(words)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert says in result.err
    assert not list(here.glob("*.parquet"))


@pytest.mark.parametrize("kind", ["csv", "parquet", "mlflow"])
def test_our_results_in_other_programs(command, here: Path, no_figures: None, kind: str) -> None:
    if kind == "mlflow":
        pytest.importorskip("mlflow")
    runs = [
        made("optimizer=adam seed=0", (0.5, 0.7), 0.6),
        made("optimizer=adam seed=1", (0.5, 0.8), 0.8),
        made("optimizer=sgd seed=0", (0.3,), status="diverged"),
        made("optimizer=sgd seed=1", (), status="failed"),
    ]
    write(here / "runs" / "mine", *runs)
    assert command(f"export runs/mine --format {kind}").code == 0
    path = f"mine.{kind}"
    if kind == "mlflow":
        path = "back.csv"
        assert command("import mlflow mine.mlflow.db out=back.csv").code == 0
    frame = pl.read_parquet(path) if kind == "parquet" else pl.read_csv(path)
    assert frame["run"].n_unique() == 4
    adam = frame.filter(contestant="adam", seed=1).sort("epoch")
    assert adam["val_acc"].to_list() == [0.5, 0.8]
    assert adam["test_acc"].to_list() == [None, 0.8]
    assert set(frame["optimizer.lr"].drop_nulls()) == {0.001, 0.01}
    shown = command(f"compare {path} contestant=contestant").out
    assert "70.00%" in shown  # (0.6 + 0.8) / 2
    assert "2 diverged" in shown  # a failed run has no result either
    assert command(f"export runs/mine --format {kind}").code == 2  # nothing is overwritten
