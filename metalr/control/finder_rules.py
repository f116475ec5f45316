"""From the losses on a rising LR to an LR: the finder's curve and its three rules, each with its reason."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Any

import numpy as np

from metalr.control.probe_curve import SMOOTHING_STEPS, ProbeCurve

__all__ = ["RULES", "FinderCurve", "Suggestion", "choose", "suggest", "suggested_lr", "suggestions_of"]

RULES = ("valley", "steepest", "minimum")
"""The rules, in the order in which they stand in for one another."""
NUM_START = 5
"""A finder's ramp starts from the lower median of so many first losses, since each has its own batch."""
MIN_POINTS = 4
"""Fewer losses than these say nothing."""
SMOOTHING_FRACTION = 0.04
"""Standard deviation of the Gaussian window, as a fraction of the finder's losses; the probe's at least."""
FLAT_NOISE = 2.0
"""A fall of less than so many standard deviations of the losses' noise is none."""
FLAT_FRACTION = 0.01
"""Nor is one of less than this fraction of the loss at the start."""
ONSET = 0.25
"""The slope begins where the smoothed loss is past this fraction of its fall for good; less is noise."""
FLOOR = 0.9
"""The valley's floor begins where this fraction of the fall is done. Chosen on nine curves of three networks,
where two thirds of the slope in log LR lost 3.4 points to the tuned LR and this 0.7; judged on nine others in
`experiments/results/lr-finder`."""
EARLY = 0.1
"""A lowest loss within this fraction of the steps is one at the start."""


