import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalr.config import ControlConfig
from metalr.control.envelope import (
    bounded_peak,
    decay_ceiling,
    has_exploded,
    has_lost_ground,
    has_stalled,
)
from metalr.control.observation import Observation, Setting
from metalr.control.probe_curve import ProbeCurve

CONFIG = ControlConfig(min_lr=1e-4, max_lr=2.0, correction_bound=4.0, max_rise=3.0)


@pytest.mark.parametrize(
    ("proposed", "previous", "first", "peak", "reason"),
    [
        (0.1, None, None, 0.1, ""),
        (5.0, None, None, 2.0, "LR bounds"),
        (0.5, 0.1, 0.1, 0.3, "rise limit"),
        (0.5, 0.4, 0.1, 0.4, "correction bound"),
        (0.001, 0.1, 0.1, 0.025, "correction bound"),
        (math.nan, 0.2, 0.1, 0.2, "held: proposal not finite and positive"),
        (-1.0, None, None, 1e-4, "held: proposal not finite and positive"),
    ],
)
def test_bounds_by_hand(
    proposed: float, previous: float | None, first: float | None, peak: float, reason: str
) -> None:
    assert bounded_peak(proposed, previous, first, CONFIG) == (pytest.approx(peak), reason)


@pytest.mark.parametrize(
    ("ground", "peak", "reason"),
    [
        (math.inf, 0.3, "rise limit"),
        (0.2, 0.2, "ground was lost"),
        (0.05, 0.1, "ground was lost"),  # the peak in force is never lowered by it
        (0.4, 0.3, "rise limit"),
    ],
)
def test_where_ground_was_lost_no_decision_rises_above_the_reference(
    ground: float, peak: float, reason: str
) -> None:
    assert bounded_peak(0.5, 0.1, 0.1, CONFIG, ground=ground) == (pytest.approx(peak), reason)
    assert bounded_peak(0.03, 0.1, 0.1, CONFIG, ground=ground) == (pytest.approx(0.03), "")  # but may fall


@given(
    proposed=st.floats(allow_nan=True, allow_infinity=True),
    previous=st.one_of(st.none(), st.floats(1e-4, 2.0)),
    first=st.one_of(st.none(), st.floats(1e-4, 2.0)),
)
def test_whatever_is_proposed_the_peak_is_within_the_lr_bounds(
    proposed: float, previous: float | None, first: float | None
) -> None:
    peak, _ = bounded_peak(proposed, previous, first, CONFIG)
    assert CONFIG.min_lr <= peak <= CONFIG.max_lr
    assert previous is None or peak <= previous * CONFIG.max_rise * (1 + 1e-12)


def seen(epoch: int, loss: float | None, *, is_finite: bool = True) -> Observation:
    return Observation(epoch=epoch, train_loss=loss, is_finite=is_finite)


@pytest.mark.parametrize(
    ("losses", "now", "exploded"),
    [
        ([2.3], 2.2, False),
        ([2.3], 4.7, True),
        ([2.3, 0.2], 0.9, False),  # worse than the best, but not than the start: no explosion
        ([2.3, 0.2], 4.7, True),
        ([], 1e9, False),
    ],
)
def test_explosions_by_hand(losses: list[float], now: float, exploded: bool) -> None:
    trace = [seen(epoch, loss) for epoch, loss in enumerate(losses)]
    assert has_exploded(trace, seen(9, now), CONFIG) is exploded


def test_a_loss_that_is_not_finite_has_always_exploded() -> None:
    assert has_exploded([], seen(1, None, is_finite=False), CONFIG)
    assert not has_exploded([], seen(1, None), CONFIG)


