"""The optimizers of the library pytorch-optimizer, by name."""

import inspect
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from torch import nn
from torch.optim import Optimizer

from cnnbench.config.targets import check_arguments
from cnnbench.errors import ConfigError, nearest
from cnnbench.training.optimizers import split

_WRAPS = "changes another optimizer, and is none by itself"
_OBJECTS = "keeps objects in its state that a checkpoint can't hold"
_NO_LR = "has no learning rate for a schedule to change"
_IN_BACKWARD = "steps while the gradient is computed, and keeps none"
_BUILT_IN = "is built in, as optimizer="

REFUSED = {
    "a2grad": _NO_LR,
    "adalomo": _IN_BACKWARD,
    "adam": _BUILT_IN + "adam",
    "adamw": _BUILT_IN + "adamw",
    "adashift": _OBJECTS,
    "alig": _NO_LR,
    "bsam": "did not descend in the tests",
    "conda": _OBJECTS,
    "demo": "steps only where several processes train together",
    "distributedmuon": "steps only where several processes train together",
    "gsam": "needs a schedule of rho, which a config can't hold",
    "lion": _BUILT_IN + "lion",
    "lomo": _IN_BACKWARD,
    "lookahead": "is built in, as average=lookahead",
    "magma": _WRAPS,
    "muon": _BUILT_IN + "muon",
    "nadam": _BUILT_IN + "nadam",
    "orthograd": _WRAPS,
    "pcgrad": _WRAPS,
    "rmsprop": _BUILT_IN + "rmsprop",
    "safefp16optimizer": _WRAPS,
    "sara": "trains only weights that are small at the start",
    "scalableshampoo": _OBJECTS,
    "schedulefreewrapper": _WRAPS,
    "scion": _OBJECTS,
    "scionlight": _OBJECTS,
    "sgd": _BUILT_IN + "sgd",
    "spectralsphere": "steps matrices only, no biases",
    "trac": _WRAPS,
    "wsam": "does not resume exactly",
}
"""Names of the library that can't be trained by `library_optimizer`, with the reason."""

_EXACT: dict[str, dict[str, Any]] = {"kron": {"balance_prob": 0.0}}
"""Arguments without which a run can't be repeated. Kron draws from NumPy's random numbers, which follow no seed here,
whether a step balances its factors; that changes rounding only."""


def library_optimizer(model: nn.Module, name: str, **arguments: Any) -> Optimizer:
    """Builds the optimizer that pytorch-optimizer has under this name, such as `soap`.

    A class that orthogonalizes matrices, such as AdaMuon, does so for those that `optimizers.split` finds, and steps
    all other parameters by AdamW. A class that takes several gradients for the step of another one, such as SAM, has
    the other one's name as `base_optimizer` (by default `sgd`), and takes its arguments too.

    Args:
        model: the network.
        name: a class of pytorch-optimizer, in lower case.
        **arguments: of this class.

    Raises:
        ConfigError: the library is not installed or has no such optimizer, or the class takes no such argument.
    """
    kind = _class("name", name, supported())
    own = inspect.signature(kind).parameters
    takes: Mapping[str, inspect.Parameter] = own
    if "base_optimizer" in own:
        built_in = [each for each, reason in REFUSED.items() if reason.startswith(_BUILT_IN)]
        base = _class("base_optimizer", arguments.get("base_optimizer", "sgd"), sorted([*supported(), *built_in]))
        arguments["base_optimizer"] = base
        takes = {**inspect.signature(base).parameters, **own}
    passed = {"model": model, "params": _parameters(model, kind)}
    check_arguments("optimizer", name, takes, arguments, tuple(passed))
    exact = _EXACT.get(name, {})
    for key in exact.keys() & arguments.keys():
        raise ConfigError(f"optimizer.{key}={arguments[key]}: only {exact[key]:g} gives the same run each time.")
    optimizer = kind(**{key: value for key, value in passed.items() if key in own}, **arguments, **exact)
    assert isinstance(optimizer, Optimizer)
    return optimizer


def supported() -> list[str]:
    """The names that `library_optimizer` takes, in alphabetical order.

    Raises:
        ConfigError: the library is not installed.
    """
    return sorted(_classes().keys() - REFUSED.keys())


def _classes() -> dict[str, Any]:
    """All optimizers of the library by name. It also has torch's."""
    if find_spec("pytorch_optimizer") is None:
        raise ConfigError(
            "optimizer: this one is of pytorch-optimizer, which is missing: pip install 'cnnbench[more]'."
        )
    found = vars(import_module("pytorch_optimizer")).values()  # takes seconds
    return {
        each.__name__.lower(): each
        for each in found
        if inspect.isclass(each) and issubclass(each, Optimizer) and each is not Optimizer
    }


def _class(key: str, name: Any, allowed: list[str]) -> Any:
    if name in allowed:
        return _classes()[name]
    reason = REFUSED.get(name)
    if reason is not None:
        raise ConfigError(f"optimizer.{key}={name}: not trained here, as it {reason}.")
    raise ConfigError(f"optimizer.{key}={name}: not known.{nearest(str(name).lower(), allowed)}")


def _parameters(model: nn.Module, kind: type[Optimizer]) -> list[Any]:
    """What a class takes as `params`: parameters, or groups that say which are matrices to orthogonalize."""
    if ".muon." not in kind.__module__:
        return [parameter for parameter in model.parameters() if parameter.requires_grad]
    hidden, others = split(model)
    groups = {"use_muon": True, "params": hidden}, {"use_muon": False, "params": others}
    return [group for group in groups if group["params"]]
