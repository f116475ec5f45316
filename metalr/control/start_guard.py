"""The first steps at an LR that nobody has tried: where the weights fly off, begin again at a lower one.

Without a probe a training starts at the user's LR. Far too high a one can kill a network within a few
steps, at an ordinary loss, and after an epoch nothing is left to save. The weights tell at once.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from metalr.control.step_statistics import StepStatistics

__all__ = ["StartGuard"]

NUM_WATCHED = 16
"""Optimizer steps that are watched, from the start and again after every new beginning."""
TOO_FAST = 0.5
"""After n steps weights that are farther than this many times their norm and the root of n from where they
started have flown off. Of 20 small trainings the best LR of a grid took them there in two (AdamW): one gained
by beginning again, one lost. Limits that do not grow with n save less; see `experiments/results/NOTES.md`."""
BACKOFF = 0.25
"""Factor on the LR at every new beginning."""


class StartGuard:
    """Looks at the weights before each of the first steps. Waits for the device while it does.

    Args:
        statistics: Knows where the weights started; what it is to do before the next step is this guard's,
            until something else is put there.
        is_on: Whether the LR is still the user's own, and this training's.
        begin_again: Puts everything back and lowers the LR by a factor, for a reason in words; tells whether
            it could.
    """

    def __init__(
        self, statistics: StepStatistics, is_on: Callable[[], bool], begin_again: Callable[[float, str], bool]
    ) -> None:
        self._statistics, self._is_on, self._begin_again = statistics, is_on, begin_again
        self._num_steps = 0
        statistics.before_next_step = self._check

    def _check(self) -> None:
        if self._num_steps and not self._is_on():
            return
        if self._num_steps and self._has_flown_off():
            steps = "one step" if self._num_steps == 1 else f"{self._num_steps} steps"
            why = f"the weights flew off within {steps}: LR x {BACKOFF:g}, begun again"
            if not self._begin_again(BACKOFF, why):
                return
            logging.getLogger(__name__).warning("the optimizer's own LR is too high: %s", why)
            self._num_steps = 0
        self._num_steps += 1
        if self._num_steps <= NUM_WATCHED:
            self._statistics.before_next_step = self._check

    def _has_flown_off(self) -> bool:
        start, moved = self._statistics.start_norm, self._statistics.update_norm
        if start is None or moved is None or not math.isfinite(start):
            return False
        return not math.isfinite(moved) or 0.0 < TOO_FAST * math.sqrt(self._num_steps) * start < moved