@pytest.mark.parametrize(
    ("train", "valid", "exploded"),
    [
        ((0.4, 0.3), (0.02, 0.3), False),  # overfitting, or a small validation set
        ((0.4, 0.5), (0.02, 0.3), True),
        ((None, None), (0.02, 0.3), True),  # nothing else to go by
        ((0.4, 0.9), (0.02, 0.02), True),
    ],
)
def test_a_validation_loss_that_rises_alone_is_no_explosion(
    train: tuple[float | None, float | None], valid: tuple[float, float], exploded: bool
) -> None:
    rows = [Observation(epoch=e, train_loss=train[e], inner_valid_loss=valid[e]) for e in (0, 1)]
    assert has_exploded(rows[:1], rows[1], CONFIG) is exploded


def test_losses_of_densities_may_be_negative() -> None:
    assert not has_exploded([seen(0, -2.0)], seen(1, -1.5), CONFIG)
    assert has_exploded([seen(0, -2.0)], seen(1, 0.5), CONFIG)


PROBE = ProbeCurve((0.01, 0.1, 1.0), (1.5, 1.9, 3.0), initial_loss=2.0, exploded=False, num_steps=3)


@pytest.mark.parametrize(
    ("start", "now", "factor", "peak", "stalled"),
    [
        (2.0, {"train_loss": 3.0, "train_loss_last": 1.99}, 0.99, 0.5, True),
        (2.0, {"train_loss": 3.0, "train_loss_last": 1.97}, 0.99, 0.5, False),
        (2.0, {"train_loss": 1.99}, 0.99, 0.5, True),
        (2.0, {"train_loss": 1.99}, 0.99, 0.005, False),  # a small LR: slow, not dead
        (2.0, {"train_loss": 1.99, "inner_valid_loss": 1.9}, 0.99, 0.5, False),  # validation has moved
        (2.0, {"train_loss": 1.99, "inner_valid_loss": 2.0}, 0.99, 0.5, True),
        (2.0, {}, 0.99, 0.5, False),
        (2.0, {"train_loss": 9.0}, None, 0.5, False),
        (2.0, {"train_loss": 9.0}, 0.99, None, False),
        (2.0, {"train_loss": 2.0, "train_loss_sd": 0.05}, 0.99, 0.5, False),  # flat: not begun to learn
        (2.0, {"train_loss": 2.0, "train_loss_sd": 0.2}, 0.99, 0.5, True),  # thrown about: killed
        (
            2.0,
            {"train_loss": 2.2, "train_loss_sd": 0.2, "update_norm": 3.0, "weight_norm": 10.0},
            0.99,
            0.5,
            True,
        ),
        (
            2.0,
            {"train_loss": 2.2, "train_loss_sd": 0.2, "update_norm": 1.2, "weight_norm": 10.0},
            0.99,
            0.5,
            False,  # the weights hardly moved: a network that is slow to begin, as a MobileNet is
        ),
        (2.0, {"train_loss": 2.0, "update_norm": 3.0, "weight_norm": 10.0}, 0.99, 0.5, False),  # hardly moved
        (2.0, {"train_loss": 2.0, "update_norm": 5.0, "weight_norm": 10.0}, 0.99, 0.05, True),  # thrown
        (
            2.0,
            {"train_loss": 2.0, "train_loss_sd": 0.05, "update_norm": 9.0, "weight_norm": 10.0},
            0.99,
            0.5,
            False,
        ),
        (2.0, {"train_loss": 2.0}, 0.99, 0.2, True),
        (2.0, {"train_loss": 2.0}, 0.99, 0.05, False),  # far below the edge
    ],
)
def test_what_counts_as_an_epoch_that_learned_nothing(
    start: float, now: dict[str, float], factor: float | None, peak: float | None, stalled: bool
) -> None:
    config = ControlConfig(stall_factor=factor)
    seen_now = Observation(epoch=2, **now)
    probe = replace(PROBE, initial_loss=start)
    assert has_stalled(seen_now, config, peak, probe) == stalled
    assert not has_stalled(seen_now, config, peak, None)


