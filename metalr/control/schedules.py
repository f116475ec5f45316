"""Hand schedules by name, with or without a warm-up: torch's own classes wherever it has one.

Reading order: `schedule` (what the loop sees; the budget), `schedule_shapes` (one by one), `warmup`,
`greedy`, `explore`, `schedule_fit` (what does not fit a budget), `schedule_preview` (LRs without training).
"""

from __future__ import annotations

import math
from typing import get_args

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from metalr.config import ConfigError, SchedulesConfig
from metalr.config.schedules import ScheduleName
from metalr.control.anchor import Anchor
from metalr.control.schedule import Budget, Schedule, initial_lr_of, interval_of
from metalr.control.schedule_fit import schedule_problems
from metalr.control.schedule_shapes import FACTORIES
from metalr.control.warmup import WarmupLR

__all__ = ["SCHEDULE_NAMES", "Schedule", "anchored_schedule", "initial_lr_of", "make_schedule"]

SCHEDULE_NAMES: tuple[str, ...] = get_args(ScheduleName)


def make_schedule(
    name: str,
    optimizer: Optimizer,
    total_epochs: int,
    steps_per_epoch: int,
    settings: SchedulesConfig | None = None,
    *,
    seed: int = 0,
) -> Schedule:
    """The hand schedule `name` over the optimizer's present LRs, which are its largest ones.

    ============ ======== =====================================================================
    constant     epoch    lr
    step         epoch    lr * factor ** n, n the number of decays so far
    exponential  epoch    lr * exp(-rate t)
    inverse_time epoch    lr / (1 + rate t)
    polynomial   step     lr * (1 - u) ** power
    linear       step     lr * (1 - u) (arXiv 1905.04753)
    cosine       step     min_lr + (lr - min_lr) (1 + cos(pi u)) / 2 (arXiv 1608.03983)
    restarts     step     cosine, again and again, each cycle longer (arXiv 1608.03983)
    cyclical     step     up and down from low_factor * lr to lr (arXiv 1506.01186)
    one_cycle    step     up, then far down; momentum the opposite way (arXiv 1708.07120)
    plateau      epoch    times factor where the inner validation loss stops falling
    wsd          step     lr, then lr * (1 - sqrt(v)) over the last part (arXiv 2405.18392)
    rex          step     lr * (1 - u) / (1 - u / 2) (arXiv 2107.04197)
    greedy       epoch    up while the inner validation loss falls, else down (arXiv 2512.14527)
    explore      step     random straight pieces in log LR, the only one to pass lr with greedy
    ============ ======== =====================================================================

    t is the time in epochs since the schedule began, u = t / T its part of the budget, v the part of the
    fall. The second column is the interval by default; where it is `epoch`, the LR is that of the epoch's
    beginning. In `one_cycle` the last step (or epoch) has the end LR, as in torch. With `settings.warmup` the
    schedule begins after it and has what is left of the budget.

    Every group keeps its ratio to the first one; settings in absolute numbers are meant for the first.

    Args:
        name: One of `SCHEDULE_NAMES`.
        optimizer: Its groups' LRs, each above 0; an earlier schedule's traces in it are not used.
        total_epochs: Budget, at least 1.
        steps_per_epoch: Optimizer steps an epoch, at least 1.
        settings: Of all schedules; the defaults where None.
        seed: What `explore` is drawn from.

    Raises:
        ConfigError: an unknown name, a budget or an LR that cannot be, settings that do not fit them.
    """
    settings = settings or SchedulesConfig()
    problems = [*schedule_problems(name, settings, total_epochs, steps_per_epoch)]
    problems += [] if problems else _lr_problems(name, settings, optimizer)
    if problems:
        raise ConfigError(problems)
    for group in optimizer.param_groups:
        group.pop("initial_lr", None)
    interval = interval_of(name, settings)
    budget = Budget.of(total_epochs, steps_per_epoch, settings.warmup, interval)
    schedule = Schedule(FACTORIES[name](optimizer, settings, budget, seed), interval)
    if budget.warmup_steps == 0:
        return schedule
    risen = WarmupLR(optimizer, schedule, budget.warmup_steps, steps_per_epoch, settings.warmup)
    return Schedule(risen, "step")


def _lr_problems(name: str, settings: SchedulesConfig, optimizer: Optimizer) -> list[str]:
    """What is wrong with the optimizer's LRs, alone or beside the schedule's lowest one."""
    lrs = [float(group["lr"]) for group in optimizer.param_groups]
    problems = [
        f"the optimizer's LR must be a finite number above 0, not {lr:g} (parameter group {index})"
        for index, lr in enumerate(lrs)
        if not (math.isfinite(lr) and lr > 0.0)
    ]
    min_lr = getattr(getattr(settings, name, None), "min_lr", 0.0)
    if not problems and min_lr >= lrs[0]:
        problems.append(f"schedules.{name}.min_lr: {min_lr:g} is not below the LR {lrs[0]:g}; take less")
    return problems


def anchored_schedule(
    optimizer: Optimizer,
    peak_lr: float,
    first_epoch: int,
    total_epochs: int,
    steps_per_epoch: int,
    anchor: Anchor,
) -> Schedule:
    """The anchor with the given peak from `first_epoch` (from 0) to the end of the budget: a fork's branch.

    Sets the optimizer's first group to the anchor at once; other groups keep their ratio to it.
    """
    total = total_epochs * steps_per_epoch
    start = first_epoch * steps_per_epoch
    # LambdaLR multiplies `initial_lr`, which an optimizer restored from a decayed run still carries.
    base = initial_lr_of(optimizer.param_groups[0])

    def multiple(step: int) -> float:
        progress = (min(start + step, total - 1) + 0.5) / total
        return peak_lr * anchor.height(progress) / base

    return Schedule(LambdaLR(optimizer, multiple), "step")
