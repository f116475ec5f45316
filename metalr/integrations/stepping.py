"""What adapters do to a scheduler: set it to a unit of time, and go on from a state."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from metalr.control.scheduler import MetaLR

__all__ = ["continue_from", "set_lrs", "step_to"]


def step_to(scheduler: MetaLR, unit: int, metrics: Any = None) -> None:
    """Set the LR of unit `unit`, deciding first where `metrics` are given.

    For frameworks that count for themselves, and for those that step before they validate: there
    `step_to(scheduler, scheduler.last_epoch, metrics)` takes the last step again, now with the metrics.
    """
    scheduler.last_epoch = unit - 1
    scheduler.step(metrics)


def continue_from(scheduler: MetaLR, state: dict[str, Any]) -> None:
    """Load `state` into a scheduler that was built just now, and give the optimizer its LRs.

    Building a scheduler overwrites the LRs of an optimizer that was loaded before.

    Raises:
        ValueError: a state of another version, or of another controller.
    """
    scheduler.load_state_dict(state)
    set_lrs(scheduler)


def set_lrs(scheduler: LRScheduler) -> None:
    """Write the scheduler's last LRs into the optimizer's groups, into their tensors where they are such."""
    for group, lr in zip(scheduler.optimizer.param_groups, scheduler.get_last_lr(), strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(float(lr))
        else:
            group["lr"] = float(lr)
