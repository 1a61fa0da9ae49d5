"""Help, errors and exit codes: fast, in one line, and before anything is written."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import write_images

from cnnbench.config.keys import CONF, GROUPS

PRINTS_WITHOUT = """
import sys
from cnnbench.cli import main
code = main({words!r})
heavy = sorted({heavy!r} & set(sys.modules))
assert not heavy, heavy
sys.exit(code)
"""
LADDER = "# @package _global_\nladder: {one: [model.foo=1]}\n"
LIGHTNING = {"pytorch_lightning", "lightning_fabric", "torchvision"}


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["optimzer=adam"], 2),
        (["--cfg", "job"], 0),
        (["experiment=quickstart", "--cfg", "job"], 0),
        (["tune", "optimizer=sgd,adam", "--cfg", "job"], 0),
        (["preview", "--cfg", "job"], 0),
        (["compare", "runs", "--cfg", "job"], 0),
        (["list", "--cfg", "job"], 0),
        (["show", "nowhere", "--cfg", "job"], 2),
        (["tune", "optimizer=sgd,adma", "--cfg", "job"], 2),
        (["preview", "augment=flop", "--cfg", "job"], 2),
        (["compare", "nowhere"], 2),
        (["tune", "optimizer=sgd,adma"], 2),
        (["predict", "nowhere", "image.png"], 2),
        (["export", "nowhere", "--format", "onnx"], 2),
        (["data=folder", "data.root=nowhere"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_answers_without_importing_torch(words: list[str], code: int, here: Path) -> None:
    program = PRINTS_WITHOUT.format(words=words, heavy=LIGHTNING | {"torch", "sklearn"})
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == code, result.stderr
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "heavy"),
    [
        ("data=digits data.limit=200 epochs=1", LIGHTNING | {"torch", "scipy", "sklearn", "pandas"}),
        ("-m data=digits data.limit=200 epochs=1 seed=0,1", LIGHTNING | {"torch", "sklearn", "pandas"}),
        ("data=digits data.limit=200 epochs=2 --dry-run", LIGHTNING | {"sklearn", "pandas"}),
        ("experiment=quickstart --dry-run", LIGHTNING),
    ],
)
def test_what_trains_nothing_imports_no_lightning(command, here: Path, no_figures, words: str, heavy: set[str]) -> None:
    if "--dry-run" not in words:
        assert command(words).code == 0
    program = PRINTS_WITHOUT.format(words=shlex.split(words), heavy=heavy)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "--dry-run" in words or "already done" in result.stderr


def test_help_shows_groups_options_and_examples(command) -> None:
    result = command("--help")
    assert result.code == 0
    for group in GROUPS:
        (line,) = (line for line in result.out.splitlines() if line.startswith(f"  {group} "))
        for option in (CONF / group).glob("*.yaml"):
            assert option.stem in line
    assert result.out.split("Examples\n")[1].count("  cnnbench ") == 6


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("optimzer=adam", ["optimzer", "Did you mean 'optimizer'?"]),
        ("optimizer=adm", ["optimizer=adm", "Did you mean 'adam'?", "momentum"]),
        ("-m optimizer=sgd,adm", ["adm", "Did you mean 'adam'?"]),
        ("data.rot=x", ["data.rot", "Did you mean 'data.root'?"]),
        ("+foo=1", ["foo"]),
        ("optimizer/foo=1", ["optimizer/foo"]),
        ("seed=0 lr", ["lr", "key=value"]),
        ("lr=[", ["lr=[", "key=value"]),
        ("lr=abc", ["lr=abc", "a number"]),
        ("epochs=1.5", ["epochs=1.5", "whole number"]),
        ("data.grayscale=perhaps", ["data.grayscale=perhaps", "true or false"]),
        ("batch_size=null", ["batch_size=null"]),
        ("lr=0", ["lr=0", "above 0"]),
        ("lr=nan", ["lr=nan", "above 0"]),
        ("optimizer.lr=-1", ["lr=-1", "above 0"]),
        ("epochs=0", ["epochs=0", "at least 1"]),
        ("batch_size=0", ["batch_size=0", "at least 1"]),
        ("clip=0", ["clip=0", "above 0"]),
        ("seed=-1", ["seed=-1", "0 to 4294967295"]),
        ("seed=4294967296", ["seed=4294967296"]),
        ("name=a/b", ["name", "a/b"]),
        ("data.val=train", ["data.val=train", "folder, split or test"]),
        ("data.val_fraction=1", ["data.val_fraction=1"]),
        ("data.normalize=minmax", ["data.normalize=minmax", "standard, unit or none"]),
        ("data.limit=0", ["data.limit=0"]),
        ("hardware.precision=16", ["hardware.precision=16", "bf16-mixed"]),
        ("stop=early stop.patience=0", ["stop.patience=0"]),
        ("data=null", ["data=null", "digits"]),
        ("~optimizer", ["optimizer", "adam"]),
        ("data=[digits,folder]", ["data=[digits,folder]", "one option"]),
        ("lr=0.1 optimizer.lr=0.2", ["lr=0.1", "optimizer.lr=0.2"]),
        ("optimizer=sgd,adam", ["optimizer=sgd,adam", "-m"]),
        ("--nonsense", ["--nonsense"]),
        ("--config-dir nowhere", ["nowhere"]),
        ("data=digits optimizer.beta=0.5", ["optimizer.beta=0.5", "torch.optim.Adam", "Did you mean 'betas'?"]),
        ("data=digits optimizer.betas=[2,0.9]", ["optimizer", "torch.optim.Adam", "beta"]),
        ("data=digits optimizer._target_=torch.optim.Adamm", ["optimizer._target_=torch.optim.Adamm"]),
        (
            "data=digits optimizer._target_=os.system +optimizer.command=x",
            ["optimizer._target_=os.system", "Optimizer"],
        ),
        ("data=digits optimizer._target_=torch.nn.Linear", ["optimizer._target_=torch.nn.Linear", "Optimizer"]),
        ("data=digits model._target_=torch.optim.SGD", ["model._target_=torch.optim.SGD", "Module"]),
        ("data=digits scheduler._target_=builtins.print", ["scheduler._target_=builtins.print", "LRScheduler"]),
        ("data=digits optimizer._args_=[1]", ["optimizer._args_", "_convert_"]),
        ("data=digits logger=[csv,tensrboard]", ["tensrboard", "Did you mean 'tensorboard'?"]),
        ("data=digits logger.csv=5", ["logger.csv=5", "_target_"]),
        ("data=digits logger=csv logger.csv.flush=5", ["logger.csv.flush=5", "CSVLogger"]),
        ("data=digits logger=csv logger.csv._target_=os.getcwd", ["logger.csv._target_=os.getcwd", "Logger"]),
        ("workers=0", ["workers=0", "at least 1"]),
        ("augment._target_=builtins.dict", ["augment._target_"]),
        ("augment.flip=sometimes", ["augment.flip=sometimes", "alternating"]),
        ("augment=[flip_crop,cutot]", ["cutot", "Did you mean 'cutout'?"]),
        ("size=tiny", ["size=tiny", "full or small"]),
        ("data._target_=os.getcwd", ["data._target_=os.getcwd", "ImageSet"]),
        ("data=digits model.convs=[{kernel_size:3}]", ["model.convs[0].filters"]),
        (
            "data=digits model.convs=[{filters:3,kernel_size:3,poool:2}]",
            ["model.convs[0].poool", "Did you mean 'pool'?"],
        ),
        ("data=digits model.activation=rellu", ["model.activation=rellu", "Did you mean 'relu'?"]),
        ("data=digits model.dropout=1", ["model.dropout=1", "below 1"]),
        ("update.reduction=median", ["update.reduction=median", "mean or sum"]),
        ("update=cag update.max_step=0", ["update.max_step=0"]),
        ("data=digits update=cag update.accumulate=99", ["update.accumulate=99", "11 batches", "full_batch"]),
        ("checkpoint.every=often", ["checkpoint.every=often", "500", "10min"]),
        ("checkpoint.evry=5", ["checkpoint.evry", "Did you mean 'checkpoint.every'?"]),
        ("data=digits model.width=3", ["model.width=3", "convs"]),
        ("data=digits data.image_size=3", ["model.convs[1]", "1x1"]),
        ("data=digits data.limit=5", ["data.limit=5", "10 classes"]),
        ("data=digits data.val_fraction=0.001", ["data.val_fraction=0.001", "no validation image of class"]),
        ("data=digits hardware=gpu", ["hardware.accelerator=gpu"]),
        ("-m data=digits optimizer=adam,sgd optimizer.momentum=0.9", ["optimizer.momentum=0.9", "Adam"]),
        ("data=folder", ["data.root=null", "data.root=DIR"]),
        ("data=folder data.root=nowhere", ["data.root=nowhere"]),
        ("data=cifar10", ["cifar-10-python.tar.gz", "into that folder", "data=digits", "data=folder"]),
        ("compare", ["compare"]),
        ("comapre runs", ["comapre", "Did you mean 'compare'?"]),
        ("compare nowhere", ["nowhere"]),
        ("compare .", ["no records"]),
        ("compare . best=adam", ["best", "by"]),
        ("predict . x.png", ["holds no run"]),
        ("export . --format onxx", ["--format onxx", "Did you mean 'onnx'?"]),
        ("''", ["''", "neither a command nor KEY=VALUE"]),
        ("optimizer=adam ''", ["''", "key=value"]),
        ("clip=inf", ["clip=inf", "a number above 0"]),
        ("clip=.inf", ["clip=.inf", "a number"]),
        ("clip=nan", ["clip=nan", "a number above 0"]),
        ("stop.min_delta=nan", ["stop.min_delta=nan", "at least 0"]),
        ("stop.min_delta=inf", ["stop.min_delta=inf", "at least 0"]),
        ("update.max_step=inf", ["update.max_step=inf", "a number above 0"]),
        ("claims=[{value:nan}]", ["claims.value=nan", "from 0 to 1"]),
        ("hardware.threads=100000000000", ["hardware.threads=100000000000", "1024"]),
        pytest.param(f"name={'x' * 256}", ["name=", "255 bytes"], id="name of 256 letters"),
        pytest.param(f"epochs=1{'0' * 400}", ["epochs=1000", "18 digits"], id="epochs=1e400"),
        pytest.param(f"scheduler.step=1{'0' * 400}", ["scheduler.step=1000", "18 digits"], id="scheduler.step=1e400"),
        pytest.param(f"lr=1{'0' * 400}", ["lr: ", "too large"], id="lr=1e400"),
        pytest.param(f"epochs=1{'0' * 5000}", ["epochs=1000", "4300 digits"], id="epochs=1e5000"),
        ("data=digits model=ensemble model.members=3", ["model.members=3", "a list of models"]),
        ("data=digits model=ensemble model.members=[3]", ["model.members=[3]", "a list of models"]),
        ("data=digits model=ensemble model.members=[resnet]", ["no model 'resnet'", "Did you mean 'resnet20'?"]),
        ("data=digits model.init_from=3", ["model.init_from=3"]),
        ("data=digits model.freeze=0.5", ["model.freeze=0.5", "a list"]),
        ("data=digits model.freeze=convs", ["model.freeze=convs", "a list"]),
        ("data=digits model.freeze=[0.5]", ["model.freeze=[0.5]", "a list"]),
        ("hydra.run.dir=x", ["hydra.run.dir=x", "runs_dir=", "name=", "hydra.mode"]),
        ("hydra.sweep.dir=x", ["hydra.sweep.dir=x", "runs_dir="]),
        ("hydra.job.chdir=true", ["hydra.job.chdir=true", "hydra/launcher"]),
        ("+hydra.foo=1", ["hydra.foo=1", "nothing reads this"]),
        ("hydra.runtime.cwd=x", ["hydra.runtime.cwd=x", "nothing reads this"]),
        ("hydra/job_logging=none", ["hydra/job_logging=none", "nothing reads this"]),
        ("hydra.searchpath=[file://.]", ["hydra.searchpath", "--config-dir"]),
        ("hydra/sweeper=optuna", ["hydra/sweeper=optuna", "`cnnbench tune`"]),
        ("hydra=null", ["hydra=null", "nothing reads this"]),
        ("~hydra", ["~hydra", "nothing reads this"]),
        ("-m hydra/launcher=basic,ray", ["hydra/launcher=basic,ray", "one value"]),
        ("hydra/launcher=[basic]", ["hydra/launcher=[basic]", "one value"]),
        ("hydra/launcher=slrm", ["hydra/launcher=slrm"]),
        ("hydra.launcher.partition=x", ["hydra.launcher.partition", "hydra/launcher=submitit_local"]),
        ("hydra.mode=FOO", ["hydra.mode=FOO", "RUN or MULTIRUN"]),
        ("hydra.mode={a:1}", ["hydra.mode={a:1}", "RUN or MULTIRUN"]),
        ("hydra.sweeper.params.seed='0,1'", ["seed=0,1", "add -m"]),
        ("-m hydra.sweeper.params.sed='0,1'", ["sed=0,1", "Did you mean 'seed'?"]),
        ("-m hydra.sweeper.params={seed:1}", ["hydra.sweeper.params", "nothing reads this"]),
        ("hydra/launcher=joblib", ["workers=N"]),
        ("--info all", ["--info", "--cfg job"]),
        ("--config-name mine", ["--config-name", "experiment=NAME"]),
        ("-cp mine", ["-cp", "--config-dir DIR"]),
        ("--resolve", ["--cfg job"]),
        ("--cfg job --package optimzer", ["optimzer", "Did you mean 'optimizer'?"]),
        ("-m 'optimizer=glob(q*)'", ["glob(q*)", "adam"]),
        ("-m 'lr=interval(0.1,1)'", ["interval(0.1,1)", "`cnnbench tune`"]),
        ("trainer.max_epochs=3", ["trainer.max_epochs=3", "called epochs here"]),
        ("learning_rate=0.1", ["learning_rate=0.1", "called lr here"]),
        ("datamodule.batch_size=3", ["called batch_size here"]),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    command, here: Path, words: str, says: list[str], monkeypatch
) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise OSError("no network in a test")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    result = command(words)
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert "Traceback" not in result.err
    for part in says:
        assert part in result.err
    assert list(here.iterdir()) == []


def test_a_users_own_optimizer_and_a_name_that_is_taken(command, here: Path) -> None:
    mine = here / "mine" / "optimizer"
    mine.mkdir(parents=True)
    (mine / "mine.yaml").write_text("_target_: torch.optim.AdamW\nlr: 0.002\nweight_decay: 0.1\n")
    assert command("--config-dir mine data=digits epochs=1 optimizer=mine").code == 0
    assert len(list((here / "runs" / "default").glob("mine-lr0.002-seed0-*"))) == 1
    assert "mine" in command("--config-dir mine --help").out
    (mine / "adam.yaml").write_text("_target_: torch.optim.AdamW\nlr: 0.002\n")
    result = command("--config-dir mine data=digits epochs=1 optimizer=mine")
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert "optimizer/adam.yaml" in result.err


def test_dry_run_lists_and_stops(command, here: Path) -> None:
    result = command("experiment=quickstart --dry-run")
    lines = result.out.splitlines()
    assert lines[0] == "25 runs"
    assert lines[1] == "optimizer=sgd seed=0"
    assert len(lines) == 26
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("data=digits optimizer.amsgrd=true", "Did you mean 'amsgrad'?"),
        ("data=digits model=resnet20 regularizer=dropout", "takes no 'dropout'"),
        ("model=resnet20 regularizer=dropout", "takes no 'dropout'"),  # without CIFAR-10's archive
        ("data=mnist data.image_size=2", "model.convs"),
        ("data=digits model.foo=1", "takes no 'foo'"),
        ("data=digits scheduler=cosine scheduler.T_maxx=2", "takes no 'T_maxx'"),
        ("data=digits scheduler.T_maxx=2", "scheduler.T_maxx=2"),
        ("data=digits data.limit=5", "too few"),
        ("-m data=digits seed=0,1 hardware.devices=2", "hardware.devices=2"),
        ("data=digits search=joint data.val=test", "data.val=test"),
        ("-m data=digits seeds=auto model.foo=1,2", "takes no 'foo'"),
        ("--config-dir mine -m experiment=up data=digits seed=0,1", "takes no 'foo'"),
        ("tune data=digits optimizer=sgd,adam model.foo=1", "takes no 'foo'"),
        ("tune data=digits optimizer=sgd,adam force=true", "force=true"),
        ("--config-dir mine data=digits optimizer=mine", "optimizer._target_"),
        ("compare nowhere", "nowhere"),
    ],
)
def test_a_dry_run_refuses_what_the_command_refuses(command, here: Path, words: str, says: str) -> None:
    for path, text in (("optimizer/mine.yaml", "lr: 0.002\n"), ("experiment/up.yaml", LADDER)):
        (here / "mine" / path).parent.mkdir(parents=True, exist_ok=True)
        (here / "mine" / path).write_text(text)
    result = command(f"{words} --dry-run")
    assert (result.code, result.err.count("\n")) == (2, 1), result.err
    assert says in result.err
    if "data=digits" in words:
        assert command(words).err == result.err
    assert not (here / "runs").exists()


def test_a_dry_run_says_what_would_run(command, here: Path) -> None:
    # 90 % of 200 images are 180: six batches of 32, of which the last has 20.
    assert command("data=digits data.limit=200 batch_size=32 epochs=3 lr=0.01 --dry-run").out.splitlines()[1:] == [
        "data=digits data.limit=200 batch_size=32 epochs=3 lr=0.01",
        "document_cnn (53,002 parameters) with adam, lr 0.01, on digits: 180 training, 20 validation, 200 test images",
        f"epochs=3, 18 steps in all, on the CPU with {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}",
    ]
    said = command("tune data=digits optimizer=sgd,adam trials=4 seeds=2 --dry-run").out.splitlines()
    assert said[0] == "12 runs: 8 trials, then 4 of the winners with fresh seeds"
    assert said[1:] == [
        "optimizer=sgd (4 trials of lr 0.003 to 3 (log))",
        "optimizer=adam (4 trials of lr 3e-05 to 0.03 (log))",
    ]
    assert list(here.iterdir()) == []
    assert command("-m data=digits data.limit=200 epochs=1 seed=0,1 logger=none").code == 0
    before = sorted(here.rglob("*"))
    assert command("compare runs/default --dry-run").out == "adam: 2 runs\n"
    assert sorted(here.rglob("*")) == before


def test_a_key_on_the_command_line_replaces_the_experiments_sweep(command) -> None:
    assert command("experiment=quickstart seed=7 --dry-run").out.splitlines()[0] == "5 runs"
    assert command("experiment=quickstart optimizer=adam,sgd --dry-run").out.splitlines()[0] == "10 runs"
    assert command("-m optimizer=sgd,adam seed=0,1,2 --dry-run").out.splitlines()[0] == "6 runs"


def test_a_sweep_can_be_written_as_in_hydras_files(command) -> None:
    typed = command("-m seed=0,1 --dry-run").out
    for words in ("-m '+hydra.sweeper.params.seed=\"0,1\"'", "hydra.mode=MULTIRUN hydra.sweeper.params.seed=0,1"):
        assert command(f"{words} --dry-run").out == typed == "2 runs\nseed=0\nseed=1\n"
    assert command("experiment=quickstart ~hydra.sweeper.params.seed --dry-run").out.startswith("5 runs\n")


def test_what_a_user_of_hydra_types(command, here: Path) -> None:
    (here / "mine").mkdir()
    for words, same in [
        ("+experiment=quickstart", "experiment=quickstart"),
        ("+epochs=3", "epochs=3"),
        ("--cfg job --resolve", "--cfg job"),
        ("-cd mine --cfg job", "--cfg job"),
        ("data.root=~/x --cfg job", "data.root='~/x' --cfg job"),
        ("-m 'optimizer=glob(adam*)'", "-m optimizer=adam,adamw"),
    ]:
        dry = "" if "job" in words else " --dry-run"
        typed, expected = command(f"{words}{dry}"), command(f"{same}{dry}")
        assert (typed.code, expected.code) == (0, 0), typed.err
        assert typed.out.replace("+", "") == expected.out
    assert yaml.safe_load(command("--cfg job -p scheduler").out) == {"_target_": None}
    assert "root: ~/x" in command("data.root=~/x --cfg job").out


def test_lr_is_the_same_in_both_places(command) -> None:
    from cnnbench.config.composition import config_source

    with config_source(None) as composer:
        for words, lr in [("", 0.001), ("lr=0.3", 0.3), ("optimizer.lr=0.3", 0.3), ("lr=0.3 optimizer.lr=0.3", 0.3)]:
            (job,) = composer.jobs(shlex.split(words), multirun=False)
            assert job.config.lr == job.config.optimizer["lr"] == lr


def configs(command, words: str) -> dict[str, dict]:
    """What `--cfg job` prints: each config by the comment before it."""
    result = command(f"{words} --cfg job")
    assert (result.code, result.err) == (0, "")
    documents = result.out.split("---\n")
    return {document.splitlines()[0]: yaml.safe_load(document) for document in documents}


def test_cfg_prints_the_config_that_a_run_keeps(command, here: Path) -> None:
    words = "data=digits size=small small.limit=200 small.epochs=1 lr=0.02 logger=none model=ensemble"
    (printed,) = configs(command, words).values()
    assert (printed["data"]["limit"], printed["epochs"], printed["optimizer"]["lr"]) == (200, 1, 0.02)
    assert [member["_target_"] for member in printed["model"]["members"]] == ["cnnbench.models.PlainCNN"] * 2
    assert list(here.iterdir()) == []
    assert configs(command, f"preview {words}") == {"data:": printed}
    assert command(words).code == 0
    (kept,) = here.rglob("config.yaml")
    assert yaml.safe_load(kept.read_text()) == printed
    assert command(f"{words} --cfg job").out == kept.read_text()
    Path("image.png").write_bytes(b"")
    for run in (f"show {kept.parent}", f"predict {kept.parent} image.png"):
        assert command(f"{run} --cfg job").out == kept.read_text()


def test_cfg_of_a_command_prints_its_settings(command) -> None:
    assert configs(command, "list some") == {"folder: some": {"folder": "some"}}
    (settings,) = configs(command, "compare a b by=optimizer target=0.5").values()
    assert settings == {
        "folders": ["a", "b"], "by": "optimizer", "baseline": None, "metric": "acc", "targets": [0.5], "margin": None,
        "apart": False, "out": "a/compared/b_by=optimizer_target=0.5",
    }  # fmt: skip


def test_cfg_of_a_sweep_and_of_a_tuning(command) -> None:
    sweep = configs(command, "-m optimizer=sgd,adam seed=0,1")
    assert list(sweep) == [f"# optimizer={name} seed={seed}" for name in ("sgd", "adam") for seed in (0, 1)]
    assert [config["optimizer"]["_target_"][12:] for config in sweep.values()] == ["SGD", "SGD", "Adam", "Adam"]
    assert [config["lr"] for config in sweep.values()] == [0.01, 0.01, 0.001, 0.001]
    experiment = configs(command, "experiment=quickstart seed=7")
    assert [config["seed"] for config in experiment.values()] == [7] * 5
    assert not any("hydra" in config for config in experiment.values())
    tuning = configs(command, "tune optimizer=sgd,adam trials=4 seed=3")
    assert list(tuning) == [
        "# optimizer=sgd (4 trials of lr 0.003 to 3 (log))",
        "# optimizer=adam (4 trials of lr 3e-05 to 0.03 (log))",
    ]
    assert [(config["name"], config["seed"]) for config in tuning.values()] == [("tuned", 3)] * 2


def test_python_m_and_version() -> None:
    command = [sys.executable, "-m", "cnnbench", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.startswith("cnnbench 0.")


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda root: __import__("shutil").rmtree(root / "train"), ["no train/"]),
        (lambda root: [path.unlink() for path in (root / "train" / "red").iterdir()], ["train/red holds no images"]),
        (lambda root: (root / "train" / "red" / "0003.png").write_bytes(b"no image"), ["red/0003.png", "readable"]),
        (lambda root: (root / "test" / "red").rename(root / "test" / "rde"), ["test/rde", "Did you mean 'red'?"]),
        (lambda root: write_images(root, {"red": 1}, size=9), ["data.image_size", "9x9", "8x8"]),
    ],
    ids=["no-train", "empty-class", "unreadable", "class-name", "sizes"],
)
def test_bad_folders(command, here: Path, colours: Path, break_it, says: list[str]) -> None:
    break_it(colours)
    result = command(f"data=folder data.root={colours} epochs=1")
    assert result.code == 2
    message = [line for line in result.err.splitlines() if line.startswith("cnnbench:")]
    assert len(message) == 1
    for part in says:
        assert part in message[0]
    assert list(here.iterdir()) == []
