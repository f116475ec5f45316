"""A `MetaLR` for frameworks that step it before they validate."""

from __future__ import annotations

from typing import Any

from metalr.control.scheduler import MetaLR

__all__ = ["WaitingMetaLR"]


class WaitingMetaLR(MetaLR):
    """A `MetaLR` whose epoch ends when its metrics are there, not when its last step is taken.

    The `step()` that would end an epoch only waits: for `end_epoch(metrics)`, which takes it. Where no
    metrics come, `end_epoch()` or the next `step()` takes it without.

    Args: those of `MetaLR`.
    """

    is_waiting = False
    """Whether an epoch's last unit has been trained, and its end is still to come."""

    @property
    def num_units(self) -> int:
        """Units trained so far."""
        return self.last_epoch + self.is_waiting

    def step(  # type: ignore[override]
        self, metrics: Any = None, epoch: int | None = None
    ) -> None:
        """Set the LR of the next unit; at the end of an epoch, wait."""
        if not self._is_initial:
            self.end_epoch()
            if metrics is None and (self.last_epoch + 1) % self._steps_per_epoch == 0:
                self.is_waiting = True
                return
        super().step(metrics)

    def end_epoch(self, metrics: Any = None) -> None:
        """Decide on the epoch that waits, and set the LR of the next; nothing where none waits."""
        if self.is_waiting:
            self.is_waiting = False
            super().step(metrics)

    def state_dict(self) -> dict[str, Any]:
        """As of `MetaLR`, and whether an epoch waits."""
        return super().state_dict() | {"is_waiting": self.is_waiting}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As of `MetaLR`."""
        super().load_state_dict(state_dict)
        self.is_waiting = bool(state_dict.get("is_waiting", False))
