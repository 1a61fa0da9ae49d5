"""Policies of augmentation, RandAugment and TrivialAugment: random operations of a list, on a whole batch at once."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

OPERATIONS = (
    "identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "colour", "contrast",
    "sharpness", "posterize", "solarize", "autocontrast", "equalize",
)  # fmt: skip
"""The operations of both policies (Cubuk et al. 2020, figure 2)."""

SIGNED = OPERATIONS.index("sharpness")
"""The last operation that goes in two directions, to the left or right for example."""

STEPS = 30
"""The largest magnitude."""


@dataclass(frozen=True)
class Ranges:
    """What an operation does at the largest magnitude; at magnitude 0 it changes nothing."""

    shear: float
    """Pixels to the side for each pixel down, or the other way round."""
    right: float
    """Pixels."""
    down: float
    """Pixels."""
    rotate: float
    """Degrees."""
    enhance: float
    """Change of the factor of brightness, colour, contrast and sharpness, which is 1."""
    bits: float
    """Bits that `posterize` drops, of 8."""


Part = Callable[[str, float], Tensor]
"""What the operation of this name does to each image, (n,), given its largest magnitude."""


def randaugment(images: Tensor, count: int, magnitude: float, generator: torch.Generator) -> Tensor:
    """RandAugment (Cubuk et al. 2020): `count` operations for each image, drawn with replacement, all at `magnitude`.

    Args:
        images: bytes (n, channels, height, width).
        count: N in the paper.
        magnitude: M in the paper, from 0 to 30.
        generator: random numbers, on the images' device.

    Returns:
        Bytes of the same shape.
    """
    height, width = images.shape[2:]
    ranges = Ranges(0.3, 150 / 331 * width, 150 / 331 * height, 30, 0.9, 4)
    for _ in range(count):
        operation, sign = _drawn(images, generator)
        images = applied(images, operation, sign * (magnitude / STEPS), ranges)
    return images


def trivialaugment(images: Tensor, generator: torch.Generator) -> Tensor:
    """TrivialAugment (Müller and Hutter 2021, "wide"): one operation for each image, at a magnitude drawn from 0 to 30.

    Args:
        images: bytes (n, channels, height, width).
        generator: random numbers, on the images' device.

    Returns:
        Bytes of the same shape.
    """
    operation, sign = _drawn(images, generator)
    magnitude = torch.randint(0, STEPS + 1, sign.shape, generator=generator, device=images.device)
    return applied(images, operation, sign * magnitude / STEPS, Ranges(0.99, 32, 32, 135, 0.99, 6))


def _drawn(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """An operation for each image, and its direction, 1 or -1."""
    n, device = len(images), images.device
    operation = torch.randint(0, len(OPERATIONS), (n,), generator=generator, device=device)
    back = torch.randint(0, 2, (n,), generator=generator, device=device) * (operation <= SIGNED)
    return operation, 1.0 - 2.0 * back


def applied(images: Tensor, operation: Tensor, magnitude: Tensor, ranges: Ranges) -> Tensor:
    """Applies one operation to each image.

    All images go through three passes, whatever their operations are: a resampling, a table of the 256 values of a
    byte, and a mixture with a grey or smoothed copy. In the passes of other operations an image stays as it is. So
    nothing depends on how many images have which operation, and nothing synchronises with the GPU.

    Args:
        images: bytes (n, channels, height, width).
        operation: (n,), positions in `OPERATIONS`.
        magnitude: (n,), shares of the largest magnitude, from -1 to 1.
        ranges: the largest magnitude of each operation.

    Returns:
        Bytes of the same shape.
    """

    def part(name: str, largest: float) -> Tensor:
        """What an operation does to each image: 0 where it has another one."""
        return magnitude * largest * (operation == OPERATIONS.index(name))

    images = _resampled(images, part, ranges)
    pixels = _looked_up(images, operation, part, ranges)
    colour, sharpness = part("colour", ranges.enhance), part("sharpness", ranges.enhance)
    factor = _each(1 + colour + sharpness)
    plain = torch.where(_each(operation == OPERATIONS.index("colour")), luma(pixels), _smoothed(pixels))
    return torch.lerp(plain, pixels, factor).round_().clamp_(0, 255).to(images.dtype)


def luma(pixels: Tensor) -> Tensor:
    """The brightness of colours (n, 3, height, width): 0.299 red + 0.587 green + 0.114 blue, (n, 1, height, width).

    Grey pixels are their own.
    """
    if pixels.shape[1] != 3:
        return pixels
    return 0.299 * pixels[:, 0:1] + 0.587 * pixels[:, 1:2] + 0.114 * pixels[:, 2:3]


def _each(values: Tensor) -> Tensor:
    """(n,) as (n, 1, 1, 1)."""
    return values[:, None, None, None]


def _smoothed(pixels: Tensor) -> Tensor:
    """The mean of each pixel, five times, and its eight neighbours, once; pixels on the edge as they are."""
    smooth = pixels.clone()
    three = pixels[..., :-2] + pixels[..., 1:-1] + pixels[..., 2:]  # many times faster than a pooling or a convolution
    nine = three[..., :-2, :] + three[..., 1:-1, :] + three[..., 2:, :]
    smooth[..., 1:-1, 1:-1] = (nine + 4 * pixels[..., 1:-1, 1:-1]) / 13
    return smooth


def _resampled(images: Tensor, part: Part, ranges: Ranges) -> Tensor:
    """Shears, translations and rotations; pixels from outside the image are black.

    A shear leaves the upper row, or the left column, in its place; a rotation is one about the centre.
    """
    height, width = images.shape[2:]
    angle = part("rotate", ranges.rotate) * (torch.pi / 180)
    shear_x, shear_y = part("shear_x", ranges.shear), part("shear_y", ranges.shear)
    right, down = part("translate_x", ranges.right).trunc(), part("translate_y", ranges.down).trunc()
    cos, sin = angle.cos(), angle.sin()
    # From a pixel of the new image to its source, in coordinates from -1 to 1: the unit is half a side.
    tall, wide = height / width, width / height
    across = torch.stack([cos, (shear_x - sin) * tall, shear_x * tall - right * 2 / width], 1)
    along = torch.stack([(shear_y + sin) * wide, cos, shear_y * wide - down * 2 / height], 1)
    return sampled(images, torch.stack([across, along], 1), "zeros")


def sampled(images: Tensor, sources: Tensor, outside: str) -> Tensor:
    """Resamples each image, bilinearly.

    Args:
        images: bytes (n, channels, height, width).
        sources: (n, 2, 3), the maps from a pixel of the new image to its source: its place across and down is a number
            from -1 to 1, and 1 is the third factor.
        outside: `zeros` for black, `border` for the pixels of the edge.
    """
    height, width = images.shape[2:]
    across = (2 * torch.arange(width, device=images.device) + 1) / width - 1
    down = (2 * torch.arange(height, device=images.device) + 1) / height - 1
    by_across, by_down, shift = sources[..., None, None].unbind(2)
    # Not `affine_grid`, whose matrix product has too few bits for a pixel's place under autocast.
    grid = (by_across * across + by_down * down[:, None] + shift).permute(0, 2, 3, 1)
    pixels = images.to(torch.float32, memory_format=torch.contiguous_format)  # the others are faster in this layout
    moved = F.grid_sample(pixels, grid, padding_mode=outside, align_corners=False)
    return moved.round_().to(images.dtype)


def _looked_up(images: Tensor, operation: Tensor, part: Part, ranges: Ranges) -> Tensor:
    """Replaces each of the 256 values of a byte by another, for each image and channel; returns floats.

    - brightness: f v. contrast: m + f (v - m), with m the image's mean brightness.
    - posterize: v without its last bits. solarize: 255 - v from a threshold on.
    - autocontrast: (v - low) 255 / (high - low), with the channel's lowest and highest value.
    - equalize: the share of the channel's pixels below v, of 255; the pixels of the highest value are not counted.
    """
    n, channels = images.shape[:2]
    pixels = images.flatten(2).long()
    # Floats throughout: they are faster, and exact for whole numbers and their quotients' whole parts.
    value = torch.arange(256.0, device=images.device).expand(n, channels, 256)

    def column(values: Tensor) -> Tensor:
        return values[:, None, None]

    brightness, contrast = column(part("brightness", ranges.enhance)), column(part("contrast", ranges.enhance))
    middle = column(luma(images.float()).mean((1, 2, 3))) * (contrast != 0)
    table = torch.lerp(middle, value, 1 + brightness + contrast).round_().clamp_(0, 255)
    step = column(part("posterize", ranges.bits).round().exp2())
    table = (table / step).floor_() * step
    table = torch.where(value >= 256 - column(part("solarize", 256)), 255 - value, table)
    lowest, highest = pixels.amin(2, keepdim=True), pixels.amax(2, keepdim=True)
    stretched = ((value - lowest) * 255 / (highest - lowest).clamp_min(1)).floor_().clamp_(0, 255)
    table = torch.where(column(operation == OPERATIONS.index("autocontrast")) & (highest > lowest), stretched, table)
    counts = torch.zeros_like(table).scatter_add_(2, pixels, torch.ones_like(pixels, dtype=torch.float32))
    size = ((pixels.shape[2] - counts.gather(2, highest)) / 255).floor_()
    below = counts.cumsum(2) - counts
    equal = ((below + (size / 2).floor_()) / size.clamp_min(1)).floor_().clamp_(0, 255)
    table = torch.where(column(operation == OPERATIONS.index("equalize")) & (size > 0), equal, table)
    return table.gather(2, pixels).view(images.shape)
