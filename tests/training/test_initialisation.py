"""Whitening, identity convolutions and batch norm's keys, for any network."""

from pathlib import Path

import pytest
import torch
from conftest import record, refused, write_images
from torch import nn

from cnnbench.models import ResNet20, SpeedCNN
from cnnbench.training import checkpoints
from cnnbench.training.initialisation import check, initialise, whitening

pytestmark = pytest.mark.usefixtures("no_figures")


def test_whitened_patches_are_uncorrelated() -> None:
    torch.manual_seed(0)
    images = torch.nn.functional.avg_pool2d(torch.randn(40, 3, 18, 18), 3, 1).cumsum(1)
    filters = whitening(images, (2, 2))
    assert filters.shape == (24, 3, 2, 2)
    assert torch.equal(filters[12:], -filters[:12])
    responses = nn.functional.conv2d(images, filters[:12]).transpose(0, 1).flatten(1)
    products = responses @ responses.T / responses.shape[1]
    patches = nn.functional.unfold(images, 2).transpose(0, 1).flatten(1)
    values = torch.linalg.eigvalsh(patches @ patches.T / patches.shape[1]).flip(0)  # worked out apart
    torch.testing.assert_close(products, torch.diag(values / (values + 5e-4)), rtol=1e-3, atol=2e-4)


def test_a_patch_by_hand() -> None:
    # 1x1 patches of two colours, (2, 0) and (0, 1) in equal numbers: mean of p p^T = diag(2, 1/2).
    images = torch.tensor([[[[2.0, 0.0]], [[0.0, 1.0]]]])
    filters = whitening(images, (1, 1), eps=0.0).flatten(1)
    torch.testing.assert_close(filters.abs(), torch.tensor([[0.5**0.5, 0.0], [0.0, 2**0.5]] * 2))


def test_identities_pass_their_input_on() -> None:
    network = SpeedCNN((3, 32, 32), 10, widths=(24, 30, 30))
    initialise({"dirac": True}, network, torch.zeros(1, 3, 32, 32))
    images = torch.randn(2, 24, 9, 9)
    for layer in (network.conv1a, network.conv2a):
        torch.testing.assert_close(layer(images)[:, :24], images)
    assert not torch.equal(network.conv2a.weight[24:], torch.zeros(6, 24, 3, 3))
    first = nn.functional.conv2d(torch.ones(1, 3, 2, 2), network.whiten.weight)
    assert not torch.equal(first[0, :3], torch.ones(3, 1, 1))  # the first one keeps its own


def test_batch_norms_keys_apply_to_any_network() -> None:
    network = ResNet20((3, 32, 32), 10)
    initialise({"norm_scale": False, "norm_momentum": 0.4}, network, torch.zeros(1, 3, 32, 32))
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.4}
    assert not any(norm.weight.requires_grad for norm in norms)
    assert all(norm.bias.requires_grad for norm in norms)


def test_speed_cnn_by_hand() -> None:
    network = SpeedCNN((3, 32, 32), 10)
    # 24 3x2x2 filters and biases; 9 (24 64 + 64 64 + 64 256 + 3 256 256) weights; 2 numbers for each of
    # 2 (64 + 256 + 256) channels; 256 x 10.
    assert sum(p.numel() for p in network.parameters()) == 288 + 24 + 1_967_616 + 2_304 + 2_560
    images = torch.randn(4, 3, 32, 32)
    sizes = []
    for name, layer in network.named_children():
        images = layer(images)
        if name.startswith(("whiten", "pool")):
            sizes.append(images.shape[2])
    assert sizes == [31, 15, 7, 3, 1]
    assert images.shape == (4, 10)


def test_whitened_from_the_training_split(command, here: Path) -> None:
    write_images(here / "colours", {"red": 12, "green": 12, "blue": 12})
    words = "data=folder data.root=colours data.image_size=12 batch_size=10 epochs=1 model=speed_cnn model.widths=[4,8]"
    assert command(words).code == 0
    (best,) = here.glob("runs/*/*/best.ckpt")
    weight = checkpoints.read(best)["model"]["network.whiten.weight"]
    assert torch.equal(weight[12:], -weight[:12])  # not trained
    found = record(here)
    assert found["parameters"] == 24 + 9 * (24 * 4 + 4 * 4 + 4 * 8 + 8 * 8) + 2 * (4 + 8) + 8 * 3
    # Two for each multiplication: 11x11 positions after the first convolution, pooled to 5 and 2.
    layers = 12 * 24 * 11**2 + 9 * (24 * 4 * 11**2 + 4 * 4 * 5**2 + 4 * 8 * 5**2 + 8 * 8 * 2**2) + 8 * 3
    assert found["flops"] == 2 * layers


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("model.whiten=true", "model.whiten=true: whitening needs images of 3 channels"),
        ("model.dirac=1", "model.dirac=1: must be true or false"),
        ("model.norm_momentum=0 regularizer.batch_norm=true", "model.norm_momentum=0: must be above 0 and at most 1"),
        ("model.norm_scale=false", "model.norm_scale=False: this network has no batch norm"),
        ("model=speed_cnn model.whiten=false model.freeze=[]", "model: 3 groups leave nothing of an image of 8x8"),
        (
            "model=speed_cnn model.activation=tanh data.image_size=32",
            "model.activation=tanh: must be gelu, relu or silu",
        ),
    ],
)
def test_refusals(command, here: Path, words: str, says: str) -> None:
    refused(command(f"data=digits epochs=1 {words}"), says, here)


def test_patches_larger_than_the_images() -> None:
    from cnnbench.errors import ConfigError

    network = ResNet20((3, 8, 8), 2)
    first = next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d))
    first.kernel_size = (9, 9)
    with pytest.raises(ConfigError, match="images of 8x8 are smaller than the first convolution's patches of 9x9"):
        check({"whiten": True}, network, (3, 8, 8))
