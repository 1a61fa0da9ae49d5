"""Arithmetic operations of a network, counted on one image."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def flops(network: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Operations of a network's forward pass for one image: two for each multiplication with its addition.

    Convolutions and matrix products count; the rest is small beside them. Training an image costs about three times as
    much, since the backward pass computes the gradients of inputs and of weights (Jordan 2024 counts alike).

    Args:
        network: takes normalised images.
        image_shape: channels, height and width of an image.
    """
    twin = copy.deepcopy(network).to("meta").eval()  # computes shapes alone
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        twin(torch.zeros(1, *image_shape, device="meta"))
    return int(counter.get_total_flops())
