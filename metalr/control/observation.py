"""What a controller is told: the setting once, then one observation an epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

__all__ = ["Observation", "Setting"]


@dataclass(frozen=True)
class Setting:
    """What is known before the first epoch. None: not known."""

    total_epochs: int | None
    """Budget T in epochs, at least 1."""
    steps_per_epoch: int | None = 1
    """Optimizer steps an epoch."""
    num_classes: int | None = None
    """Number of classes C; losses are divided by log C, the loss of guessing."""
    batch_size: int | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    averages_iterates: bool | None = None
    """Whether what one uses is an average of the trained weights."""
    scales_gradients: bool | None = None
    """Whether the optimizer divides the gradient by its size, as Adam does."""
    normalises: bool | None = None
    """Whether the network counts as one that normalises, see `metalr.control.normalises`."""


@dataclass(frozen=True)
class Observation:
    """What one epoch showed. Losses in nats, norms over all parameters; None: not observed."""

    epoch: int
    """Epochs completed; 0 is before training."""
    lr: float | None = None
    """Mean LR over the epoch's steps."""
    peak_lr: float | None = None
    """Equivalent peak: the peak whose anchor has this epoch's mean LR."""
    train_loss: float | None = None
    """Mean over the epoch's steps, each before its update."""
    train_loss_first: float | None = None
    """Mean over the first quarter of the steps."""
    train_loss_last: float | None = None
    """Mean over the last quarter of the steps."""
    train_loss_sd: float | None = None
    """Standard deviation over the steps."""
    inner_valid_loss: float | None = None
    inner_valid_accuracy: float | None = None
    """Fraction, 0 to 1."""
    grad_norm: float | None = None
    """Mean norm of the gradient at sampled steps."""
    grad_norm_sd: float | None = None
    """Standard deviation of that norm over the sampled steps."""
    update_norm: float | None = None
    """Distance between the weights at the epoch's start and end."""
    weight_norm: float | None = None
    """Norm of the weights at the epoch's end."""
    is_finite: bool = True
    """False where a loss of the epoch was infinite or not a number; such values are then None."""

    @classmethod
    def from_measurements(cls, epoch: int, values: Mapping[str, float | None]) -> Observation:
        """An observation whose non-finite values are dropped and flagged.

        Raises TypeError on an unknown name.
        """
        finite = {
            name: value if value is not None and math.isfinite(value) else None
            for name, value in values.items()
        }
        lost = any(value is not None and finite[name] is None for name, value in values.items())
        return cls(epoch=epoch, is_finite=not lost, **finite)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; what was not observed is left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Observation:
        """The inverse of `to_dict`. Raises ValueError naming keys that no observation has."""
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"unknown observation fields: {sorted(unknown)}")
        return cls(**values)
