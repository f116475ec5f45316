"""Hand schedules by name: torch's own classes, and the interval at which each is stepped.

The calling convention of the training loop, for every schedule, learned or not: `after_batch` once
after each optimizer step but the epoch's last, `after_epoch` once after the epoch's last step and
evaluation. The LR logged for a step is the LR that was used for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    ReduceLROnPlateau,
)

from metalr.control.anchor import Shape, anchor
from metalr.control.observation import Observation

__all__ = ["SCHEDULE_NAMES", "Schedule", "anchored_schedule", "make_schedule"]

SCHEDULE_NAMES = ("constant", "step", "cosine", "linear")
STEP_MILESTONES = (0.5, 0.75)
"""Where `step` decays, as fractions of the budget."""
STEP_FACTOR = 0.1


@dataclass(frozen=True)
class Schedule:
    """A torch scheduler and the interval at which it wants to be stepped."""

    scheduler: LRScheduler
    interval: Literal["epoch", "step"]

    def after_batch(self) -> None:
        """Tell the schedule that an optimizer step, not the epoch's last, was made."""
        if self.interval == "step":
            self.scheduler.step()

    def after_epoch(self, observation: Observation) -> None:
        """Tell the schedule that an epoch ended, and what it showed, where it cares to know."""
        if isinstance(self.scheduler, ReduceLROnPlateau):
            if observation.inner_valid_loss is not None:
                self.scheduler.step(observation.inner_valid_loss)
            return
        observe = getattr(self.scheduler, "observe", None)
        if observe is not None:
            observe(observation)
        self.scheduler.step()


def initial_lr_of(group: dict[str, Any]) -> float:
    """The LR a parameter group started from, as torch's schedulers see it: `initial_lr` where one is kept."""
    return float(group.get("initial_lr", group["lr"]))


def make_schedule(name: str, optimizer: Optimizer, total_epochs: int, steps_per_epoch: int) -> Schedule:
    """The hand schedule `name` over the optimizer's present LRs.

    ======== ======== =============================================================
    constant epoch    the initial LR throughout
    step     epoch    a tenth after 50 %, a hundredth after 75 % of the epochs
    cosine   step     half a cosine from the initial LR to zero (arXiv 1608.03983)
    linear   step     a straight line from the initial LR to zero (arXiv 1905.04753)
    ======== ======== =============================================================

    Args:
        name: One of `SCHEDULE_NAMES`.
        optimizer: Its groups' LRs are the initial ones; their ratios are kept.
        total_epochs: Budget, at least 1.
        steps_per_epoch: Optimizer steps an epoch, at least 1.

    Raises:
        ValueError: an unknown name, or a budget below 1.
    """
    if total_epochs < 1 or steps_per_epoch < 1:
        raise ValueError(f"a schedule needs {total_epochs=} and {steps_per_epoch=} of at least 1")
    total_steps = total_epochs * steps_per_epoch
    if name == "constant":
        return Schedule(ConstantLR(optimizer, factor=1.0, total_iters=0), "epoch")
    if name == "step":
        milestones = [max(1, round(fraction * total_epochs)) for fraction in STEP_MILESTONES]
        return Schedule(MultiStepLR(optimizer, milestones, gamma=STEP_FACTOR), "epoch")
    if name == "cosine":
        return Schedule(CosineAnnealingLR(optimizer, T_max=total_steps), "step")
    if name == "linear":
        decay = LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=total_steps)
        return Schedule(decay, "step")
    raise ValueError(f"unknown schedule {name!r}; known: {', '.join(SCHEDULE_NAMES)}")


def anchored_schedule(
    optimizer: Optimizer,
    peak_lr: float,
    first_epoch: int,
    total_epochs: int,
    steps_per_epoch: int,
    shape: Shape,
    warmup_fraction: float,
) -> Schedule:
    """The anchor with the given peak from `first_epoch` (from 0) to the end of the budget: a fork's branch.

    Sets the optimizer's first group to the anchor at once; other groups keep their ratio to it.
    """
    total = total_epochs * steps_per_epoch
    start = first_epoch * steps_per_epoch
    # LambdaLR multiplies `initial_lr`, which an optimizer restored from a decayed run still carries.
    base = initial_lr_of(optimizer.param_groups[0])

    def multiple(step: int) -> float:
        progress = (min(start + step, total - 1) + 0.5) / total
        return peak_lr * anchor(progress, shape, warmup_fraction) / base

    return Schedule(LambdaLR(optimizer, multiple), "step")
