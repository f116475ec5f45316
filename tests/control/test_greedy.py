"""The metric-driven schedule against LRs worked out by hand, its bounds, and its state."""

from typing import Any

import pytest
from control.schedule_cases import (
    PEAK,
    RATIOS,
    STEPS,
    drive,
    optimizer_with_groups,
    per_epoch,
    resumed,
    settings_of,
)

from metalr.config.schedules import GreedyConfig
from metalr.control import GreedyLR, Observation, Schedule, make_schedule

LOSSES = (1.0, 0.9, 0.8, 0.8, 0.85, 0.7, 0.6, 0.5)


def heights(losses: tuple[float | None, ...], **values: Any) -> list[float]:
    """The LR of each epoch as a multiple of the first."""
    optimizer = optimizer_with_groups()
    schedule = make_schedule("greedy", optimizer, len(losses), STEPS, settings_of("greedy", values))
    rows = drive(schedule, optimizer, losses)
    for row in rows:
        assert row[:-1] == pytest.approx([row[0] * ratio for ratio in RATIOS], rel=1e-12)
    return [row[0] / PEAK for row in rows[::STEPS]]


def test_up_while_the_loss_falls_and_down_while_it_does_not() -> None:
    # the first loss only sets the mark; a loss as low as the best is no gain
    assert heights(LOSSES, factor=0.5, patience=0) == [1, 1, 2, 4, 2, 1, 2, 4]


def test_patience_is_borne_in_both_directions() -> None:
    # gains after epochs 2, 3 (up); none after 4, 5 (down); gains after 6, 7 (up)
    assert heights(LOSSES, factor=0.5, patience=1) == [1, 1, 1, 2, 2, 1, 1, 2]


def test_a_count_is_broken_by_the_other_direction() -> None:
    assert heights((1.0, 0.9, 0.95, 0.8, 0.85, 0.7), factor=0.5, patience=1) == [1] * 6


def test_bounds_hold_and_are_left_again() -> None:
    found = heights(LOSSES, factor=0.5, patience=0, max_factor=1.5)
    assert found == pytest.approx([1, 1, 1.5, 1.5, 0.75, 0.375, 0.75, 1.5], rel=1e-12)
    worse = (1.0, 1.0, 1.0, 1.0, 0.9, 0.9)
    found = heights(worse, factor=0.5, patience=0, min_factor=0.3)
    assert found == pytest.approx([1, 1, 0.5, 0.3, 0.3, 0.6], rel=1e-12)


def test_an_epoch_without_a_loss_decides_nothing() -> None:
    assert heights((1.0, None, 0.9, None, 0.95, 0.8), factor=0.5, patience=0) == [1, 1, 1, 2, 2, 1]


def test_a_resume_goes_on_in_the_middle_of_a_count() -> None:
    settings = settings_of("greedy", {"patience": 2, "factor": 0.5})
    optimizer = optimizer_with_groups()
    losses = (1.0, 0.9, 0.8, 0.7, 0.7, 0.75, 0.8, 0.6)
    straight = drive(make_schedule("greedy", optimizer, 8, STEPS, settings), optimizer, losses)
    # three gains after epoch 4, three epochs without one after 7
    assert [row[0] for row in straight] == per_epoch(0.8, 0.8, 0.8, 0.8, 1.6, 1.6, 1.6, 0.8)
    for at in range(8):
        assert resumed("greedy", settings, losses, at) == straight


@pytest.mark.parametrize("field", ["multiple", "best_loss", "num_good", "num_bad", "none"])
def test_its_state_is_complete(field: str) -> None:
    # without the field, the losses that follow lead elsewhere
    before = {"num_bad": (1.0, 0.9, 0.8, 0.7, 0.8), "num_good": (1.0, 1.0, 1.0, 0.9)}
    after = {"num_bad": (0.8, 0.8), "num_good": (0.8, 0.8), "best_loss": (1.0, 1.0)}
    optimizer, other = optimizer_with_groups(), optimizer_with_groups()
    config = GreedyConfig(patience=1, factor=0.5)
    scheduler, fresh = GreedyLR(optimizer, config), GreedyLR(other, config)
    drive(Schedule(scheduler, "epoch"), optimizer, before.get(field, (1.0, 0.9, 0.8)))
    state = scheduler.state_dict()
    if field != "none":
        state[field] = fresh.state_dict()[field]
    other.load_state_dict(optimizer.state_dict())
    fresh.load_state_dict(state)
    losses = (*after.get(field, (0.7, 0.6)), 0.5)
    same = drive(Schedule(fresh, "epoch"), other, losses) == drive(
        Schedule(scheduler, "epoch"), optimizer, losses
    )
    assert same is (field == "none")


def test_a_step_without_an_observation_changes_nothing() -> None:
    optimizer = optimizer_with_groups()
    scheduler = GreedyLR(optimizer)
    optimizer.step()
    scheduler.step()
    scheduler.observe(Observation(epoch=1))
    scheduler.step()
    assert scheduler.get_last_lr()[0] == PEAK
