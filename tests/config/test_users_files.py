"""A user's own files under --config-dir: Hydra's keys, interpolation, and mistakes."""

from pathlib import Path

import pytest
from conftest import record

from cnnbench.config.composition import config_source
from cnnbench.config.schema import Config
from cnnbench.training import checkpoints

ADAM = "_target_: torch.optim.Adam\n"
CNN = "_target_: cnnbench.models.PlainCNN\ndense: []\n"
GLOBAL = "# @package _global_\n"


def write(here: Path, **files: str) -> Path:
    """`write(here, optimizer="...")` is the file mine/optimizer/mine.yaml."""
    for group, text in files.items():
        path = here / "mine" / group / "mine.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    return here / "mine"


def compose(folder: Path, words: str) -> Config:
    with config_source(folder) as composer:
        (job,) = composer.jobs(words.split(), multirun=False)
    return job.config


def test_hydras_keys_change_no_training(command, here: Path) -> None:
    plain = {
        "optimizer": "_target_: torch.optim.Rprop\nlr: 0.01\netas: [0.5, 1.2]\n",
        "scheduler": "_target_: torch.optim.lr_scheduler.MultiStepLR\nmilestones: [1]\ngamma: 0.5\n",
        "model": f"{CNN}convs: [{{filters: 2, pool: 4}}]\n",
    }
    keys = "_partial_: true\n_convert_: none\n_recursive_: true\n"
    write(here, **{group: text + keys for group, text in plain.items()})
    mine = "--config-dir mine data=digits data.limit=100 optimizer=mine scheduler=mine model=mine logger=none"
    result = command(f"{mine} epochs=2 name=keys")
    assert result.code == 0, result.err
    found = record(here / "runs" / "keys")
    assert [row["lr"] for row in found["history"]] == [0.01, 0.005]
    (saved,) = (here / "runs" / "keys").glob("*/last.ckpt")
    assert checkpoints.read(saved)["optimizer"]["param_groups"][0]["etas"] == [0.5, 1.2]  # no ListConfig

    for group, text in plain.items():
        (here / "mine" / group / "mine.yaml").write_text(text)
    assert command(f"{mine} epochs=2 name=plain").code == 0
    losses = [[row["train_loss"] for row in record(here / "runs" / name)["history"]] for name in ("keys", "plain")]
    assert losses[0] == losses[1]


def test_recursive_makes_what_an_argument_names(command, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "nested.py").write_text(
        "import torch\n\n\nclass Nested(torch.nn.Sequential):\n"
        "    def __init__(self, image_shape, classes, inner):\n"
        "        super().__init__(torch.nn.Flatten(), inner)\n"
    )
    layer = "inner: {_target_: torch.nn.Linear, in_features: 64, out_features: 10}\n"
    write(here, model=f"_target_: nested.Nested\n_recursive_: true\n{layer}")
    monkeypatch.syspath_prepend(here)
    assert command("--config-dir mine data=digits data.limit=100 epochs=1 model=mine logger=none").code == 0
    assert record(here)["parameters"] == 64 * 10 + 10


@pytest.mark.parametrize(
    ("file", "words", "key", "value"),
    [
        ("lr: 0.002\nweight_decay: ${lr}\n", "", "weight_decay", 0.002),
        ("lr: 0.002\nweight_decay: ${lr}\n", "lr=0.5", "weight_decay", 0.5),
        ("lr: 0.002\nweight_decay: ${lr}\n", "optimizer.lr=0.5", "weight_decay", 0.5),
        ("lr: 0.002\nweight_decay: ${optimizer.lr}\n", "lr=0.5", "weight_decay", 0.5),
        ("lr: 0.002\nweight_decay: ${.lr}\n", "", "weight_decay", 0.002),
        ("lr: ${lr}\n", "lr=0.5", "lr", 0.5),
        ("lr: ${lr}\n", "", "lr", None),  # the class's own default
        ("lr: ${epochs}\n", "epochs=7", "lr", 7.0),
        ("lr: 0.1\neps: ${epochs}\n", "epochs=7 size=small small.epochs=3", "eps", 3),
    ],
)
def test_values_are_taken_from_elsewhere_in_an_optimizer(
    here: Path, file: str, words: str, key: str, value: float | None
) -> None:
    config = compose(write(here, optimizer=ADAM + file), f"optimizer=mine {words}")
    assert config.optimizer.get(key) == value
    assert config.optimizer.get("lr") == config.lr


def test_values_are_taken_from_elsewhere_in_other_files(here: Path) -> None:
    folder = write(
        here,
        scheduler="_target_: torch.optim.lr_scheduler.CosineAnnealingLR\nT_max: ${epochs}\neta_min: ${lr}\n",
        model=f"{CNN}convs: [{{filters: '${{epochs}}'}}, {{filters: '${{.kernel_size}}', kernel_size: 3}}]\n",
        experiment=f"{GLOBAL}epochs: 4\nclip: ${{lr}}\nstop: {{patience: '${{epochs}}'}}\n",
    )
    config = compose(folder, "experiment=mine scheduler=mine model=mine")
    assert (config.scheduler["T_max"], config.scheduler["eta_min"]) == (4, 0.001)
    assert (config.clip, config.stop.patience) == (0.001, 4)
    assert [conv["filters"] for conv in config.model["convs"]] == [4, 3]
    config = compose(folder, "model=ensemble model.members=[mine,document_cnn] epochs=6")
    assert config.model["members"][0]["convs"][0] == {"filters": 6}


