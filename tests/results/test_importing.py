"""What other programs have logged, imported; and our results exported."""

import math
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from made_records import made, write
from polars.testing import assert_frame_equal

from cnnbench.results import importing

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


PROJECT = """
import sys, torch, pytorch_lightning as pl
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset, random_split

class Net(pl.LightningModule):
    def __init__(self, optimizer: str, seed: int, layer: dict, betas: tuple = (0.9, 0.99)) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = torch.nn.Linear(64, 10)
    def training_step(self, batch, _):
        self.log("train_loss", loss := cross_entropy(self.net(batch[0]), batch[1]), on_step=False, on_epoch=True)
        return loss
    def validation_step(self, batch, _):
        self.log("val_acc", (self.net(batch[0]).argmax(1) == batch[1]).float().mean())
    def configure_optimizers(self):
        return getattr(torch.optim, self.hparams.optimizer)(self.parameters(), lr=0.01)

digits = load_digits()
data = TensorDataset(torch.tensor(digits.data / 16).float(), torch.tensor(digits.target))
LOGGERS = {
    "lightning": lambda: CSVLogger("lightning", name=""), "tensorboard": lambda: TensorBoardLogger("tensorboard", name=""),
    "mlflow": lambda: MLFlowLogger(tracking_uri="sqlite:///mlflow"),
}
for program in sys.argv[1:]:
    for optimizer in ("SGD", "Adam", "RMSprop"):
        for seed in range(3):
            pl.seed_everything(seed)
            train, val = random_split(data, [1500, 297])
            trainer = pl.Trainer(
                max_epochs=3, logger=LOGGERS[program](), callbacks=[LearningRateMonitor()], accelerator="cpu",
                enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
            )
            net = Net(optimizer, seed, {"width": 64})
            trainer.fit(net, DataLoader(train, 64, shuffle=True), DataLoader(val, 297))
"""
"""A project that knows nothing of cnnbench."""


@pytest.mark.slow
def test_a_lightning_project_is_one_table_whatever_its_logger(command, here: Path, no_figures: None) -> None:
    programs = ["lightning", "tensorboard"]
    try:
        import mlflow  # noqa: F401
    except ImportError:
        pass
    else:
        programs.append("mlflow")
    (here / "project.py").write_text(PROJECT)
    subprocess.run([sys.executable, "project.py", *programs], check=True, capture_output=True)
    columns = ["optimizer", "seed", "layer.width", "epoch", "val_acc", "train_loss", "lr-Adam"]
    frames, shown = [], []
    for program in programs:
        says = command(f"import {program} {program}").out
        assert f"{program}.parquet: 9 runs, 27 rows" in says
        assert "; optimizer, seed vary\n" in says
        frame = pl.read_parquet(f"{program}.parquet")
        assert not {"hp_metric", "step", "layer/width"}.intersection(frame.columns)
        frames.append(frame.select(columns).sort("optimizer", "seed", "epoch"))
        means = frame.filter(epoch=2).group_by("optimizer").agg(pl.col("val_acc").mean())
        result = command(says.splitlines()[-1].partition("cnnbench ")[2])
        assert all(f"{100 * mean:.2f}% [" in result.out for mean in means["val_acc"])
        shown.append(result.out.splitlines()[2:12])
    for frame, table in zip(frames[1:], shown[1:], strict=True):
        assert_frame_equal(frame, frames[0], rel_tol=1e-6)  # TensorBoard's numbers have 32 bits
        assert table == shown[0]
    assert frames[0]["lr-Adam"].drop_nulls().to_list() == pytest.approx([0.01] * 9)


