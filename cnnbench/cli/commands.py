"""The commands by name, each a function from the words after its name to an exit code."""

from cnnbench.cli.compare_command import compare
from cnnbench.cli.import_command import import_results
from cnnbench.cli.run_commands import bundle, cache, export, list_runs, predict, show
from cnnbench.cli.training_commands import preview, tune

COMMANDS = {
    "bundle": bundle,
    "cache": cache,
    "compare": compare,
    "export": export,
    "import": import_results,
    "list": list_runs,
    "predict": predict,
    "preview": preview,
    "show": show,
    "tune": tune,
}
