"""The text of `cnnbench --help`."""

from cnnbench.config.keys import GROUPS, KEYS

EXAMPLES = """\
  cnnbench experiment=quickstart                            five optimizers x 5 seeds, a minute, no download
  cnnbench optimizer=adam lr=1e-3                           one run: a small CNN (document_cnn) on CIFAR-10
  cnnbench -m optimizer=sgd,momentum,adam seed=0,1,2        a sweep, and its comparison
  cnnbench data=folder data.root=DIR epochs=10              your own images: DIR/<class>/*, or DIR/train/<class>/*
  cnnbench tune optimizer=sgd,momentum,adam trials=12 seeds=3    a learning rate for each, then a fair comparison
  cnnbench compare runs/default by=optimizer                each optimizer with the setting that did best on validation
"""


def help_text(options: dict[str, list[str]]) -> str:
    """The text of `--help`, given the options of each group."""
    width = max(map(len, GROUPS))
    groups = "\n".join(f"  {group:<{width}}  {', '.join(options[group])}" for group in GROUPS)
    return f"""\
cnnbench [-m] [GROUP=OPTION | KEY=VALUE ...]     train; a sweep (-m: a,b,c are three runs) ends in a comparison
cnnbench compare FOLDER... [by=GROUP] [out=DIR]  verdicts, report and figures of finished runs
cnnbench compare FILE.csv [contestant=COLUMN]    the same of results from any other program
cnnbench import tensorboard|lightning|mlflow|wandb PLACE    such results as a file that compare reads
cnnbench bundle FOLDER [out=FILE.tar.xz]         all records in one file, which compare reads
cnnbench tune [KEY=A,B,C ...] [trials=12 ...]    each contestant's best setting, found at equal cost
cnnbench list [FOLDER] [--json]                  the runs that are done, running or failed, and the best so far
cnnbench show RUN [--json]                       a run's settings, epochs and test result
cnnbench predict RUN PATH... [--json]            the classes that a trained model predicts, of files and folders
cnnbench export RUN --format onnx                its model as a file: onnx, torchscript, safetensors, torch_export
cnnbench export FOLDER --format csv              results for other programs: csv, parquet, mlflow
cnnbench preview [GROUP=OPTION | KEY=VALUE ...]  preview.png: 64 images as training sees them
cnnbench cache [--clear]                         where decoded images are kept, and how much disk they take

Groups (GROUP=OPTION; a key of a group is GROUP.KEY=VALUE)
{groups}

Keys
  {", ".join(KEYS)}

Options
  -m, --multirun     several values of a key are a sweep
  --dry-run          make every check, list the runs and stop
  --cfg job          print the config of each run, or of any command, and stop
  --config-dir DIR   your own options: DIR/optimizer/mine.yaml is optimizer=mine
  --completion SHELL a script that completes all this in bash, zsh or fish: eval "$(cnnbench --completion bash)"
  --version, --help

Examples
{EXAMPLES}
document_cnn and experiment=doc* are from five tutorials on CNNs, documents 0 to 4: docs/documents.md
"""
