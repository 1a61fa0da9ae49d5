"""The engines that carry runs to other machines, and their settings: `hydra/launcher=` and `hydra.launcher.*`.

Neither submitit nor Ray is imported here.
"""

from dataclasses import dataclass, field, fields, is_dataclass
from importlib.util import find_spec
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cnnbench.config.messages import one_line
from cnnbench.errors import ConfigError, nearest


@dataclass
class SubmititLocal:
    """Settings of `hydra/launcher=submitit_local`: each run is a process on this machine.

    None leaves a setting to submitit.
    """

    submitit_folder: str = "${runs_dir}/${name}/.launcher/%j"
    """The folder of the jobs' logs; `%j` is the job's number."""
    name: str = "cnnbench"
    """Name of the jobs in the queue."""
    timeout_min: int = 60
    """Minutes that a run may take."""
    max_num_timeout: int = 0
    """How often a run that has reached `timeout_min` is submitted again, to resume."""
    nodes: int = 1
    """Machines of a job."""
    tasks_per_node: int = 1
    """Processes of a job on each machine."""
    cpus_per_task: int | None = None
    """CPU cores of a run, and its number of threads."""
    gpus_per_node: int | None = None
    """GPUs of a run; None is none on this machine."""
    mem_gb: float | None = None
    """Memory of a run in GB."""
    stderr_to_stdout: bool = False
    """One log for each job, not two."""


@dataclass
class SubmititSlurm(SubmititLocal):
    """Settings of `hydra/launcher=submitit_slurm`: each run is a Slurm job. Most are sbatch's options of that name."""

    partition: str | None = None
    qos: str | None = None
    account: str | None = None
    comment: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    gres: str | None = None
    cpus_per_gpu: int | None = None
    gpus_per_task: int | None = None
    mem_per_gpu: str | None = None
    mem_per_cpu: str | None = None
    array_parallelism: int = 256
    """Jobs that run at the same time."""
    signal_delay_s: int = 120
    """How many seconds before `timeout_min` a run gets the signal to save its state."""
    setup: list[str] | None = None
    """Shell commands before the run, such as `module load cuda`."""
    additional_parameters: dict[str, Any] = field(default_factory=dict)
    """More of sbatch's options: `{nodelist: gpu1}`."""


@dataclass
class RayArguments:
    """Arguments for Ray's own functions."""

    init: dict[str, Any] = field(
        default_factory=lambda: {
            "address": None,
            "include_dashboard": False,
            "log_to_driver": False,
            "logging_level": "ERROR",
        }
    )
    """Arguments of `ray.init`. With an address it joins that cluster, without one it starts Ray on this machine."""
    remote: dict[str, Any] = field(default_factory=lambda: {"num_cpus": 1, "max_retries": 0})
    """Arguments of `ray.remote`: a run's share of the machine, and how often Ray retries one that was killed."""


@dataclass
class Ray:
    """Settings of `hydra/launcher=ray`: each run is a task of Ray's."""

    ray: RayArguments = field(default_factory=RayArguments)


@dataclass(frozen=True)
class Engine:
    """An engine that carries runs to other machines, with its settings."""

    name: str
    """Its name in `hydra/launcher=`."""
    settings: SubmititLocal | SubmititSlurm | Ray


_ENGINES: dict[str, type[SubmititLocal] | type[Ray]] = {
    "submitit_local": SubmititLocal,
    "submitit_slurm": SubmititSlurm,
    "ray": Ray,
}
_EXTRAS = {"submitit": "slurm", "ray": "ray"}
"""The extra that installs each package. An engine's name begins with that of its package."""


def register() -> None:
    """Makes the engines options of Hydra's group `hydra/launcher`.

    Call it after Hydra has loaded the installed plugins: some of them have options of these names.
    """
    for name, settings in _ENGINES.items():
        ConfigStore.instance().store(group="hydra/launcher", name=name, node=settings)


def check_name(word: str, name: Any) -> None:
    """Checks an option of `hydra/launcher`.

    Args:
        word: the override, for the message.
        name: the option.

    Raises:
        ConfigError: there is no such engine.
    """
    if name == "joblib":
        raise ConfigError(f"{word}: workers=N runs N at a time on this machine.")
    if name not in ("basic", *_ENGINES):
        raise ConfigError(f"{word}: there is no such launcher.{nearest(str(name), ['basic', *_ENGINES])}")


def engine_of(name: str, given: DictConfig) -> Engine | None:
    """The engine of a composed config; None if the runs stay on this machine, in cnnbench's own processes.

    Args:
        name: the option of `hydra/launcher`.
        given: the values of `hydra.launcher`.

    Raises:
        ConfigError: the engine isn't installed, or has no setting of that name.
    """
    if name == "basic":
        for key in map(str, given.keys() - {"_target_"}):
            raise ConfigError(f"hydra.launcher.{key}: of which launcher? hydra/launcher={' or '.join(_ENGINES)}")
        return None
    check_name(f"hydra/launcher={name}", name)
    _check_settings(name, given, _ENGINES[name])
    package = name.partition("_")[0]
    if find_spec(package) is None:
        raise ConfigError(
            f"hydra/launcher={name}: {package} isn't installed: uv sync --extra {_EXTRAS[package]} in a clone, "
            f"pip install {package} elsewhere."
        )
    try:
        settings = OmegaConf.to_object(given)
    except OmegaConfBaseException as error:
        raise ConfigError(one_line(error)) from None
    assert isinstance(settings, SubmititLocal | Ray)
    return Engine(name, settings)


def _check_settings(name: str, given: DictConfig, kind: Any, prefix: str = "hydra.launcher.") -> None:
    allowed = {field.name: field.type for field in fields(kind)}
    for key in map(str, given):
        if key not in allowed:
            raise ConfigError(f"{prefix}{key}: {name} has no such setting.{nearest(key, list(allowed))}")
        if is_dataclass(nested := allowed[key]):
            _check_settings(name, given[key], nested, f"{prefix}{key}.")
