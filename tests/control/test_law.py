"""The control law by itself: no optimizer, no model."""

from dataclasses import replace

import pytest
from control.controllers import RuleController

from metalr.config import ControlConfig
from metalr.control.law import ControlLaw, LawState
from metalr.control.observation import Observation, Setting
from metalr.control.probe_curve import ProbeCurve

PROBE = ProbeCurve((0.01, 0.1, 1.0), (1.5, 1.9, 3.0), initial_loss=2.0, exploded=False, num_steps=3)
CONFIG = ControlConfig(least_gain=0.0, max_rise=10.0)
SETTING = Setting(total_epochs=8, num_classes=10)


def after_epochs(*losses: float, chosen: list[int], config: ControlConfig | None = None) -> LawState:
    """The state after epochs of these training losses under a controller that chooses these candidates."""
    controller = RuleController(lambda t, _: chosen[t])
    law = ControlLaw(controller, config or CONFIG)
    state = law.start(0.1, PROBE, SETTING)
    for epoch, loss in enumerate(losses, start=1):
        seen = Observation(epoch=epoch, train_loss=loss, train_loss_sd=0.0, peak_lr=state.peak)
        state = law.decide(state, seen, SETTING, can_restore=True)
    return state


@pytest.mark.parametrize(
    ("loss", "factor"),
    [
        (2.1, 1.0),  # the loss is above its start: not above the reference LR
        (1.99, 2.0),  # no ground was lost, though little was gained
    ],
)
def test_the_peak_does_not_rise_above_the_reference_after_an_epoch_that_lost_ground(
    loss: float, factor: float
) -> None:
    state = after_epochs(loss, chosen=[1, 3])
    assert state.decision is not None and state.peak is not None
    assert state.peak / state.reference_lr == pytest.approx(factor)
    assert state.decision.proposed_peak_lr == pytest.approx(2.0 * state.reference_lr)
    assert (state.decision.reason == "ground was lost") == (factor == 1.0)


def test_a_peak_above_the_reference_is_kept_where_ground_was_lost() -> None:
    state = after_epochs(2.1, chosen=[3, 4])
    assert state.peak is not None and state.peak / state.reference_lr == pytest.approx(2.0)


def test_after_a_backoff_the_ground_is_lower_too() -> None:
    """The first epoch explodes: halved. Then ground is lost: at most half the reference."""
    state = after_epochs(9.0, 2.1, chosen=[1, 4])
    assert state.num_rollbacks == 1 and state.peak is not None
    assert state.peak / state.reference_lr == pytest.approx(0.5)


def test_without_a_stall_factor_the_peak_rises_all_the_same() -> None:
    state = after_epochs(2.1, chosen=[1, 3], config=CONFIG.model_copy(update={"stall_factor": None}))
    assert state.peak is not None and state.peak / state.reference_lr == pytest.approx(2.0)


DECAYED = replace(
    SETTING, total_epochs=8, steps_per_epoch=1000, momentum=0.9, weight_decay=0.01, normalises=True
)
"""Weights hold a quarter of the budget, 2 epochs, at a peak of 0.005."""


def test_no_peak_is_above_the_one_that_weight_decay_allows() -> None:
    law = ControlLaw(RuleController(lambda *_: 4), CONFIG)
    state = law.start(0.1, PROBE, DECAYED)
    assert state.decision is not None and state.decision.reason == "weight decay"
    assert state.peak == state.first_peak == pytest.approx(0.005)
    free = law.start(0.1, PROBE, replace(DECAYED, weight_decay=0.0))
    assert free.decision is not None and free.decision.reason == "controller"
    assert free.peak is not None and free.peak > 0.05


def test_a_peak_is_lowered_once_the_steps_are_known_however_little_that_gains() -> None:
    """A loop that steps once an epoch tells nobody the number of its steps before the first is over."""
    law = ControlLaw(RuleController(lambda *_: 4), CONFIG.model_copy(update={"least_gain": 100.0}))
    state = law.start(0.1, PROBE, replace(DECAYED, steps_per_epoch=None))
    seen = Observation(epoch=1, train_loss=1.5, train_loss_sd=0.0, peak_lr=state.peak)
    kept = law.decide(state, seen, replace(DECAYED, weight_decay=0.0), can_restore=True)
    assert kept.peak == state.peak
    lowered = law.decide(state, seen, DECAYED, can_restore=True)
    assert lowered.peak == pytest.approx(0.005)
    assert lowered.decision is not None and lowered.decision.reason == "weight decay"
