"""Augmentation of training images: a whole batch at once, each image differently, on the device that trains."""

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnbench.config.schema import Augment


class Augmentation:
    """Augments batches of training images as `schema.Augment` says; mixup, which changes labels too, is `mixing`.

    Pixels from outside the image are black after a shift by whole pixels (`crop`; He et al. 2016, section 4.2), or with
    `padding=reflect` those of the image mirrored at its edge (Jordan 2024). After a rotation they repeat the edge, as
    with Keras's ImageDataGenerator (document 0, 4.1).

    Args:
        config: the `augment` group.
        images: number of training images.
        fill: the value of cut-out pixels, 0 to 255, per channel.
        seed: fixes which half of the images `flip=alternating` mirrors first.
    """

    _config: Augment
    _fill: Tensor
    """(channels, 1, 1), bytes."""
    _mirrored_first: Tensor
    """(images,), whether `flip=alternating` mirrors an image in even epochs, counted from 0."""

    def __init__(self, config: Augment, images: int, fill: list[float], seed: int) -> None:
        self._config = config
        self._fill = torch.tensor(fill).round().to(torch.uint8)[:, None, None]
        self._mirrored_first = torch.rand(images, generator=torch.Generator().manual_seed(seed)) < 0.5

    def __call__(self, images: Tensor, positions: Tensor, epoch: int, generator: torch.Generator) -> Tensor:
        """Augments a batch.

        Args:
            images: bytes (n, channels, height, width).
            positions: (n,), their positions among the training images.
            epoch: counted from 0.
            generator: random numbers, on the images' device.

        Returns:
            Bytes (n, channels, height, width).
        """
        config = self._config
        mirror = self._mirror(positions, epoch, generator)
        if config.rotation or config.shift:
            images = _rotated(images, config.rotation, config.shift, mirror, generator)
            mirror = None
        if config.crop or mirror is not None:
            images = _cropped(images, config.crop, config.padding, mirror, generator)
        if config.cutout:
            images = _cut_out(images, config.cutout, self._fill.to(images.device), generator)
        return images

    def _mirror(self, positions: Tensor, epoch: int, generator: torch.Generator) -> Tensor | None:
        if self._config.flip == "random":
            return torch.rand(len(positions), generator=generator, device=positions.device) < 0.5
        if self._config.flip == "alternating":
            first = self._mirrored_first.to(positions.device)[positions]
            return first if epoch % 2 == 0 else ~first
        return None


def _cropped(images: Tensor, most: int, padding: str, mirror: Tensor | None, generator: torch.Generator) -> Tensor:
    """Mirrors the images in `mirror`, and moves each by up to `most` pixels in both directions."""
    n, _, height, width = images.shape
    device = images.device
    rows, columns = torch.arange(height, device=device).expand(n, -1), torch.arange(width, device=device).expand(n, -1)
    if mirror is not None:
        columns = torch.where(mirror[:, None], width - 1 - columns, columns)
    pixels = images.permute(0, 2, 3, 1)
    if most:
        shift = torch.randint(0, 2 * most + 1, (2, n, 1), generator=generator, device=device)
        rows, columns = rows + shift[0], columns + shift[1]
        if padding == "reflect":
            rows, columns = _reflected(rows - most, height), _reflected(columns - most, width)
        else:
            pixels = F.pad(pixels, (0, 0, most, most, most, most))
    which = torch.arange(n, device=device)[:, None, None]
    return pixels[which, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _reflected(positions: Tensor, size: int) -> Tensor:
    """Positions beyond the first and the last pixel, counted from 0, mirrored at that pixel."""
    last = size - 1
    return last - (last - positions.abs()).abs()


def _rotated(
    images: Tensor, rotation: float, shift: float, mirror: Tensor | None, generator: torch.Generator
) -> Tensor:
    """Rotates by up to `rotation` degrees and moves by up to `shift` of the sides, each image in one resampling."""
    n, _, height, width = images.shape
    # Uniform from -1 to 1, one of each for each image.
    angle, down, right = torch.rand(3, n, generator=generator, device=images.device) * 2 - 1
    angle = angle * (rotation * torch.pi / 180)
    cos, sin = angle.cos(), angle.sin()
    sign = torch.ones_like(cos) if mirror is None else 1 - 2 * mirror.float()
    # From a pixel of the new image to its source, in coordinates from -1 to 1: the unit is half a side.
    across = torch.stack([sign * cos, -sign * sin * height / width, right * 2 * shift], 1)
    along = torch.stack([sin * width / height, cos, down * 2 * shift], 1)
    grid = F.affine_grid(torch.stack([across, along], 1), list(images.shape), align_corners=False)
    moved = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return moved.round_().to(images.dtype)


def _cut_out(images: Tensor, side: int, fill: Tensor, generator: torch.Generator) -> Tensor:
    """Fills a square of `side` pixels in each image (cutout, DeVries and Taylor 2017).

    The centre is any pixel, so part of the square may lie outside the image.
    """
    n, _, height, width = images.shape
    device = images.device
    y = torch.randint(0, height, (n, 1), generator=generator, device=device)
    x = torch.randint(0, width, (n, 1), generator=generator, device=device)
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    top, left = y - side // 2, x - side // 2
    inside = ((rows >= top) & (rows < top + side))[:, :, None] & ((columns >= left) & (columns < left + side))[:, None]
    return torch.where(inside[:, None], fill, images)


def mixing(n: int, alpha: float, generator: torch.Generator) -> tuple[float, Tensor]:
    """Draws mixup (Zhang et al. 2018) for a batch: the share lambda ~ Beta(alpha, alpha), and each image's partner.

    The batch becomes lambda x + (1 - lambda) x[partner], its loss lambda L(y) + (1 - lambda) L(y[partner]).

    Returns:
        lambda, and the partners' positions in the batch, (n,).
    """
    # torch's sampler of Beta takes no generator, only the global seed.
    seed = int(torch.randint(0, 2**31, (1,), generator=generator, device=generator.device))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        share = float(torch.distributions.Beta(alpha, alpha).sample())
    return share, torch.randperm(n, generator=generator, device=generator.device)
