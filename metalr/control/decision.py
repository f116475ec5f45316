"""From a predicted regret curve to one LR: the pure middle of a decision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

__all__ = ["Controller", "Decision", "Prediction", "best_offset", "predicted_gain"]


MAX_LOG_REGRET = 100.0
"""A prediction beyond it counts as this: no loss is as large, and the exponential stays a number."""


@dataclass(frozen=True)
class Prediction:
    """What a controller expects of each candidate."""

    log_regrets: tuple[float, ...]
    """Predicted log regret of each candidate peak; the lowest is the best."""
    log_final_loss: float
    """Predicted log of (final loss under the best candidate / log C)."""


class Controller(Protocol):
    """A frozen meta-learner: pure, on the CPU, without random numbers or a clock."""

    @property
    def sha256(self) -> str:
        """Identity of the weights."""
        ...

    @property
    def log_offsets(self) -> tuple[float, ...]:
        """The candidates: natural log of peak LR over reference LR, rising."""
        ...

    def initial_state(self) -> list[float]:
        """The memory before the first observation, as plain numbers."""
        ...

    def step(self, state: list[float], features_F: np.ndarray) -> tuple[list[float], Prediction]:
        """The memory after one more observation, and what is expected now. NaN features are missing ones."""
        ...


@dataclass(frozen=True)
class Decision:
    """Why the LR is what it is."""

    epoch: int
    """Epochs completed when it was made."""
    proposed_peak_lr: float | None
    """The controller's wish; None where it was not asked."""
    peak_lr: float
    """The peak that holds from now on, backoffs included."""
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "epoch": self.epoch,
            "proposed_peak_lr": self.proposed_peak_lr,
            "peak_lr": self.peak_lr,
            "reason": self.reason,
        }


def predicted_gain(log_offsets: Sequence[float], log_regrets: Sequence[float], present: float) -> float:
    """Nats that the best candidate is predicted to gain over `present`; NaN where a prediction is not finite.

    The prediction is linear in log LR between candidates, and held outside them.

    >>> round(predicted_gain([-1.0, 0.0, 1.0], [0.0, -1.0, 0.0], 1.0), 3)
    0.632
    """
    kept = float(np.interp(present, log_offsets, log_regrets))
    if not np.isfinite([kept, *log_regrets]).all():
        return math.nan
    lowest = min(kept, *log_regrets)
    return math.exp(min(kept, MAX_LOG_REGRET)) - math.exp(min(lowest, MAX_LOG_REGRET))


def best_offset(log_offsets: Sequence[float], log_regrets: Sequence[float]) -> float:
    """The log offset of the lowest regret, refined between candidates by the parabola through the
    lowest point and its two neighbours; NaN where any prediction is not finite.

    >>> best_offset([-1.0, 0.0, 1.0], [1.0, 0.0, 1.0])
    0.0
    """
    regrets = np.asarray(log_regrets, dtype=float)
    if not np.isfinite(regrets).all():
        return float("nan")
    lowest = int(np.argmin(regrets))
    if lowest in (0, len(regrets) - 1):
        return float(log_offsets[lowest])
    left, here, right = regrets[lowest - 1 : lowest + 2]
    curvature = left - 2.0 * here + right
    shift = 0.0 if curvature <= 0.0 else 0.5 * (left - right) / curvature
    spacing = (log_offsets[lowest + 1] - log_offsets[lowest - 1]) / 2.0
    return float(log_offsets[lowest] + shift * spacing)
