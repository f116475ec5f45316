"""`MetaLR` for code that gives metrics only to a `ReduceLROnPlateau`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from metalr.control.decision import Controller
from metalr.control.scheduler import MetaLR
from metalr.integrations.carried_state import STATE_KEY, CarriedState

__all__ = ["MetaLROnPlateau"]


class MetaLROnPlateau(ReduceLROnPlateau):
    """A `MetaLR` that passes for a `ReduceLROnPlateau`; the rules of that class itself are not used.

    Its state is in the optimizer's too: skorch, for one, checkpoints no scheduler.

    >>> LRScheduler(policy=MetaLROnPlateau, monitor="valid_loss", total_epochs=20)  # doctest: +SKIP

    Args:
        optimizer: Its groups keep the ratios that their LRs have now. Where it was loaded from a checkpoint,
            the scheduler goes on from there.
        controller: As in `MetaLR`.
        last_epoch: -1 starts. Some frameworks pass the epochs they have behind them, which counts only where
            the optimizer brings no state.
        settings: The rest of `MetaLR`'s arguments; `total_epochs` counts the calls of `step`.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        controller: Controller | str | Path = "default",
        *,
        last_epoch: int = -1,
        **settings: Any,
    ) -> None:
        super().__init__(optimizer)
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", _copied(group["lr"]))  # torch wants it where last_epoch is given
        starts_at = -1 if STATE_KEY in optimizer.param_groups[0] else last_epoch
        self.meta_lr = MetaLR(optimizer, controller, last_epoch=starts_at, **settings)
        self._carried = CarriedState(self.meta_lr, lambda: optimizer.param_groups[0])
        self._carried.adopt()
        self._follow()

    def step(  # type: ignore[override]  # metrics may be missing, or a mapping
        self, metrics: Any = None, epoch: int | None = None
    ) -> None:
        """Decide where there is a metric (a validation loss, or a mapping), and set the next LR."""
        self._carried.adopt()
        self.meta_lr.step(metrics)
        self._follow()

    def observe(self, metrics: Any) -> None:
        """As `MetaLR.observe`."""
        self.meta_lr.observe(metrics)

    def state_dict(self) -> dict[str, Any]:
        """The state of the `MetaLR` within."""
        return self.meta_lr.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict`. Raises ValueError on a state of another version or controller."""
        self.meta_lr.load_state_dict(state_dict)
        self._follow()

    def _follow(self) -> None:
        self.last_epoch = self.meta_lr.last_epoch
        self._last_lr = self.meta_lr.get_last_lr()
        self._carried.store()


def _copied(lr: float | Tensor) -> float | Tensor:
    return lr.clone() if isinstance(lr, Tensor) else lr
