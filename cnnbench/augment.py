"""How are training images changed? Whole batches at once, every image differently, on the device that trains.

An augmentation is called with a batch of bytes (images, channels, height, width) and a random generator of its device.
"""

import torch
from torch import Tensor


class FlipCrop:
    """Mirrors each image with probability 1/2 and moves it by up to `padding` pixels in both directions.

    What moves in from outside is black (byte 0), as in He et al. 2016, section 4.2.

    Args:
        padding: the largest shift, in pixels; 0 only mirrors.
    """

    def __init__(self, padding: int = 4) -> None:
        if padding < 0:
            raise ValueError(f"padding={padding}: must be at least 0.")
        self.padding = padding

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The changed batch, of the same shape, type and memory layout."""
        n, _, height, width = images.shape
        device, p = images.device, self.padding
        shift = torch.randint(0, 2 * p + 1, (2, n, 1), generator=generator, device=device)
        mirror = torch.rand((n, 1), generator=generator, device=device) < 0.5
        rows = torch.arange(height, device=device) + shift[0]
        columns = torch.arange(width, device=device).expand(n, -1)
        columns = torch.where(mirror, width - 1 - columns, columns) + shift[1]
        padded = torch.nn.functional.pad(images.permute(0, 2, 3, 1), (0, 0, p, p, p, p))
        which = torch.arange(n, device=device)[:, None, None]
        return padded[which, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


class Affine:
    """Turns and shifts each image by its own random amounts, in one bilinear resampling; mirrors half of them.

    What comes in from outside repeats the edge, as Keras's ImageDataGenerator (document 0, 4.1) does by default.

    Args:
        rotation: largest angle, in degrees, to either side.
        shift: largest shift, as a share of width and height, in either direction.
        mirror: whether images are mirrored left to right with probability 1/2.
    """

    def __init__(self, rotation: float = 20.0, shift: float = 0.2, mirror: bool = True) -> None:
        if not 0 <= rotation <= 180:
            raise ValueError(f"rotation={rotation}: must be from 0 to 180 degrees.")
        if not 0 <= shift <= 1:
            raise ValueError(f"shift={shift}: must be from 0 to 1.")
        self.rotation, self.shift, self.mirror = rotation, shift, mirror

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The changed batch, of the same shape and type."""
        n, _, height, width = images.shape
        # Uniform numbers from -1 to 1, one of each kind for each image.
        angle, down, right, side = torch.rand(4, n, generator=generator, device=images.device) * 2 - 1
        angle = angle * (self.rotation * torch.pi / 180)
        sign = torch.where(side < 0, -1.0, 1.0) if self.mirror else torch.ones_like(side)
        cos, sin = angle.cos(), angle.sin()
        # From a place in the new image to its source, in coordinates from -1 to 1 whose units are half a side.
        across = torch.stack([sign * cos, -sign * sin * height / width, right * 2 * self.shift], 1)
        along = torch.stack([sin * width / height, cos, down * 2 * self.shift], 1)
        grid = torch.nn.functional.affine_grid(torch.stack([across, along], 1), list(images.shape), align_corners=False)
        moved = torch.nn.functional.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
        return moved.round_().to(images.dtype)
