"""Gradient-descent variants: which gradient makes a step, and how long the step may be."""

from pathlib import Path

import pytest
import torch
from conftest import without_prefix

from cnnbench.training import checkpoints
from cnnbench.training.module import Epoch

# 1,298 training images; plain gradient descent, so that the weights show the gradients.
BASE = "data=digits epochs=2 optimizer=sgd lr=0.05"


def weights(command, here: Path, words: str, name: str) -> torch.Tensor:
    assert command(f"{BASE} {words} name={name}").code == 0
    (path,) = here.glob(f"runs/{name}/*/last.ckpt")
    state = without_prefix(checkpoints.read(path)["lightning"]["state_dict"], "model.")
    return torch.cat([tensor.flatten() for key, tensor in state.items() if key.startswith("network")])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # Steps of 240 images from batches of 60; the last step has 98 images, in batches of 60 and 38.
        ("batch_size=240", "batch_size=60 update=cag update.accumulate=4 update.reduction=mean"),
        # The whole set at once, and in batches of 100 of which the last has 98.
        ("batch_size=1298", "batch_size=100 update=full_batch"),
        # Sums over four full batches are four times their mean. 1,120 = 7 x 4 x 40 images are trained on.
        ("data.limit=1244 batch_size=160 lr=0.2", "data.limit=1244 batch_size=40 update=cag lr=0.05"),
        ("data.limit=100 batch_size=1", "data.limit=100 update=stochastic"),
    ],
    ids=["mean", "full_batch", "sum", "stochastic"],
)
def test_equal_to_one_large_batch(command, here: Path, one: str, other: str) -> None:
    a, b = weights(command, here, one, "one"), weights(command, here, other, "other")
    start = weights(command, here, f"{one} lr=1e-12", "start")
    assert (a - start).norm() > 0.01
    assert (a - b).norm() / (a - start).norm() < 1e-4


def test_the_step_is_bounded_after_the_optimizer(command, here: Path) -> None:
    # Adam's first step has length lr * sqrt(number of parameters with a gradient), far above 0.001.
    words = "data.limit=200 optimizer=adam epochs=1 update=full_batch"
    start = weights(command, here, "data.limit=200 optimizer=adam epochs=1 update=full_batch lr=1e-12", "start")
    bounded = weights(command, here, f"{words} update.max_step=0.001", "bounded")
    free = weights(command, here, words, "free")
    loose = weights(command, here, f"{words} update.max_step=1e9", "loose")
    assert (bounded - start).norm().item() == pytest.approx(0.001, rel=1e-3)
    assert (free - start).norm() > 0.1
    cosine = torch.nn.functional.cosine_similarity(bounded - start, free - start, dim=0)
    assert cosine.item() == pytest.approx(1, abs=1e-3)
    assert torch.equal(loose, free)


def test_weights_by_hand() -> None:
    # 23 images in batches of 5: 5 5 5 5 3; three batches a step: 15 images, then 8.
    mean = Epoch(images=23, batch_size=5, accumulate=3)
    assert (mean.batches, mean.steps) == (5, 2)
    sizes = [5, 5, 5, 5, 3]
    assert [mean.weight(i, n) for i, n in enumerate(sizes)] == [5 / 15, 5 / 15, 5 / 15, 5 / 8, 3 / 8]
    assert [mean.is_first(i) for i in range(5)] == [True, False, False, True, False]
    assert [mean.is_last(i) for i in range(5)] == [False, False, True, False, True]
    total = Epoch(images=23, batch_size=5, accumulate=3, reduction="sum")
    assert [total.weight(i, n) for i, n in enumerate(sizes)] == [1, 1, 1, 1, 3 / 5]
    assert Epoch(images=10, batch_size=128, accumulate=1).weight(0, 10) == 1


def test_full_batch_with_batch_norm_is_warned_of_once(command) -> None:
    words = "-m data=digits data.limit=200 epochs=1 batch_size=50 seed=0,1 update=full_batch"
    warned = command(f"{words} regularizer=batch_norm")
    assert warned.code == 0
    assert warned.err.count("warning: update=full_batch: batch norm") == 1
    assert "warning" not in command(words).err
    assert "warning" not in command(f"{words} regularizer=batch_norm batch_size=500 name=one").err
