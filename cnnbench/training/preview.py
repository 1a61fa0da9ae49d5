"""A preview: the first images of a run's first batch, augmented, as a PNG file."""

from pathlib import Path

import torch
from PIL import Image

from cnnbench.config.schema import Config
from cnnbench.data.augmentation import mixed
from cnnbench.data.datamodule import ImageData, statistics
from cnnbench.data.images import ImageSet
from cnnbench.runtime import files
from cnnbench.runtime.randomness import Stream, derived_seed
from cnnbench.training import parts

SIDE = 8
"""The number of images in a row, and of rows."""


def preview(config: Config, images: ImageSet, path: Path) -> None:
    """Writes up to 64 images of the first epoch's first batch as a PNG file, augmented but not normalised.

    Small images are enlarged by a whole factor, without smoothing, to at most 64 pixels.

    Args:
        config: of the run.
        images: all images.
        path: the file.

    Raises:
        OSError: the file can't be written.
    """
    data = ImageData(images, config.data, parts.batch_size(config), config.seed)
    mean, _ = statistics(images.train, data.split.train, config.data.normalize)
    positions = data.order(epoch=0)[: parts.batch_size(config)]
    batch = torch.from_numpy(images.train[positions.numpy()]).permute(0, 3, 1, 2)
    generator = torch.Generator().manual_seed(derived_seed(config.seed, Stream.AUGMENT, 0))
    augment = parts.make_augmentation(config, len(images.train), mean)
    if augment is not None:
        batch = augment(batch, positions, 0, generator)
    if config.augment.mixup or config.augment.cutmix:
        batch, _, _ = mixed(batch, config.augment.mixup, config.augment.cutmix, generator)
        batch = batch.float().round().to(torch.uint8)
    shown = batch[: SIDE * SIDE].permute(0, 2, 3, 1).numpy()
    _, height, width, channels = shown.shape
    scale = max(1, 64 // max(height, width))
    canvas = Image.new("RGB", (SIDE * (width * scale + 2), -(-len(shown) // SIDE) * (height * scale + 2)), "white")
    for i, pixels in enumerate(shown):
        image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels).convert("RGB")
        corner = (i % SIDE * (width * scale + 2), i // SIDE * (height * scale + 2))
        canvas.paste(image.resize((width * scale, height * scale), Image.Resampling.NEAREST), corner)
    files.write_whole(path, lambda file: canvas.save(file, format="PNG"))
