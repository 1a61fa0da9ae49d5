"""Test-time augmentation: the mean of a model's logits over several versions of an image."""

from collections.abc import Callable

import torch
from torch import Tensor


def mean_logits(model: Callable[[Tensor], Tensor], images: Tensor, tta: str) -> Tensor:
    """The means of a model's logits over versions of each image (Jordan 2024, arXiv 2404.00498, section 3.5).

    - `none`: the image alone.
    - `flip`: the mean for the image and its mirror image.
    - `flip_translate`: half the mean of `flip`, and half its mean for two shifts, by one pixel up and to the left, and
      down and to the right. Pixels from outside are those of the image mirrored at its edge.

    Args:
        model: gives logits (n, classes).
        images: (n, channels, height, width).
        tta: `none`, `flip` or `flip_translate`.

    Returns:
        (n, classes).
    """
    if tta == "none":
        return model(images)
    logits = _flipped(model, images)
    if tta == "flip":
        return logits
    shifted = _flipped(model, _moved(images, 1)) + _flipped(model, _moved(images, -1))
    return logits / 2 + shifted / 4


def _flipped(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    return (model(images) + model(images.flip(3))) / 2


def _moved(images: Tensor, step: int) -> Tensor:
    """Moves images by `step`, 1 or -1, pixels down and to the right; the edge is mirrored at its outermost pixel."""
    for axis in (2, 3):
        size = images.shape[axis]
        positions = (torch.arange(size, device=images.device) - step).abs()
        positions = (size - 1) - ((size - 1) - positions).abs()
        images = images.index_select(axis, positions)
    return images
