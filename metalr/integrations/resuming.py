"""Going on from a state with a scheduler that is built after its optimizer was loaded."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from metalr.control.scheduler import MetaLR

__all__ = ["continue_from"]


def continue_from(scheduler: MetaLR, state: dict[str, Any]) -> None:
    """Load `state` into a scheduler that was built just now, and give the optimizer its LRs.

    Building a scheduler overwrites the LRs of an optimizer that was loaded before.

    Raises:
        ValueError: a state of another version, or of another controller.
    """
    scheduler.load_state_dict(state)
    for group, lr in zip(scheduler.optimizer.param_groups, scheduler.get_last_lr(), strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(float(lr))
        else:
            group["lr"] = float(lr)