@pytest.mark.parametrize(
    ("start", "now", "factor", "lost"),
    [
        (2.0, 2.01, 0.99, True),
        (2.0, 1.99, 0.99, False),  # slow to begin, perhaps
        (2.0, None, 0.99, False),
        (2.0, 9.0, None, False),
        (-2.0, -1.9, 0.99, True),
        (-2.0, -2.1, 0.99, False),
    ],
)
def test_an_epoch_has_lost_ground_where_its_loss_is_above_the_one_before_training(
    start: float, now: float | None, factor: float | None, lost: bool
) -> None:
    config, probe = ControlConfig(stall_factor=factor), replace(PROBE, initial_loss=start)
    assert has_lost_ground(seen(1, now), config, probe) is lost
    assert not has_lost_ground(seen(1, now), config, None)


def test_one_small_batch_before_training_is_no_measure_of_an_epoch() -> None:
    """A regression's first batch of 16 may lie at half of the mean: neither explosion nor death follows."""
    low, known = (
        replace(PROBE, initial_loss=0.45),
        replace(PROBE, initial_loss=0.45, first_losses=(1.0, 1.25)),
    )
    trace, now = [seen(0, 0.45)], seen(1, 0.92)
    assert known.loss_before_training == pytest.approx(0.9)
    assert has_exploded(trace, now, CONFIG, low)
    assert not has_exploded(trace, now, CONFIG, known)
    assert has_exploded(trace, seen(1, 1.81), CONFIG, known)
    for loss, stalled in ((0.88, False), (0.9, True)):
        assert has_stalled(seen(1, loss), CONFIG, 0.5, known) is stalled
        assert has_stalled(seen(1, loss), CONFIG, 0.5, low)


@pytest.mark.parametrize(
    ("changes", "ceiling"),
    [
        ({}, 0.1 / (5e-4 * 8 * 390)),
        ({"normalises": None}, 0.1 / (5e-4 * 8 * 390)),
        ({"total_epochs": None}, 0.1 / (5e-4 * 8 * 390)),
        ({"total_epochs": 400}, 0.1 / (5e-4 * 8 * 390)),
        ({"total_epochs": 12}, 0.1 / (5e-4 * 3 * 390)),  # a quarter of the epochs
        ({"momentum": 0.0}, 1 / (5e-4 * 8 * 390)),
        ({"momentum": None}, 1 / (5e-4 * 8 * 390)),
        ({"weight_decay": 0.01}, 0.1 / (0.01 * 8 * 390)),
        ({"scales_gradients": True}, 1 / (5e-4 * 8 * 390)),  # Adam's first beta is no momentum of this kind
        ({"averages_iterates": True}, 1 / (5e-4 * 8 * 390)),  # nor is Schedule-Free's
        ({"scales_gradients": True, "normalises": False}, 1 / (5e-4 * 8 * 390)),
        ({"normalises": False}, math.inf),
        ({"weight_decay": 0.0}, math.inf),
        ({"weight_decay": None}, math.inf),
        ({"steps_per_epoch": None}, math.inf),
    ],
)
def test_the_peak_at_which_weights_hold_eight_epochs_of_updates_by_hand(
    changes: dict[str, Any], ceiling: float
) -> None:
    known = {"momentum": 0.9, "weight_decay": 5e-4, "scales_gradients": False, "normalises": True}
    setting = Setting(**{"total_epochs": 100, "steps_per_epoch": 390} | known | changes)
    assert decay_ceiling(setting) == pytest.approx(ceiling)


def test_no_decision_is_above_the_ceiling_and_none_below_it_is_moved() -> None:
    assert bounded_peak(0.5, None, None, CONFIG, ceiling=0.2) == (0.2, "weight decay")
    assert bounded_peak(0.5, 0.4, 0.4, CONFIG, ceiling=0.2) == (0.2, "weight decay")  # the budget grew
    assert bounded_peak(0.1, None, None, CONFIG, ceiling=0.2) == (0.1, "")
    assert bounded_peak(0.5, None, None, CONFIG, ceiling=1e-9) == (CONFIG.min_lr, "weight decay")
