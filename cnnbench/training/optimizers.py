"""Optimizers: their construction, Muon, and averaged weights as of Schedule-Free."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from cnnbench.config.targets import Spec, build, locate
from cnnbench.errors import ConfigError

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
        ConfigError: the class refuses a value or the network.
    """
    if spec.get("_target_") is None:
        raise ConfigError("optimizer._target_=null: must be the full name of a class, such as torch.optim.Adam.")
    kind = locate(spec["_target_"])
    if fused and kind in _FUSED.get(next(model.parameters()).device.type, ()):
        spec = {"fused": not spec.get("foreach") and not spec.get("differentiable")} | spec
    first = next(iter(inspect.signature(kind).parameters), "")
    optimizer = build("optimizer", spec, model if first == "model" else _trained(model))
    assert isinstance(optimizer, Optimizer)
    if averages(optimizer):
        _switch(optimizer, "train")
    return optimizer


def needs_closure(spec: Spec) -> bool:
    """Whether an optimizer's step asks for a function that evaluates the loss again, as those of LBFGS and SAM do.

    Some classes ask for it in their signature, others only when they step, so it is tried on a small network.

    Args:
        spec: the `optimizer` group, checked by `targets.check`.
    """
    with torch.device("meta"):
        model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(3)))
    try:
        make_optimizer(spec, model).step()
    except Exception as error:
        return "closure" in str(error)
    return False


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
    """Muon, orthogonalized momentum, for hidden matrices; AdamW for all other parameters. `split` separates them.

        B <- momentum B + (1 - momentum) G ; W <- W - lr weight_decay W - 0.2 lr sqrt(max(rows, columns)) NS(B')

    with B' = momentum B + (1 - momentum) G (Nesterov). NS are five Newton-Schulz iterations, which bring the singular
    values of B' near 1 (Jordan et al. 2024, kellerjordan.github.io/posts/muon). The factor gives a step the size of
    AdamW's (Liu et al. 2025, arXiv:2502.16982), so one `lr`, and one schedule of it, fits both parts. The arithmetic is
    that of torch.optim.Muon and torch.optim.AdamW.

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

    Raises:
        ConfigError: the network has no hidden matrix, so all parameters would be AdamW's.
        ValueError: torch refuses a value.
    """

    _matrices: list[nn.Parameter]
    """Copies of the hidden matrices with two dimensions."""
    _parts: tuple[Optimizer, Optimizer]
    """Muon of the copies, and AdamW."""

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
    ) -> None:
        hidden, rest = split(model)
        if not hidden:
            raise ConfigError(
                "optimizer: Muon updates the weights between the first and the last layer; this model has none."
            )
        # torch's Muon takes matrices only, and a convolution's weights in `channels_last` have no view as a matrix. So
        # they are copied to one and back, which takes little time beside the iterations.
        self._matrices = [nn.Parameter(weight.detach().flatten(1).clone()) for weight in hidden]
        muon = torch.optim.Muon(
            self._matrices,
            lr,
            weight_decay=weight_decay,
            momentum=momentum,
            nesterov=nesterov,
            ns_steps=ns_steps,
            adjust_lr_fn="match_rms_adamw",
        )
        adamw = torch.optim.AdamW(rest, lr, betas, eps, weight_decay)
        self._parts = muon, adamw
        groups = [
            {**part.param_groups[0], "params": own} for part, own in zip(self._parts, (hidden, rest), strict=True)
        ]
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
        hidden = self.param_groups[0]["params"]
        for weight, matrix in zip(hidden, self._matrices, strict=True):
            matrix.copy_(weight.flatten(1))
            matrix.grad = None if weight.grad is None else weight.grad.flatten(1)
        for part, group in zip(self._parts, self.param_groups, strict=True):
            (part_group,) = part.param_groups
            part_group |= {key: value for key, value in group.items() if key != "params"}
            for parameter, part_parameter in zip(group["params"], part_group["params"], strict=True):
                part.state[part_parameter] = self.state[parameter]  # the same dict, not a copy
            part.step()
        for weight, matrix in zip(hidden, self._matrices, strict=True):
            weight.copy_(matrix.view_as(weight))
        return loss


def averages(optimizer: Optimizer) -> bool:
    """Whether an optimizer trains other weights than those to be used, as Schedule-Free does.

    Such an optimizer has methods `train` and `eval`, which exchange the weights. While it trains, the weights to use
    depend on both the parameters and its state, so nothing else may change the parameters, not even to bound a step.
    """
    return all(callable(getattr(optimizer, mode, None)) for mode in ("train", "eval"))


@contextmanager
def averaged(model: nn.Module, optimizer: Optimizer, batches: Iterable[Tensor]) -> Iterator[None]:
    """A context in which the model holds the averaged weights of an optimizer such as Schedule-Free.

    On leaving, the model has its training weights again, to the bit. For other optimizers nothing happens, and no batch
    is read. Schedule-Free (Defazio et al. 2024, arXiv:2405.15682) takes gradients at y, while x are the weights to use:

        y = (1 - beta) z + beta x ; z <- z - lr (step at y) ; x <- (1 - c) x + c z

    Batch normalization has gathered its statistics at y. Those for x are the means over `batches`, with all other
    layers in evaluation mode: dropout is off, and no random number is drawn.

    Args:
        model: with its training weights; each module stays in its mode, training or evaluation.
        optimizer: of `make_optimizer`.
        batches: images of some training batches, best of equal size, each of more than one image. They are read only if
            the model has batch normalization with statistics. The same ones each time make results reproducible.

    Raises:
        ValueError: the model has such statistics, and there are no batches.
    """
    if not averages(optimizer):
        yield
        return
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    tensors = [*model.parameters(), *(buffer for norm in norms for buffer in norm.buffers())]
    training_values = [tensor.detach().clone() for tensor in tensors]
    _switch(optimizer, "eval")
    try:
        if norms:
            _measure(model, norms, batches)
        yield
    finally:
        _switch(optimizer, "train")
        with torch.no_grad():  # `train` computes y again, with other rounding
            for tensor, value in zip(tensors, training_values, strict=True):
                tensor.copy_(value)


def _switch(optimizer: Any, mode: str) -> None:
    getattr(optimizer, mode)()


@torch.no_grad()
def _measure(model: nn.Module, norms: list[_BatchNorm], batches: Iterable[Tensor]) -> None:
    """Replaces the statistics of `norms` by the means over `batches`."""
    modes = [(module, module.training) for module in model.modules()]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # in torch: the mean over all batches
        norm.train()
    try:
        count = 0
        for batch in batches:
            model(batch)
            count += 1
        if count == 0:
            raise ValueError("batch normalization needs training batches to fit the averaged weights; there were none")
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in modes:
            module.training = training
