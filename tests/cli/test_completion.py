"""Shell completion: what is offered, and that bash, zsh and fish take it."""

import contextlib
import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import on_terminal
from made_records import made, write

from cnnbench.cli import main
from cnnbench.cli.commands import COMMANDS
from cnnbench.cli.completion import OPTIONS, candidates
from cnnbench.config.signatures import arguments
from cnnbench.models.plain_cnn import ACTIVATIONS, PlainCNN


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("cnnbench comp", ["compare"]),
        ("cnnbench seed=1 comp", []),
        ("cnnbench opt", ["optimizer.", "optimizer="]),
        ("cnnbench optimizer=adam", ["optimizer=adam", "optimizer=adamw"]),
        ("cnnbench -m optimizer=sgd,adamw,mu", ["optimizer=sgd,adamw,muon", "optimizer=sgd,adamw,muon_sgd"]),
        ("cnnbench augment=[flip_crop,cu", ["augment=[flip_crop,cutmix", "augment=[flip_crop,cutout"]),
        ("cnnbench experiment=qu", ["experiment=quickstart"]),
        ("cnnbench optimizer=momentum optimizer.m", ["optimizer.maximize=", "optimizer.momentum="]),
        ("cnnbench optimizer.am", ["optimizer.amsgrad="]),
        ("cnnbench optimizer.amsgrad=", ["optimizer.amsgrad=false", "optimizer.amsgrad=true"]),
        ("cnnbench optimizer.par", []),
        ("cnnbench optimizer=muon optimizer.nest", ["optimizer.nesterov="]),
        ("cnnbench model=document_cnn model.conv", ["model.conv_dropout=", "model.convs="]),
        ("cnnbench model.activation=t", ["model.activation=tanh"]),
        ("cnnbench data.val=", ["data.val=folder", "data.val=split", "data.val=test"]),
        ("cnnbench model.pooling=", ["model.pooling=avg", "model.pooling=max", "model.pooling=none"]),
        ("cnnbench model=resnet18 model.", ["model._target_="]),
        ("cnnbench data.normalize=", ["data.normalize=none", "data.normalize=standard", "data.normalize=unit"]),
        ("cnnbench loss=", ["loss=cross_entropy", "loss=squared_error"]),
        ("cnnbench epochs=", []),
        ("cnnbench scheduler=cosine scheduler.eta", ["scheduler.eta_min="]),
        ("cnnbench compare nowhere baseline=", []),
        ("cnnbench lr=oops optimizer.b", ["optimizer.betas="]),
        ("cnnbench search.fi", ["search.filters="]),
        ("cnnbench logger.tensorboard.r", ["logger.tensorboard.root_dir="]),
        ("cnnbench --d", ["--dry-run"]),
        ("cnnbench optimizer=adam --cf", ["--cfg"]),
        ("cnnbench --cfg ", ["job"]),
        ("cnnbench force=t", ["force=true"]),
        ("cnnbench data.root=", []),
        ("cnnbench tune optimizer=sgd trials=3 sampler=t", ["sampler=tpe"]),
        ("cnnbench tune optimizer=sgd tun", ["tunings="]),
        ("cnnbench tune space=adag", ["space=adagrad"]),
        ("cnnbench tune trials=3 optimizer=sgd,ri", []),
        ("cnnbench preview augment=m", ["augment=mixup"]),
        ("cnnbench compare ", []),
        ("cnnbench compare runs ba", ["baseline="]),
        ("cnnbench compare runs by=opt", ["by=optimizer"]),
        ("cnnbench compare --", ["--cfg", "--dry-run", "--help", "--json"]),
        ("cnnbench show runs/", []),
    ],
)
def test_candidates(line: str, offered: list[str]) -> None:
    assert candidates(line) == offered


def test_contestants_are_offered_as_baselines(here: Path) -> None:
    write(here / "runs", *(made(f"optimizer={name} seed={seed}") for name in ("sgd", "adam") for seed in (1, 2)))
    assert candidates("cnnbench compare runs baseline=") == ["baseline=adam", "baseline=sgd"]
    assert candidates("cnnbench compare --json runs baseline=a") == ["baseline=adam"]


