"""Gradients of the architecture against numerical differentiation, and the order of the steps."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from cnnbench.config.composition import config_source
from cnnbench.config.schema import Search
from cnnbench.data.datamodule import ImageData
from cnnbench.data.images import ImageSet
from cnnbench.runtime.progress import Sweep
from cnnbench.search.joint import Joint, first_order, second_order
from cnnbench.search.space import TARGET, searched
from cnnbench.search.supernet import Architecture, SuperNetwork
from cnnbench.training import parts
from cnnbench.training.training import Surroundings, Training

LR = 0.5


@pytest.fixture
def problem() -> tuple[dict[str, Tensor], list[Tensor], Callable, Callable]:
    """A small super-network, with the loss of a training and of a validation batch."""
    torch.manual_seed(0)
    lists = {
        "filters": [1, 3],
        "kernel_size": [1, 3],
        "stride": [1, 2],
        "padding": ["same", "valid"],
        "pooling": ["max", "avg"],
    }
    spec = {"_target_": TARGET, "convs": [{"filters": 3, "pool": 2}], "dense": [], "activation": "sigmoid"}
    layers = searched(spec, Search(method="joint", **lists), (1, 6, 6))
    architecture = Architecture(layers, 0.3).double()
    network = SuperNetwork(spec, (1, 6, 6), 2, layers, architecture).double()
    images, labels = torch.randn(2, 8, 1, 6, 6).double(), torch.randint(2, (2, 8))

    def loss(i: int) -> Callable[[dict[str, Tensor]], Tensor]:
        return lambda weights: F.cross_entropy(functional_call(network, weights, (images[i],)), labels[i])

    return dict(network.named_parameters()), list(architecture.parameters()), loss(0), loss(1)


def numerically(value: Callable[[], Tensor], parameters: list[Tensor], h: float = 1e-5) -> Tensor:
    """Central differences of `value` in every entry of the parameters."""
    found = []
    for parameter in parameters:
        for i in range(len(parameter)):
            sides = []
            for side in (h, -h):
                with torch.no_grad():
                    parameter[i] += side
                sides.append(float(value().detach()))
                with torch.no_grad():
                    parameter[i] -= side
            found.append((sides[0] - sides[1]) / (2 * h))
    return torch.tensor(found).double()


def error(found: list[Tensor], expected: Tensor) -> float:
    return float((torch.cat(found) - expected).norm() / expected.norm())


def test_gradients_are_those_of_numerical_differentiation(problem) -> None:
    weights, logits, train, loss = problem

    def ahead() -> Tensor:
        gradients = torch.autograd.grad(train(weights), list(weights.values()))
        return loss({key: w - LR * g for (key, w), g in zip(weights.items(), gradients, strict=True)})

    assert sum(map(len, logits)) == 10
    held_fast, whole = numerically(lambda: loss(weights), logits), numerically(ahead, logits)
    assert error(first_order(loss, weights, logits), held_fast) < 1e-7
    assert error(second_order(train, loss, weights, logits, LR, exact=True), whole) < 1e-7
    assert error(second_order(train, loss, weights, logits, LR, exact=False), whole) < 1e-3
    # The second term matters: without it, at the same Theta', the gradient is another one.
    gradients = torch.autograd.grad(train(weights), list(weights.values()))
    moved = {key: (w - LR * g).detach() for (key, w), g in zip(weights.items(), gradients, strict=True)}
    assert error(first_order(loss, moved, logits), whole) > 0.01


def stepped(words: str) -> tuple[Joint, nn.Module, Architecture, Callable]:
    """A search on one batch of noise before its only step, and that step."""
    with config_source(None) as composer:
        (job,) = composer.jobs(["data=digits", "model=plain_cnn", *words.split()], multirun=False)
    config, rng = job.config, np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 8, 8, 1)).astype(np.uint8)
    labels = np.arange(40) % 2
    data = ImageData(ImageSet(images, labels, images, labels, ("a", "b"), "f"), config.data, 36, 0)
    layers = searched(config.model, config.search, data.image_shape)
    torch.manual_seed(0)
    architecture = Architecture(layers, 0.1)
    network = SuperNetwork(config.model, data.image_shape, 2, layers, architecture)
    model = parts.with_pixels(config, network, [0.0], [255.0])
    epoch = parts.epoch_of(config, data)
    module = Joint(
        model, parts.make_recipe(config, epoch, data.class_counts), epoch, None, 0,
        architecture=architecture, search=config.search, held_out=data.held_out, cost=None,
    )  # fmt: skip
    surroundings = Surroundings(Path(), Sweep(1, 1, quiet=True).line())
    training = Training(config, module, data, surroundings, None, lambda state: None, lambda state: None)
    return module, model, architecture, training.train


@pytest.mark.parametrize(
    ("level", "order"), [("single", "first"), ("bilevel", "first"), ("single", "second"), ("bilevel", "second")]
)
def test_the_first_step(here, level: str, order: str) -> None:
    words = "optimizer=sgd lr=0.1 epochs=1 batch_size=36 search=document search.lr=0.5"
    module, model, architecture, fit = stepped(f"{words} search.level={level} search.order={order}")
    weights, logits = dict(model.named_parameters()), list(architecture.parameters())
    data: list[tuple[Tensor, Tensor]] = []
    real = Joint.training_step
    held_out = module._held_out

    def noting(self: Joint, batch) -> None:
        data.append((batch[0].clone(), batch[1]))
        theta, h = [[p.detach().clone() for p in group] for group in (weights.values(), logits)]
        expect(theta, h)
        real(self, batch)

    expected: list[Tensor] = []

    def loss_on(batch: tuple[Tensor, Tensor]) -> Callable[[dict[str, Tensor]], Tensor]:
        return lambda w: F.cross_entropy(functional_call(model, w, (batch[0],)), batch[1])

    def expect(theta: list[Tensor], h: list[Tensor]) -> None:
        images, labels, _ = next(held_out(0))
        train, other = loss_on(data[0]), loss_on((images, labels) if level == "bilevel" else data[0])
        if order == "first":
            of_h = first_order(other, weights, logits)
        else:
            of_h = second_order(train, other, weights, logits, 0.1, True)
        new_h = [value - 0.5 * gradient for value, gradient in zip(h, of_h, strict=True)]
        with torch.no_grad():
            for logit, value in zip(logits, new_h if level == "bilevel" else h, strict=True):
                logit.copy_(value)
        of_theta = torch.autograd.grad(train(weights), list(weights.values()))
        with torch.no_grad():
            for logit, value in zip(logits, h, strict=True):
                logit.copy_(value)
        expected.extend([*new_h, *(value - 0.1 * gradient for value, gradient in zip(theta, of_theta, strict=True))])

    module.training_step = noting.__get__(module)
    fit()
    for found, wanted in zip([*logits, *weights.values()], expected, strict=True):
        torch.testing.assert_close(found.detach(), wanted, rtol=1e-4, atol=1e-6)
    assert len(data) == 1


def test_the_step_ahead_sees_the_images_of_the_step(here) -> None:
    module, _, _, fit = stepped("optimizer=sgd epochs=1 batch_size=36 search=joint search.order=second")
    drawn: list[Tensor] = []

    def augment(images: Tensor, positions: Tensor, epoch: int, generator: torch.Generator) -> Tensor:
        drawn.append(torch.rand(3, generator=generator))
        return images

    module._augment = augment
    fit()
    assert len(drawn) == 2
    assert torch.equal(*drawn)
