"""Crops, colours, policies and CutMix, by hand and beside torchvision's operations on single images."""

import math
from collections.abc import Callable

import pytest
import torch
import torchvision.transforms.functional as reference
from torch import Tensor
from torchvision.transforms import InterpolationMode

from cnnbench.config.schema import Augment
from cnnbench.data import policies
from cnnbench.data.augmentation import Augmentation, _part, mixed, recoloured
from cnnbench.data.policies import OPERATIONS, Ranges, applied

BATCH = (torch.rand(60, 3, 20, 24, generator=torch.Generator().manual_seed(1)) ** 2 * 256).to(torch.uint8)
"""Noise, most of it dark, so that equalization has something to do."""
RAMP = torch.arange(16).mul(10).to(torch.uint8).expand(300, 1, 16, 16).contiguous()
"""Brightness 10 x."""


def augmented(batch: Tensor, seed: int = 0, **keys: float) -> Tensor:
    augmentation = Augmentation(Augment(**keys), images=len(batch), fill=[7.4] * batch.shape[1], seed=1)
    changed = augmentation(batch, torch.arange(len(batch)), 0, torch.Generator().manual_seed(seed))
    assert changed.shape == batch.shape
    assert changed.dtype == torch.uint8
    return changed


@pytest.mark.parametrize(
    "keys",
    [
        {"vertical_flip": True}, {"resized_crop": 0.1}, {"brightness": 0.4, "hue": 0.1}, {"randaugment": 2},
        {"trivialaugment": True},
    ],
)  # fmt: skip
def test_seed_alone_decides(keys) -> None:
    assert torch.equal(augmented(BATCH, 3, **keys), augmented(BATCH, 3, **keys))
    assert not torch.equal(augmented(BATCH, 3, **keys), augmented(BATCH, 4, **keys))
    assert len({image.numpy().tobytes() for image in augmented(BATCH[:1].repeat(60, 1, 1, 1), **keys)}) > 1


def test_vertical_flip_mirrors_half_of_the_images() -> None:
    turned = 0
    for old, new in zip(BATCH, augmented(BATCH, vertical_flip=True), strict=True):
        assert torch.equal(new, old) or torch.equal(new, old.flip(1))
        turned += not torch.equal(new, old)
    assert 20 < turned < 40


def test_a_part_is_scaled_to_the_whole() -> None:
    one = torch.tensor([0.5])
    # Half of the width from the left: sources at -0.25 (the edge, 0), 0.25, 0.75, 1.25, ... times 10.
    halves = _part(RAMP[:1], 0 * one, 0 * one, 2 * one, one)
    assert halves[0, 0, 3, :5].tolist() == [0, 2, 8, 12, 18]  # 2.5 and 12.5 are rounded to even
    whole = _part(BATCH[:1], 0 * one, 0 * one, 2 * one, 2 * one)
    assert torch.equal(whole, BATCH[:1])
    lower_right = _part(BATCH[:1], one, one, one, one)[0, :, -1, -1]
    assert torch.equal(lower_right, BATCH[0, :, -1, -1])


def test_resized_crops_have_the_areas_and_shapes_that_are_asked_for() -> None:
    across = augmented(RAMP, resized_crop=0.25).float()[:, 0, 8]
    down = augmented(RAMP.transpose(2, 3).contiguous(), resized_crop=0.25).float()[:, 0, :, 8]  # the same crops
    wide = (across[:, 12] - across[:, 4]) / 80  # shares of the sides
    high = (down[:, 12] - down[:, 4]) / 80
    area, ratio = wide * high, wide / high
    assert area.min() == pytest.approx(0.25, abs=0.03)
    assert area.max() > 0.9
    assert area.mean() == pytest.approx(0.61, abs=0.03)  # a little below 0.625: long sides are cut off
    assert ratio.min() == pytest.approx(0.75, abs=0.04)
    assert ratio.max() == pytest.approx(4 / 3, abs=0.08)
    left = across[:, 0] / 150
    assert (left + wide).max() < 1.04
    assert left[wide < 0.7].max() > 0.3


def colours(pixel: tuple[int, int, int], **change: float) -> list[int]:
    """The first of two pixels, the other one black, after one change."""
    image = torch.zeros(1, 3, 1, 2, dtype=torch.uint8)
    image[0, :, 0, 0] = torch.tensor(pixel)
    given = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "turn": 0.0} | change
    return recoloured(image, **{key: torch.tensor([value]) for key, value in given.items()})[0, :, 0, 0].tolist()


