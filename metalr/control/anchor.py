"""The anchor: the shape from warm-up to the end of the budget that every decision is tied to.

Convention: a budget of N units (steps, or epochs where the LR changes once an epoch); unit k,
counted from 0, is trained at ``peak * height((k + 1/2) / N)``, the anchor's height at its middle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch.optim import Optimizer

from metalr.config import ControlConfig

__all__ = [
    "Anchor",
    "Shape",
    "anchor_for",
    "averages_iterates",
    "scales_gradients",
    "usual_rise",
    "warmup_fraction",
]

SCALING_SETTINGS = frozenset({"betas", "centered", "ns_steps"})
"""Settings by which optimizers that scale the gradient are known: Adam's family, RMSprop, Muon."""
USUAL_WARMUP = 0.05
"""Part of the budget."""
USUAL_RISE = 2.0
"""The best peak under way over the best LR to start with, for a network that normalises."""
EPOCHS_WITHOUT_RISE = 8
"""Under SGD; it is whole at twice as many."""
Shape = Literal["hold", "linear", "cosine", "constant"]
"""The shapes after the warm-up."""


@dataclass(frozen=True)
class Anchor:
    """A shape between 0 and 1 over the budget.

    ::

        u / w                   for u < w            (linear warm-up from zero)
        hold                    1, and from u = 1 - d on 1 - sqrt(v) with v = (u - 1 + d) / d
        linear                  1 - v                with v = (u - w) / (1 - w)
        cosine                  (1 + cos(pi v)) / 2
        constant                1

    all of it times 1/r + (1 - 1/r) u / q for u < q (linear rise from the part 1/r of the peak).

    Raises:
        ValueError: a fraction, or the rise, is out of range.

    >>> Anchor("linear", warmup_fraction=0.1).height(0.55)
    0.5
    """

    shape: Shape = "hold"
    """`hold` is the shape of the warm-up-stable-decay schedule (arXiv 2405.18392); a straight line to zero is
    the usual choice at short budgets (arXiv 1905.04753); `constant` is for optimizers that average."""
    warmup_fraction: float = 0.0
    """w, in [0, 1)."""
    decay_fraction: float = 0.2
    """d, in (0, 1]: `hold` falls over this last part of the budget, or over what the warm-up leaves of it."""
    rise: float = 1.0
    """r, at least 1: what the peak is of the LR that training starts with, a warm-up apart."""
    rise_fraction: float = 0.2
    """q, in (0, 1]: the part of the budget in which it rises so."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.warmup_fraction < 1.0:
            raise ValueError(f"warmup_fraction must be in [0, 1), got {self.warmup_fraction}")
        if not 0.0 < self.decay_fraction <= 1.0:
            raise ValueError(f"decay_fraction must be in (0, 1], got {self.decay_fraction}")
        if not 1.0 <= self.rise < math.inf:
            raise ValueError(f"rise must be at least 1, got {self.rise}")
        if not 0.0 < self.rise_fraction <= 1.0:
            raise ValueError(f"rise_fraction must be in (0, 1], got {self.rise_fraction}")

    def height(self, progress: float) -> float:
        """The height, 0 to 1, at `progress` (u, 0 to 1) through the budget.

        Raises:
            ValueError: `progress` is out of range.
        """
        if not 0.0 <= progress <= 1.0:
            raise ValueError(f"progress must be in [0, 1], got {progress=}")
        risen = min(1.0, progress / self.rise_fraction)
        return self._shape(progress) * (1.0 / self.rise + (1.0 - 1.0 / self.rise) * risen)

    def _shape(self, progress: float) -> float:
        warmup = self.warmup_fraction
        if progress < warmup:
            return progress / warmup
        if self.shape == "constant":
            return 1.0
        if self.shape == "hold":
            start = max(warmup, 1.0 - self.decay_fraction)
            return 1.0 - math.sqrt(max(0.0, progress - start) / (1.0 - start))
        decayed = (progress - warmup) / (1.0 - warmup)
        return 1.0 - decayed if self.shape == "linear" else (1.0 + math.cos(math.pi * decayed)) / 2.0

    def mean_height(
        self, epoch: int, total_epochs: int, steps_per_epoch: int, num_steps: int | None = None
    ) -> float:
        """The mean over the first `num_steps` steps (None: all) of one epoch, counted from 0; in (0, 1]."""
        total = total_epochs * steps_per_epoch
        first = epoch * steps_per_epoch
        counted = num_steps or steps_per_epoch
        heights = [self.height((first + step + 0.5) / total) for step in range(counted)]
        return sum(heights) / counted

    def equivalent_peak(
        self, lr: float, epoch: int, total_epochs: int, steps_per_epoch: int, num_steps: int | None = None
    ) -> float:
        """The peak whose anchor has the mean LR `lr` over the first `num_steps` of epoch `epoch` (from 0)."""
        return lr / self.mean_height(epoch, total_epochs, steps_per_epoch, num_steps)


def averages_iterates(optimizer: Optimizer) -> bool:
    """Whether the model one uses is an average of the weights that `optimizer` trains (Schedule-Free)."""
    return hasattr(optimizer, "put_average") or "train_mode" in optimizer.param_groups[0]


def scales_gradients(optimizer: Optimizer) -> bool:
    """Whether the size of a step hardly depends on the gradient's, as under Adam, RMSprop or Muon."""
    return not SCALING_SETTINGS.isdisjoint(optimizer.param_groups[0])


