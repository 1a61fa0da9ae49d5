"""The text of `cnnbench --help`."""

from typing import TYPE_CHECKING

from cnnbench.config.keys import GROUPS, KEYS

if TYPE_CHECKING:
    pass


EXAMPLES = """\
  cnnbench experiment=quickstart                            five optimizers x 5 seeds, a minute, no download
  cnnbench optimizer=adam lr=1e-3                           one run: the documents' CNN on CIFAR-10
  cnnbench -m optimizer=sgd,momentum,adam seed=0,1,2        a sweep, and its comparison
  cnnbench data=folder data.root=DIR epochs=10              your own images: DIR/train/<class>/*, DIR/test/<class>/*
  cnnbench tune optimizer=sgd,momentum,adam trials=12 seeds=3    a learning rate for each, then a fair comparison
  cnnbench compare runs/default by=optimizer                each optimizer with the setting that was best on validation
"""


def help_text(options: dict[str, list[str]]) -> str:
    """The text, with the options that there are for each group."""
    width = max(map(len, GROUPS))
    groups = "\n".join(f"  {group:<{width}}  {', '.join(options[group])}" for group in GROUPS)
    return f"""\
cnnbench [-m] [GROUP=OPTION | KEY=VALUE ...]     train, and compare where it is a sweep (-m: a,b,c are three runs)
cnnbench compare FOLDER... [by=GROUP] [--json]   verdicts, report and figures of finished runs
cnnbench tune [KEY=A,B,C ...] [trials=12 ...]    each contestant's best setting, found at equal cost
cnnbench list [FOLDER] [--json]                  what is done, running or failed, with the best so far
cnnbench show RUN [--json]                       a run's settings, epochs and test result
cnnbench predict RUN IMAGE...                    what a trained model sees
cnnbench preview [GROUP=OPTION | KEY=VALUE ...]  preview.png: 64 images as training sees them

Groups (GROUP=OPTION; a key of a group is GROUP.KEY=VALUE)
{groups}

Keys
  {", ".join(KEYS)}

Options
  -m, --multirun     several values of a key are a sweep
  --dry-run          list the runs and stop
  --cfg job          print the config of each run, or of any command, and stop
  --config-dir DIR   your own options: DIR/optimizer/mine.yaml is optimizer=mine
  --completion SHELL what bash, zsh or fish needs to complete all this: eval "$(cnnbench --completion bash)"
  --version, --help

Examples
{EXAMPLES}"""