def test_what_an_experiment_sweeps_is_taken_from_elsewhere(command, here: Path) -> None:
    write(here, experiment=f"{GLOBAL}epochs: 4\nhydra: {{sweeper: {{params: {{stop.patience: '1,${{epochs}}'}}}}}}\n")
    listed = command("--config-dir mine -m experiment=mine --dry-run").out.splitlines()
    assert listed == ["2 runs", "stop.patience=1", "stop.patience=4"]


@pytest.mark.parametrize(
    ("group", "text", "says"),
    [
        ("optimizer", f"{ADAM}\tlr: 0.1\n", ["mine/optimizer/mine.yaml, line 2", "\\t"]),
        ("optimizer", f"{ADAM}lr: 0.1\nbetas: [0.9\n", ["mine/optimizer/mine.yaml, line 4"]),
        ("optimizer", f"{ADAM}lr: 0.1\nlr: 0.2\n", ["mine/optimizer/mine.yaml, line 3", "duplicate key lr"]),
        ("optimizer", f"{ADAM}lr: \0\n", ["mine/optimizer/mine.yaml"]),
        ("optimizer", f"{ADAM}lr: ${{epochs\n", ["mine/optimizer/mine.yaml", "${epochs"]),
        ("optimizer", f"{ADAM}lr: ${{lrr}}\n", ["optimizer.lr", "'lrr'", "Did you mean 'lr'?"]),
        ("optimizer", f"{ADAM}eps: ${{optimizer.ep}}\n", ["optimizer.eps", "Did you mean 'optimizer.eps'?"]),
        ("optimizer", f"{ADAM}eps: ${{no.such}}\n", ["optimizer.eps", "'no.such'"]),
        ("optimizer", f"{ADAM}lr: ${{optimizer.lr}}\n", ["optimizer.lr", "Recursive"]),
        ("optimizer", f"{ADAM}lr: ${{oc.env:NO_SUCH}}\n", ["optimizer.lr", "NO_SUCH"]),
        ("scheduler", "_target_: [\n", ["mine/scheduler/mine.yaml, line 2"]),
        ("data", "lmit: 3\n", ["data/mine.yaml", "Did you mean 'data.limit'?"]),
        ("experiment", f"{GLOBAL}\tepochs: 1\n", ["mine/experiment/mine.yaml, line 2"]),
        ("experiment", f"{GLOBAL}epoch: 1\n", ["experiment/mine.yaml", "Did you mean 'epochs'?"]),
        ("experiment", f"{GLOBAL}clip: ${{epoch}}\n", ["clip", "Did you mean 'epochs'?"]),
        (
            "experiment",
            f"{GLOBAL}hydra: {{mode: MULTIRUN, sweeper: {{params: {{seed: '${{epoch}}'}}}}}}\n",
            ["hydra.sweeper.params.seed", "Did you mean 'epochs'?"],
        ),
        ("model", f"{CNN}\tconvs: []\n", ["mine/model/mine.yaml, line 3"]),
    ],
)
def test_a_mistake_in_a_file_is_one_line(command, here: Path, group: str, text: str, says: list[str]) -> None:
    write(here, **{group: text})
    refused(command(f"--config-dir mine {group}=mine --dry-run"), says)


def test_a_mistake_in_a_space_or_in_an_ensembles_member_is_one_line(command, here: Path) -> None:
    write(here, space="lr: [1,\n", model=f"{CNN}\tconvs: []\n")
    refused(command("tune --config-dir mine optimizer=sgd,adam space=mine"), ["mine/space/mine.yaml, line 2"])
    for member in ("model=ensemble model.members=[document_cnn,mine]", "model=ensemble model.members=[mine]"):
        refused(command(f"--config-dir mine {member} --dry-run"), ["mine/model/mine.yaml, line 3"])


def test_a_mistake_in_a_file_that_is_not_read_does_no_harm(command, here: Path) -> None:
    write(here, optimizer=f"{ADAM}\tlr: 0.1\n", model=f"{CNN}\tconvs: []\n")
    (here / "mine" / "optimizer" / "latin.yaml").write_bytes(b"lr: \xff\n")
    assert command("--config-dir mine --dry-run").code == 0
    refused(command("--config-dir mine optimizer=latin --dry-run"), ["mine/optimizer/latin.yaml", "0xff"])


def refused(result, says: list[str]) -> None:
    assert (result.code, result.err.count("\n")) == (2, 1), result.err
    for part in says:
        assert part in result.err
