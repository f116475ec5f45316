"""The hand schedules' settings: one section each, under the schedule's name.

Conventions, alike in all of them: the LR of a recipe is the largest one its schedule uses; times are in
epochs, whatever the interval; `t` is the time since the start in epochs, `T` the budget.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from metalr.config.section import Count, Fraction, PositiveInt, Section

__all__ = [
    "CosineConfig",
    "CyclicalConfig",
    "ExploreConfig",
    "ExponentialConfig",
    "FindConfig",
    "GreedyConfig",
    "Interval",
    "InverseTimeConfig",
    "LinearConfig",
    "OneCycleConfig",
    "PlateauConfig",
    "PolynomialConfig",
    "RestartsConfig",
    "RexConfig",
    "ScheduleName",
    "SchedulesConfig",
    "StepConfig",
    "WarmupConfig",
    "WsdConfig",
]

ScheduleName = Literal[
    "constant", "step", "exponential", "inverse_time", "polynomial", "linear", "cosine", "restarts",
    "cyclical", "one_cycle", "plateau", "wsd", "rex", "greedy", "explore",
]  # fmt: skip
"""Every schedule that needs nothing but its name: what a harvest may run, and a comparison compare."""

Interval = Literal["epoch", "step"]
MinLR = Annotated[float, Field(ge=0.0, le=1e3)]
Factor = Annotated[float, Field(gt=0.0, lt=1.0)]


class WarmupConfig(Section):
    """A rise in front of any schedule; the schedule itself then has the rest of the budget."""

    epochs: Annotated[float, Field(ge=0.0)] = 0.0
    """Length in epochs, rounded to whole steps; 0 for none."""
    shape: Literal["linear", "constant"] = "linear"
    """`linear`: a straight rise; `constant`: a low LR, then a jump."""
    start_factor: Factor = 0.1
    """LR of the first step, as a fraction of the LR at which the schedule begins."""


class StepConfig(Section):
    """Step decay: times `factor` every so many epochs, or at milestones."""

    interval: Interval = "epoch"
    """How often the LR may change."""
    every: PositiveInt | None = None
    """Epochs between two decays; where given, `milestones` are not used."""
    milestones: Annotated[list[Annotated[float, Field(gt=0.0)]], Field(min_length=1)] = [0.5, 0.75]
    """Where it decays, in rising order: below 1 a fraction of the budget, from 1 on an epoch."""
    factor: Factor = 0.1
    """The LR is multiplied by it at each decay."""


class ExponentialConfig(Section):
    """lr * exp(-rate * t)."""

    interval: Interval = "epoch"
    """How often the LR changes."""
    rate: Annotated[float, Field(gt=0.0)] | None = None
    """Decay per epoch; null ends at a hundredth: log(100) / T."""


class InverseTimeConfig(Section):
    """lr / (1 + rate * t)."""

    interval: Interval = "epoch"
    """How often the LR changes."""
    rate: Annotated[float, Field(gt=0.0)] | None = None
    """Decay per epoch; null ends at a tenth: 9 / T."""


class PolynomialConfig(Section):
    """lr * (1 - t / T) ** power."""

    interval: Interval = "step"
    """How often the LR changes."""
    power: Annotated[float, Field(gt=0.0, le=10.0)] = 2.0
    """1 is `linear`."""


class LinearConfig(Section):
    """A straight line to zero (arXiv 1905.04753)."""

    interval: Interval = "step"
    """How often the LR changes."""


class CosineConfig(Section):
    """Half a cosine (arXiv 1608.03983)."""

    interval: Interval = "step"
    """How often the LR changes."""
    min_lr: MinLR = 0.0
    """LR at the end, for the first parameter group; the others keep their ratio to it."""


class RestartsConfig(Section):
    """Cosine with warm restarts, SGDR (arXiv 1608.03983)."""

    interval: Interval = "step"
    """How often the LR changes."""
    first_cycle: PositiveInt = 10
    """Length of the first cycle, T_0, in epochs."""
    cycle_factor: PositiveInt = 2
    """Each cycle is this many times as long as the one before, T_mult: 10, 20, 40."""
    min_lr: MinLR = 1e-6
    """LR at the end of each cycle, for the first parameter group; the others keep their ratio to it."""


class CyclicalConfig(Section):
    """Up and down between `low_factor` * lr and lr (arXiv 1506.01186)."""

    interval: Interval = "step"
    """How often the LR changes."""
    mode: Literal["triangular", "triangular2", "exp_range"] = "triangular2"
    """`triangular`: all peaks alike; `triangular2`: each half of the one before; `exp_range`: falling by `decay`."""
    half_cycle: Annotated[float, Field(gt=0.0)] | None = None
    """Epochs from a low point to the next peak; null makes three whole cycles of the budget: T / 6."""
    low_factor: Factor = 0.1
    """The low LR, as a fraction of the recipe's."""
    decay: Annotated[float, Field(gt=0.0, le=1.0)] = 0.95
    """exp_range: the peaks are multiplied by it every epoch."""


