"""What other LR finders would suggest on a given curve: their rules, written from their descriptions.

Every function takes LRs and losses of one ramp, in which, as those finders record them, losses[i] was met
before the update at lrs[i]; it returns an LR, or None where the rule has nothing to go by. Only the rules are
theirs here: the ramp is ours (theirs start at 1e-7 and have their own lengths).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["OTHER_RULES"]

Rule = Callable[[np.ndarray, np.ndarray], float | None]


def torch_lr_finder(lrs: np.ndarray, losses: np.ndarray) -> float | None:
    """torch-lr-finder: steepest fall per step of the smoothed loss, without 10 first and 5 last steps.

    Smoothing: each value is 0.05 of the new loss and 0.95 of the one before; ends above 5 times the best.
    """
    smoothed = [float(losses[0])]
    for loss in losses[1:]:
        smoothed.append(0.05 * float(loss) + 0.95 * smoothed[-1])
    values = np.asarray(smoothed[: _end(smoothed, 5.0)])[10:-5]
    return float(lrs[10 + int(np.argmin(np.gradient(values)))]) if len(values) > 1 else None


def fastai_minimum(lrs: np.ndarray, losses: np.ndarray) -> float | None:
    """fastai's `minimum`: a tenth of the LR of lowest smoothed loss."""
    lrs, values = _fastai_curve(lrs, losses)
    return float(lrs[int(np.argmin(values))]) / 10 if len(values) else None


def fastai_steep(lrs: np.ndarray, losses: np.ndarray) -> float | None:
    """fastai's `steep`: where the smoothed loss falls fastest per log LR, from one step to the next."""
    lrs, values = _fastai_curve(lrs, losses)
    return float(lrs[int(np.argmin(np.diff(values) / np.diff(np.log(lrs))))]) if len(values) > 1 else None


def fastai_valley(lrs: np.ndarray, losses: np.ndarray) -> float | None:
    """fastai's `valley`: two thirds into the longest falling run of smoothed losses.

    A run may skip steps in between; its length in steps is counted back from its last one.
    """
    lrs, values = _fastai_curve(lrs, losses)
    if not len(values):
        return None
    length, end = _longest_fall(values.tolist())
    start = end - length
    return float(lrs[max(0, start + round(2 * length / 3))])


def fastai_slide(lrs: np.ndarray, losses: np.ndarray) -> float | None:
    """fastai's `slide`: the lower end of an interval of 15 steps, slid down from the highest LR.

    It slides while the slopes at its two ends differ by more than 0.005 a step.
    """
    lrs, values = _fastai_curve(lrs, losses)
    width = 15
    if len(values) <= width:
        return None
    slopes = np.gradient(values)
    right = len(values) - 1
    while right - width > 0 and abs(slopes[right] - slopes[right - width]) > 0.005:
        right -= 1
    return float(lrs[min(right - width + 1, len(lrs) - 1)])


OTHER_RULES: dict[str, Rule] = {
    "torch-lr-finder": torch_lr_finder,
    "fastai minimum": fastai_minimum,
    "fastai steep": fastai_steep,
    "fastai valley": fastai_valley,
    "fastai slide": fastai_slide,
}


def _fastai_curve(lrs: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Running average of weight 0.98, unbiased, up to 4 times the best; without a first tenth and 5 last."""
    average, smoothed = 0.0, []
    for step, loss in enumerate(losses, start=1):
        average = 0.98 * average + 0.02 * float(loss)
        smoothed.append(average / (1 - 0.98**step))
    end, skipped = _end(smoothed, 4.0), len(lrs) // 10
    values = np.asarray(smoothed[:end])[skipped:-5]
    return lrs[skipped : skipped + len(values)], values


def _end(smoothed: Sequence[float], factor: float) -> int:
    """How many values there are before one exceeds `factor` times the best so far."""
    best = smoothed[0]
    for step, value in enumerate(smoothed):
        best = min(best, value)
        if value > factor * best:
            return step
    return len(smoothed)


def _longest_fall(values: Sequence[float]) -> tuple[int, int]:
    """Length and last index of the first of the longest strictly falling subsequences."""
    lowest_last: list[float] = []
    length, end = 0, 0
    for index, value in enumerate(values):
        # Negated, the falling ends are in rising order: bisection finds the longest run that value goes on.
        place = bisect_left(lowest_last, -value)
        lowest_last[place : place + 1] = [-value]
        if place + 1 > length:
            length, end = place + 1, index
    return length, end
