"""Whatever a training loop calls its metrics, as the fields of an `Observation`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

__all__ = ["ALIASES", "MetricReader"]

_VALIDATION = ("inner_valid", "val", "valid", "validation", "eval")
ALIASES: dict[str, tuple[str, ...]] = {
    "train_loss": ("train/loss", "train_loss", "training_loss", "loss"),
    "inner_valid_loss": tuple(f"{split}{mark}loss" for mark in "/_" for split in _VALIDATION),
    "inner_valid_accuracy": (
        *(f"{split}{mark}{name}" for name in ("accuracy", "acc") for mark in "/_" for split in _VALIDATION),
        "accuracy",
        "acc",
    ),
    **{
        name: (name,)
        for name in (
            "train_loss_first", "train_loss_last", "train_loss_sd", "grad_norm", "grad_norm_sd",
            "update_norm", "weight_norm",
        )
    },
}  # fmt: skip
"""Names under which a field may come; where several come, the first of them counts."""
_FIELD_OF = {alias: field for field, aliases in ALIASES.items() for alias in aliases}
_NOT_METRICS = frozenset({"epoch", "step", "global_step", "lr", "learning_rate"})
"""Often in the same mapping, known better here, and so passed over without a word."""
_CALLER = 6
"""Frames from a warning here to the line that called `MetaLR.step`."""


class MetricReader:
    """Reads metrics; warns once about names that it does not know, and once about accuracies out of range."""

    def __init__(self) -> None:
        self._told_of_names = False
        self._told_of_accuracy = False

    def read(self, metrics: Any) -> dict[str, float]:
        """The measurements in `metrics` by field of `Observation`, non-finite losses among them.

        Args:
            metrics: The inner validation loss, or a mapping of names (`ALIASES`) to numbers; a number is
                anything that has one value: a float, a NumPy scalar, a tensor of one element. None values
                are missing ones.

        Raises:
            TypeError: a known metric that is not a number, or metrics of another kind.
        """
        values = metrics if isinstance(metrics, Mapping) else {"inner_valid/loss": metrics}
        unknown = [key for key in values if key not in _FIELD_OF and key not in _NOT_METRICS]
        if unknown:
            self._warn_of_names(unknown)
        found: dict[str, float] = {}
        for field, aliases in ALIASES.items():
            key = next((alias for alias in aliases if values.get(alias) is not None), None)
            if key is not None:
                found[field] = _number(key, values[key])
        accuracy = found.get("inner_valid_accuracy")
        if accuracy is not None and not 0.0 <= accuracy <= 1.0:
            self._warn_of_accuracy(accuracy)
            del found["inner_valid_accuracy"]
        return found

    def _warn_of_names(self, names: list[Any]) -> None:
        if self._told_of_names:
            return
        self._told_of_names = True
        listed = ", ".join(sorted(repr(name) for name in names))
        warnings.warn(
            f"MetaLR ignores {listed}; the metrics it knows are train_loss, val_loss and val_accuracy, in "
            "their usual spellings",
            UserWarning,
            stacklevel=_CALLER,
        )

    def _warn_of_accuracy(self, accuracy: float) -> None:
        if self._told_of_accuracy:
            return
        self._told_of_accuracy = True
        warnings.warn(
            f"MetaLR ignores an accuracy of {accuracy:g}: it is a fraction, from 0 to 1",
            UserWarning,
            stacklevel=_CALLER,
        )


def _number(key: str, value: Any) -> float:
    if isinstance(value, Tensor):
        value = value.detach()
        if value.numel() != 1 or value.is_complex():
            raise TypeError(
                f"metric {key!r} must be a number, got a {value.dtype} tensor of shape {tuple(value.shape)}"
            )
        return float(value)
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if isinstance(value, str | bytes):
        raise TypeError(f"metric {key!r} must be a number, got {value!r}")
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except (TypeError, ValueError):
        raise TypeError(f"metric {key!r} must be a number, got {value!r}") from None
