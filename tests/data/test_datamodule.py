"""Splits, order, batches, normalisation, augmentation."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cnnbench.config.schema import Augment, Data
from cnnbench.data.augmentation import Augmentation, mixing
from cnnbench.data.datamodule import ImageData, split, statistics
from cnnbench.data.images import ImageSet
from cnnbench.data.normalization import Normalize
from cnnbench.errors import ConfigError


def images(train: list[int], test: list[int], channels: int = 3) -> ImageSet:
    """`train[c]` training and `test[c]` test images of class c; pixel [0, 0, 0] of an image is its position."""

    def some(counts: list[int]) -> tuple[np.ndarray, np.ndarray]:
        labels = np.repeat(np.arange(len(counts)), counts)
        pixels = np.random.default_rng(len(labels)).integers(0, 256, (len(labels), 4, 4, channels)).astype(np.uint8)
        pixels[:, 0, 0, 0] = np.arange(len(labels)) % 256
        return pixels, labels

    return ImageSet(*some(train), *some(test), tuple(map(str, range(len(train))))).fingerprinted()


def test_split_is_stratified_and_by_seed() -> None:
    source = images([100, 50, 30], [10, 10, 10])
    parts = split(source, Data(), seed=0)
    assert np.bincount(source.train_labels[parts.val]).tolist() == [10, 5, 3]
    assert np.bincount(source.train_labels[parts.train]).tolist() == [90, 45, 27]
    assert sorted([*parts.train, *parts.val]) == list(range(180))
    assert parts.test.tolist() == list(range(30))
    assert split(source, Data(), seed=0).val.tolist() == parts.val.tolist()
    assert split(source, Data(), seed=1).val.tolist() != parts.val.tolist()


def test_largest_remainders() -> None:
    # Shares of 18 images out of 180 by classes of 95, 55, 30: 9.5, 5.5, 3; the halves go to the first in order.
    parts = split(images([95, 55, 30], [1, 1, 1]), Data(), seed=3)
    assert len(parts.val) == 18
    assert np.bincount(images([95, 55, 30], [1, 1, 1]).train_labels[parts.val]).tolist() in ([10, 5, 3], [9, 6, 3])


def test_limit_takes_the_same_images_for_every_seed() -> None:
    source = images([100, 50, 50], [30, 10, 10])
    first, second = split(source, Data(limit=40), seed=0), split(source, Data(limit=40), seed=1)
    assert sorted([*first.train, *first.val]) == sorted([*second.train, *second.val])
    assert np.bincount(source.train_labels[np.concatenate([first.train, first.val])]).tolist() == [20, 10, 10]
    assert len(first.val) == 4
    assert len(first.test) == 40
    assert first.test.tolist() == second.test.tolist()
    assert len(split(source, Data(limit=10_000), seed=0).test) == 50


def test_the_documents_protocol_validates_on_the_test_set() -> None:
    parts = split(images([10, 10], [7, 5]), Data(val="test"), seed=0)
    assert len(parts.train) == 20
    assert parts.val.tolist() == parts.test.tolist() == list(range(12))


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.limit=2: .* none would be left of '2' .training images: 9"):
        split(images([9, 9, 9], [1, 1, 1]), Data(limit=2), seed=0)


@pytest.mark.parametrize(
    ("counts", "fraction", "says"),
    [
        # 5 of 44: shares 4.55 and 0.45, so the second class gets none; 6 of 44: 5.45 and 0.55
        (
            [40, 4],
            "0.1",
            "no validation image of class '1' (images for training and validation: 4). {key}0.13 leaves some.",
        ),
        ([40, 1], "0.1", "no validation image of class '1' (images for training and validation: 1). Each class needs"),
        (
            [20, 2],
            "0.9",
            "no training image of class '1' (images for training and validation: 2). {key}0.25 leaves some.",
        ),
    ],
)
def test_too_few_images_of_a_class_are_named(counts: list[int], fraction: str, says: str) -> None:
    key = "data.val_fraction="
    with pytest.raises(ConfigError, match=re.escape(f"{key}{fraction}: leaves {says.format(key=key)}")):
        split(images(counts, [1, 1]), Data(val_fraction=float(fraction)), seed=0)


def with_validation(train: list[int], test: list[int], positions: list[int]) -> ImageSet:
    return replace(images(train, test), validation=np.array(positions)).fingerprinted()


def test_validation_images_of_the_data_set_are_used_by_themselves() -> None:
    source = with_validation([6, 6], [3, 3], [1, 7, 8])
    assert source.fingerprint != images([6, 6], [3, 3]).fingerprint
    for seed in (0, 1):
        for val in (None, "folder"):
            parts = split(source, Data(val=val), seed)
            assert parts.val.tolist() == [1, 7, 8]
            assert parts.train.tolist() == [0, 2, 3, 4, 5, 6, 9, 10, 11]
    assert ImageData(source, Data(), 4, 0).validation == "folder"
    assert ImageData(images([20, 20], [3, 3]), Data(), 4, 0).validation == "split"
    with pytest.raises(ConfigError, match=r"data\.val=folder: these images have no validation images of their own"):
        split(images([20, 20], [3, 3]), Data(val="folder"), seed=0)


def test_a_limit_keeps_the_share_of_the_validation_images() -> None:
    parts = split(with_validation([60, 40], [9, 9], [*range(12), *range(60, 68)]), Data(limit=50), seed=0)
    assert len(parts.val) == 10  # of 20 in 100
    assert sum(position < 60 for position in parts.val) == 6
    assert len(parts.train) == 40
    few = with_validation([60, 40], [9, 9], [0, 1, 2, 60])
    (position,) = split(few, Data(limit=20), seed=0).val  # shares 0.6 and 0.2: a class may go without
    assert position < 3
    with pytest.raises(ConfigError, match=r"none would be left of the 1 validation images"):
        split(with_validation([60, 40], [9, 9], [60]), Data(limit=20), seed=0)


def test_no_test_images() -> None:
    source = images([20, 20], [0, 0])
    assert len(split(source, Data(), seed=0).test) == 0
    with pytest.raises(ConfigError, match=r"data\.val=test: there are no test images"):
        split(source, Data(val="test"), seed=0)


def loaded(source: ImageSet, batch_size: int, seed: int = 0, epoch: int = 0, **keys: object) -> ImageData:
    data = ImageData(source, Data(**keys), batch_size, seed)
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(strategy=strategy, current_epoch=epoch)  # type: ignore[assignment]
    return data


def epoch_of(data: ImageData) -> tuple[list[int], list[int]]:
    batches = list(data.train_dataloader())
    seen = [int(p) for _, _, positions in batches for p in positions]
    assert seen == [int(p) for pixels, _, _ in batches for p in pixels[:, 0, 0, 0]]
    return [len(labels) for _, labels, _ in batches], seen


def test_every_training_image_once_and_a_smaller_last_batch() -> None:
    data = loaded(images([20, 20], [5, 5]), batch_size=8)
    sizes, seen = epoch_of(data)
    assert sizes == [8, 8, 8, 8, 4]
    assert len(data.train_dataloader()) == 5
    assert sorted(seen) == sorted(data.split.train.tolist())
    assert seen != sorted(seen)


def test_order_depends_on_seed_and_epoch_alone() -> None:
    source = images([20, 20], [5, 5])
    orders = [epoch_of(loaded(source, 8, seed, epoch))[1] for seed, epoch in [(0, 0), (0, 1), (0, 0), (1, 0)]]
    assert orders[0] == orders[2]
    assert orders[0] != orders[1]
    assert orders[0] != orders[3]
    assert epoch_of(loaded(source, 5))[1] == orders[0]  # whatever the batch size


def test_batches_from_disk_are_those_from_memory() -> None:
    source = images([20, 20], [5, 5])
    memory, disk = loaded(source, 8), loaded(source, 8, in_memory=False)
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        pairs = list(zip(getattr(memory, name)(), getattr(disk, name)(), strict=True))
        assert len(getattr(memory, name)()) == len(getattr(disk, name)()) == len(pairs)
        for batch, from_disk in pairs:
            assert all(torch.equal(a, b) for a, b in zip(batch, from_disk, strict=True))
            assert batch[0].dtype == from_disk[0].dtype == torch.uint8


def test_statistics_are_those_of_the_training_split() -> None:
    source = images([1500, 1000], [5, 5])
    positions = split(source, Data(), seed=0).train
    mean, std = statistics(source.train, positions, "standard")
    pixels = source.train[positions].reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(mean, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std(0), rtol=1e-10)
    assert statistics(source.train, positions, "unit") == ([0, 0, 0], [255, 255, 255])
    assert statistics(source.train, positions, "none") == ([0, 0, 0], [1, 1, 1])
    assert statistics(np.full((2, 4, 4, 1), 9, np.uint8), np.arange(2), "standard") == ([9], [1])


def test_normalize() -> None:
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3)
    torch.testing.assert_close(Normalize([0], [255])(pixels).flatten(), torch.tensor([0, 0.2, 1]))
    torch.testing.assert_close(Normalize([51], [102])(pixels).flatten(), torch.tensor([-0.5, 0, 2]))
    assert torch.equal(Normalize([0], [1])(pixels).flatten(), torch.tensor([0.0, 51, 255]))
    channels = Normalize([0, 10], [1, 5])(torch.full((1, 2, 1, 1), 20, dtype=torch.uint8)).flatten()
    torch.testing.assert_close(channels, torch.tensor([20.0, 2.0]))


def shifted(image: torch.Tensor, mirror: bool, down: int, right: int) -> torch.Tensor:
    """One augmented image, written with loops."""
    _, height, width = image.shape
    source = image.flip(2) if mirror else image
    result = torch.zeros_like(image)
    for y in range(height):
        for x in range(width):
            if 0 <= y + down < height and 0 <= x + right < width:
                result[:, y, x] = source[:, y + down, x + right]
    return result


def augmented(batch: torch.Tensor, config: Augment, epoch: int = 0, seed: int = 0) -> torch.Tensor:
    augmentation = Augmentation(config, images=len(batch), fill=[7.4] * batch.shape[1], seed=1)
    changed = augmentation(batch, torch.arange(len(batch)), epoch, torch.Generator().manual_seed(seed))
    assert changed.shape == batch.shape
    assert changed.dtype == torch.uint8
    return changed


BATCH = torch.randint(8, 256, (200, 3, 5, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_flip_crop_gives_shifted_and_mirrored_images_each_its_own() -> None:
    found = []
    for image, changed in zip(BATCH, augmented(BATCH, Augment(flip="random", crop=2)), strict=True):
        ways = [
            (mirror, down, right)
            for mirror in (False, True)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if torch.equal(shifted(image, mirror, down, right), changed)
        ]
        assert len(ways) == 1
        found += ways
    assert len(set(found)) > 40  # of 50 ways
    assert 70 < sum(mirror for mirror, _, _ in found) < 130
    assert torch.equal(
        augmented(BATCH, Augment(flip="random", crop=2)), augmented(BATCH, Augment(flip="random", crop=2))
    )


def test_a_reflected_shift_by_hand() -> None:
    # A row 0 1 2 3 continues 2 1 | 0 1 2 3 | 2 1; five windows of four, moved by -2 to 2, and the same down.
    row = torch.arange(4, dtype=torch.uint8)
    image = (10 * row[:, None] + row).expand(200, 1, 4, 4)
    ways = {(2, 1, 0, 1), (1, 0, 1, 2), (0, 1, 2, 3), (1, 2, 3, 2), (2, 3, 2, 1)}
    changed = augmented(image, Augment(crop=2, padding="reflect"))[:, 0]
    assert {tuple((one[0] % 10).tolist()) for one in changed} == ways
    assert {tuple((one[:, 0] // 10).tolist()) for one in changed} == ways
    for one in changed:
        assert torch.equal(one, 10 * (one[:, :1] // 10) + one[:1] % 10)


def mirrored(batch: torch.Tensor, changed: torch.Tensor) -> list[bool]:
    sides = []
    for old, new in zip(batch, changed, strict=True):
        assert torch.equal(new, old) or torch.equal(new, old.flip(2))
        sides.append(not torch.equal(new, old))
    return sides


def test_alternating_flip_mirrors_every_other_epoch() -> None:
    flip = Augment(flip="alternating")
    epochs = [mirrored(BATCH, augmented(BATCH, flip, epoch, seed=epoch)) for epoch in range(4)]
    assert 70 < sum(epochs[0]) < 130
    assert epochs[1] == [not side for side in epochs[0]]
    assert epochs[2] == epochs[0]
    assert epochs[3] == epochs[1]


def test_rotation_and_shift() -> None:
    ramp = torch.arange(21).mul(10).to(torch.uint8).expand(40, 1, 21, 21).contiguous()  # brightness 10 x
    still = augmented(ramp, Augment(shift=1e-9))
    assert torch.equal(still, ramp)
    moved = augmented(ramp, Augment(shift=0.2)).int()[:, 0, 10, 10] - 100  # the centre shows its source's 10 x
    assert moved.abs().max() <= 42  # a fifth of 21 pixels
    assert moved.min() < -30
    assert moved.max() > 30
    turned = augmented(ramp, Augment(rotation=20)).float()[:, 0]
    slope = (turned[:, 10, 15] - turned[:, 10, 5]) / 10  # 10 cos(angle) along the row ...
    rise = (turned[:, 15, 10] - turned[:, 5, 10]) / 10  # ... and -10 sin(angle) down the column
    angles = torch.rad2deg(torch.atan2(rise, slope))
    assert angles.abs().max() < 21
    assert angles.min() < -15
    assert angles.max() > 15
    assert (torch.hypot(slope, rise) - 10).abs().max() < 0.3  # turned, not stretched
    both = augmented(ramp, Augment(rotation=1e-9, flip="random"))
    assert 5 < sum(mirrored(ramp, both)) < 35


def test_cutout_paints_one_square_over() -> None:
    big = BATCH.repeat(1, 1, 4, 4)  # 20 x 24
    changed = augmented(big, Augment(cutout=4))
    painted = (changed != big).all(1)
    assert (changed.permute(0, 2, 3, 1)[painted] == 7).all()  # the fill, rounded
    sizes = set()
    for mask in painted:
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        assert mask.sum() == len(rows) * len(columns)  # a rectangle, cut off by the edge at most
        sizes.add((len(rows), len(columns)))
    assert (4, 4) in sizes
    assert max(sizes) == (4, 4)
    assert min(sizes) < (4, 4)


def test_mixup_draws_a_share_and_partners() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = [mixing(10, 0.2, generator) for _ in range(300)]
    shares = torch.tensor([share for share, _ in draws])
    assert 0.45 < shares.mean() < 0.55
    assert shares.var().item() == pytest.approx(0.25 / 1.4, rel=0.15)  # of Beta(a, a): 1 / (4 (2 a + 1))
    assert all(sorted(partner.tolist()) == list(range(10)) for _, partner in draws)