def test_arguments_are_read_from_the_source() -> None:
    for target, given in (("torch.optim.SGD", torch.optim.SGD), ("cnnbench.models.PlainCNN", PlainCNN)):
        assert list(arguments(target)) == list(inspect.signature(given).parameters)
    assert arguments("cnnbench.models.PlainCNN")["activation"] == list(ACTIVATIONS)
    assert list(arguments("torch.optim.lr_scheduler.LambdaLR"))[:2] == ["optimizer", "lr_lambda"]
    assert arguments("torch.optim.Nothing") == arguments("nowhere.Nothing") == arguments("Nothing") == {}


def test_an_empty_word_may_become_anything_that_starts_a_command() -> None:
    offered = candidates("cnnbench ")
    assert {"tune", "compare", "optimizer=", "lr=", "checkpoint.", "experiment="} <= set(offered)
    assert not any(word.startswith(("hydra", "space")) for word in offered)


def test_a_users_own_options(here: Path) -> None:
    (here / "mine" / "optimizer").mkdir(parents=True)
    (here / "mine" / "optimizer" / "mine.yaml").write_text("_target_: torch.optim.SGD\nlr: 0.1\ndampening: 0.5\n")
    assert candidates("cnnbench --config-dir mine optimizer=mi") == ["optimizer=mine"]
    assert candidates("cnnbench --config-dir mine optimizer=mine optimizer.da") == ["optimizer.dampening="]


def test_each_commands_options_are_offered(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(OPTIONS) == {"", *COMMANDS}
    for name, options in OPTIONS.items():
        with contextlib.suppress(SystemExit):  # argparse's own help
            main([*filter(None, [name]), "--help"])
        shown = capsys.readouterr().out
        said = re.findall(r"^  (-\w)?(?:, )?(--[\w-]+)?(?:, (--[\w-]+))?", shown, re.MULTILINE)
        assert {word for words in said for word in words if word} - {"-h"} == set(options), name


def test_asking_imports_no_torch() -> None:
    program = "import sys; from cnnbench.cli import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    words = [sys.executable, "-c", program, "--complete", "cnnbench optimizer=sg"]
    result = subprocess.run(words, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["optimizer=sgd", "False"]


@pytest.mark.parametrize(
    ("shell", "install"),
    [
        (["bash", "--norc", "--noprofile", "-i"], 'eval "$(cnnbench --completion bash)"'),
        (["zsh", "-f", "-i"], 'autoload -U compinit; compinit -D -u; eval "$(cnnbench --completion zsh)"'),
        (["fish", "--no-config", "-i"], "cnnbench --completion fish | source"),
    ],
    ids=["bash", "zsh", "fish"],
)
def test_in_a_shell(here: Path, shell: list[str], install: str) -> None:
    if shutil.which(shell[0]) is None:
        pytest.skip(f"{shell[0]} is not installed")
    # A command that answers questions as ours does, and otherwise shows what it was given.
    stand_in = here / "bin" / "cnnbench"
    stand_in.parent.mkdir()
    stand_in.write_text(
        f"""#!/bin/sh\ncase $1 in --comp*) exec {sys.executable} -m cnnbench "$@";; esac\nprintf "<%s>" "$@"\n"""
    )
    stand_in.chmod(0o755)
    (here / "results").mkdir()
    environment = os.environ | {"PATH": f"{stand_in.parent}:{os.environ['PATH']}", "HOME": str(here), "TERM": "dumb"}
    typed = {
        "cnnbench comp\tresu\t": "<compare><results",
        "cnnbench -m optimizer=sgd,muo\t": "<-m><optimizer=sgd,muon>",
        "cnnbench optimizer=sgd optimizer.l\t0.1": "<optimizer=sgd><optimizer.lr=0.1>",
        "cnnbench data.root=resu\t": "<data.root=results",  # zsh takes the last / away again
        "cnnbench --dr\t": "<--dry-run>",
        **({"cnnbench regularizer=[l2,dro\t]": "<regularizer=[l2,dropout]>"} if shell[0] == "bash" else {}),
    }
    shown = on_terminal(shell, environment, "".join(f"{line}\r" for line in [install, *typed, "exit"]))
    for expected in typed.values():
        assert expected in shown
