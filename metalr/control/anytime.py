"""Where in its budget a training is, and how high the anchor stands there; also where no budget is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from torch.optim import Optimizer

from metalr.config import ControlConfig
from metalr.control.anchor import Anchor, anchor_for

__all__ = ["AnytimeCourse", "BudgetCourse", "Course", "course_for"]

WARMUP_EPOCHS = 1.0
"""A budget's warm-up is a part of it (5 % by default, 1 of 20 epochs); where there is none, one epoch."""
DECAY_EPOCHS = 10.0
"""Time scale of the slow decay: after three times as long the LR is half the peak."""


class Course(Protocol):
    """The anchor's height over the units of a training: epochs, or steps where the LR changes every step."""

    @property
    def total_units(self) -> int | None:
        """N; None where the budget is not known."""
        ...

    @property
    def shape(self) -> str:
        """The anchor's name, for readers."""
        ...

    @property
    def rise(self) -> float:
        """What the peak is of the LR that training starts with, a warm-up apart."""
        ...

    def height(self, unit: int) -> float:
        """The height at the middle of unit `unit`, counted from 0; outside the budget the nearest unit's."""
        ...


@dataclass(frozen=True)
class BudgetCourse:
    """An anchor over a known budget."""

    anchor: Anchor
    total_units: int

    @property
    def shape(self) -> str:
        """The anchor's name."""
        return self.anchor.shape

    @property
    def rise(self) -> float:
        """The anchor's."""
        return self.anchor.rise

    def height(self, unit: int) -> float:
        """The height at the middle of the unit."""
        inside = min(max(unit, 0), self.total_units - 1)
        return self.anchor.height((inside + 0.5) / self.total_units)


@dataclass(frozen=True)
class AnytimeCourse:
    """A warm-up, then a slow fall that has no end; t is the time in epochs::

        t / w               for t < w = 1
        sqrt(d / (d + t))   after it, d = 10; 1 where the shape is `constant`

    Without a budget no anchor can end at zero when the training does. The inverse square root is the usual
    schedule where a run must be good at any time (arXiv 1706.03762; arXiv 2106.04560, which calls it
    "infinite"); with averaged iterates a constant LR is (arXiv 2405.15682). A run ends better by a fall to
    zero over its last part (arXiv 2405.18392): give the budget where there is one.

    >>> AnytimeCourse("anytime", units_per_epoch=1).height(29)
    0.5031546054266276
    """

    shape: str
    """`anytime` or `constant`."""
    units_per_epoch: int
    total_units: None = None
    rise: float = 1.0

    def height(self, unit: int) -> float:
        """The height at the middle of the unit."""
        epochs = (max(unit, 0) + 0.5) / self.units_per_epoch
        if epochs < WARMUP_EPOCHS:
            return epochs / WARMUP_EPOCHS
        return 1.0 if self.shape == "constant" else math.sqrt(DECAY_EPOCHS / (DECAY_EPOCHS + epochs))


def course_for(
    optimizer: Optimizer,
    config: ControlConfig,
    total_epochs: int | None,
    units_per_epoch: int,
    normalises: bool | None = None,
) -> Course:
    """The anchor that `config` asks for over this budget; without a budget the anytime one.

    Whether the network `normalises` (None: not known) may decide about its warm-up and its rise.
    """
    anchor = anchor_for(optimizer, config, normalises, total_epochs)
    if total_epochs is not None:
        return BudgetCourse(anchor, total_epochs * units_per_epoch)
    return AnytimeCourse("constant" if anchor.shape == "constant" else "anytime", units_per_epoch)
