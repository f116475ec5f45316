"""The anchor: the shape from warm-up to zero that every decision is tied to.

Convention: a budget of N units (steps, or epochs where the LR changes once an epoch); unit k,
counted from 0, is trained at ``peak * anchor((k + 1/2) / N)``, the anchor's value at its middle.
"""

from __future__ import annotations

import math
from typing import Literal

__all__ = ["Shape", "anchor", "equivalent_peak", "mean_anchor"]

Shape = Literal["linear", "cosine"]


def anchor(progress: float, shape: Shape = "linear", warmup_fraction: float = 0.0) -> float:
    """The anchor's height, 0 to 1, at `progress` through the budget.

    ::

        u / w                          for u < w           (linear warm-up)
        1 - v                          for u >= w, linear  with v = (u - w) / (1 - w)
        (1 + cos(pi v)) / 2            for u >= w, cosine

    Args:
        progress: u, in [0, 1].
        shape: Decay after the warm-up. Linear to zero wins at short budgets (arXiv 1905.04753,
            2310.07831).
        warmup_fraction: w, in [0, 1).

    Raises:
        ValueError: `progress` or `warmup_fraction` is out of range.

    >>> anchor(0.55, "linear", warmup_fraction=0.1)
    0.5
    """
    if not 0.0 <= progress <= 1.0:
        raise ValueError(f"progress must be in [0, 1], got {progress=}")
    if not 0.0 <= warmup_fraction < 1.0:
        raise ValueError(f"warmup_fraction must be in [0, 1), got {warmup_fraction=}")
    if progress < warmup_fraction:
        return progress / warmup_fraction
    decayed = (progress - warmup_fraction) / (1.0 - warmup_fraction)
    return 1.0 - decayed if shape == "linear" else (1.0 + math.cos(math.pi * decayed)) / 2.0


def mean_anchor(
    epoch: int, total_epochs: int, steps_per_epoch: int, shape: Shape, warmup_fraction: float
) -> float:
    """The anchor's mean over the steps of one epoch (`epoch` counted from 0), in (0, 1]."""
    total = total_epochs * steps_per_epoch
    first = epoch * steps_per_epoch
    heights = [
        anchor((first + step + 0.5) / total, shape, warmup_fraction) for step in range(steps_per_epoch)
    ]
    return sum(heights) / steps_per_epoch


def equivalent_peak(
    lr: float, epoch: int, total_epochs: int, steps_per_epoch: int, shape: Shape, warmup_fraction: float
) -> float:
    """The peak whose anchor has the mean LR `lr` over epoch number `epoch` (from 0)."""
    return lr / mean_anchor(epoch, total_epochs, steps_per_epoch, shape, warmup_fraction)