class OneCycleConfig(Section):
    """One rise and one long fall, momentum moving the opposite way (arXiv 1708.07120)."""

    interval: Interval = "step"
    """How often the LR changes."""
    rise_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.3
    """Part of the budget in which the LR rises."""
    shape: Literal["cosine", "linear"] = "cosine"
    """How it moves between start, peak and end."""
    start_divisor: Annotated[float, Field(gt=1.0)] = 25.0
    """The first LR is lr / start_divisor."""
    end_divisor: Annotated[float, Field(gt=1.0)] = 1e4
    """The last LR is the first one / end_divisor."""
    cycle_momentum: bool = True
    """Whether momentum (Adam: beta1) falls while the LR rises, and rises while it falls."""
    low_momentum: Fraction = 0.85
    """Momentum at the LR's peak."""
    high_momentum: Fraction = 0.95
    """Momentum at the LR's start and end."""


class PlateauConfig(Section):
    """Times `factor` where the inner validation loss stops falling; once an epoch."""

    factor: Factor = 0.5
    """The LR is multiplied by it."""
    patience: Count = 5
    """Epochs without an improvement that are borne."""
    threshold: Annotated[float, Field(ge=0.0, lt=1.0)] = 1e-4
    """Relative improvement that counts."""
    min_lr: MinLR = 0.0
    """Lowest LR, for the first parameter group; the others keep their ratio to it."""


class WsdConfig(Section):
    """Warm-up, stable, decay: the recipe's LR, then a fall to zero (arXiv 2405.18392). Warm-up: `schedules.warmup`."""

    interval: Interval = "step"
    """How often the LR changes."""
    decay_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    """Part of the budget in which it falls."""
    shape: Literal["sqrt", "linear"] = "sqrt"
    """With v from 0 to 1 over the fall: `sqrt`: 1 - sqrt(v); `linear`: 1 - v."""


class RexConfig(Section):
    """(1 - u) / (1 - u / 2) with u = t / T (arXiv 2107.04197)."""

    interval: Interval = "step"
    """How often the LR changes."""


class GreedyConfig(Section):
    """Up while the inner validation loss falls, down while it does not, once an epoch (after arXiv 2512.14527)."""

    factor: Factor = 0.8
    """Down: times this; up: divided by it."""
    patience: Count = 1
    """Epochs in one direction that pass before the LR moves."""
    min_factor: Factor = 1e-3
    """Lowest LR, as a fraction of the recipe's."""
    max_factor: Annotated[float, Field(gt=1.0)] = 10.0
    """Highest LR, as a multiple of the recipe's."""


class ExploreConfig(Section):
    """A random path for the harvest: straight pieces in log LR, some with a jump; drawn from the run's seed."""

    pieces: PositiveInt = 4
    """Straight pieces, of random lengths."""
    span: Annotated[float, Field(gt=1.0, le=1e3)] = 10.0
    """The LR stays within lr / span and lr * span."""
    jump_probability: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    """Probability of a jump between two pieces."""


class FindConfig(Section):
    """LR finder + cosine: the LR is what the finder suggests on the probe's curve, whatever the recipe's is."""

    rule: Literal["reference", "steepest", "valley", "minimum"] = "reference"
    """What is read off the curve: `reference`, an eighth of the edge of stability, lost least of all rules on
    a probe's short curve; the others are the LR finder's (`finder.rule`)."""


class SchedulesConfig(Section):
    """The settings of every hand schedule."""

    warmup: WarmupConfig = WarmupConfig()
    step: StepConfig = StepConfig()
    exponential: ExponentialConfig = ExponentialConfig()
    inverse_time: InverseTimeConfig = InverseTimeConfig()
    polynomial: PolynomialConfig = PolynomialConfig()
    linear: LinearConfig = LinearConfig()
    cosine: CosineConfig = CosineConfig()
    restarts: RestartsConfig = RestartsConfig()
    cyclical: CyclicalConfig = CyclicalConfig()
    one_cycle: OneCycleConfig = OneCycleConfig()
    plateau: PlateauConfig = PlateauConfig()
    wsd: WsdConfig = WsdConfig()
    rex: RexConfig = RexConfig()
    greedy: GreedyConfig = GreedyConfig()
    explore: ExploreConfig = ExploreConfig()
    find: FindConfig = FindConfig()
