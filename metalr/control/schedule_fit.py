"""What makes a schedule impossible on a budget, and what is possible but does not fit it: one line each."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from itertools import pairwise
from typing import get_args

from metalr.config.schedules import ScheduleName, SchedulesConfig
from metalr.control.schedule import Budget, interval_of
from metalr.control.schedule_shapes import (
    cyclical_half_cycle,
    exponential_rate,
    inverse_time_rate,
    step_milestones,
)

__all__ = ["schedule_notes", "schedule_problems"]

NEARLY_CONSTANT = 0.5
"""A decay that ends above this part of the peak LR hardly is one."""
NEARLY_ZERO = 1e-6
"""Below this part of the peak LR nothing trains."""
MAX_CYCLES_SHOWN = 6


def schedule_problems(
    name: str, settings: SchedulesConfig, total_epochs: int, steps_per_epoch: int
) -> list[str]:
    """What makes the schedule impossible on this budget, a line each with what to do."""
    names = get_args(ScheduleName)
    if name not in names:
        nearest = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {nearest[0]}? " if nearest else ""
        return [f"unknown schedule {name!r}; {hint}known: {', '.join(names)}"]
    if total_epochs < 1 or steps_per_epoch < 1:
        return [f"a schedule needs {total_epochs=} and {steps_per_epoch=} of at least 1"]
    budget = Budget.of(total_epochs, steps_per_epoch, settings.warmup, interval_of(name, settings))
    if budget.warmup_steps >= total_epochs * steps_per_epoch:
        return [
            f"schedules.warmup.epochs: {settings.warmup.epochs:g} leaves nothing of the budget of "
            f"{_epochs(total_epochs)}; take fewer, or a larger budget"
        ]
    check = _PROBLEMS.get(name)
    return check(settings, budget) if check else []


def schedule_notes(
    name: str, settings: SchedulesConfig, total_epochs: int, steps_per_epoch: int
) -> list[str]:
    """What the schedule does on this budget that hardly is meant, a line each; empty where it fits.

    Empty too where the schedule is impossible: that is for `schedule_problems` to say.
    """
    if schedule_problems(name, settings, total_epochs, steps_per_epoch):
        return []
    budget = Budget.of(total_epochs, steps_per_epoch, settings.warmup, interval_of(name, settings))
    notes = []
    if settings.warmup.epochs > 0.0 and budget.warmup_steps == 0:
        notes.append(
            f"a warm-up of {settings.warmup.epochs:g} epochs is none: less than half of one of the "
            f"{steps_per_epoch} steps of an epoch"
        )
    describe = _NOTES.get(name)
    if name not in ("constant", "plateau", "greedy") and budget.num_units == 1:
        notes.append("the LR never changes: it moves once an epoch, and has one epoch")
    elif describe:
        notes.extend(describe(settings, budget))
    return notes


def _epochs(count: float) -> str:
    return f"{count:g} epoch" + ("" if count == 1 else "s")


def _step_problems(settings: SchedulesConfig, budget: Budget) -> list[str]:
    if settings.step.every is not None:
        return []
    milestones, start = settings.step.milestones, budget.first_epoch
    key = "schedules.step.milestones"
    # Where a fraction stands among epochs depends on the budget.
    at_epochs = [start + at * budget.num_epochs if at < 1.0 else at for at in milestones]
    problems = []
    if any(later <= earlier for earlier, later in pairwise(at_epochs)):
        shown = ", ".join(f"{at:g}" for at in at_epochs)
        problems.append(f"{key}: not in rising order (they are epochs {shown}); put the earlier one first")
    for at in milestones:
        if at >= budget.total_epochs and at >= 1.0:
            problems.append(
                f"{key}: epoch {at:g} is not before the end of {_epochs(budget.total_epochs)}; take an "
                f"earlier one, or a fraction of the budget"
            )
        elif at >= 1.0 and start > 0 and at <= start:
            problems.append(f"{key}: epoch {at:g} lies in the warm-up of {_epochs(start)}; take a later one")
    return problems


def _cyclical_problems(settings: SchedulesConfig, budget: Budget) -> list[str]:
    half = cyclical_half_cycle(settings.cyclical, budget)
    if half * budget.units_per_epoch >= 1.0:
        return []
    unit, remedy = ("an epoch", ", or interval: step") if budget.interval == "epoch" else ("a step", "")
    return [f"schedules.cyclical.half_cycle: {half:g} epochs is shorter than {unit}; take more{remedy}"]


def _one_cycle_problems(settings: SchedulesConfig, budget: Budget) -> list[str]:
    config, problems = settings.one_cycle, []
    if budget.num_units < 2:
        remedy = (
            "take interval: step, or a larger budget" if budget.interval == "epoch" else "take more steps"
        )
        problems.append(
            f"schedules.one_cycle.interval: one {budget.interval} is too short to rise and to fall; {remedy}"
        )
    if config.cycle_momentum and config.low_momentum > config.high_momentum:
        problems.append(
            f"schedules.one_cycle.low_momentum: {config.low_momentum:g} is above high_momentum "
            f"{config.high_momentum:g}; swap them"
        )
    return problems


def _step_notes(settings: SchedulesConfig, budget: Budget) -> list[str]:
    every = settings.step.every
    if every is not None:
        never = every * budget.units_per_epoch >= budget.num_units
        what = f"every {_epochs(every)}, and it has {_epochs(budget.num_epochs)}"
        return [f"it never decays: {what}"] if never else []
    units = step_milestones(settings.step, budget)
    late = [at for at, unit in zip(settings.step.milestones, units, strict=True) if unit >= budget.num_units]
    notes = []
    if late:
        shown = ", ".join(f"{at:g}" for at in late)
        notes.append(f"the decay at {shown} comes at the end of the budget: it never acts")
    within = [unit for unit in units if unit < budget.num_units]
    if len(set(within)) < len(within):
        notes.append("several decays fall together: the budget is too short for all of its milestones")
    return notes


def _decay_notes(end: float, time_to_zero: float, budget: Budget) -> list[str]:
    """`end`: the LR at the end as part of the peak; `time_to_zero`: epochs until nothing trains."""
    if end > NEARLY_CONSTANT:
        return [f"it hardly decays: the LR ends at {end:.2g} of the peak LR"]
    if time_to_zero < budget.num_epochs / 2:
        shown = budget.first_epoch + time_to_zero
        return [
            f"the LR is below a millionth of the peak LR from epoch {shown:.3g} on, of {budget.total_epochs}"
        ]
    return []


def _exponential_notes(settings: SchedulesConfig, budget: Budget) -> list[str]:
    rate = exponential_rate(settings.exponential, budget)
    return _decay_notes(math.exp(-rate * budget.num_epochs), -math.log(NEARLY_ZERO) / rate, budget)


def _inverse_time_notes(settings: SchedulesConfig, budget: Budget) -> list[str]:
    rate = inverse_time_rate(settings.inverse_time, budget)
    return _decay_notes(1.0 / (1.0 + rate * budget.num_epochs), (1.0 / NEARLY_ZERO - 1.0) / rate, budget)


def _cut_off(ends: list[float], start: float, height: float, budget: Budget) -> list[str]:
    """The line about a last cycle that the budget cuts off; `ends`: the cycles' ends in epochs, in order."""
    if ends[-1] <= budget.total_epochs:
        return []
    shown = [f"{end:g}" for end in ends]
    if len(shown) > MAX_CYCLES_SHOWN:
        shown = [*shown[:2], "...", *shown[-2:]]
    return [
        f"the last cycle (epochs {start:g} to {ends[-1]:g}) is cut off at {budget.total_epochs}, at "
        f"{height:.2f} of the peak LR; whole cycles end at {', '.join(shown)}"
    ]


