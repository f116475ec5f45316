"""The hand schedules one by one: torch's own classes, with what they lack for a run of ours.

Units are those of `Budget`: steps, or epochs. u = unit / T runs from 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    StepLR,
)

from metalr.config.schedules import (
    CyclicalConfig,
    ExponentialConfig,
    InverseTimeConfig,
    SchedulesConfig,
    StepConfig,
)
from metalr.control.explore import explore_path
from metalr.control.greedy import GreedyLR
from metalr.control.schedule import Budget

__all__ = ["FACTORIES", "exponential_rate", "inverse_time_rate", "step_milestones"]


class _CosineInRatio(CosineAnnealingLR):
    """torch's `eta_min` is one number for all groups; here it is the first one's, which the others follow."""

    def get_lr(self) -> list[float | Tensor]:
        return _in_ratio(super().get_lr(), self.base_lrs)


class _RestartsInRatio(CosineAnnealingWarmRestarts):
    """As `_CosineInRatio`."""

    def get_lr(self) -> list[float | Tensor]:
        return _in_ratio(super().get_lr(), self.base_lrs)


def _in_ratio(lrs: list[float | Tensor], base_lrs: list[float | Tensor]) -> list[float | Tensor]:
    return [lrs[0] * float(base_lr) / float(base_lrs[0]) for base_lr in base_lrs]


class _Cyclic(CyclicLR):
    """torch takes an entry out of the dict it is handed, so a state could be loaded only once."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(dict(state_dict))


class _OneCycle(OneCycleLR):
    """The loop steps once more after the last unit, where torch's line goes on, even below zero: it stays."""

    def get_lr(self) -> list[float | Tensor]:
        if self.last_epoch >= self.total_steps:
            return [float(group["lr"]) for group in self.optimizer.param_groups]
        return super().get_lr()


def _lrs(optimizer: Optimizer) -> list[float]:
    """The groups' LRs as numbers: torch would fill a tensor in place, and so change its own limit."""
    return [float(group["lr"]) for group in optimizer.param_groups]


def step_milestones(config: StepConfig, budget: Budget) -> list[int]:
    """The units at which `step` decays where it has milestones, counted from the schedule's beginning.

    A fraction is one of what the warm-up leaves; an epoch counts from the run's start.
    """
    units = [
        round(at * budget.num_units) if at < 1.0 else round(at * budget.units_per_epoch) - budget.warmup_units
        for at in config.milestones
    ]
    return [max(1, unit) for unit in units]


def exponential_rate(config: ExponentialConfig, budget: Budget) -> float:
    """Decay per epoch of `exponential`: the recipe's, or the one that ends at a hundredth."""
    return config.rate if config.rate is not None else math.log(100.0) / budget.num_epochs


def inverse_time_rate(config: InverseTimeConfig, budget: Budget) -> float:
    """Decay per epoch of `inverse_time`: the recipe's, or the one that ends at a tenth."""
    return config.rate if config.rate is not None else 9.0 / budget.num_epochs


def _constant(optimizer: Optimizer, settings: SchedulesConfig, budget: Budget, seed: int) -> LRScheduler:
    return ConstantLR(optimizer, factor=1.0, total_iters=0)


def _step(optimizer: Optimizer, settings: SchedulesConfig, budget: Budget, seed: int) -> LRScheduler:
    config = settings.step
    if config.every is not None:
        return StepLR(optimizer, config.every * budget.units_per_epoch, gamma=config.factor)
    return MultiStepLR(optimizer, step_milestones(config, budget), gamma=config.factor)


def _exponential(optimizer: Optimizer, settings: SchedulesConfig, budget: Budget, seed: int) -> LRScheduler:
    rate = exponential_rate(settings.exponential, budget)
    return ExponentialLR(optimizer, gamma=math.exp(-rate / budget.units_per_epoch))


def _inverse_time(optimizer: Optimizer, settings: SchedulesConfig, budget: Budget, seed: int) -> LRScheduler:
    rate = inverse_time_rate(settings.inverse_time, budget)
    return LambdaLR(optimizer, lambda unit: 1.0 / (1.0 + rate * unit / budget.units_per_epoch))


def _polynomial(optimizer: Optimizer, settings: SchedulesConfig, budget: Budget, seed: int) -> LRScheduler:
    return PolynomialLR(optimizer, total_iters=budget.num_units, power=settings.polynomial.power)


def _linear(optimizer: Optimizer, settings: SchedulesConfig, budget: Budget, seed: int) -> LRScheduler:
    return LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=budget.num_units)


def _cosine(optimizer: Optimizer, settings: SchedulesConfig, budget: Budget, seed: int) -> LRScheduler:
    if settings.cosine.min_lr == 0.0:
        return CosineAnnealingLR(optimizer, T_max=budget.num_units)
    return _CosineInRatio(optimizer, T_max=budget.num_units, eta_min=settings.cosine.min_lr)


def _restarts(optimizer: Optimizer, settings: SchedulesConfig, budget: Budget, seed: int) -> LRScheduler:
    config = settings.restarts
    first = config.first_cycle * budget.units_per_epoch
    return _RestartsInRatio(optimizer, T_0=first, T_mult=config.cycle_factor, eta_min=config.min_lr)


