"""Optimizers: their construction, and Muon."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import nn
from torch.optim import Optimizer

from cnnbench.config.targets import Spec, build, locate
from cnnbench.errors import ConfigError
from cnnbench.training import parameter_groups
from cnnbench.training.averaging import averages, switch

_FUSED: dict[str, tuple[type[Optimizer], ...]] = {
    "cpu": (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad),
    "cuda": (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW),
}
"""torch's optimizers that can step all parameters in one pass, by type of the device."""


def make_optimizer(spec: Spec, model: nn.Module, fused: bool = False) -> Optimizer:
    """Builds the optimizer of a model, ready to train.

    A class whose first argument is called `model` gets the network, as it may treat layers differently. Any other class
    gets the list of the network's parameters.

    Args:
        spec: the `optimizer` group, checked by `targets.check`.
        model: the network on the device that trains, or on torch's `meta` device to check a config.
        fused: step all parameters in one pass where torch can. Its rounding differs.

    Raises:
        ConfigError: the class refuses a value or the network, or a parameter group matches nothing.
    """
    if spec.get("_target_") is None:
        raise ConfigError("optimizer._target_=null: must be the full name of a class, such as torch.optim.Adam.")
    groups = parameter_groups.read(spec.get("groups") or {})
    spec = own_keys(spec)
    kind = locate(spec["_target_"])
    if fused and kind in _FUSED.get(next(model.parameters()).device.type, ()):
        spec = {"fused": not spec.get("foreach") and not spec.get("differentiable")} | spec
    first = next(iter(inspect.signature(kind).parameters), "")
    optimizer = build("optimizer", spec, model if first == "model" else _trained(model))
    assert isinstance(optimizer, Optimizer)
    if groups:
        parameter_groups.divide(optimizer, groups, model)
    if averages(optimizer):
        switch(optimizer, "train")
    return optimizer


def own_keys(spec: Spec) -> Spec:
    """The part of the `optimizer` group that goes to the optimizer's class."""
    return {key: value for key, value in spec.items() if key != "groups"}


@dataclass(frozen=True)
class Trial:
    """How an optimizer stepped a small network."""

    error: str | None
    """What it raised, but for what `closure` and `graph` say; None if it stepped."""
    closure: bool
    """Whether it asks for a function that evaluates loss and gradient again, as LBFGS, SAM and Sophia do."""
    graph: bool
    """Whether it differentiates the gradient, as AdaHessian and Sophia do."""
    channels_last: bool
    """Whether it can step weights that lie in memory with their channels last, without a closure."""
    random: bool
    """Whether it draws random numbers."""


def tried(spec: Spec) -> Trial:
    """Tries a step on a small network, as most classes tell only then what they need.

    Args:
        spec: the `optimizer` group, checked by `targets.check`.
    """
    state = torch.get_rng_state()
    last = _error(spec, torch.channels_last)
    error = None if last is None else _error(spec, torch.contiguous_format)
    random = not torch.equal(torch.get_rng_state(), state)
    torch.set_rng_state(state)
    graph = error is not None and "does not require grad" in error
    closure = graph or (error is not None and "closure" in error)
    channels_last = last is None or (error is not None and not closure)  # a small network may not be what it needs
    return Trial(None if closure else error, closure, graph, channels_last, random)


def _error(spec: Spec, memory_format: torch.memory_format) -> str | None:
    """What three steps of a small network raise."""
    with torch.device("meta"):  # draws no random numbers
        model = nn.Sequential(nn.Conv2d(2, 2, 2), nn.Conv2d(2, 2, 2), nn.Linear(2, 2))
    model = model.to_empty(device="cpu").to(memory_format=memory_format)
    try:
        for parameter in model.parameters():
            nn.init.ones_(parameter)
        optimizer = make_optimizer(own_keys(spec), model)
        for _ in range(3):
            for parameter in model.parameters():
                parameter.grad = torch.ones_like(parameter)
            optimizer.step()
    except (Exception, SystemExit) as error:  # of a user's own class: anything
        return str(error) or type(error).__name__
    return None


