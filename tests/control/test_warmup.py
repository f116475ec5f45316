"""The rise in front of every schedule, step for step; what follows is the schedule as it is alone."""

from typing import Any

import pytest
from control.schedule_cases import (
    CASES,
    EPOCHS,
    LOSSES,
    PEAK,
    RATIOS,
    STEPS,
    drive,
    optimizer_with_groups,
    per_epoch,
    resumed,
    settings_of,
)

from metalr.config import SchedulesConfig
from metalr.control import WarmupLR, make_schedule


def lrs(name: str, settings: SchedulesConfig, losses: tuple[float, ...] = LOSSES) -> list[float]:
    optimizer = optimizer_with_groups()
    rows = drive(make_schedule(name, optimizer, len(losses), STEPS, settings), optimizer, losses)
    for row in rows:
        assert row[:-1] == pytest.approx([row[0] * ratio for ratio in RATIOS], rel=1e-12)
    return [row[0] / PEAK for row in rows]


@pytest.mark.parametrize("case", CASES)
def test_one_epoch_of_it_in_front_of_every_schedule(case: str) -> None:
    name, values, heights = CASES[case]
    start = heights[0]  # a cycle begins low: the rise leads there
    found = lrs(name, settings_of(name, values, epochs=1.0, start_factor=0.25), (0.1, *LOSSES))
    rise = [0.25 * start, 0.5 * start, 0.75 * start]
    assert found == pytest.approx([*rise, *heights], rel=1e-12)


def test_no_warmup_is_the_schedule_itself() -> None:
    schedule = make_schedule("cosine", optimizer_with_groups(), EPOCHS, STEPS, settings_of("cosine", {}))
    assert not isinstance(schedule.scheduler, WarmupLR)


@pytest.mark.parametrize(
    ("name", "values", "rest"),
    [
        ("linear", {}, [1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        # per epoch: the epoch in which the rise ends is the first of three
        ("linear", {"interval": "epoch"}, [1, 1, *per_epoch(2 / 3, 1 / 3)]),
        ("step", {"milestones": [0.5], "interval": "step"}, [1] * 4 + [0.1] * 4),
        # epochs count from the run's start, whatever the warm-up
        ("step", {"milestones": [2.0, 3.0]}, [1, 1, *per_epoch(0.1, 0.01)]),
        ("step", {"milestones": [2.0, 3.0], "interval": "step"}, [1, 1, *per_epoch(0.1, 0.01)]),
        ("step", {"every": 1, "factor": 0.5}, [1, 1, *per_epoch(0.5, 0.25)]),
        # epoch 1 lies in the warm-up, and its loss is not shown: 1.0 is the best, 0.9 is better
        ("plateau", {"patience": 0}, [1, 1, *per_epoch(1, 1)]),
        ("greedy", {"factor": 0.5, "patience": 0}, [1, 1, *per_epoch(1, 2)]),
    ],
)
def test_a_rise_that_ends_within_an_epoch(name: str, values: dict[str, Any], rest: list[float]) -> None:
    rise = [0.1, 0.325, 0.55, 0.775]  # 4/3 epochs are 4 steps
    assert lrs(name, settings_of(name, values, epochs=4 / 3)) == pytest.approx([*rise, *rest], rel=1e-12)


def test_a_constant_one_then_a_jump() -> None:
    settings = settings_of("constant", {}, epochs=2.0, shape="constant", start_factor=0.5)
    assert lrs("constant", settings) == [0.5] * 6 + [1.0] * 6


def test_momentum_waits_for_the_cycle() -> None:
    values = {"rise_fraction": 0.5, "shape": "linear"}
    optimizer = optimizer_with_groups()
    settings = settings_of("one_cycle", values, epochs=1.0)
    rows = drive(make_schedule("one_cycle", optimizer, 5, STEPS, settings), optimizer, [1.0] * 5)
    expected = [0.95] * 3 + [0.95, 0.93, 0.91, 0.89, 0.87, 0.85] + [0.85 + 0.1 * j / 6 for j in range(1, 7)]
    assert [row[-1] for row in rows] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("epochs", [1.0, 4 / 3, 1.9])
@pytest.mark.parametrize("case", [*CASES, "explore"])
def test_a_resume_after_any_epoch_has_the_same_lrs_and_momenta(case: str, epochs: float) -> None:
    name, values, _ = CASES.get(case, ("explore", {}, []))
    settings = settings_of(name, values, epochs=epochs)
    optimizer = optimizer_with_groups()
    straight = drive(make_schedule(name, optimizer, EPOCHS, STEPS, settings), optimizer)
    for at in range(EPOCHS):
        assert resumed(name, settings, LOSSES, at) == straight


@pytest.mark.parametrize(("field", "at"), [("last_epoch", 2), ("inner", 2), ("top_lrs", 0), ("none", 2)])
def test_its_state_is_complete(field: str, at: int) -> None:
    settings = settings_of("rex", {}, epochs=1.0)
    optimizer, other = optimizer_with_groups(), optimizer_with_groups(peak=2 * PEAK)
    schedule = make_schedule("rex", optimizer, EPOCHS, STEPS, settings)
    fresh = make_schedule("rex", other, EPOCHS, STEPS, settings)
    drive(schedule, optimizer, LOSSES[:at])
    state = {**schedule.scheduler.state_dict(), field: fresh.scheduler.state_dict().get(field)}
    other.load_state_dict(optimizer.state_dict())
    state.pop("none", None)
    fresh.scheduler.load_state_dict(state)
    same = drive(fresh, other, LOSSES[at:]) == drive(schedule, optimizer, LOSSES[at:])
    assert same is (field == "none")


def test_it_can_be_stepped_alone_as_any_torch_scheduler() -> None:
    optimizer = optimizer_with_groups()
    schedule = make_schedule("step", optimizer, EPOCHS, STEPS, settings_of("step", {"every": 1}, epochs=1.0))
    found = []
    for _ in range(EPOCHS * STEPS):
        found.append(schedule.scheduler.get_last_lr()[0] / PEAK)
        optimizer.step()
        schedule.scheduler.step()
    assert found == pytest.approx([0.1, 0.4, 0.7, *per_epoch(1, 0.1, 0.01)], rel=1e-12)
