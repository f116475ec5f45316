"""The envelope: what no controller may do, whatever it says. Pure functions of state and proposal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from metalr.config import ControlConfig
from metalr.control.observation import Observation, Setting
from metalr.control.probe_curve import ProbeCurve

__all__ = ["bounded_peak", "decay_ceiling", "has_exploded", "has_lost_ground", "has_stalled"]

KILLED_SPREAD = 0.05
"""Standard deviation of an epoch's batch losses, over the loss before training: at least 0.06 where an LR
killed a network, 0.004 to 0.04 where one had not begun to learn (77 recorded epochs)."""
LEAST_MOVEMENT = 0.2
"""Where that deviation is known, an epoch must have moved the weights so far too, over their norm at its end:
at least 0.27 in the first such epoch of 31 recorded trainings. A MobileNet's losses are thrown about as much
at the best of LRs, while its weights move by 0.09 to 0.13."""
KILLED_MOVEMENT = 0.4
"""Where it is not known, they must have moved so far: farther at 16 of 19 recorded deaths, less
where 12 of 13 networks had not begun to learn (the LR over the edge: 19 and 7 of 13)."""
KILLED_EDGE = 1 / 16
"""Killing LRs were at least 0.08 of the probe's edge; where a network had not begun to learn the LR was at
most 0.054 of it, but for ResNets without normalisation, which have a low edge and learn all the same."""

LEAST_MEMORY_EPOCHS = 8.0
"""Epochs of updates that weights must hold under weight decay; in short trainings a quarter of the epochs."""


def decay_ceiling(setting: Setting) -> float:
    """The peak LR above which weight decay makes the weights forget too soon; infinite where nobody knows.

    Under decay the weights are a moving average of their updates over 1 / (LR * weight decay) steps, under
    SGD (1 - momentum) times as many. What they hold must be `LEAST_MEMORY_EPOCHS` of the data, or a quarter
    of the training where that is less. Long trainings with a decay are therefore best at lower LRs than
    short ones, of which controllers learn and a probe measures. Under SGD that holds where the network
    normalises: elsewhere the gradient works against the decay, and the LR is only how fast.

    Source: Wang and Aitchison, arXiv 2405.13698, find the best such memory to be the same number of epochs
    whatever the size of network and data; Wan et al., arXiv 2006.08419, what happens under SGD.
    """
    total, steps, decay = setting.total_epochs, setting.steps_per_epoch, setting.weight_decay
    is_harmless = setting.normalises is False and not setting.scales_gradients
    if steps is None or not decay or is_harmless:
        return math.inf
    has_momentum = not (setting.scales_gradients or setting.averages_iterates)
    momentum = setting.momentum or 0.0 if has_momentum else 0.0
    memory = LEAST_MEMORY_EPOCHS if total is None else min(LEAST_MEMORY_EPOCHS, total / 4)
    return (1.0 - min(momentum, 0.99)) / (decay * memory * steps)


def bounded_peak(
    proposed: float,
    previous: float | None,
    first: float | None,
    config: ControlConfig,
    *,
    num_rises: int = 1,
    ground: float = math.inf,
    ceiling: float = math.inf,
) -> tuple[float, str]:
    """The allowed peak nearest to the proposed one, and the name of the bound that moved it ("" if none).

    A proposal that is not a positive finite number holds the previous peak, or the lower LR bound where
    there is none.

    Args:
        proposed: The controller's peak LR; anything.
        previous: The peak of the decision before, or None at the first one.
        first: The first decision's peak, which later ones may leave only by `config.correction_bound`.
        config: The bounds.
        num_rises: For how many decisions' rises this one stands.
        ground: The LR above which no decision may rise further, infinite for none.
        ceiling: The LR above which no decision may be, infinite for none.
    """
    if not (math.isfinite(proposed) and proposed > 0.0):
        return (previous if previous is not None else config.min_lr), "held: proposal not finite and positive"
    low, high = config.min_lr, config.max_lr
    limits = [(low, high, "LR bounds")]
    if first is not None:
        limits.append((first / config.correction_bound, first * config.correction_bound, "correction bound"))
    if previous is not None:
        limits.append((low, previous * config.max_rise**num_rises, "rise limit"))
        limits.append((low, max(previous, ground), "ground was lost"))
    limits.append((low, ceiling, "weight decay"))
    peak, reason = proposed, ""
    for lower, upper, name in limits:
        clipped = min(max(peak, lower), upper)
        if clipped != peak:
            peak, reason = clipped, name
    return min(max(peak, low), high), reason


def has_exploded(
    trace: Sequence[Observation], now: Observation, config: ControlConfig, probe: ProbeCurve | None = None
) -> bool:
    """Whether the epoch observed in `now` should be undone, given the good observations before it.

    It should where a loss is not finite, or where a loss exceeds `config.explode_factor` times the
    smallest *and* the first of its kind in `trace`, and the training loss also so many times the one before
    training that the probe saw. Without an earlier loss only the first rule applies. A validation loss that
    rises while the training loss falls is overfitting, or noise, and no explosion.
    """
    if not now.is_finite:
        return True
    before_training = -math.inf if probe is None else probe.loss_before_training
    if _is_far_above(trace, now, "train_loss", config.explode_factor, before_training):
        return True
    before = trace[-1].train_loss if trace else None
    is_learning = now.train_loss is not None and before is not None and now.train_loss <= before
    return not is_learning and _is_far_above(trace, now, "inner_valid_loss", config.explode_factor)


def _is_far_above(
    trace: Sequence[Observation], now: Observation, name: str, factor: float, at_least: float = -math.inf
) -> bool:
    present: float | None = getattr(now, name)
    earlier: list[float] = [getattr(row, name) for row in trace if getattr(row, name) is not None]
    if present is None or not earlier:
        return False
    start = max(min(earlier), earlier[0], at_least)
    return present > start + (factor - 1.0) * abs(start)  # of a density the loss may be negative


def has_lost_ground(now: Observation, config: ControlConfig, probe: ProbeCurve | None) -> bool:
    """Whether the mean training loss of the epoch observed in `now` was above the one before training, which
    only a probe tells. False where that is not known, and where `config.stall_factor` is None.

    Where the loss has risen from its start, the LR is no reason to go above what the probe thought good. Of
    336 recorded trainings under a controller 7 did, all of MobileNets, and lost the next epoch.
    """
    if config.stall_factor is None or now.train_loss is None or probe is None:
        return False
    return now.train_loss > probe.loss_before_training


def has_stalled(
    now: Observation,
    config: ControlConfig,
    peak: float | None,
    probe: ProbeCurve | None,
) -> bool:
    """Whether the LR killed the network in the epoch observed in `now`: the loss was thrown about, and ended
    where training began, though a probe had seen it fall.

    The training loss over its last quarter, or its mean where that is all there is, and the validation loss
    where there is one, are above `config.stall_factor` times the loss before training, which only a probe
    tells. A loss that is merely still there is that of a network that has not begun to learn: the LR must
    have been above the one at which the probe's loss was lowest, and the standard deviation of the batches'
    losses above `KILLED_SPREAD`, the weights' movement above `LEAST_MOVEMENT` where it is known. Without that
    deviation the movement must be above `KILLED_MOVEMENT`; without either, the LR above `KILLED_EDGE` of the
    edge. Of 1,406 recorded trainings with a probe, 18 of the 19 it is meant for had such an epoch (with the
    LR alone 19), and 8 of the rest (with the LR alone 33); the movement was not asked for then.
    """
    present = now.train_loss_last if now.train_loss_last is not None else now.train_loss
    if config.stall_factor is None or present is None or probe is None or peak is None:
        return False
    start = probe.loss_before_training
    losses = [present] if now.inner_valid_loss is None else [present, now.inner_valid_loss]
    if peak <= probe.lowest_lr or min(losses) <= config.stall_factor * start:
        return False
    moved, norm = now.update_norm, now.weight_norm
    if now.train_loss_sd is not None:
        is_far = moved is None or norm is None or moved > LEAST_MOVEMENT * norm
        return is_far and now.train_loss_sd > KILLED_SPREAD * abs(start)
    if moved is not None and norm is not None:
        return moved > KILLED_MOVEMENT * norm
    return peak > KILLED_EDGE * probe.edge_lr