def take_back(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Loads the value of an earlier `state_dict`, except for `fused`, which depends on this machine."""
    pairs = zip(state["param_groups"], optimizer.param_groups, strict=True)
    groups = [saved | {key: own[key] for key in ("fused",) if key in own} for saved, own in pairs]
    optimizer.load_state_dict(state | {"param_groups": groups})


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def split(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Splits the trained parameters into hidden matrices and all others, both in the model's order.

    A hidden matrix is the weight of a dense or convolution layer, except for the first and the last of these layers. A
    convolution's matrix has a row for each filter. The others are biases, parameters of normalizations, weights of
    grouped convolutions (several small matrices in one tensor) and anything else that a network holds.

    The network must register its layers in the order from images to logits.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)]
    matrices = {id(layer.weight) for layer in layers[1:-1] if isinstance(layer, nn.Linear) or layer.groups == 1}
    parameters = _trained(model)
    return [p for p in parameters if id(p) in matrices], [p for p in parameters if id(p) not in matrices]


class Muon(Optimizer):
    """Muon, orthogonalized momentum, for hidden matrices; AdamW or SGD for all others. `split` separates them.

        B <- momentum B + (1 - momentum) G ; W <- W - lr weight_decay W - lr factor NS(B')

    with B' = momentum B + (1 - momentum) G (Nesterov). NS are five Newton-Schulz iterations, which bring the singular
    values of B' near 1 (Jordan et al. 2024, kellerjordan.github.io/posts/muon). By default the factor is
    0.2 sqrt(max(rows, columns)), which gives a step the size of AdamW's (Liu et al. 2025, arXiv:2502.16982), so one
    `lr`, and one schedule of it, fits both parts. The arithmetic is that of torch.optim.Muon and of the other part's
    class in torch.

    The state of both parts is this optimizer's `state`, so torch's `state_dict`, `load_state_dict` and `zero_grad` work
    unchanged.

    Args:
        model: the network.
        lr: learning rate of both parts.
        momentum: of Muon.
        nesterov: whether B' is as above; else it is B.
        weight_decay: of both parts.
        ns_steps: number of Newton-Schulz iterations.
        betas: of AdamW.
        eps: of AdamW.
        adjust_lr_fn: `match_rms_adamw`, the factor above, or `original`: sqrt(max(1, rows / columns)).
        normalize: whether each hidden matrix is scaled to the norm sqrt(rows) before its step, as in Jordan's training
            of CIFAR-10 (github.com/KellerJordan/cifar10-airbench). Where batch norm follows, no output changes, and
            steps keep their size in relation to the weights.
        rest: `adamw`, or `sgd` with Nesterov momentum.
        rest_momentum: of SGD.

    Raises:
        ConfigError: the network has no hidden matrix, so all parameters would be those of the other part.
        ValueError: a value is not legal.
    """

    _matrices: dict[nn.Parameter, nn.Parameter]
    """Copies of the hidden matrices, with two dimensions."""
    _muon: Optimizer
    """Of the copies."""
    _rest: Optimizer
    _normalize: bool

    def __init__(
        self,
        model: nn.Module,
        lr: float = 0.001,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.01,
        ns_steps: int = 5,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        adjust_lr_fn: str = "match_rms_adamw",
        normalize: bool = False,
        rest: str = "adamw",
        rest_momentum: float = 0.9,
    ) -> None:
        hidden, others = split(model)
        if not hidden:
            raise ConfigError(
                "optimizer: Muon updates the weights between the first and the last layer; this model has none."
            )
        if rest not in ("adamw", "sgd"):
            raise ValueError(f"rest={rest}: must be adamw or sgd")
        # torch's Muon takes matrices only, and a convolution's weights in `channels_last` have no view as a matrix. So
        # they are copied to one and back, which takes little time beside the iterations.
        self._matrices = {weight: nn.Parameter(weight.detach().flatten(1).clone()) for weight in hidden}
        self._normalize = normalize
        self._muon = torch.optim.Muon(
            list(self._matrices.values()),
            lr,
            weight_decay=weight_decay,
            momentum=momentum,
            nesterov=nesterov,
            ns_steps=ns_steps,
            adjust_lr_fn=adjust_lr_fn,
        )
        self._rest = (
            torch.optim.AdamW(others, lr, betas, eps, weight_decay)
            if rest == "adamw"
            else torch.optim.SGD(others, lr, rest_momentum, weight_decay=weight_decay, nesterov=rest_momentum > 0)
        )
        groups = [self._muon.param_groups[0] | {"params": hidden}, self._rest.param_groups[0] | {"params": others}]
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Updates all parameters that have a gradient; a `closure` computes loss and gradients before."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        trained = {weight: matrix for weight, matrix in self._matrices.items() if weight.grad is not None}
        for weight, matrix in trained.items():
            assert weight.grad is not None
            matrix.copy_(weight.flatten(1))
            matrix.grad = weight.grad.flatten(1)
            if self._normalize:
                matrix.mul_(len(matrix) ** 0.5 / matrix.norm())
        # Groups may have been divided since, and their learning rates change.
        is_hidden = [group["params"][0] in self._matrices for group in self.param_groups]
        for part, own in ((self._muon, True), (self._rest, False)):
            groups = [group for group, hidden in zip(self.param_groups, is_hidden, strict=True) if hidden == own]
            part.param_groups[:] = [
                group | {"params": [p for p in self._own(group["params"]) if p.grad is not None]} for group in groups
            ]
            for group in groups:
                for parameter, part_parameter in zip(group["params"], self._own(group["params"]), strict=True):
                    part.state[part_parameter] = self.state[parameter]  # the same dict, not a copy
            part.step()
        for weight, matrix in trained.items():
            weight.copy_(matrix.view_as(weight))
            matrix.grad = None
        return loss

    def _own(self, parameters: list[nn.Parameter]) -> list[nn.Parameter]:
        """What the parts step: the matrices of hidden weights, and the other parameters themselves."""
        return [self._matrices.get(parameter, parameter) for parameter in parameters]
