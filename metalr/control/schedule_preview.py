"""The LRs a schedule will set, without training anything."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from metalr.config.schedules import SchedulesConfig
from metalr.control.observation import Observation
from metalr.control.schedules import make_schedule

__all__ = ["pretend_validation_loss", "schedule_preview"]

FLAT_FROM = 0.4
"""Part of the budget after which the pretended loss falls no more."""


def pretend_validation_loss(progress: float) -> float:
    """The inner validation loss shown to previews of `plateau` and `greedy`: 1 falling to 0.4, then flat.

    ``max(0.4, 1 - 1.5 * progress)``: straight until 0.4 of the budget; `progress` in [0, 1].
    """
    return max(1.0 - 1.5 * FLAT_FROM, 1.0 - 1.5 * progress)


def schedule_preview(
    name: str,
    settings: SchedulesConfig,
    lr: float,
    total_epochs: int,
    steps_per_epoch: int,
    seed: int = 0,
    ratios: Sequence[float] = (1.0,),
) -> list[list[float]]:
    """The LR of every step, one list for each parameter group.

    Args:
        name: As for `make_schedule`.
        settings: Of all schedules.
        lr: The recipe's LR, above 0.
        total_epochs: Budget, at least 1.
        steps_per_epoch: Optimizer steps an epoch, at least 1.
        seed: What `explore` is drawn from.
        ratios: LR of each group as a multiple of `lr`.

    Raises:
        ConfigError: as `make_schedule`.
    """
    parameters = [{"params": [nn.Parameter(torch.zeros(1))]} for _ in ratios]
    optimizer = torch.optim.SGD(parameters, lr=1.0, momentum=0.9)
    for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
        group["lr"] = (
            lr * ratio
        )  # here, where torch does not refuse what `make_schedule` has a better line for
    schedule = make_schedule(name, optimizer, total_epochs, steps_per_epoch, settings, seed=seed)
    optimizer.step()  # torch warns where a scheduler moves before its optimizer ever did
    lrs: list[list[float]] = [[] for _ in ratios]
    for epoch in range(1, total_epochs + 1):
        for step in range(steps_per_epoch):
            for values, group in zip(lrs, optimizer.param_groups, strict=True):
                values.append(float(group["lr"]))
            if step < steps_per_epoch - 1:
                schedule.after_batch()
        loss = pretend_validation_loss(epoch / total_epochs)
        schedule.after_epoch(Observation(epoch=epoch, inner_valid_loss=loss))
    return lrs
