"""Training state as numbers a controller can learn from: dimensionless, causal, maybe missing.

One module serves harvest and live control alike. Row t is a function of the setting, the probe and
the observations up to t, never of later ones. A value that cannot be had is NaN.

Legend: T observations, F features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from metalr.control.observation import Observation, Setting
from metalr.control.probe_curve import ProbeCurve, usual_lr

__all__ = [
    "FEATURE_GROUPS",
    "FEATURE_NAMES",
    "before_training",
    "feature_row",
    "feature_rows",
    "reference_lr",
]

PROBE_FACTORS = tuple(2.0**exponent for exponent in range(-5, 5))
"""Where the probe's curve is read, as multiples of its reference LR."""
CAP = 5.0
"""Largest size of a loss change in units of log C; an explosion counts as this."""


@dataclass(frozen=True)
class _State:
    """Everything a feature may look at: the present is `now`, the last of `trace`."""

    trace: Sequence[Observation]
    setting: Setting
    probe: ProbeCurve | None

    @property
    def now(self) -> Observation:
        return self.trace[-1]

    def ago(self, epochs: int) -> Observation | None:
        return self.trace[-1 - epochs] if len(self.trace) > epochs else None

    @property
    def log_classes(self) -> float:
        return math.log(self.setting.num_classes) if self.setting.num_classes else math.nan

    @property
    def loss_unit(self) -> float:
        """log C, the loss of guessing, nats; without classes the loss before training, or the first seen."""
        if self.setting.num_classes:
            return self.log_classes
        losses = (row.train_loss for row in self.trace if row.train_loss is not None)
        first = next(losses, self.probe.initial_loss if self.probe else math.nan)
        return first if first > 0.0 else math.nan

    @property
    def probe_unit(self) -> float:
        """The same for the one batch that the probe measured, whose loss may be another."""
        if self.setting.num_classes or self.probe is None:
            return self.loss_unit
        return self.probe.initial_loss if self.probe.initial_loss > 0.0 else math.nan


def _log(value: float | None) -> float:
    return math.log(value) if value is not None and value > 0.0 else math.nan


def _flag(value: bool | None) -> float:
    return math.nan if value is None else float(value)


def _ratio(numerator: float | None, denominator: float | None) -> float:
    if numerator is None or denominator is None or denominator == 0.0:
        return math.nan
    return numerator / denominator


def _log_ratio(numerator: float | None, denominator: float | None) -> float:
    return _log(numerator) - _log(denominator)


def _loss_slope(name: str, epochs: int) -> Callable[[_State], float]:
    """Change of the log loss per epoch over the last `epochs` epochs."""

    def slope(state: _State) -> float:
        before = state.ago(epochs)
        if before is None:
            return math.nan
        return _log_ratio(getattr(state.now, name), getattr(before, name)) / epochs

    return slope


def _trend(name: str) -> Callable[[_State], float]:
    return _loss_slope(name, 1)


def _gap(state: _State) -> float:
    now = state.now
    if now.inner_valid_loss is None or now.train_loss is None:
        return math.nan
    return (now.inner_valid_loss - now.train_loss) / state.loss_unit


def _within_epoch_trend(state: _State) -> float:
    return _log_ratio(state.now.train_loss_last, state.now.train_loss_first)


def _predicted_decrease(state: _State) -> float:
    """log of lr |g|^2 / loss: how much of the loss one step would remove were the loss linear."""
    now = state.now
    return _log(now.lr) + 2.0 * _log(now.grad_norm) - _log(now.train_loss)


def _predicted_against_observed(state: _State) -> float:
    """Observed decrease within the epoch over the one predicted from the gradient, squashed to (-1, 1)."""
    now = state.now
    if now.train_loss_first is None or now.train_loss_last is None or now.lr is None or now.grad_norm is None:
        return math.nan
    steps = state.setting.steps_per_epoch
    if steps is None:
        return math.nan
    predicted = now.lr * now.grad_norm * now.grad_norm * steps
    return math.tanh(_ratio(now.train_loss_first - now.train_loss_last, predicted))


def _log_remaining_epochs(state: _State) -> float:
    total = state.setting.total_epochs
    return math.nan if total is None else math.log1p(max(0, total - state.now.epoch))


def _log_total_steps(state: _State) -> float:
    total, steps = state.setting.total_epochs, state.setting.steps_per_epoch
    return math.nan if total is None or steps is None else math.log(total * steps)


def _probed_reference(state: _State) -> float | None:
    return state.probe.reference_lr if state.probe else None


def _reference(state: _State) -> float:
    return reference_lr(state.setting, state.probe)


def _probe_change(factor: float) -> Callable[[_State], float]:
    """Change of the loss at a multiple of the reference LR during the probe, in units of `probe_unit`."""

    def change(state: _State) -> float:
        if state.probe is None:
            return math.nan
        value = state.probe.loss_change_at(factor * state.probe.reference_lr)
        return math.nan if value is None else max(-CAP, min(CAP, value / state.probe_unit))

    return change