def warmup_fraction(*, scales_gradients: bool, normalises: bool | None) -> float:
    """The part of a budget that a warm-up takes, where a recipe leaves it open.

    None under SGD where the network normalises: there it costs accuracy at the large LRs which such networks
    bear; see `experiments/results/NOTES.md`. Else 0.05: it saves a network without normalisation from an LR
    that is too large.

    Args:
        scales_gradients: Whether the optimizer divides the gradient by its size, as Adam does.
        normalises: Whether the network counts as one that normalises; None: not known.
    """
    return 0.0 if normalises and not scales_gradients else USUAL_WARMUP


def usual_rise(
    *, scales_gradients: bool, averages_iterates: bool, normalises: bool | None, total_epochs: int | None
) -> float:
    """What the peak is of the LR that training starts with, where a recipe leaves it open.

    A network that normalises bears a large LR from its first step, and up to twice that is best once it is
    under way. Under SGD that takes a long budget: 1 up to 8 epochs, 2 from 16 on, in between in proportion.
    Where iterates are averaged 2. 1 for networks that do not normalise, and under Adam and its kind, where
    nothing is gained by it. See `experiments/results/NOTES.md`.

    Args:
        scales_gradients: Whether the optimizer divides the gradient by its size, as Adam does.
        averages_iterates: Whether the model one uses is an average of the trained weights.
        normalises: Whether the network counts as one that normalises; None: not known.
        total_epochs: The budget; None where it is not known.
    """
    if not normalises or total_epochs is None:
        return 1.0
    if averages_iterates:
        return USUAL_RISE
    if scales_gradients:
        return 1.0
    return min(max(total_epochs / EPOCHS_WITHOUT_RISE, 1.0), USUAL_RISE)


def anchor_for(
    optimizer: Optimizer,
    config: ControlConfig,
    normalises: bool | None = None,
    total_epochs: int | None = None,
) -> Anchor:
    """The anchor that `config` asks for.

    Its shape `auto` is `constant` where `optimizer` averages, else `hold`; its warm-up `auto` depends on
    whether the network `normalises` (None: not known), see `warmup_fraction`; its rise `auto` on that and on
    the budget, see `usual_rise`.
    """
    shape, warmup, rise = config.anchor, config.warmup_fraction, config.rise
    averages, scales = averages_iterates(optimizer), scales_gradients(optimizer)
    if shape == "auto":
        shape = "constant" if averages else "hold"
    if warmup == "auto":
        warmup = warmup_fraction(scales_gradients=scales, normalises=normalises)
    if rise == "auto":
        rise = usual_rise(
            scales_gradients=scales,
            averages_iterates=averages,
            normalises=normalises,
            total_epochs=total_epochs,
        )
    return Anchor(shape, warmup, config.decay_fraction, rise, config.rise_fraction)
