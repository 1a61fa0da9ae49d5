"""Completion of the command line in bash, zsh and fish.

Hydra's own completion is not used: it knows neither commands nor `a,b`, and offers keys that are refused here.
"""

from collections.abc import Iterable
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from cnnbench.analysis.tuning import SAMPLERS
from cnnbench.config.composition import config_source
from cnnbench.config.formats import FORMATS
from cnnbench.config.keys import GROUPS, values_of
from cnnbench.config.signatures import arguments
from cnnbench.errors import ConfigError

SCRIPTS = {
    "bash": """\
_cnnbench() {
    local line=${COMP_LINE:0:COMP_POINT}
    mapfile -t COMPREPLY < <("$1" --complete "$line" 2>/dev/null)
    # bash takes a word to end at =
    [[ ${line##* } == *=* && $COMP_WORDBREAKS == *=* ]] && COMPREPLY=("${COMPREPLY[@]#*=}")
    local i
    for i in "${!COMPREPLY[@]}"; do
        [[ ${COMPREPLY[i]} == *" "* ]] && COMPREPLY[i]=${COMPREPLY[i]@Q}
    done
    [[ ${COMPREPLY[0]} == *[=.] || ${COMPREPLY[0]} == *"["* ]] && compopt -o nospace
}
complete -o default -F _cnnbench cnnbench
""",
    "zsh": """\
_cnnbench() {
    local -a found=(${(f)"$($words[1] --complete "${words[1,CURRENT-1]} $PREFIX" 2>/dev/null)"})
    if (( $#found )); then
        compadd -S '' -- ${(M)found:#*[=.]}
        compadd -- ${found:#*[=.]}
    else
        compset -P '*='
        _files
    fi
}
compdef _cnnbench cnnbench
""",
    "fish": """\
function __cnnbench
    set -l found (cnnbench --complete (commandline -cp | string collect) 2>/dev/null)
    and test (count $found) -gt 0
    and printf '%s\\n' $found
    or complete -C "'' "(commandline -ct)
end
complete -c cnnbench -f -a '(__cnnbench)'
""",
}
"""The script that each shell evaluates. It completes names of files where there are no candidates."""

OPTIONS = {
    "": ("-m", "--multirun", "--dry-run", "--cfg", "--config-dir", "--completion", "--version", "--help"),
    "bundle": ("--cfg", "--help"),
    "cache": ("--clear", "--cfg", "--help"),
    "compare": ("--json", "--dry-run", "--cfg", "--help"),
    "export": ("--format", "--cfg", "--help"),
    "import": ("--cfg", "--help"),
    "list": ("--json", "--cfg", "--help"),
    "predict": ("--json", "--cfg", "--help"),
    "preview": ("--cfg", "--config-dir", "--help"),
    "show": ("--json", "--cfg", "--help"),
    "tune": ("--dry-run", "--cfg", "--config-dir", "--help"),
}
"""The options of each command. The command without a name trains."""

_SETTINGS = {
    "bundle": ("out=",),
    "compare": (
        *("by=", "baseline=", "metric=", "target=", "margin=", "apart=", "out="),
        *("contestant=", "seed=", "epoch=", "problem=", "higher="),
    ),
    "import": ("tensorboard", "lightning", "mlflow", "wandb", "metric=", "out="),
    "tune": ("trials=", "seeds=", "tunings=", "sampler=", "space="),
}
_VALUES = {"--cfg": ("job",), "--completion": tuple(SCRIPTS), "--format": tuple(FORMATS), "--config-dir": ()}


_PASSED = ("params", "model", "image_shape", "classes", "optimizer")
"""Arguments of classes that cnnbench passes itself."""


def candidates(line: str) -> list[str]:
    """The candidates for the last word of `line`.

    Args:
        line: the command line up to the cursor.
    """
    *typed, word = line.split()[1:] + [""] * (line[-1:].isspace() or len(line.split()) < 2)
    command = typed[0] if typed and typed[0] in OPTIONS else ""
    if typed and typed[-1] in _VALUES:
        offered: Iterable[str] = _VALUES[typed[-1]]
    elif word.startswith("-"):
        offered = OPTIONS[command]
    elif command in ("", "preview", "tune"):
        offered = _overrides(command, typed, word)
    elif word.startswith("by="):
        offered = (f"by={group}" for group in GROUPS)
    elif word.startswith("baseline="):
        offered = (f"baseline={label}" for label in _contestants([Path(each) for each in typed[1:]]))
    else:  # files, unless a setting has been begun
        offered = _SETTINGS.get(command, ()) if word else ()
    return sorted(each for each in set(offered) if each.startswith(word))


def _contestants(folders: list[Path]) -> list[str]:
    """The labels of the contestants in these folders."""
    from cnnbench.analysis.grouping import compare
    from cnnbench.analysis.loading import load

    existing = [folder.expanduser() for folder in folders if folder.expanduser().is_dir()]
    comparisons = compare(load(existing)) if existing else []
    return [contestant.label for comparison in comparisons for contestant in comparison.contestants]


def _overrides(command: str, typed: list[str], word: str) -> list[str]:
    key, equals, _ = word.partition("=")
    settings = _SETTINGS.get(command, ())
    folder = typed[typed.index("--config-dir") + 1] if "--config-dir" in typed else None
    with config_source(None if folder is None else Path(folder).expanduser()) as composer:
        options = {**composer.options, "sampler": list(SAMPLERS)}
        if equals and (key in GROUPS or f"{key}=" in settings):
            head = word[: max(map(word.rfind, "=,[")) + 1]
            return [head + option for option in options.get(key, ())]
        words = [each for each in typed if "=" in each and f"{each.partition('=')[0]}=" not in settings]
        try:
            config = composer.config(words)
        except ConfigError:  # of a word that was typed before this one
            config = composer.config([])
    parent, dot, name = key.rpartition(".")
    node = OmegaConf.select(config, parent) if dot else config
    if not isinstance(node, DictConfig):
        return []
    target = node.get("_target_") if dot and parent != "data" else None
    of_class = arguments(str(target)) if target else {}
    if equals:
        flags = ["true", "false"] if isinstance(node.get(name), bool) else []
        return [f"{key}={value}" for value in flags or values_of(key) or of_class.get(name, [])]
    keys = [f"{parent}{dot}{name!s}{'.' if OmegaConf.is_dict(node[name]) else '='}" for name in node]
    keys += [f"{parent}.{each}=" for each in of_class if each not in {*node, *_PASSED}]
    top = [*(f"{group}=" for group in GROUPS), *settings, *(OPTIONS if not typed else ())]
    return keys if dot else [*keys, *filter(None, top)]