_GROUPS: dict[str, dict[str, Callable[[_State], float]]] = {
    "time": {
        "progress": lambda s: _ratio(s.now.epoch, s.setting.total_epochs),
        "log_remaining_epochs": _log_remaining_epochs,
        "log_total_steps": _log_total_steps,
    },
    "task": {
        "log_classes": lambda s: s.log_classes,
        "log_batch_size": lambda s: _log(s.setting.batch_size),
        "log_one_minus_momentum": lambda s: (
            _log(1.0 - s.setting.momentum) if s.setting.momentum is not None else math.nan
        ),
        "log_weight_decay": lambda s: (
            math.log(s.setting.weight_decay + 1e-6) if s.setting.weight_decay is not None else math.nan
        ),
        "averages_iterates": lambda s: _flag(s.setting.averages_iterates),
        "scales_gradients": lambda s: _flag(s.setting.scales_gradients),
    },
    "model": {
        "normalises": lambda s: _flag(s.setting.normalises),
    },
    "lr": {
        "log_peak_over_reference": lambda s: _log_ratio(s.now.peak_lr, _reference(s)),
    },
    "train_loss": {
        "log_train_loss": lambda s: _log_ratio(s.now.train_loss, s.loss_unit),
        "train_loss_slope_1": _loss_slope("train_loss", 1),
        "train_loss_slope_3": _loss_slope("train_loss", 3),
        "within_epoch_trend": _within_epoch_trend,
        "within_epoch_spread": lambda s: _ratio(s.now.train_loss_sd, s.now.train_loss),
    },
    "inner_valid": {
        "log_inner_valid_loss": lambda s: _log_ratio(s.now.inner_valid_loss, s.loss_unit),
        "inner_valid_loss_slope_1": _loss_slope("inner_valid_loss", 1),
        "inner_valid_loss_slope_3": _loss_slope("inner_valid_loss", 3),
        "inner_valid_accuracy": lambda s: _ratio(s.now.inner_valid_accuracy, 1.0),
        "gap": _gap,
    },
    "weights": {
        "log_update_over_weights": lambda s: _log_ratio(s.now.update_norm, s.now.weight_norm),
        "weight_norm_trend": _trend("weight_norm"),
        "update_norm_trend": _trend("update_norm"),
    },
    "gradient": {
        "log_predicted_decrease": _predicted_decrease,
        "observed_over_predicted": _predicted_against_observed,
        "grad_noise": lambda s: _ratio(s.now.grad_norm_sd, s.now.grad_norm),
        "grad_norm_trend": _trend("grad_norm"),
    },
    "probe": {
        "log_reference_lr": lambda s: _log(_probed_reference(s)),
        "log_steepest_over_reference": lambda s: (
            _log_ratio(s.probe.steepest_lr, s.probe.reference_lr) if s.probe else math.nan
        ),
        "log_lowest_over_reference": lambda s: (
            _log_ratio(s.probe.lowest_lr, s.probe.reference_lr) if s.probe else math.nan
        ),
    }
    | {f"probe_change_{factor:g}": _probe_change(factor) for factor in PROBE_FACTORS},
}

FEATURE_NAMES: tuple[str, ...] = tuple(name for group in _GROUPS.values() for name in group)
"""The features in their order; a controller's card holds the list it was trained on."""
FEATURE_GROUPS: dict[str, tuple[int, ...]] = {
    group: tuple(FEATURE_NAMES.index(name) for name in names) for group, names in _GROUPS.items()
}
"""Positions of the features that go missing together, by the source they need."""


def before_training(setting: Setting, probe: ProbeCurve | None) -> Observation:
    """What there is to observe before training: the loss that the probe saw, where there was one.

    That of its measured batch where classes are told apart, whose losses all lie near log C; of other losses
    a batch tells little, so the mean of the first ones.
    """
    if probe is None:
        return Observation(epoch=0)
    loss = probe.initial_loss if setting.num_classes else probe.loss_before_training
    return Observation(epoch=0, train_loss=loss)


def reference_lr(setting: Setting, probe: ProbeCurve | None) -> float:
    """What candidates and features are relative to: the probe's guess, or without one the usual LR."""
    if probe:
        return probe.reference_lr
    return usual_lr(setting.scales_gradients, setting.averages_iterates, setting.momentum, setting.normalises)


def feature_row(trace: Sequence[Observation], setting: Setting, probe: ProbeCurve | None) -> np.ndarray:
    """The features after the last observation of `trace`; shape (F,), NaN where missing.

    Raises ValueError on an empty trace.
    """
    if not trace:
        raise ValueError("trace is empty: at least one observation is needed")
    state = _State(trace, setting, probe)
    row = np.array([feature(state) for group in _GROUPS.values() for feature in group.values()])
    return np.where(np.isfinite(row), row, np.nan)


def feature_rows(trace: Sequence[Observation], setting: Setting, probe: ProbeCurve | None) -> np.ndarray:
    """The features after each observation of `trace`; shape (T, F)."""
    return np.stack([feature_row(trace[: t + 1], setting, probe) for t in range(len(trace))])
