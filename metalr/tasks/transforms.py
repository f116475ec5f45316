"""`light` and `strong` augmentation: torchvision's transforms, image by image, each with its own draws.

Shape letters: B images of a batch, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

__all__ = ["STRENGTHS", "erasing", "image_transform", "transform_images"]

STRENGTHS = ("light", "strong")
Transform = Callable[[Tensor], Tensor]


@lru_cache
def image_transform(strength: str, flip: bool) -> Transform:
    """torchvision's transform of one uint8 image (C, H, W), C of 1 or 3.

    In this order: with `flip` a mirror flip half of the time, then

    ==================================== ================== ==================
    \\                                    light              strong
    ==================================== ================== ==================
    rotation, degrees either way         15                 20
    brightness, contrast, saturation,    .3, .3, .2, .1     .4, .4, .3, .15
    hue: largest change
    shift, fraction of the side          .1                 .15
    scale                                .9 to 1.1          .85 to 1.15
    perspective: distortion, probability                    .2, .3
    grey: probability                                       .1
    ==================================== ================== ==================

    All else is torchvision's default: nearest pixels (perspective: bilinear), black where nothing moves in.
    """
    from torchvision.transforms import v2

    mirror: list[Any] = [v2.RandomHorizontalFlip()] if flip else []
    if strength == "light":
        moves = [
            v2.RandomRotation(15),
            v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.2, hue=0.1),
            v2.RandomAffine(0, translate=(0.1, 0.1), scale=(0.9, 1.1)),
        ]
    else:
        moves = [
            v2.RandomRotation(20),
            v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.3, hue=0.15),
            v2.RandomAffine(0, translate=(0.15, 0.15), scale=(0.85, 1.15)),
            v2.RandomPerspective(distortion_scale=0.2, p=0.3),
            v2.RandomGrayscale(p=0.1),
        ]
    composed: Transform = v2.Compose([*mirror, *moves])
    return composed


@lru_cache
def erasing() -> Transform:
    """Random erasing of 2 to 15 % of an image with probability 0.3 (arXiv 1708.04896)."""
    from torchvision.transforms import v2

    erase: Transform = v2.RandomErasing(p=0.3, scale=(0.02, 0.15), value=0.0)
    return erase


def transform_images(
    images_BCHW: Tensor, generator: torch.Generator, strength: str, *, flip: bool
) -> tuple[Tensor, Tensor]:
    """The images transformed, uint8, and a mask (B, 1, H, W) of the pixels to erase after normalisation.

    torchvision draws from torch's global stream: it is seeded by one draw from `generator` and put back. The
    work is done on the CPU, so that a GPU gives the same images; the results lie where the images did.
    """
    device = images_BCHW.device
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    transform, erase, erases = image_transform(strength, flip), erasing(), strength == "strong"
    moved, kept = [], []
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for image_CHW in images_BCHW.cpu():
            moved.append(transform(image_CHW))
            whole_1HW = torch.ones(1, *image_CHW.shape[1:])
            kept.append(erase(whole_1HW) if erases else whole_1HW)
    return torch.stack(moved).to(device), (torch.stack(kept) == 0).to(device)
