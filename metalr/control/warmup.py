"""A rise in front of any schedule. torch's `SequentialLR` takes no metric and only one interval for all."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from metalr.config.schedules import WarmupConfig
from metalr.control.observation import Observation
from metalr.control.schedule import Schedule

__all__ = ["WarmupLR"]


class WarmupLR(LRScheduler):
    """The first steps at a low LR, then a schedule from its own beginning.

    With w steps of warm-up and k the step, counted from 0, the LR is the schedule's first one times::

        f + (1 - f) * k / w     for k < w, linear
        f                       for k < w, constant

    Step w is the schedule's first. Step it once after every optimizer step, whatever the schedule's own
    interval is, after `observe` where the step was an epoch's last.

    Args:
        optimizer: The one of `inner`.
        inner: The schedule that follows, freshly made.
        num_steps: w, at least 1.
        steps_per_epoch: Optimizer steps an epoch, at least 1.
        config: Gives shape and f, the `start_factor`.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        inner: Schedule,
        num_steps: int,
        steps_per_epoch: int,
        config: WarmupConfig,
    ) -> None:
        self.inner = inner
        self.num_steps = num_steps
        self.steps_per_epoch = steps_per_epoch
        self.config = config
        self.top_lrs = [float(group["lr"]) for group in optimizer.param_groups]
        self._observation: Observation | None = None
        super().__init__(optimizer)

    def observe(self, observation: Observation) -> None:
        """Take what the epoch showed, for the `step` that follows."""
        self._observation = observation

    def step(self, epoch: int | None = None) -> None:
        """Move to the next step: along the rise, or the schedule behind it."""
        if not self._is_initial and self.last_epoch >= self.num_steps:
            self._step_inner(self.last_epoch + 1)
        self._observation = None
        super().step(epoch)

    def _step_inner(self, num_done: int) -> None:
        if num_done % self.steps_per_epoch:
            self.inner.after_batch()
        else:
            last = self._observation or Observation(epoch=num_done // self.steps_per_epoch)
            self.inner.after_epoch(last)

    def get_lr(self) -> list[float | Tensor]:
        """The LR of each group; once the rise is over, what the schedule has set."""
        if self.last_epoch > self.num_steps:
            return [float(group["lr"]) for group in self.optimizer.param_groups]
        start = self.config.start_factor
        height = start
        if self.last_epoch == self.num_steps:
            height = 1.0
        elif self.config.shape == "linear":
            height = start + (1.0 - start) * self.last_epoch / self.num_steps
        return [top_lr * height for top_lr in self.top_lrs]

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, with the inner schedule's state; the settings are the constructor's."""
        return {
            "last_epoch": self.last_epoch,
            "_step_count": self._step_count,
            "_last_lr": self._last_lr,
            "base_lrs": self.base_lrs,
            "top_lrs": self.top_lrs,
            "inner": self.inner.scheduler.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict()`; the optimizer's own state must be loaded first."""
        own = dict(state_dict)
        self.inner.scheduler.load_state_dict(own.pop("inner"))
        super().load_state_dict(own)
