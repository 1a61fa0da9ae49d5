"""Each optimizer's YAML against the formula that document 3 prints, step by step."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from cnnbench.build import build
from cnnbench.compose import config_source

Steps = list[np.ndarray]
STEPS = 20


def gradient(theta: np.ndarray) -> np.ndarray:
    """Of the loss sum(a theta^2 / 2 + theta^4 / 4), with another a for each parameter."""
    return np.array([1.0, 0.3, -0.2]) * theta + theta**3


def sgd(theta: np.ndarray) -> Steps:
    path = []
    for _ in range(STEPS):
        theta = theta - 0.01 * gradient(theta)
        path.append(theta)
    return path


def momentum(theta: np.ndarray) -> Steps:
    path, v = [], np.zeros_like(theta)
    for _ in range(STEPS):
        v = 0.9 * v - 0.01 * gradient(theta)
        theta = theta + v
        path.append(theta)
    return path


def adagrad(theta: np.ndarray) -> Steps:
    path, h = [], np.zeros_like(theta)
    for _ in range(STEPS):
        g = gradient(theta)
        h = h + g**2
        theta = theta - 0.01 / np.sqrt(h) * g
        path.append(theta)
    return path


def rmsprop(theta: np.ndarray) -> Steps:
    path, h = [], np.zeros_like(theta)
    for _ in range(STEPS):
        g = gradient(theta)
        h = 0.9 * h + (1 - 0.9) * g**2
        theta = theta - 0.001 / np.sqrt(h) * g
        path.append(theta)
    return path


def adam(theta: np.ndarray) -> Steps:
    path, m, v = [], np.zeros_like(theta), np.zeros_like(theta)
    for t in range(STEPS):
        g = gradient(theta)
        m = 0.9 * m + (1 - 0.9) * g
        v = 0.999 * v + (1 - 0.999) * g**2
        m_hat, v_hat = m / (1 - 0.9 ** (t + 1)), v / (1 - 0.999 ** (t + 1))
        theta = theta - 0.001 / (np.sqrt(v_hat) + 1e-8) * m_hat
        path.append(theta)
    return path


@pytest.mark.parametrize("printed", [sgd, momentum, adagrad, rmsprop, adam], ids=lambda f: f.__name__)
def test_the_printed_formula(printed: Callable[[np.ndarray], Steps]) -> None:
    with config_source(None) as composer:
        (job,) = composer.jobs([f"optimizer={printed.__name__}"], multirun=False)
    start = np.array([1.5, -2.0, 0.7])
    theta = torch.nn.Parameter(torch.tensor(start))
    optimizer = build("optimizer", job.config.optimizer, [theta])
    for expected in printed(start):
        optimizer.zero_grad()
        theta.grad = torch.tensor(gradient(theta.detach().numpy()))
        optimizer.step()
        # Where eps stands makes the only difference (document 3 has it inside the root), and it is 1e-8 or less.
        np.testing.assert_allclose(theta.detach().numpy(), expected, rtol=1e-6)
    assert abs(theta.detach().numpy() - start).min() > 1e-3


def test_the_documents_defaults() -> None:
    lrs = {"sgd": 0.01, "momentum": 0.01, "adagrad": 0.01, "rmsprop": 0.001, "adam": 0.001}
    with config_source(None) as composer:
        assert composer.options["optimizer"] == sorted(lrs)
        for name, lr in lrs.items():
            assert composer.jobs([f"optimizer={name}"], multirun=False)[0].config.lr == lr
