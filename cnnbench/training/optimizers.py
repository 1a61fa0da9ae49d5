"""How are the parameters moved? What torch and the libraries leave open about their optimizers is settled here."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

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
"""By the device's type: optimizers of torch's that can take a step in one pass over the parameters."""


def make_optimizer(spec: Spec, model: nn.Module, fused: bool = False) -> Optimizer:
    """The optimizer of `model`, ready to train.

    A class whose first argument is called `model` gets the network, since it treats some layers differently; any other
    gets the list of the network's parameters.

    Args:
        spec: the `optimizer` group, checked by `build.check`.
        model: the network on the device where it will be trained, or on torch's `meta` device to check a config.
        fused: take the step in one pass over the parameters where torch can; it rounds otherwise.

    Raises:
        ConfigError: the class refuses a value, or the network is none for it.
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


def take_back(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Loads what `state_dict` gave; whether steps are fused stays as this machine has it."""
    pairs = zip(state["param_groups"], optimizer.param_groups, strict=True)
    groups = [kept | {key: own[key] for key in ("fused",) if key in own} for kept, own in pairs]
    optimizer.load_state_dict(state | {"param_groups": groups})


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def split(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters that are matrices between hidden layers, and all others, both in the model's order.

    A hidden matrix is the weight of a dense or convolution layer that is neither the first nor the last of these; a
    convolution's has a row for each filter. Biases, norms, weights of grouped convolutions (several small matrices in
    one tensor) and whatever else a network holds are among the others.

    Precondition: the network registers its layers in the order from the images to the logits.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)]
    matrices = {id(layer.weight) for layer in layers[1:-1] if isinstance(layer, nn.Linear) or layer.groups == 1}
    parameters = _trained(model)
    return [p for p in parameters if id(p) in matrices], [p for p in parameters if id(p) not in matrices]


class Muon(Optimizer):
    """Orthogonalized momentum for hidden matrices, AdamW for all other parameters (`split` says which is which).

        B <- momentum B + (1 - momentum) G ; W <- W - lr weight_decay W - 0.2 lr sqrt(max(rows, columns)) NS(B')

    with B' = momentum B + (1 - momentum) G (Nesterov) and NS five Newton-Schulz iterations, which bring the singular
    values of B' near 1 (Jordan et al. 2024, kellerjordan.github.io/posts/muon). The factor gives the step the size of
    one of AdamW's (Liu et al. 2025, arXiv:2502.16982), so that one `lr` is right for both: whatever moves it, a
    schedule or a search, moves both parts alike. The arithmetic is that of torch.optim.Muon and torch.optim.AdamW.

    Both keep what they remember in this optimizer's `state`; torch's own `state_dict`, `load_state_dict` and
    `zero_grad` serve it as they are.

    Args:
        model: the network.
        lr: of both parts.
        momentum: of the matrices.
        nesterov: B' as above; otherwise it is B.
        weight_decay: of both parts.
        ns_steps: Newton-Schulz iterations.
        betas: AdamW's.
        eps: AdamW's.

    Raises:
        ConfigError: the network has no hidden matrix, so that this would be AdamW under another name.
        ValueError: torch refuses a value.
    """

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
                "optimizer: Muon moves the weights between the first and the last layer; this model has none."
            )
        # torch's Muon takes matrices only. A convolution's weights can't always be seen as one (`channels_last`), so
        # they are copied there and back: little work beside the iterations, and the same numbers in any layout.
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
        self._parts: tuple[Optimizer, Optimizer] = muon, adamw
        groups = [
            {**part.param_groups[0], "params": own} for part, own in zip(self._parts, (hidden, rest), strict=True)
        ]
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Moves all parameters that have a gradient; `closure` computes the loss and the gradients, if it is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        hidden = self.param_groups[0]["params"]
        for weight, matrix in zip(hidden, self._matrices, strict=True):
            matrix.copy_(weight.flatten(1))
            matrix.grad = None if weight.grad is None else weight.grad.flatten(1)
        for part, group in zip(self._parts, self.param_groups, strict=True):
            (its,) = part.param_groups
            its |= {key: value for key, value in group.items() if key != "params"}
            for parameter, its_parameter in zip(group["params"], its["params"], strict=True):
                part.state[its_parameter] = self.state[parameter]  # one and the same dict
            part.step()
        for weight, matrix in zip(hidden, self._matrices, strict=True):
            weight.copy_(matrix.view_as(weight))
        return loss


def averages(optimizer: Optimizer) -> bool:
    """Does it train other weights than those to be used, as Schedule-Free does?

    Such an optimizer has methods `train` and `eval`, which exchange them. While it trains, the weights that it means
    are hidden between the parameters and its state: nothing else may change the parameters, not even to bound a step.
    """
    return all(callable(getattr(optimizer, mode, None)) for mode in ("train", "eval"))


@contextmanager
def averaged(model: nn.Module, optimizer: Optimizer, batches: Iterable[Tensor]) -> Iterator[None]:
    """Within this context the model holds the averaged weights; behind it, training goes on as if nothing had been.

    Schedule-Free (Defazio et al. 2024, arXiv:2405.15682) takes gradients at y, and means x to be used:

        y = (1 - beta) z + beta x ; z <- z - lr (step at y) ; x <- (1 - c) x + c z

    Batch normalization has gathered its statistics at y. Those for x are the means over `batches`, all layers but batch
    normalization evaluating: dropout is off, as it is when they are used, and no random number is drawn.

    Costs and does nothing, not even begin with `batches`, for an optimizer that doesn't average.

    Args:
        model: as the optimizer trains it; left in the modes (training or evaluating) in which it was found.
        optimizer: the one that `make_optimizer` gave.
        batches: inputs of some training batches, best of equal size, each of more than one image; only looked at if the
            model has batch normalization with statistics. For numbers that can be repeated they must be the same each
            time.

    Raises:
        ValueError: the model has such statistics, and there are no batches.
    """
    if not averages(optimizer):
        yield
        return
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    held = [*model.parameters(), *(buffer for norm in norms for buffer in norm.buffers())]
    before = [tensor.detach().clone() for tensor in held]
    _switch(optimizer, "eval")
    try:
        if norms:
            _measure(model, norms, batches)
        yield
    finally:
        _switch(optimizer, "train")
        with torch.no_grad():  # `train` computes y anew, and may round it otherwise
            for tensor, value in zip(held, before, strict=True):
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
        norm.momentum = None  # torch's word for the mean of all batches
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