def test_colours_by_hand() -> None:
    pixel = (
        200,
        100,
        50,
    )  # Y = 0.299 * 200 + 0.587 * 100 + 0.114 * 50 = 124.2, and 62.1 is the mean with the black one
    assert colours(pixel) == [200, 100, 50]
    assert colours(pixel, brightness=1.2) == [240, 120, 60]
    assert colours(pixel, brightness=2.0) == [255, 200, 100]  # cut off
    assert colours(pixel, saturation=0.0) == [124, 124, 124]
    assert colours(pixel, saturation=0.5) == [162, 112, 87]  # half way: 162.1, 112.1, 87.1
    assert colours(pixel, contrast=0.5) == [131, 81, 56]  # 62.1 + (x - 62.1) / 2
    assert colours(pixel, contrast=0.0) == [62, 62, 62]
    assert colours(pixel, turn=0.5) == [48, 148, 198]  # the colour opposite: 2 Y - x
    # I = 75.7 and Q = 5.5; turned by 90 degrees -5.5 and 75.7: Y + 0.956 I + 0.621 Q and so on
    assert colours(pixel, turn=0.25) == pytest.approx([165.9, 76.7, 255], abs=1)


def test_colour_jitter_draws_within_its_bounds() -> None:
    flat = torch.tensor([80, 40, 20], dtype=torch.uint8)[None, :, None, None].expand(300, 3, 4, 4).contiguous()
    factors = augmented(flat, brightness=0.5)[:, 0, 0, 0].float() / 80
    assert factors.min() == pytest.approx(0.5, abs=0.02)
    assert factors.max() == pytest.approx(1.5, abs=0.02)
    same = augmented(flat, hue=0.5, saturation=1.0).float()
    brightness = (same * torch.tensor([0.299, 0.587, 0.114])[None, :, None, None]).sum(1)
    inside = (same > 0).all(1)  # not cut off
    assert (brightness[inside] - 49.68).abs().max() < 1  # neither changes it
    grey = augmented(RAMP, hue=0.5, saturation=1.0)
    assert torch.equal(grey, RAMP)
    contrast = augmented(RAMP // 2 + 60, contrast=0.8).float()[:, 0]  # from 60 to 135, 97.5 on average
    assert (contrast.mean((1, 2)) - 97.5).abs().max() < 0.6
    slopes = (contrast[:, 0, 15] - contrast[:, 0, 0]) / 75
    assert (slopes.min().item(), slopes.max().item()) == pytest.approx((0.2, 1.8), abs=0.03)


RANGES = Ranges(shear=0.3, right=6, down=5, rotate=30, enhance=0.9, bits=4)


def alone(name: str, magnitude: float) -> Tensor:
    operation = torch.full((len(BATCH),), OPERATIONS.index(name))
    return applied(BATCH, operation, torch.full((len(BATCH),), magnitude), RANGES)


def affine(
    images: Tensor, angle: float = 0, right: int = 0, down: int = 0, shear: tuple[float, float] = (0, 0)
) -> Tensor:
    corner = [0, 0] if any(shear) else None
    degrees = [math.degrees(math.atan(each)) for each in shear]
    bilinear = InterpolationMode.BILINEAR
    return reference.affine(images, angle, [right, down], 1, degrees, bilinear, center=corner)


SINGLE: dict[str, Callable[[float], Tensor]] = {
    "identity": lambda m: BATCH,
    "shear_x": lambda m: affine(BATCH, shear=(0.3 * m, 0)),
    "shear_y": lambda m: affine(BATCH, shear=(0, 0.3 * m)),
    "translate_x": lambda m: affine(BATCH, right=int(6 * m)),
    "translate_y": lambda m: affine(BATCH, down=int(5 * m)),
    "rotate": lambda m: reference.rotate(BATCH, 30 * m, InterpolationMode.BILINEAR),
    "brightness": lambda m: reference.adjust_brightness(BATCH, 1 + 0.9 * m),
    "colour": lambda m: reference.adjust_saturation(BATCH, 1 + 0.9 * m),
    "contrast": lambda m: reference.adjust_contrast(BATCH, 1 + 0.9 * m),
    "sharpness": lambda m: reference.adjust_sharpness(BATCH, 1 + 0.9 * m),
    "posterize": lambda m: reference.posterize(BATCH, 8 - round(4 * m)),
    "solarize": lambda m: reference.solarize(BATCH, min(256 - 256 * m, 255)),
    "autocontrast": lambda m: reference.autocontrast(BATCH),
    "equalize": lambda m: reference.equalize(BATCH),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_is_torchvisions(name: str) -> None:
    directions = (1, -1) if OPERATIONS.index(name) <= policies.SIGNED else (1,)
    for magnitude in (0.25, 0.5, 1.0):
        for direction in directions:
            found, expected = alone(name, direction * magnitude), SINGLE[name](direction * magnitude)
            off = (found.int() - expected.int()).abs()
            # torchvision cuts off decimals where we round, and has a grey copy of whole numbers in between.
            exact = name in ("identity", "translate_x", "translate_y", "posterize", "solarize", "equalize")
            assert off.max() <= (0 if exact else 2), (name, magnitude * direction)
            assert (off <= 1).float().mean() > 0.9
    if name == "identity":
        assert torch.equal(alone(name, 1.0), BATCH)
    elif name in ("autocontrast", "equalize"):
        assert not torch.equal(alone(name, 0.0), BATCH)
    else:
        assert torch.equal(alone(name, 0.0), BATCH)
        assert not torch.equal(alone(name, 1.0), BATCH)


def test_operations_by_hand() -> None:
    image = torch.tensor([[10, 60], [110, 210]], dtype=torch.uint8).repeat(2, 2)[None, None]  # 4 x 4
    image = image.repeat(14, 1, 1, 1)
    found = applied(image, torch.arange(14), torch.full((14,), 0.5), Ranges(0.5, 2, 2, 180, 0.5, 4))[:, 0]
    by_name = {name: found[i] for i, name in enumerate(OPERATIONS)}
    assert by_name["identity"].tolist() == image[0, 0].tolist()
    assert by_name["translate_x"][0].tolist() == [0, 10, 60, 10]  # one pixel to the right, black from the left
    assert by_name["translate_y"][:, 0].tolist() == [0, 10, 110, 10]
    assert torch.equal(by_name["rotate"], image[0, 0].rot90())  # 90 degrees, to the left
    assert by_name["brightness"][:2, :2].tolist() == [[12, 75], [138, 255]]  # times 1.25, half to even
    assert by_name["contrast"][:2, :2].tolist() == [[0, 51], [113, 238]]  # 97.5 + 1.25 (x - 97.5): -11.9, 50.6, 113.1
    assert by_name["posterize"][:2, :2].tolist() == [[8, 60], [108, 208]]  # multiples of 4
    assert by_name["solarize"][:2, :2].tolist() == [[10, 60], [110, 45]]  # 255 - x from 128 on
    assert by_name["autocontrast"][:2, :2].tolist() == [[0, 63], [127, 255]]  # 255 (x - 10) / 200
    assert by_name["sharpness"][1, 1] == 235  # smoothed (590 + 4 * 210) / 13 = 110, and 110 + 1.25 (210 - 110)
    assert torch.equal(by_name["equalize"], image[0, 0])  # fewer than 256 pixels below the highest value: as it is
    assert torch.equal(by_name["colour"], image[0, 0])  # grey has none


def test_equalization_by_hand() -> None:
    values = torch.tensor([0, 100, 200], dtype=torch.uint8).repeat_interleave(torch.tensor([257, 253, 514]))
    found = applied(values.view(1, 1, 32, 32), torch.tensor([OPERATIONS.index("equalize")]), torch.ones(1), RANGES)
    # 510 pixels below the highest value, so 2 for each of 255 steps; (257 + 1) // 2 = 129, and 511 // 2 = 255.
    assert torch.equal(found.flatten(), torch.tensor([0, 129, 255]).repeat_interleave(torch.tensor([257, 253, 514])))


def test_each_image_has_its_own_operation_and_others_do_not_touch_it() -> None:
    operation = torch.arange(60) % len(OPERATIONS)
    together = applied(BATCH, operation, torch.full((60,), 0.5), RANGES)
    for i, name in enumerate(OPERATIONS):
        assert torch.equal(together[operation == i], alone(name, 0.5)[operation == i])


def test_policies_draw_what_they_should(monkeypatch) -> None:
    seen: list[tuple[Tensor, Tensor, Ranges]] = []
    monkeypatch.setattr(policies, "applied", lambda images, *drawn: seen.append(drawn) or images)
    many, generator = BATCH[:1].expand(14_000, -1, -1, -1), torch.Generator().manual_seed(0)
    policies.randaugment(many, 2, 9, generator)
    assert len(seen) == 2
    for operation, magnitude, ranges in seen:
        assert torch.bincount(operation, minlength=14).float().sub(1000).abs().max() < 150
        assert set(magnitude.abs().unique().tolist()) == set(torch.tensor([0.3]).tolist())
        assert (magnitude[operation > policies.SIGNED] > 0).all()
        assert (magnitude[(operation > 0) & (operation <= policies.SIGNED)] > 0).float().mean() == pytest.approx(
            0.5, abs=0.03
        )
        assert (ranges.right, ranges.down) == pytest.approx((24 * 150 / 331, 20 * 150 / 331))
    assert not torch.equal(seen[0][0], seen[1][0])
    policies.trivialaugment(many, generator)
    _, magnitude, ranges = seen[2]
    assert sorted((magnitude.abs() * 30).round().unique().int().tolist()) == list(range(31))
    assert (ranges.rotate, ranges.right, ranges.bits) == (135, 32, 6)


def test_cutmix_pastes_a_rectangle_and_says_its_share() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.arange(8, dtype=torch.uint8)[:, None, None, None].expand(8, 3, 20, 30).contiguous()
    shares, corners = [], set()
    for _ in range(300):
        changed, share, partner = mixed(images, 0, 1.0, generator)
        assert changed.dtype == torch.uint8
        own = (changed == images).all(1)
        assert (own | (changed == images[partner]).all(1)).all()
        for i in range(8):
            if partner[i] != i:
                assert own[i].float().mean().item() == pytest.approx(share)
                rows, columns = (~own[i]).any(1).nonzero().flatten(), (~own[i]).any(0).nonzero().flatten()
                assert (~own[i]).sum() == len(rows) * len(columns)  # a rectangle
                if len(rows):
                    corners.add((int(rows[0]), int(columns[0])))
        shares.append(share)
    assert len(corners) > 50
    assert min(shares) < 0.2
    assert max(shares) > 0.95


def test_a_cutmix_by_hand(monkeypatch) -> None:
    monkeypatch.setattr("cnnbench.data.augmentation.mixing", lambda n, alpha, generator: (0.75, torch.tensor([1, 0])))
    images = torch.tensor([1, 2], dtype=torch.uint8)[:, None, None, None].expand(2, 1, 8, 8).contiguous()
    changed, share, _ = mixed(images, 0, 1.0, torch.Generator().manual_seed(0))
    # Sides of sqrt(0.25) * 8 = 4 pixels, unless the edge cuts them off.
    y, x = torch.rand(3, generator=torch.Generator().manual_seed(0))[1:].mul(8).int().tolist()
    expected = torch.ones(8, 8, dtype=torch.uint8)
    expected[max(y - 2, 0) : y + 2, max(x - 2, 0) : x + 2] = 2
    assert torch.equal(changed[0, 0], expected)
    assert torch.equal(changed[1, 0], 3 - expected)
    assert share == (expected == 1).float().mean()


def test_mixup_and_cutmix_take_turns() -> None:
    generator = torch.Generator().manual_seed(0)
    kinds = [mixed(BATCH, 0.2, 1.0, generator)[0].dtype for _ in range(200)]
    assert 70 < sum(kind == torch.uint8 for kind in kinds) < 130
    changed, share, partner = mixed(BATCH, 0.2, 0, generator)
    torch.testing.assert_close(changed, share * BATCH + (1 - share) * BATCH[partner])


def test_nothing_synchronises_with_the_gpu_but_what_is_said() -> None:
    """On torch's `meta` device an operation that needs a value of a tensor fails."""
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8, device="meta")
    four = torch.zeros(4, device="meta")
    assert applied(images, four.long(), four, RANGES).shape == images.shape
    assert recoloured(images, four, four, four, four).shape == images.shape
    assert _part(images, four, four, four, four).shape == images.shape
