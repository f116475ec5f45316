"""The branches of a fork trained as one stacked network: they differ in their LR alone.

They meet the same batches, augmentation and dropout, so one pass over a batch serves all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import nn

from metalr.config import ControlConfig, TrainConfig
from metalr.control import anchor_for, anchored_schedule
from metalr.control.schedules import Schedule
from metalr.training.loop import Training
from metalr.training.stack import Stack

__all__ = ["BranchLosses", "branches_together", "reason_against_together"]

BranchLosses = tuple[float | None, float | None]
"""`outer_valid` loss, in nats, one epoch on and at the end of the budget; None from a divergence on."""


def reason_against_together(config: TrainConfig) -> str | None:
    """Why branches under this recipe cannot train as one stacked network; None where they can."""
    return (
        None if config.optimizer == "sgd" else f"train.optimizer={config.optimizer}, and only sgd is stacked"
    )


def branches_together(
    fork: Training, peak_lrs: Sequence[float], control: ControlConfig, tell: Callable[[int], None]
) -> list[BranchLosses]:
    """Both losses of the branch of each peak, within rounding those of training one after another.

    A copy whose loss stops being finite leaves the stack at the end of that epoch. The model is left with the
    weights of some branch, its optimizer as it was.

    Args:
        fork: The state to go on from, with an optimizer at the recipe's settings; its schedule is not used.
        peak_lrs: K peaks of the first parameter group's anchor.
        control: Gives the anchor's shape and warm-up.
        tell: Told the number of epochs just trained, those that a divergence saves included.

    Raises:
        ValueError: a recipe that cannot be stacked.
    """
    reason = reason_against_together(fork.config)
    if reason is not None:
        raise ValueError(f"branches cannot train together: {reason}")
    branch = replace(fork)
    stack, schedule = Stack(branch, peak_lrs), _unit_schedule(branch, control)
    next_losses: list[float | None] = [None] * len(peak_lrs)
    final_losses: list[float | None] = [None] * len(peak_lrs)
    for epoch in range(fork.epoch, fork.config.epochs):
        branch.epoch = epoch
        finite = stack.train_epoch(schedule)
        left = fork.config.epochs - epoch - 1
        tell(sum(1 if is_finite else 1 + left for is_finite in finite))
        stack.keep([position for position, is_finite in enumerate(finite) if is_finite])
        for position, candidate in enumerate(stack.candidates):
            if epoch == fork.epoch:
                next_losses[candidate] = stack.outer_loss(position)
            if left == 0:
                final_losses[candidate] = stack.outer_loss(position)
        if not stack.candidates:
            break
    return list(zip(next_losses, final_losses, strict=True))


def _unit_schedule(branch: Training, control: ControlConfig) -> Schedule:
    """The anchor with peak 1, over a stand-in with the groups of the branch's optimizer."""
    groups = [
        {"params": [nn.Parameter(torch.zeros(1))], "lr": float(group["lr"])}
        for group in branch.optimizer.param_groups
    ]
    stand_in = torch.optim.SGD(groups, lr=1.0)
    epochs, steps = branch.config.epochs, branch.steps_per_epoch
    schedule = anchored_schedule(
        stand_in, 1.0, branch.epoch, epochs, steps, anchor_for(branch.optimizer, control)
    )
    stand_in.step()  # torch warns where a scheduler moves before its optimizer ever did
    return schedule