def _restarts_notes(settings: SchedulesConfig, budget: Budget) -> list[str]:
    config = settings.restarts
    start, length = budget.first_epoch, config.first_cycle
    ends = [start + length]
    while ends[-1] < budget.total_epochs:
        start, length = ends[-1], length * config.cycle_factor
        ends.append(start + length)
    height = (1.0 + math.cos(math.pi * (budget.total_epochs - start) / length)) / 2.0
    return _cut_off(ends, start, height, budget)


def _cyclical_notes(settings: SchedulesConfig, budget: Budget) -> list[str]:
    config = settings.cyclical
    half = cyclical_half_cycle(config, budget)
    cycle = 2.0 * half
    # A cycle that ends where the budget does must not be cut off by the last bit of a division.
    num_cycles = max(1, math.ceil(budget.num_epochs / cycle - 1e-9))
    ends = [budget.first_epoch + cycle * (index + 1) for index in range(num_cycles)]
    if ends[-1] <= budget.total_epochs + 1e-9 * cycle:
        return []
    into = budget.num_epochs - cycle * (num_cycles - 1)
    top = {
        "triangular": 1.0,
        "triangular2": 0.5 ** (num_cycles - 1),
        "exp_range": config.decay**budget.num_epochs,
    }
    height = 1.0 - abs(into / half - 1.0)
    lr = config.low_factor + (1.0 - config.low_factor) * top[config.mode] * height
    return _cut_off(ends, ends[-1] - cycle, lr, budget)


def _one_cycle_notes(settings: SchedulesConfig, budget: Budget) -> list[str]:
    if settings.one_cycle.rise_fraction * budget.num_units > 1.0:
        return []
    return [f"its rise is shorter than one {budget.interval}: it begins at the peak, or past it"]


def _plateau_notes(settings: SchedulesConfig, budget: Budget) -> list[str]:
    return _patience_notes(settings.plateau.patience, budget)


def _greedy_notes(settings: SchedulesConfig, budget: Budget) -> list[str]:
    return _patience_notes(settings.greedy.patience, budget)


def _patience_notes(patience: int, budget: Budget) -> list[str]:
    # One epoch to compare with, `patience` that are borne, one that acts, one that has the new LR.
    if patience + 3 <= budget.num_units:
        return []
    return [
        f"it never acts: patience {patience} needs a budget of {patience + 3} epochs, not {budget.num_units}"
    ]


def _wsd_notes(settings: SchedulesConfig, budget: Budget) -> list[str]:
    if settings.wsd.decay_fraction * budget.num_units > 1.0:
        return []
    return [f"it never decays: its fall is no longer than one {budget.interval}"]


_Check = Callable[[SchedulesConfig, Budget], list[str]]
_PROBLEMS: dict[str, _Check] = {
    "step": _step_problems,
    "cyclical": _cyclical_problems,
    "one_cycle": _one_cycle_problems,
}
_NOTES: dict[str, _Check] = {
    "step": _step_notes,
    "exponential": _exponential_notes,
    "inverse_time": _inverse_time_notes,
    "restarts": _restarts_notes,
    "cyclical": _cyclical_notes,
    "one_cycle": _one_cycle_notes,
    "plateau": _plateau_notes,
    "wsd": _wsd_notes,
    "greedy": _greedy_notes,
}
