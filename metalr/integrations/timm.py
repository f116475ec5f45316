"""`MetaLR` as timm's own kind of scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timm.scheduler.scheduler import Scheduler
from torch.optim import Optimizer

from metalr.control.decision import Controller
from metalr.integrations.carried_state import CarriedState
from metalr.integrations.waiting import WaitingMetaLR

__all__ = ["TimmMetaLR"]

METRICS = {"loss": ("inner_valid/loss", 1.0), "top1": ("inner_valid/accuracy", 100.0)}
"""timm's names: ours, and how much of timm's unit is one of ours."""


class TimmMetaLR(Scheduler):  # type: ignore[misc]
    """A `MetaLR` with timm's `step(epoch, metric)` and `step_update(num_updates, metric)`.

    timm's `CheckpointSaver` saves the optimizer and no scheduler; this one's state travels with the
    optimizer, and is found again by `resume_checkpoint`, before or after the scheduler is built. Groups
    with an `lr_scale` keep it.

    >>> scheduler = TimmMetaLR(optimizer, total_epochs=20, metric="loss")  # doctest: +SKIP
    >>> scheduler.step(epoch + 1, eval_metrics["loss"])  # doctest: +SKIP

    Args:
        optimizer: Any of torch's or timm's.
        controller: As in `MetaLR`.
        total_epochs: Budget in epochs.
        updates_per_epoch: Where given, the LR moves with every `step_update`.
        metric: What `step` is given: `loss`, or `top1` in percent.
        settings: The rest of `MetaLR`'s arguments.

    Raises:
        ValueError: an unknown `metric`.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        controller: Controller | str | Path = "default",
        *,
        total_epochs: int,
        updates_per_epoch: int | None = None,
        metric: str = "loss",
        **settings: Any,
    ) -> None:
        if metric not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
        super().__init__(optimizer, "lr", t_in_epochs=updates_per_epoch is None)
        self._metric = metric
        self.meta_lr = WaitingMetaLR(
            optimizer,
            controller,
            total_epochs=total_epochs,
            steps_per_epoch=updates_per_epoch or 1,
            **settings,
        )
        self._carried = CarriedState(self.meta_lr, lambda: optimizer.param_groups[0])
        self._carried.adopt()
        self._carried.store()

    def step(self, epoch: int, metric: float | Mapping[str, float] | None = None) -> None:
        """After an epoch: decide where a metric is given, and set the LR of epoch `epoch`, from 0."""
        self._carried.adopt()
        observed = self._observed(metric)
        if observed is not None:
            self.meta_lr.observe(observed)
        if self.t_in_epochs:
            self._go_to(epoch)
        self.meta_lr.end_epoch()
        self._carried.store()

    def step_update(self, num_updates: int, metric: float | None = None) -> None:
        """After an update: set the LR of update `num_updates`, where the LR moves with them."""
        if not self.t_in_epochs:
            self._carried.adopt()
            self._go_to(num_updates)
            self._carried.store()

    def state_dict(self) -> dict[str, Any]:
        """The state of the `MetaLR` within."""
        return self.meta_lr.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict`. Raises ValueError on a state of another version or controller."""
        self.meta_lr.load_state_dict(state_dict)
        self._carried.store()

    def _get_lr(self, t: int) -> list[float]:
        return [float(lr) for lr in self.meta_lr.get_last_lr()]

    def _go_to(self, unit: int) -> None:
        """timm counts for itself, and may leave some out."""
        if unit != self.meta_lr.num_units:
            self.meta_lr.end_epoch()
            self.meta_lr.last_epoch = unit - 1
            self.meta_lr.step()

    def _observed(self, metric: float | Mapping[str, float] | None) -> Mapping[str, float] | None:
        if metric is None or isinstance(metric, Mapping):
            return metric
        name, unit = METRICS[self._metric]
        return {name: float(metric) / unit}
