"""Augmentation of training images: a whole batch at once, each image differently, on the device that trains."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnbench.config.schema import Augment
from cnnbench.data.policies import luma, randaugment, sampled, trivialaugment


class Augmentation:
    """Augments batches of training images as `schema.Augment` says; `mixed` does what changes labels too.

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
        if config.vertical_flip:
            turned = torch.rand(len(images), generator=generator, device=images.device) < 0.5
            images = torch.where(turned[:, None, None, None], images.flip(2), images)
        if config.resized_crop:
            images = _resized_crop(images, config.resized_crop, generator)
        if config.rotation or config.shift:
            images = _rotated(images, config.rotation, config.shift, mirror, generator)
            mirror = None
        if config.crop or mirror is not None:
            images = _cropped(images, config.crop, config.padding, mirror, generator)
        if config.brightness or config.contrast or config.saturation or config.hue:
            images = _jittered(images, config, generator)
        if config.randaugment:
            images = randaugment(images, config.randaugment, config.magnitude, generator)
        if config.trivialaugment:
            images = trivialaugment(images, generator)
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


def _resized_crop(images: Tensor, smallest: float, generator: torch.Generator) -> Tensor:
    """Scales a random part of each image to the whole size (Szegedy et al. 2015, section 6).

    The part's area is uniform from `smallest` to 1 of the image's; the logarithm of width / height is uniform between
    those of 3/4 and 4/3, except that no side is longer than the image's.
    """
    n, _, height, width = images.shape
    draws = torch.rand(4, n, generator=generator, device=images.device)
    area, ratio = smallest + (1 - smallest) * draws[0], ((2 * draws[1] - 1) * math.log(4 / 3)).exp()
    wide = (area * ratio * (height / width)).sqrt().clamp_max(1)
    high = (area / ratio * (width / height)).sqrt().clamp_max(1)
    return _part(images, draws[2] * (1 - high), draws[3] * (1 - wide), high, wide)


def _part(images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """Scales a part of each image to the whole size; its place and sides are shares of the image's, (n,)."""
    none = torch.zeros_like(width)
    across = torch.stack([width, none, 2 * left + width - 1], 1)
    along = torch.stack([none, height, 2 * top + height - 1], 1)
    return sampled(images, torch.stack([across, along], 1), "border")


def _jittered(images: Tensor, config: Augment, generator: torch.Generator) -> Tensor:
    """Changes brightness, contrast, saturation and hue of each image (colour jitter; Howard 2013, section 2.1)."""
    largest = (config.brightness, config.contrast, config.saturation, config.hue)
    draws = torch.rand(4, len(images), generator=generator, device=images.device) * 2 - 1
    brightness, contrast, saturation, turn = (draw * most for draw, most in zip(draws, largest, strict=True))
    return recoloured(images, 1 + brightness, 1 + contrast, 1 + saturation, turn)


_YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))
"""Y (`luma`), I and Q of a colour, from red, green and blue."""
_FROM_YIQ = torch.tensor(_YIQ, dtype=torch.float64).inverse().tolist()
"""Red, green and blue, from Y, I and Q; the factors of Y are 1."""


def recoloured(images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, turn: Tensor) -> Tensor:
    """Changes the colours of each image by one linear map, in YIQ, where Y is brightness and (I, Q) is colour.

    Y becomes b (c Y + (1 - c) m), with m the mean of Y; (I, Q) becomes b c s (I, Q), turned by the angle 2 pi h. Values
    are cut off at 0 and 255 once, at the end. Grey images have no I and Q.

    Args:
        images: bytes (n, channels, height, width).
        brightness: b, (n,); 1 changes nothing.
        contrast: c, (n,).
        saturation: s, (n,).
        turn: h, (n,), from -1/2 to 1/2; 0 changes nothing.

    Returns:
        Bytes of the same shape.
    """
    b, c, s, angle = (each[:, None, None] for each in (brightness, contrast, saturation, turn * (2 * torch.pi)))
    pixels = images.float()
    y = luma(pixels)
    new = b * torch.lerp(y.mean((1, 2, 3))[:, None, None], y[:, 0], c)
    if images.shape[1] != 3:
        return new[:, None].round_().clamp_(0, 255).to(images.dtype)
    red, green, blue = pixels.unbind(1)
    i, q = (of_red * red + of_green * green + of_blue * blue for of_red, of_green, of_blue in _YIQ[1:])
    cos, sin = b * c * s * angle.cos(), b * c * s * angle.sin()
    i, q = cos * i - sin * q, sin * i + cos * q
    channels = [new + of_i * i + of_q * q for _, of_i, of_q in _FROM_YIQ]
    return torch.stack(channels, 1).round_().clamp_(0, 255).to(images.dtype)


def mixed(images: Tensor, mixup: float, cutmix: float, generator: torch.Generator) -> tuple[Tensor, float, Tensor]:
    """Mixes each image of a batch with another one by mixup or CutMix; with both, half of the batches by either.

    mixup is `mixing`. In CutMix (Yun et al. 2019) a rectangle of the partner replaces the image's own pixels, the same
    one in the whole batch. Its centre is any pixel; its sides are sqrt(1 - lambda) of the image's, with lambda ~
    Beta(cutmix, cutmix); what lies outside the image is cut off. Labels are mixed by the share of its own pixels that
    an image keeps.

    Args:
        images: bytes (n, channels, height, width).
        mixup: alpha of mixup; 0 for CutMix alone.
        cutmix: alpha of CutMix; 0 for mixup alone.
        generator: random numbers, on the images' device.

    Returns:
        The images, as floats after mixup; the share of an image's own label; each image's partner, (n,).
    """
    coin, y, x = torch.rand(3, generator=generator, device=images.device).tolist() if cutmix else (1.0, 0.0, 0.0)
    cut = coin < 0.5 or not mixup
    share, partner = mixing(len(images), cutmix if cut else mixup, generator)
    if not cut:
        return torch.lerp(images[partner].float(), images.float(), share), share, partner
    height, width = images.shape[2:]
    top, bottom = _side(y, height, share)
    left, right = _side(x, width, share)
    pasted = images.clone()
    pasted[:, :, top:bottom, left:right] = images[partner, :, top:bottom, left:right]
    return pasted, 1 - (bottom - top) * (right - left) / (height * width), partner


def _side(centre: float, length: int, share: float) -> tuple[int, int]:
    """Where CutMix's rectangle begins and ends along a side; `centre` is from 0 to 1."""
    middle, half = int(centre * length), int(length * math.sqrt(1 - share)) // 2
    return max(middle - half, 0), min(middle + half, length)


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
