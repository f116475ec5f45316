"""The batched augmentation against a slow one that does image by image, and its distribution."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from metalr.tasks import crop_and_flip, cut_out


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _images(count: int = 40, channels: int = 3, side: int = 8) -> Tensor:
    return torch.randint(1, 256, (count, channels, side, side), generator=_generator(9)).to(torch.uint8)


def slow_crop_and_flip(images: Tensor, generator: torch.Generator, padding: int, flip: bool) -> Tensor:
    """Image by image, from the same draws."""
    count, channels, side, _ = images.shape
    draws = [torch.randint(2 * padding + 1, (count, 1), generator=generator) for _ in range(2)]
    mirror = torch.randint(2, (count, 1), generator=generator) if flip else torch.zeros(count, 1)
    results = []
    for image, row, column, mirrored in zip(images, *draws, mirror, strict=True):
        padded = torch.zeros(channels, side + 2 * padding, side + 2 * padding, dtype=torch.uint8)
        padded[:, padding : padding + side, padding : padding + side] = image
        crop = padded[:, int(row) : int(row) + side, int(column) : int(column) + side]
        results.append(crop.flip(2) if bool(mirrored) else crop)
    return torch.stack(results)


def slow_cut_out(images: Tensor, generator: torch.Generator, size: int) -> Tensor:
    count, _, side, _ = images.shape
    rows, columns = (torch.randint(side, (count, 1), generator=generator) for _ in range(2))
    results = images.clone()
    for image, row, column in zip(results, rows, columns, strict=True):
        top, left = int(row) - size // 2, int(column) - size // 2
        image[:, max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)] = 0
    return results


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize(("padding", "channels", "side"), [(1, 1, 8), (2, 3, 16), (4, 3, 32), (0, 3, 4)])
def test_crop_and_flip_equals_the_slow_one(padding: int, channels: int, side: int, flip: bool) -> None:
    images = _images(channels=channels, side=side)
    fast = crop_and_flip(images, _generator(), padding=padding, flip=flip)
    slow = slow_crop_and_flip(images, _generator(), padding, flip)
    assert fast.dtype == torch.uint8
    assert torch.equal(fast, slow)
    assert fast.is_contiguous()


@pytest.mark.parametrize("size", [1, 3, 4, 8, 20])
def test_cut_out_equals_the_slow_one(size: int) -> None:
    images = _images().float()
    assert torch.equal(cut_out(images, _generator(), size=size), slow_cut_out(images, _generator(), size))


def test_each_image_moves_by_its_own_offset_and_every_offset_is_as_likely() -> None:
    # A ramp image tells its offset: with padding 1 and no flip, the pixel in the middle is one of nine.
    ramp = torch.arange(1, 26, dtype=torch.uint8).view(1, 1, 5, 5).expand(9_000, 1, 5, 5)
    centres = crop_and_flip(ramp, _generator(), padding=1, flip=False)[:, 0, 2, 2]
    counts = centres.int().bincount()
    expected = {row * 5 + column + 1 for row in (1, 2, 3) for column in (1, 2, 3)}
    assert set(counts.nonzero().flatten().tolist()) == expected
    assert abs(counts[counts > 0] - 1_000).max() < 5 * 1_000**0.5


def test_half_of_the_images_are_mirrored_and_none_without_flip() -> None:
    ramp = torch.tensor([10, 20, 30, 40], dtype=torch.uint8).expand(4_000, 1, 4, 4)
    with_flip = crop_and_flip(ramp, _generator(), padding=0, flip=True)
    mirrored = int((with_flip[:, 0, 0, 0] == 40).sum())
    assert abs(mirrored - 2_000) < 5 * 1_000**0.5
    assert torch.equal(crop_and_flip(ramp, _generator(), padding=0, flip=False), ramp)


def test_what_moves_in_is_black() -> None:
    white = torch.full((200, 3, 8, 8), 255, dtype=torch.uint8)
    moved = crop_and_flip(white, _generator(), padding=1, flip=True)
    assert set(moved.unique().tolist()) == {0, 255}
    assert torch.equal(moved[:, :, 1:-1, 1:-1], white[:, :, 1:-1, 1:-1])


def test_the_same_generator_state_gives_the_same_batch_and_another_does_not() -> None:
    images = _images()
    first, again, other = (
        crop_and_flip(images, _generator(seed), padding=1, flip=True) for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_input_is_left_alone() -> None:
    images = _images()
    before = images.clone()
    crop_and_flip(images, _generator(), padding=2, flip=True)
    normalised = images.float()
    cut_out(normalised, _generator(), size=4)
    assert torch.equal(images, before)
    assert torch.equal(normalised, before.float())
