"""One LR for all parameter groups: each keeps its ratio to the leading group, and none exceeds the bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from metalr.control.schedules import initial_lr_of

__all__ = ["GroupLRs", "initial_lrs", "lr_scales"]


@dataclass(frozen=True)
class GroupLRs:
    """The groups' LRs in their relation to each other."""

    initial: Sequence[float]
    """Of each group, as it came."""
    scales: Sequence[float]
    """Factor of each group on top."""
    lead: int
    """The group that LRs are told for."""
    max_lr: float
    """No group's LR is above it."""

    def lead_lr(self, lr: float) -> float:
        """The leading group's LR where `lr` is asked for: less where another group's would be too high."""
        largest = max(lr * scale for lr, scale in zip(self.initial, self.scales, strict=True))
        return min(lr, self.max_lr / (largest / self.initial[self.lead]))

    def of_groups(self, lr: float) -> list[float]:
        """The LR of every group where `lr` is asked for."""
        lead_lr = self.lead_lr(lr)
        # A ratio of exactly 1 for the leading group: its LR must not depend on the initial one by a last bit.
        ratios = [lr / self.initial[self.lead] for lr in self.initial]
        return [lead_lr * ratio * scale for ratio, scale in zip(ratios, self.scales, strict=True)]


def initial_lrs(groups: Sequence[dict[str, Any]], known: Sequence[float | Tensor]) -> list[float]:
    """The initial LR of each parameter group as a number: reading a tensor would wait for the device.

    `known` are those of earlier groups; a group that came later brings its own, and is marked with it.
    """
    initial = list(known) if len(known) <= len(groups) else []
    for group in groups[len(initial) :]:
        lr = group["lr"]
        group.setdefault("initial_lr", lr.clone() if isinstance(lr, Tensor) else lr)
        initial.append(initial_lr_of(group))
    return [float(lr) for lr in initial]


def lr_scales(groups: Sequence[dict[str, Any]]) -> list[float]:
    """timm's factor of each parameter group on top of its LR; 1 where there is none."""
    return [float(group.get("lr_scale", 1.0)) for group in groups]
