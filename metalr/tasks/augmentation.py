"""Random crop, mirror and cutout of a whole batch at once, on its device, never waiting for it.

Shape letters: B images of a batch, C channels, H rows, W columns.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["crop_and_flip", "cut_out"]


def crop_and_flip(images_BCHW: Tensor, generator: torch.Generator, *, padding: int, flip: bool) -> Tensor:
    """Each image moved by up to `padding` pixels both ways and, with `flip`, mirrored half of the time.

    What moves in is black (pixel 0, before normalisation), as in torchvision's RandomCrop(padding) before
    Normalize. Images are uint8 of one size; `generator` lives on their device. Draws, in this order: the
    row and the column offset of each image, 0..2 * padding, then the mirror flags.
    """
    batch_size, num_channels, height, width = images_BCHW.shape
    device = images_BCHW.device

    def draw(high: int) -> Tensor:
        return torch.randint(high, (batch_size, 1), generator=generator, device=device)

    rows_BH = torch.arange(height, device=device) + draw(2 * padding + 1)
    first_columns_B1 = draw(2 * padding + 1)
    columns_BW = torch.arange(width, device=device).expand(batch_size, width)
    if flip:
        columns_BW = torch.where(draw(2) == 1, width - 1 - columns_BW, columns_BW)
    padded_width = width + 2 * padding
    pixels_BHW = rows_BH[:, :, None] * padded_width + (first_columns_B1 + columns_BW)[:, None, :]
    padded_BCP = functional.pad(images_BCHW, (padding,) * 4).flatten(2)
    index_BCP = pixels_BHW.flatten(1)[:, None, :].expand(-1, num_channels, -1)
    return padded_BCP.gather(2, index_BCP).view(images_BCHW.shape)


def cut_out(images_BCHW: Tensor, generator: torch.Generator, *, size: int) -> Tensor:
    """Each image with a square of `size` pixels zeroed around a pixel drawn uniformly, clipped at the border.

    Given normalised images, the square has the mean colour (DeVries and Taylor 2017, arXiv 1708.04552).
    Draws, in this order: the rows and the columns of the centres.
    """
    batch_size, _, height, width = images_BCHW.shape
    device = images_BCHW.device

    def inside(side: int) -> Tensor:
        centre_B1 = torch.randint(side, (batch_size, 1), generator=generator, device=device)
        distance = torch.arange(side, device=device) - (centre_B1 - size // 2)
        return (distance >= 0) & (distance < size)

    inside_BH, inside_BW = inside(height), inside(width)
    hole_BHW = inside_BH[:, :, None] & inside_BW[:, None, :]
    return images_BCHW.masked_fill(hole_BHW[:, None], 0.0)
