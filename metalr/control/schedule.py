"""A schedule as the training loop sees it, and the budget it is made for.

The calling convention of the training loop, for every schedule, learned or not: `after_batch` once
after each optimizer step but the epoch's last, `after_epoch` once after the epoch's last step and
evaluation. The LR logged for a step is the LR that was used for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from metalr.config.schedules import Interval, SchedulesConfig, WarmupConfig
from metalr.control.observation import Observation

__all__ = ["Budget", "Schedule", "initial_lr_of", "interval_of"]


@dataclass(frozen=True)
class Schedule:
    """A torch scheduler and the interval at which it wants to be stepped."""

    scheduler: LRScheduler
    interval: Interval

    def after_batch(self) -> None:
        """Tell the schedule that an optimizer step, not the epoch's last, was made."""
        if self.interval == "step":
            self.scheduler.step()

    def after_epoch(self, observation: Observation, *, is_fresh: bool = True) -> None:
        """Tell the schedule that an epoch ended, and what it showed, where it cares to know.

        An epoch that was not evaluated (`is_fresh=False`) only moves it on, unless its loss was lost.
        """
        is_told = is_fresh or not observation.is_finite
        if isinstance(self.scheduler, ReduceLROnPlateau):
            if is_told and observation.inner_valid_loss is not None:
                self.scheduler.step(observation.inner_valid_loss)
            return
        observe = getattr(self.scheduler, "observe", None)
        if observe is not None and is_told:
            observe(observation)
        self.scheduler.step()


@dataclass(frozen=True)
class Budget:
    """How long a run is, and what of it a schedule has left after its warm-up.

    A schedule counts in units: steps, or epochs where it moves once an epoch. An epoch in which the
    warm-up ends is the first of those that count.
    """

    total_epochs: int
    steps_per_epoch: int
    warmup_steps: int
    """Steps before the schedule begins; 0 for no warm-up."""
    interval: Interval

    @classmethod
    def of(cls, total_epochs: int, steps_per_epoch: int, warmup: WarmupConfig, interval: Interval) -> Budget:
        """The budget of a run with this warm-up, whose length is rounded to whole steps."""
        return cls(total_epochs, steps_per_epoch, round(warmup.epochs * steps_per_epoch), interval)

    @property
    def units_per_epoch(self) -> int:
        """How often the schedule moves in an epoch."""
        return 1 if self.interval == "epoch" else self.steps_per_epoch

    @property
    def warmup_units(self) -> int:
        """Whole units of the run that are over when the schedule begins."""
        return self.warmup_steps if self.interval == "step" else self.warmup_steps // self.steps_per_epoch

    @property
    def num_units(self) -> int:
        """T: the schedule's own length in units; below 1 where the warm-up takes the whole run."""
        return self.total_epochs * self.units_per_epoch - self.warmup_units

    @property
    def first_epoch(self) -> float:
        """The time in epochs, since the run's start, from which the schedule counts."""
        return self.warmup_units / self.units_per_epoch

    @property
    def num_epochs(self) -> float:
        """T in epochs."""
        return self.num_units / self.units_per_epoch


def interval_of(name: str, settings: SchedulesConfig) -> Interval:
    """How often the schedule `name` moves; without a choice: `explore` every step, the others every epoch."""
    default: Interval = "step" if name == "explore" else "epoch"
    chosen: Interval = getattr(getattr(settings, name, None), "interval", default)
    return chosen


def initial_lr_of(group: dict[str, Any]) -> float:
    """The LR a parameter group started from, as torch's schedulers see it: `initial_lr` where one is kept."""
    return float(group.get("initial_lr", group["lr"]))