def events(folder: str, values: list[float], tag: str = "val_acc", **hyperparameters: object) -> Path:
    """The event file of a run that logged these values."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(folder) as writer:
        for step, value in enumerate(values):
            writer.add_scalar(tag, value, step)
        if hyperparameters:
            writer.add_hparams(hyperparameters, {"best": max(values)})
    return next(Path(folder).glob("*tfevents*"))


def test_the_name_of_a_run_tells_what_was_not_logged(command, here: Path, no_figures: None) -> None:
    for name, value in (("adam", 0.75), ("sgd", 0.5)):
        for seed in (0, 1):
            events(f"logs/{name}_seed{seed}", [0.0, value])
    command("import tensorboard logs")
    frame = pl.read_parquet("logs.parquet")
    assert set(frame.select("run", "name", "seed").rows()) == {
        (f"{name}_seed{seed}", name, seed) for name in ("adam", "sgd") for seed in (0, 1)
    }
    assert "contestant=name; seed=seed" in " ".join(command("compare logs.parquet").out.split())


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("version_3", {}),
        ("adam", {}),
        ("adam_seed0/version_2", {"seed": 0, "name": "adam"}),
        ("Seed-7", {"seed": 7}),
        ("reseed1", {}),
        ("resnet18-seed_12-big", {"seed": 12, "name": "resnet18-big"}),
        ("lr=1e-3,optimizer=adam/seed=4", {"lr": 0.001, "optimizer": "adam", "seed": 4}),
        ("weight_decay=0.1_lr=0.3", {"weight_decay": 0.1, "lr": 0.3}),
        ("a nesterov=True", {"nesterov": True, "name": "a"}),
    ],
)
def test_names_of_runs(name: str, told: dict[str, object]) -> None:
    assert importing._told_by(name) == told


def test_hyperparameters_of_torch_belong_to_their_run(command, here: Path) -> None:
    for name in ("adam", "sgd"):
        events(f"logs/{name}", [0.5, 0.75], optimizer=name, lr=0.5, seed=3)
    command("import tensorboard logs metric=val_acc")
    frame = pl.read_parquet("logs.parquet").sort("optimizer", "step")
    assert frame["run"].to_list() == ["adam", "adam", "sgd", "sgd"]
    assert frame.row(1, named=True) == {
        "run": "adam", "optimizer": "adam", "lr": 0.5, "seed": 3, "step": 1, "val_acc": 0.75,
    }  # fmt: skip


def test_an_event_file_that_is_damaged_within(command, here: Path) -> None:
    path = events("logs/a", [0.5] * 50)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    events("logs/b", [0.5] * 50)
    result = command("import tensorboard logs")
    assert result.code == 0
    assert f"all after byte {1166:,} of {len(content):,} can't be read" in result.err
    lengths = dict(pl.read_parquet("logs.parquet").group_by("run").len().rows())
    assert (lengths["a"], lengths["b"]) == (24, 50)


def test_a_hyperparameter_that_is_called_as_a_metric(command, here: Path) -> None:
    (here / "logs" / "a").mkdir(parents=True)
    (here / "logs" / "a" / "metrics.csv").write_text("epoch,step,lr,val_acc\n0,9,0.1,\n0,9,,0.5\n1,19,0.05,0.6\n")
    (here / "logs" / "a" / "hparams.yaml").write_text(
        "lr: 0.1\nbetas: !!python/tuple\n- 0.9\n- 0.99\nact: !!python/name:torch.nn.ReLU ''\n"
    )
    (here / "logs" / "b").mkdir()
    (here / "logs" / "b" / "metrics.csv").write_text("epoch,step,train_loss\n0,9,1.5\n")
    assert "left out: b: logged no lr and no val_acc" in command("import lightning logs metric=lr,val_acc").err
    rows = pl.read_parquet("logs.parquet").rows(named=True)
    common = {"run": "a", "hparams.lr": 0.1, "betas": "[0.9, 0.99]", "act": "torch.nn.ReLU"}
    assert rows == [
        common | {"epoch": 0, "lr": 0.1, "val_acc": 0.5},
        common | {"epoch": 1, "lr": 0.05, "val_acc": 0.6},
    ]  # fmt: skip


def test_rows_of_one_epoch() -> None:
    rows = [
        {"step": 0, "lr": 0.1},
        {"step": 9, "epoch": 0, "loss": 3.0},
        {"step": 9, "epoch": 0, "loss": 2.0, "acc": math.inf},
        {"step": 10, "lr": 0.2},
        {"step": 19, "epoch": 1.0, "loss": 1.0},
        {"step": 20, "lr": 0.3},
    ]
    assert importing._by_time(rows) == [
        {"epoch": 0, "lr": 0.1, "loss": 2.0, "acc": math.inf},
        {"epoch": 1, "lr": 0.3, "loss": 1.0},
    ]
    fractions = [{"step": 5, "epoch": 0.5, "loss": 1.0}, {"step": 6, "epoch": 0.6, "loss": 2.0}]
    assert importing._by_time(fractions) == [{"step": 5, "loss": 1.0}, {"step": 6, "loss": 2.0}]


def test_a_panel_of_weights_and_biases(command, here: Path) -> None:
    names = ["a-0", "a-1"]
    head = ",".join(["Step", *(f"{n} - val_acc{end}" for n in names for end in ("", "__MIN", "__MAX"))])
    Path("wb.csv").write_text(f"{head}\n0,0.1,0,1,0.2,0,1\n1,0.3,0,1,,,\n")
    assert "wb.parquet: 2 runs, 3 rows; metrics val_acc\n" in command("import wandb wb.csv").out
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
    (here / "panel.csv").write_text("Step,a - acc\n0,1\n")
    assert "panel.csv: is the file that is read" in command("import wandb panel.csv out=panel.csv").err
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
        says = command("import mlflow mine.mlflow.db out=back.csv").out
        assert says.endswith("cnnbench compare back.csv contestant=contestant\n")
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
