"""The commands by name, each a function from the words after its name to an exit code."""

from cnnbench.cli.compare_command import compare
from cnnbench.cli.run_commands import cache, export, list_runs, predict, show
from cnnbench.cli.training_commands import preview, tune

COMMANDS = {
    "cache": cache,
    "compare": compare,
    "export": export,
    "list": list_runs,
    "predict": predict,
    "preview": preview,
    "show": show,
    "tune": tune,
}
