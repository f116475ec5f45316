"""The ramp: training steps on a rising LR. The controller's probe and the LR finder both run on it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["RampOutcome", "run_ramp"]


@dataclass(frozen=True)
class RampOutcome:
    """The losses met on a ramp, nats."""

    initial_loss: float
    """Before any update; may be infinite or NaN."""
    losses: tuple[float, ...]
    """After the update at each LR, all finite; those of an explosion are left out."""
    exploded: bool
    """Whether the ramp ended at losses too large or not finite, the initial one among them."""
    num_steps: int
    """Optimizer steps spent, the exploding ones included."""
    step_losses: tuple[float, ...] = ()
    """Of the steps' own batches, each before its update, where another loss was measured."""


def run_ramp(
    optimizer: torch.optim.Optimizer,
    loss_of_step: Callable[[int], Tensor],
    lrs: Sequence[float],
    explode_factor: float,
    *,
    measured_loss: Callable[[], Tensor] | None = None,
    num_start: int = 1,
    patience: int = 1,
) -> RampOutcome:
    """The losses of training steps at `lrs`; changes the model, the optimizer and its LRs.

    Every parameter group keeps its ratio to the first one.

    Args:
        optimizer: Steps the model.
        loss_of_step: Maps a step number, 0 to len(lrs), to the scalar training loss of that step's batch.
        lrs: LR of the first parameter group at each step.
        explode_factor: Losses above this multiple of the loss at the start are too large.
        measured_loss: The loss that is looked at before each step, where it is not that of the step's own
            batch; computed without gradients.
        num_start: The loss at the start is the first one, or the lower median of so many first ones where
            that is larger: more than one where every step has a batch of its own.
        patience: So many too large losses in succession end the ramp; one that is not finite always does.

    Raises:
        ValueError: the first group's LR, and the one it started from, are 0.
    """
    ratios = _ratios(optimizer)
    losses: list[float] = []
    step_losses: list[Tensor] = []
    num_large = 0

    def ended(num_steps: int, num_dropped: int) -> RampOutcome:
        kept, own = losses[1 : len(losses) - num_dropped], [float(loss) for loss in step_losses]
        return RampOutcome(losses[0], tuple(kept), num_dropped > 0, num_steps, tuple(own))

    for step in range(len(lrs) + 1):
        loss = _measured(measured_loss) if measured_loss else loss_of_step(step)
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            return ended(step, num_large + 1)
        start = max(losses[0], statistics.median_low(losses[: max(1, min(step, num_start))]))
        num_large = num_large + 1 if losses[-1] > _limit(start, explode_factor) else 0
        if num_large == patience:
            return ended(step, num_large)
        if step < len(lrs):
            for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
                _set_lr(group, lrs[step] * ratio)
            optimizer.zero_grad(set_to_none=True)
            if measured_loss:
                loss = loss_of_step(step)
                step_losses.append(loss.detach().clone())  # read at the end; the device goes on
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return ended(len(lrs), num_large)


@torch.no_grad()
def _measured(measured_loss: Callable[[], Tensor]) -> Tensor:
    return measured_loss()


def _limit(start: float, explode_factor: float) -> float:
    """The largest loss that is borne; a negative one (of a density) may rise as far as a positive one."""
    return explode_factor * start if start > 0 else start + (explode_factor - 1) * abs(start)


def _ratios(optimizer: torch.optim.Optimizer) -> list[float]:
    """Each group's LR relative to the first one's; from the initial LRs where a warm-up has it at 0 now."""
    lrs = [float(group["lr"]) for group in optimizer.param_groups]
    if lrs[0] == 0:
        lrs = [float(group.get("initial_lr", 0.0)) for group in optimizer.param_groups]
    if lrs[0] == 0:
        raise ValueError(
            "the first parameter group's LR is 0: give it one above 0, the others keep their ratio to it"
        )
    return [lr / lrs[0] for lr in lrs]


def _set_lr(group: dict[str, Any], lr: float) -> None:
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(lr)
    else:
        group["lr"] = lr
