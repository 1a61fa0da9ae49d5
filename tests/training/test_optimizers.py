"""Each optimizer's YAML against the formula that document 3 or its paper prints, step by step."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from cnnbench.config.composition import config_source
from cnnbench.training.optimizers import make_optimizer

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


def nesterov(theta: np.ndarray) -> Steps:
    """Sutskever et al. 2013, equations 3 and 4. PyTorch's parameters are the points where it takes the gradient."""
    path, v = [], np.zeros_like(theta)
    for _ in range(STEPS):
        v = 0.9 * v - 0.01 * gradient(theta + 0.9 * v)
        theta = theta + v
        path.append(theta + 0.9 * v)
    return path


def adamw(theta: np.ndarray) -> Steps:
    """Loshchilov and Hutter 2019, algorithm 2; their eta_t is lr, so that the decay is lr times theirs."""
    path, m, v = [], np.zeros_like(theta), np.zeros_like(theta)
    for t in range(1, STEPS + 1):
        g = gradient(theta)
        m = 0.9 * m + (1 - 0.9) * g
        v = 0.999 * v + (1 - 0.999) * g**2
        m_hat, v_hat = m / (1 - 0.9**t), v / (1 - 0.999**t)
        theta = theta - 0.001 * (m_hat / (np.sqrt(v_hat) + 1e-8) + 0.01 * theta)
        path.append(theta)
    return path


def nadam(theta: np.ndarray) -> Steps:
    """Dozat 2016, algorithm 2, with his warming schedule of mu."""
    path, m, v = [], np.zeros_like(theta), np.zeros_like(theta)
    mu = [0.9 * (1 - 0.5 * 0.96 ** (t * 0.004)) for t in range(STEPS + 2)]
    for t in range(1, STEPS + 1):
        g = gradient(theta)
        m = 0.9 * m + (1 - 0.9) * g
        v = 0.999 * v + (1 - 0.999) * g**2
        m_hat = mu[t + 1] * m / (1 - np.prod(mu[1 : t + 2])) + (1 - mu[t]) * g / (1 - np.prod(mu[1 : t + 1]))
        theta = theta - 0.002 * m_hat / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        path.append(theta)
    return path


def lion(theta: np.ndarray) -> Steps:
    """Chen et al. 2023, algorithm 2."""
    path, m = [], np.zeros_like(theta)
    for _ in range(STEPS):
        g = gradient(theta)
        theta = theta - 0.0001 * (np.sign(0.9 * m + (1 - 0.9) * g) + 0.1 * theta)
        m = 0.99 * m + (1 - 0.99) * g
        path.append(theta)
    return path


FORMULAS = [sgd, momentum, adagrad, rmsprop, adam, nesterov, adamw, nadam, lion]


@pytest.mark.parametrize("fused", [False, True], ids=["", "fused"])
@pytest.mark.parametrize("printed", FORMULAS, ids=lambda f: f.__name__)
def test_the_printed_formula(printed: Callable[[np.ndarray], Steps], fused: bool) -> None:
    with config_source(None) as composer:
        (job,) = composer.jobs([f"optimizer={printed.__name__}"], multirun=False)
    start = np.array([1.5, -2.0, 0.7])
    theta = torch.nn.Parameter(torch.tensor(start))
    optimizer = make_optimizer(job.config.optimizer, nn.ParameterList([theta]), fused)
    has_it = printed in (sgd, momentum, nesterov, adagrad, adam, adamw)
    assert bool(optimizer.param_groups[0].get("fused")) == (fused and has_it)
    for expected in printed(start):
        optimizer.zero_grad()
        theta.grad = torch.tensor(gradient(theta.detach().numpy()))
        optimizer.step()
        # Where eps stands makes the only difference (document 3 has it inside the root), and it is 1e-8 or less.
        np.testing.assert_allclose(theta.detach().numpy(), expected, rtol=1e-6)
    assert abs(theta.detach().numpy() - start).min() > 1e-3


def orthogonalized(g: np.ndarray) -> np.ndarray:
    """Jordan et al. 2024: five Newton-Schulz iterations."""
    x = g / np.linalg.norm(g)
    if len(x) > len(x.T):
        return orthogonalized(g.T).T
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x


def test_muon() -> None:
    """Jordan et al. 2024, scaled as in Liu et al. 2025, equation 4; biases and the first and last weights by AdamW."""
    with config_source(None) as composer:
        (job,) = composer.jobs(["optimizer=muon"], multirun=False)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 2), nn.Linear(6, 12), nn.Linear(12, 2)).double()
    optimizer = make_optimizer(job.config.optimizer, model)
    theta = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    b, m, v = ({name: np.zeros_like(value) for name, value in theta.items()} for _ in range(3))
    for t in (1, 2, 3):
        for name, p in model.named_parameters():
            p.grad = torch.randn_like(p)
            g = p.grad.numpy()
            if name in ("1.weight", "2.weight"):
                b[name] = 0.95 * b[name] + (1 - 0.95) * g
                matrix = (0.95 * b[name] + (1 - 0.95) * g).reshape(len(g), -1)
                update = 0.2 * np.sqrt(max(matrix.shape)) * orthogonalized(matrix).reshape(g.shape)
            else:
                m[name] = 0.9 * m[name] + (1 - 0.9) * g
                v[name] = 0.999 * v[name] + (1 - 0.999) * g**2
                update = m[name] / (1 - 0.9**t) / (np.sqrt(v[name] / (1 - 0.999**t)) + 1e-8)
            theta[name] = theta[name] - 0.001 * (update + 0.01 * theta[name])
        before = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
        optimizer.step()
        for name, p in model.named_parameters():
            now = p.detach().numpy()
            if name in ("1.weight", "2.weight"):  # torch iterates in bfloat16
                moved, expected = now - before[name], theta[name] - before[name]
                assert np.linalg.norm(moved - expected) < 0.03 * np.linalg.norm(expected)
                theta[name] = now.copy()
            else:
                np.testing.assert_allclose(now, theta[name], rtol=1e-9)


def test_the_documents_defaults() -> None:
    lrs = {"sgd": 0.01, "momentum": 0.01, "adagrad": 0.01, "rmsprop": 0.001, "adam": 0.001}
    with config_source(None) as composer:
        assert set(lrs) <= set(composer.options["optimizer"])
        for name, lr in lrs.items():
            assert composer.jobs([f"optimizer={name}"], multirun=False)[0].config.lr == lr
