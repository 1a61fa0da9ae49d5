"""A preview: the first images of a run's first batch, augmented, with their classes, as a PNG file."""

from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from cnnbench.config.schema import Config
from cnnbench.data.augmentation import mixed
from cnnbench.data.datamodule import ImageData, statistics
from cnnbench.data.images import ImageSet
from cnnbench.report import fonts
from cnnbench.runtime import files
from cnnbench.runtime.randomness import Stream, derived_seed
from cnnbench.training import parts

SIDE = 8
"""The number of images in a row, and of rows."""

_LETTERS = 10
"""Height in pixels of the letters below an image."""

_NAME = _LETTERS + 4
"""Height in pixels of the line for the class below an image."""


def preview(config: Config, images: ImageSet, path: Path) -> None:
    """Writes up to 64 images of the first epoch's first batch as a PNG file, augmented but not normalised.

    Below each one stands its class; below a mixture the class of the larger part.

    Small images are enlarged by a whole factor, without smoothing, to at most 64 pixels. Numbers stand for names that
    no font can draw, and are printed with them.

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
        batch, share, partner = mixed(batch, config.augment.mixup, config.augment.cutmix, generator)
        batch = batch.float().round().to(torch.uint8)
        positions = positions if share >= 0.5 else positions[partner]
    shown = batch[: SIDE * SIDE].permute(0, 2, 3, 1).numpy()
    _, height, width, channels = shown.shape
    scale = max(1, 64 // max(height, width))
    high, wide = height * scale, width * scale
    canvas = Image.new("RGB", (SIDE * (wide + 2), -(-len(shown) // SIDE) * (high + 2 + _NAME)), "white")
    names = fonts.class_labels(list(images.classes))
    for i, (pixels, label) in enumerate(zip(shown, images.train_labels[positions[: len(shown)].numpy()], strict=True)):
        image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels).convert("RGB")
        x, y = i % SIDE * (wide + 2), i // SIDE * (high + 2 + _NAME)
        canvas.paste(image.resize((wide, high), Image.Resampling.NEAREST), (x, y))
        canvas.paste(_written(names[label], wide), (x, y + high + 2))
    files.write_whole(path, lambda file: canvas.save(file, format="PNG"))
    if unlike := [f"{number} {name}" for number, name in zip(names, images.classes, strict=True) if number != name]:
        print(f"No font installed here has the letters of {', '.join(unlike)}.")


def _written(name: str, width: int) -> Image.Image:
    """A name in black on white, with as many letters as fit into a width."""
    font = ImageFont.truetype(fonts.file_for(name), _LETTERS)
    while font.getlength(name) > width:
        name = name.rstrip("…")[:-1] + "…"
    line = Image.new("RGB", (width, _LETTERS + 2), "white")
    ImageDraw.Draw(line).text((0, 0), name, fill="black", font=font)
    return line
