"""LRs without training: those that a run would have, for several groups and metric-driven schedules too."""

import pytest
from control.schedule_cases import CASES, EPOCHS, PEAK, STEPS, per_epoch, settings_of

from metalr.config import ConfigError, SchedulesConfig
from metalr.control import SCHEDULE_NAMES, pretend_validation_loss, schedule_notes, schedule_preview


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case][0] not in ("plateau", "greedy")])
def test_a_preview_has_the_lrs_of_a_run(case: str) -> None:
    name, values, heights = CASES[case]
    lrs = schedule_preview(name, settings_of(name, values), PEAK, EPOCHS, STEPS, ratios=(1.0, 0.25))
    assert lrs[0] == pytest.approx([PEAK * height for height in heights], rel=1e-12)
    assert lrs[1] == pytest.approx([PEAK / 4 * height for height in heights], rel=1e-12)


def test_the_pretended_loss_falls_and_is_flat() -> None:
    found = [pretend_validation_loss(progress / 10) for progress in range(11)]
    assert found == pytest.approx([1.0, 0.85, 0.7, 0.55, *[0.4] * 7], rel=1e-12)
    assert len(set(found[4:])) == 1  # flat to the last bit: nothing to mistake for a gain


def test_metric_driven_schedules_meet_it() -> None:
    # over 5 epochs: 0.7 0.4 0.4 0.4 0.4 at their ends
    plateau = settings_of("plateau", {"patience": 1})
    assert schedule_preview("plateau", plateau, 0.8, 5, STEPS)[0] == per_epoch(0.8, 0.8, 0.8, 0.8, 0.4)
    greedy = settings_of("greedy", {"factor": 0.5, "patience": 0})
    assert schedule_preview("greedy", greedy, 0.8, 5, STEPS)[0] == per_epoch(0.8, 0.8, 1.6, 0.8, 0.4)


def test_cyclical_makes_three_cycles_of_any_budget() -> None:
    found = schedule_preview("cyclical", SchedulesConfig(), 0.8, 6, 2)[0]
    rises = [0.44, 0.8], [0.26, 0.44], [0.17, 0.26]  # half-way and peak; each peak half as high above 0.08
    expected = [lr for half, peak in rises for lr in (0.08, half, peak, half)]
    assert found == pytest.approx(expected, rel=1e-12)


def test_explore_is_that_of_its_seed() -> None:
    first, again, other = (
        schedule_preview("explore", SchedulesConfig(), 0.1, 10, 4, seed=seed)[0] for seed in (1, 1, 2)
    )
    assert first == again != other
    assert all(0.01 * (1 - 1e-12) <= lr <= 1.0 * (1 + 1e-12) for lr in first)


def test_the_height_in_a_note_is_that_of_the_preview() -> None:
    settings = settings_of("cyclical", {"half_cycle": 3.0, "mode": "exp_range", "decay": 0.9})
    assert " is cut off at 10, at 0.31 of the peak LR" in schedule_notes("cyclical", settings, 10, 100)[0]
    # the last step is a hundredth of an epoch before the end, and the LR is rising
    assert schedule_preview("cyclical", settings, 1.0, 10, 100)[0][-1] == pytest.approx(0.31, abs=0.01)


@pytest.mark.parametrize("name", SCHEDULE_NAMES)
def test_every_schedule_has_one(name: str) -> None:
    lrs = schedule_preview(name, SchedulesConfig(), 0.1, 12, 7)
    assert [len(values) for values in lrs] == [84]
    assert all(0.0 < lr <= 1.0 * (1 + 1e-12) for lr in lrs[0])


@pytest.mark.parametrize("lr", [-0.1, 0.0])
def test_an_lr_that_cannot_be(lr: float) -> None:
    with pytest.raises(ConfigError, match="the optimizer's LR must be a finite number above 0"):
        schedule_preview("cosine", SchedulesConfig(), lr, 12, 7)
