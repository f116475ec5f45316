"""Early stopping on the inner validation accuracy, and the weights of the best epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from metalr.config import EarlyStoppingConfig
from metalr.control import Observation

__all__ = ["EarlyStopping"]


@dataclass
class EarlyStopping:
    """The best epoch so far. Epochs count from 1, as completed; a tie with the best is no new best.

    An epoch with a loss that is not finite, or whose update was undone, is never the best.
    """

    config: EarlyStoppingConfig
    best_epoch: int = 0
    """0 while there is none."""
    best_accuracy: float = -1.0
    """Fraction, 0 to 1; below all of them while there is none."""
    best_model: dict[str, Tensor] | None = None
    """Weights and buffers of the best epoch, where they are to be restored."""

    def observe(self, observation: Observation, model: nn.Module) -> None:
        """Take in the epoch just trained, whose weights `model` holds."""
        accuracy = observation.inner_valid_accuracy
        if not observation.is_finite or accuracy is None or accuracy <= self.best_accuracy:
            return
        self.best_epoch, self.best_accuracy = observation.epoch, accuracy
        if self.config.restore_best:
            self.best_model = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def is_over(self, epoch: int) -> bool:
        """Whether `epoch` completed epochs are enough: the last `patience` of them brought no new best."""
        return epoch - self.best_epoch >= self.config.patience

    def restore(self, model: nn.Module) -> None:
        """Put the best epoch's weights and buffers into `model`, where they were kept."""
        if self.best_model is not None:
            model.load_state_dict(self.best_model)

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on, as plain values and tensors."""
        return {
            "best_epoch": self.best_epoch,
            "best_accuracy": self.best_accuracy,
            "best_model": self.best_model,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.best_epoch, self.best_accuracy = state["best_epoch"], state["best_accuracy"]
        self.best_model = state["best_model"]