@dataclass(frozen=True)
class FinderCurve(ProbeCurve):
    """The losses of a finder's ramp, nats: as the probe's, but every step had a batch of its own.

    Without a single loss where the first one was not finite, or the first update exploded.
    """

    @property
    def start_loss(self) -> float:
        """The loss before the LR had an effect: the lower median of the first few."""
        return statistics.median_low((self.initial_loss, *self.losses[: NUM_START - 1]))

    def smoothed(self) -> np.ndarray:
        """The losses without their noise; shape (len(lrs),).

        First the median of each three neighbours, so that a lone spike goes. Then losses above the start
        count at most as far above it as the lowest lies below, or the explosion would hide the fall before
        it. Then a straight line, fitted around each step under a Gaussian window: unlike a running average
        it neither lags behind a slope nor bends at the ends.
        """
        losses = np.asarray(self.losses, dtype=np.float64)
        if len(losses) < 3:
            return losses
        padded = np.concatenate([losses[:1], losses, losses[-1:]])
        calm = np.median(np.stack([padded[:-2], padded[1:-1], padded[2:]]), axis=0)
        calm = np.minimum(calm, 2 * self.start_loss - min(self.start_loss, float(calm.min())))
        return _local_lines(calm, max(SMOOTHING_STEPS, SMOOTHING_FRACTION * len(losses)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; an initial loss that is not finite is None."""
        return {
            "lrs": list(self.lrs),
            "losses": list(self.losses),
            "smoothed": self.smoothed().tolist(),
            "initial_loss": self.initial_loss if math.isfinite(self.initial_loss) else None,
            "exploded": self.exploded,
            "num_steps": self.num_steps,
        }


@dataclass(frozen=True)
class Suggestion:
    """An LR, or None, and in either case why."""

    lr: float | None
    reason: str


def suggest(curve: ProbeCurve, rule: str) -> Suggestion:
    """What `rule` says about `curve`, of a probe or of a finder; its LR is above 0, or None.

    All rules look at the slope of the smoothed loss, from where a quarter of its fall is done down to its
    lowest point. `steepest`: the LR where it falls fastest in log LR. `valley`: where the valley's floor
    begins, nine tenths of the way down in loss. `minimum`: a tenth of the LR at the lowest point.

    Raises:
        ValueError: no such rule.
    """
    if rule not in RULES:
        raise ValueError(f"rule={rule!r}: choose one of {', '.join(RULES)}")
    problem = _problem(curve)
    if problem:
        return Suggestion(None, problem)
    return {"steepest": _steepest, "valley": _valley, "minimum": _minimum}[rule](curve, curve.smoothed())


def suggestions_of(curve: ProbeCurve) -> dict[str, Suggestion]:
    """What every rule says, by its name."""
    return {rule: suggest(curve, rule) for rule in RULES}


def choose(suggestions: dict[str, Suggestion], rule: str) -> Suggestion:
    """The suggestion of `rule`, or of the first of `RULES` that has one; the reason says so."""
    own = suggestions[rule]
    if own.lr is not None:
        return own
    for other in RULES:
        lr, reason = suggestions[other].lr, suggestions[other].reason
        if lr is not None:
            return Suggestion(lr, f"{other} in place of {rule} ({own.reason}): {reason}")
    return own


def suggested_lr(curve: ProbeCurve, rule: str) -> float:
    """The LR that `rule` suggests on a probe's curve, above 0; where no rule has one, its reference LR.

    `reference` asks for that one.

    Raises:
        ValueError: no such rule.
    """
    if rule == "reference":
        return curve.reference_lr
    suggest(curve, rule)
    lr = choose(suggestions_of(curve), rule).lr
    return curve.reference_lr if lr is None else lr


def _start_loss(curve: ProbeCurve) -> float:
    return curve.start_loss if isinstance(curve, FinderCurve) else curve.initial_loss


def _problem(curve: ProbeCurve) -> str | None:
    """Why no rule can say anything; None where they can."""
    if not math.isfinite(curve.initial_loss):
        return f"the loss is {curve.initial_loss} before any update: mend the model or the data"
    if curve.exploded and len(curve.losses) < MIN_POINTS:
        lr = f", at LR {curve.lrs[-1]:.3g}" if curve.lrs else ""
        return f"the loss exploded after {curve.num_steps} steps{lr}: start lower (min_lr)"
    smoothed, start = curve.smoothed(), _start_loss(curve)
    fall = max(start, float(smoothed[0])) - float(smoothed.min())
    least, lowest = max(FLAT_NOISE * _noise(curve), FLAT_FRACTION * abs(start)), int(np.argmin(smoothed))
    if fall > least and lowest > 0:
        return None
    if not curve.exploded and statistics.median(curve.losses[-3:]) <= start + least:
        fix = "a higher max_lr, larger batches or more steps"
        return f"the curve is flat: the loss falls by {max(0.0, fall):.2g}, within its noise: take {fix}"
    if lowest <= EARLY * len(smoothed):
        return f"the loss rises without a fall before, from LR {curve.lrs[0]:.3g} on: start lower (min_lr)"
    return "no fall stands out of the noise before the loss rises: take larger batches or more steps"


def _slope(curve: ProbeCurve, smoothed: np.ndarray) -> tuple[int, int]:
    """First and last step of the slope down to the lowest smoothed loss."""
    lowest = int(np.argmin(smoothed))
    top = max(_start_loss(curve), float(smoothed[0]))
    above = np.flatnonzero(smoothed[:lowest] > top - ONSET * (top - smoothed[lowest]))
    return (int(above[-1]) if len(above) else 0), lowest


def _at_once(curve: ProbeCurve) -> Suggestion:
    return Suggestion(None, f"that is at the first LR, {curve.lrs[0]:.3g}, already: start lower (min_lr)")


def _steepest(curve: ProbeCurve, smoothed: np.ndarray) -> Suggestion:
    first, last = _slope(curve, smoothed)
    step = first + int(np.argmin(np.gradient(smoothed, np.log(curve.lrs))[first : last + 1]))
    if step == 0:
        return _at_once(curve)
    lr = curve.lrs[step]
    return Suggestion(lr, f"the smoothed loss falls fastest at LR {lr:.3g}{_still_falling(curve, last)}")


def _valley(curve: ProbeCurve, smoothed: np.ndarray) -> Suggestion:
    first, last = _slope(curve, smoothed)
    top = max(_start_loss(curve), float(smoothed[0]))
    floor = top - FLOOR * (top - smoothed[last])
    step = first + int(np.argmax(smoothed[first : last + 1] <= floor))
    if step == 0:
        return _at_once(curve)
    lr, lowest = curve.lrs[step], curve.lrs[last]
    where = f"the floor of the valley begins at LR {lr:.3g}; its lowest point is at {lowest:.3g}"
    return Suggestion(lr, where + _still_falling(curve, last))


def _minimum(curve: ProbeCurve, smoothed: np.ndarray) -> Suggestion:
    lowest = int(np.argmin(smoothed))
    lr = curve.lrs[lowest]
    return Suggestion(
        lr / 10, f"a tenth of LR {lr:.3g}, where the loss is lowest{_still_falling(curve, lowest)}"
    )


def _still_falling(curve: ProbeCurve, lowest: int) -> str:
    at_the_end = lowest == len(curve.lrs) - 1 and not curve.exploded
    return "; it still falls at the end of the ramp: a higher max_lr may show more" if at_the_end else ""


def _noise(curve: ProbeCurve) -> float:
    """Standard deviation of the losses around any smooth curve, nats, from their second differences."""
    losses = np.asarray(curve.losses, dtype=np.float64)
    bends = np.abs(losses[:-2] - 2 * losses[1:-1] + losses[2:]) / math.sqrt(6.0)
    return 1.4826 * float(np.median(bends)) if len(bends) else 0.0


def _local_lines(values: np.ndarray, width: float) -> np.ndarray:
    """At each step the straight line fitted around it, weighted by a Gaussian of `width` steps."""
    steps = np.arange(len(values), dtype=np.float64)
    offsets = steps[None, :] - steps[:, None]
    weights = np.exp(-0.5 * (offsets / width) ** 2)
    moments = [(weights * offsets**power).sum(axis=1) for power in range(3)]
    means = [(weights * offsets**power) @ values for power in range(2)]
    lines: np.ndarray = (moments[2] * means[0] - moments[1] * means[1]) / (
        moments[0] * moments[2] - moments[1] ** 2
    )
    return lines