def cyclical_half_cycle(config: CyclicalConfig, budget: Budget) -> float:
    """Epochs from a low point of `cyclical` to the next peak: the recipe's, or a sixth of what there is.

    A sixth is never less than one unit, so that the shortest run has a cycle too.
    """
    if config.half_cycle is not None:
        return config.half_cycle
    return max(budget.num_epochs / 6.0, 1.0 / budget.units_per_epoch)


def _cyclical(optimizer: Optimizer, settings: SchedulesConfig, budget: Budget, seed: int) -> LRScheduler:
    config, highs = settings.cyclical, _lrs(optimizer)
    # torch's annotation says int; the class itself takes any length, and makes a float of it.
    half: Any = cyclical_half_cycle(config, budget) * budget.units_per_epoch
    return _Cyclic(
        optimizer,
        base_lr=[high * config.low_factor for high in highs],
        max_lr=highs,
        step_size_up=half,
        mode=config.mode,
        gamma=config.decay ** (1.0 / budget.units_per_epoch),
        cycle_momentum=False,
    )


def _one_cycle(optimizer: Optimizer, settings: SchedulesConfig, budget: Budget, seed: int) -> LRScheduler:
    config = settings.one_cycle
    rise = config.rise_fraction
    # Where the rise is exactly one unit, torch divides by its length less one, zero; a hair less has no rise.
    if rise * budget.num_units == 1.0:
        rise = math.nextafter(rise, 0.0)
    return _OneCycle(
        optimizer,
        max_lr=_lrs(optimizer),
        total_steps=budget.num_units,
        pct_start=rise,
        anneal_strategy="cos" if config.shape == "cosine" else "linear",
        cycle_momentum=config.cycle_momentum and _has_momentum(optimizer),
        base_momentum=config.low_momentum,
        max_momentum=config.high_momentum,
        div_factor=config.start_divisor,
        final_div_factor=config.end_divisor,
    )


def _has_momentum(optimizer: Optimizer) -> bool:
    if not {"momentum", "betas"} & set(optimizer.defaults):
        return False
    return all(
        float(group["betas"][0] if "betas" in group else group["momentum"]) > 0.0
        for group in optimizer.param_groups
    )


def _plateau(optimizer: Optimizer, settings: SchedulesConfig, budget: Budget, seed: int) -> LRScheduler:
    config, lrs = settings.plateau, _lrs(optimizer)
    return ReduceLROnPlateau(
        optimizer,
        factor=config.factor,
        patience=config.patience,
        threshold=config.threshold,
        min_lr=[config.min_lr * lr / lrs[0] for lr in lrs],
        eps=0.0,  # torch leaves decays below 1e-8 out, which a group of low LR would meet before the others
    )


def _wsd_multiple(progress: float, decay_fraction: float, *, sqrt: bool) -> float:
    """Height of warm-up-stable-decay at `progress`: 1, then 1 - sqrt(v) or 1 - v (arXiv 2405.18392)."""
    fall = min(max((progress - (1.0 - decay_fraction)) / decay_fraction, 0.0), 1.0)
    return 1.0 - (math.sqrt(fall) if sqrt else fall)


def _wsd(optimizer: Optimizer, settings: SchedulesConfig, budget: Budget, seed: int) -> LRScheduler:
    config = settings.wsd
    return LambdaLR(
        optimizer,
        lambda unit: _wsd_multiple(
            unit / budget.num_units, config.decay_fraction, sqrt=config.shape == "sqrt"
        ),
    )


def _rex(optimizer: Optimizer, settings: SchedulesConfig, budget: Budget, seed: int) -> LRScheduler:
    def multiple(unit: int) -> float:
        progress = min(unit / budget.num_units, 1.0)
        return (1.0 - progress) / (1.0 - progress / 2.0)

    return LambdaLR(optimizer, multiple)


def _greedy(optimizer: Optimizer, settings: SchedulesConfig, budget: Budget, seed: int) -> LRScheduler:
    return GreedyLR(optimizer, settings.greedy)


def _explore(optimizer: Optimizer, settings: SchedulesConfig, budget: Budget, seed: int) -> LRScheduler:
    path = explore_path(settings.explore, seed)
    return LambdaLR(optimizer, lambda unit: path.multiple(unit / budget.num_units))


FACTORIES: dict[str, Callable[[Optimizer, SchedulesConfig, Budget, int], LRScheduler]] = {
    "constant": _constant,
    "step": _step,
    "exponential": _exponential,
    "inverse_time": _inverse_time,
    "polynomial": _polynomial,
    "linear": _linear,
    "cosine": _cosine,
    "restarts": _restarts,
    "cyclical": _cyclical,
    "one_cycle": _one_cycle,
    "plateau": _plateau,
    "wsd": _wsd,
    "rex": _rex,
    "greedy": _greedy,
    "explore": _explore,
}
"""How each schedule is made over the optimizer's present LRs."""
