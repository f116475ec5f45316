"""The way back to good weights: a snapshot of the model, or what the hooks keep of the epoch's start."""

from __future__ import annotations

from torch import nn
from torch.optim import Optimizer

from metalr.control.observation import Observation
from metalr.control.snapshot import Snapshot
from metalr.control.step_statistics import StepStatistics

__all__ = ["Rollback"]


class Rollback:
    """Remembers weights that are good, and puts them back; the optimizer keeps its LRs.

    Args:
        optimizer: Whose state goes back with the weights; without a model it forgets its state.
        model: None where it is not known: then only weights that are lost are put back, by the hooks.
        statistics: The hooks; None where there are none.
        is_shared: Whether other ranks decide with this one: what the hooks keep is not theirs.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module | None,
        statistics: StepStatistics | None,
        *,
        is_shared: bool,
    ) -> None:
        self._optimizer, self._model, self._statistics = optimizer, model, statistics
        self._is_shared = is_shared
        self._snapshot: Snapshot | None = None
        self.remember()

    def remember(self) -> None:
        """The present weights are good ones."""
        if self._model is not None:
            self._snapshot = Snapshot.take(self._model, self._optimizer)

    def is_possible(self, observation: Observation) -> bool:
        """Whether `undo` after this observation would put weights back."""
        return self._snapshot is not None or self._hooks_can_help(observation)

    def undo(self, observation: Observation | None) -> None:
        """Put the good weights back after an epoch that ended as observed, where that is possible."""
        if observation is None or not self._hooks_can_help(observation):
            self._restore_snapshot()
        elif self._statistics is not None:
            self._statistics.put_back()

    def undo_steps(self) -> bool:
        """Take back the steps since the epoch's start; False where neither snapshot nor hooks know it."""
        if self._restore_snapshot():
            return True
        if self._statistics is None or not self._statistics.can_put_back:
            return False
        self._statistics.put_back()
        return True

    def _restore_snapshot(self) -> bool:
        if self._model is None or self._snapshot is None:
            return False
        self._snapshot.restore_keeping_lr(self._model, self._optimizer)
        return True

    def _hooks_can_help(self, observation: Observation) -> bool:
        """Whether weights that may be lost can be had from the hooks, where the model was not given."""
        is_lost = not observation.is_finite and self._model is None and not self._is_shared
        return is_lost and self._statistics is not None and self._statistics.can_put_back
