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
