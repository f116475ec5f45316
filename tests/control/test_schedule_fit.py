"""Schedules that a budget makes impossible, and those that it only cuts short: one clear line each."""

from typing import Any

import pytest
from control.schedule_cases import optimizer_with_groups, settings_of

from metalr.config import ConfigError, SchedulesConfig
from metalr.control import SCHEDULE_NAMES, make_schedule, schedule_notes, schedule_problems

MILESTONES = "schedules.step.milestones: "


@pytest.mark.parametrize(
    ("name", "values", "warmup_epochs", "line"),
    [
        (
            "cosine", {}, 12.0,
            "schedules.warmup.epochs: 12 leaves nothing of the budget of 12 epochs; "
            "take fewer, or a larger budget",
        ),
        (
            "constant", {}, 13.5,
            "schedules.warmup.epochs: 13.5 leaves nothing of the budget of 12 epochs; "
            "take fewer, or a larger budget",
        ),
        (
            "step", {"milestones": [0.75, 0.5]}, 0.0,
            f"{MILESTONES}not in rising order (they are epochs 9, 6); put the earlier one first",
        ),
        (
            "step", {"milestones": [0.5, 0.5]}, 0.0,
            f"{MILESTONES}not in rising order (they are epochs 6, 6); put the earlier one first",
        ),
        (
            "step", {"milestones": [0.5, 5.0]}, 0.0,
            f"{MILESTONES}not in rising order (they are epochs 6, 5); put the earlier one first",
        ),
        # after a warm-up of 4 epochs, half of what is left lies at epoch 8
        (
            "step", {"milestones": [0.5, 7.0]}, 4.0,
            f"{MILESTONES}not in rising order (they are epochs 8, 7); put the earlier one first",
        ),
        (
            "step", {"milestones": [6.0, 30.0]}, 0.0,
            f"{MILESTONES}epoch 30 is not before the end of 12 epochs; "
            "take an earlier one, or a fraction of the budget",
        ),
        (
            "step", {"milestones": [3.0, 6.0]}, 4.0,
            f"{MILESTONES}epoch 3 lies in the warm-up of 4 epochs; take a later one",
        ),
        (
            "cyclical", {"half_cycle": 0.5, "interval": "epoch"}, 0.0,
            "schedules.cyclical.half_cycle: 0.5 epochs is shorter than an epoch; "
            "take more, or interval: step",
        ),
        (
            "cyclical", {"half_cycle": 0.01}, 0.0,
            "schedules.cyclical.half_cycle: 0.01 epochs is shorter than a step; take more",
        ),
        (
            "one_cycle", {"interval": "epoch"}, 11.0,
            "schedules.one_cycle.interval: one epoch is too short to rise and to fall; "
            "take interval: step, or a larger budget",
        ),
        (
            "one_cycle", {"low_momentum": 0.95, "high_momentum": 0.85}, 0.0,
            "schedules.one_cycle.low_momentum: 0.95 is above high_momentum 0.85; swap them",
        ),
    ],
)  # fmt: skip
def test_a_line_for_what_is_impossible(
    name: str, values: dict[str, Any], warmup_epochs: float, line: str
) -> None:
    settings = settings_of(name, values, epochs=warmup_epochs)
    assert schedule_problems(name, settings, 12, 10) == [line]
    assert schedule_notes(name, settings, 12, 10) == []
    with pytest.raises(ConfigError) as caught:
        make_schedule(name, optimizer_with_groups(), 12, 10, settings)
    assert caught.value.problems == [line]


def test_every_milestone_that_is_wrong_has_its_line() -> None:
    settings = settings_of("step", {"milestones": [20.0, 0.5, 12.0]})
    assert [line.split(": ")[1][:25] for line in schedule_problems("step", settings, 12, 10)] == [
        "not in rising order (they",
        "epoch 20 is not before th",
        "epoch 12 is not before th",
    ]


def test_what_a_schedule_does_not_use_is_no_problem() -> None:
    settings = settings_of("step", {"milestones": [0.75, 0.5], "every": 3})
    assert schedule_problems("step", settings, 12, 10) == []
    assert schedule_problems("cosine", settings_of("step", {"milestones": [0.75, 0.5]}), 12, 10) == []


@pytest.mark.parametrize("name", SCHEDULE_NAMES)
@pytest.mark.parametrize("epochs", [2, 3, 6, 12, 100])
def test_the_defaults_are_possible_on_every_budget(name: str, epochs: int) -> None:
    assert schedule_problems(name, SchedulesConfig(), epochs, 3) == []


RESTARTS = (
    "the last cycle (epochs 70 to 150) is cut off at 100, at 0.69 of the peak LR; "
    "whole cycles end at 10, 30, 70, 150"
)
NEVER = "the LR never changes: it moves once an epoch, and has one epoch"


@pytest.mark.parametrize(
    ("name", "values", "epochs", "warmup_epochs", "lines"),
    [
        ("restarts", {}, 100, 0.0, [RESTARTS]),
        ("restarts", {}, 70, 0.0, []),
        ("restarts", {}, 75, 5.0, []),
        (
            "restarts", {}, 6, 0.0,  # (1 + cos(0.6 pi)) / 2
            [
                "the last cycle (epochs 0 to 10) is cut off at 6, at 0.35 of the peak LR; "
                "whole cycles end at 10"
            ],
        ),
        (
            "restarts", {"first_cycle": 2, "cycle_factor": 1}, 21, 0.0,
            [
                "the last cycle (epochs 20 to 22) is cut off at 21, at 0.50 of the peak LR; "
                "whole cycles end at 2, 4, ..., 20, 22"
            ],
        ),
        ("cyclical", {"half_cycle": 2.0}, 12, 0.0, []),
        ("cyclical", {}, 10, 1.0, []),  # three whole cycles, whatever there is
        ("cyclical", {"half_cycle": 0.35}, 21, 0.0, []),  # 21 / 0.7 is a last bit above 30
        (
            "cyclical", {"half_cycle": 2.0}, 10, 0.0,  # the third peak, a quarter high: 0.1 + 0.9 / 4
            [
                "the last cycle (epochs 8 to 12) is cut off at 10, at 0.33 of the peak LR; "
                "whole cycles end at 4, 8, 12"
            ],
        ),
        (
            # three of four epochs: half way down, 0.1 + 0.9 / 2
            "cyclical", {"half_cycle": 2.0, "mode": "triangular"}, 12, 1.0,
            [
                "the last cycle (epochs 9 to 13) is cut off at 12, at 0.55 of the peak LR; "
                "whole cycles end at 5, 9, 13"
            ],
        ),
        ("step", {}, 12, 0.0, []),
        ("step", {"every": 12}, 12, 0.0, ["it never decays: every 12 epochs, and it has 12 epochs"]),
        ("step", {"every": 11}, 12, 1.0, ["it never decays: every 11 epochs, and it has 11 epochs"]),
        ("step", {"every": 11}, 12, 0.0, []),
        (
            "step", {"milestones": [0.5, 0.99]}, 12, 0.0,
            ["the decay at 0.99 comes at the end of the budget: it never acts"],
        ),
        (
            "step", {"milestones": [0.1, 0.2, 0.7]}, 5, 0.0,
            ["several decays fall together: the budget is too short for all of its milestones"],
        ),
        ("plateau", {"patience": 9}, 12, 0.0, []),
        (
            "plateau", {"patience": 10}, 12, 0.0,
            ["it never acts: patience 10 needs a budget of 13 epochs, not 12"],
        ),
        (
            "plateau", {"patience": 9}, 12, 1.0,
            ["it never acts: patience 9 needs a budget of 12 epochs, not 11"],
        ),
        ("greedy", {"patience": 3}, 5, 0.0, ["it never acts: patience 3 needs a budget of 6 epochs, not 5"]),
        ("greedy", {"patience": 3}, 6, 0.0, []),
        ("exponential", {}, 12, 0.0, []),
        ("exponential", {"rate": 0.01}, 10, 0.0, ["it hardly decays: the LR ends at 0.9 of the peak LR"]),
        (
            "exponential", {"rate": 3.0}, 12, 0.0,  # log(1e6) / 3
            ["the LR is below a millionth of the peak LR from epoch 4.61 on, of 12"],
        ),
        ("inverse_time", {"rate": 0.05}, 5, 0.0, ["it hardly decays: the LR ends at 0.8 of the peak LR"]),
        ("inverse_time", {}, 5, 0.0, []),
        ("wsd", {}, 12, 0.0, []),
        ("wsd", {"interval": "epoch"}, 5, 0.0, ["it never decays: its fall is no longer than one epoch"]),
        (
            "one_cycle", {"interval": "epoch"}, 3, 0.0,
            ["its rise is shorter than one epoch: it begins at the peak, or past it"],
        ),
        ("one_cycle", {}, 3, 0.0, []),
        ("linear", {"interval": "epoch"}, 1, 0.0, [NEVER]),
        ("cosine", {"interval": "epoch"}, 3, 2.0, [NEVER]),
        ("constant", {}, 1, 0.0, []),
        ("linear", {}, 1, 0.0, []),
        (
            "linear", {}, 12, 0.01,
            ["a warm-up of 0.01 epochs is none: less than half of one of the 10 steps of an epoch"],
        ),
    ],
)  # fmt: skip
def test_a_line_for_what_does_not_fit(
    name: str, values: dict[str, Any], epochs: int, warmup_epochs: float, lines: list[str]
) -> None:
    settings = settings_of(name, values, epochs=warmup_epochs)
    assert schedule_notes(name, settings, epochs, 10) == lines


def test_an_unknown_name_is_a_problem_and_not_a_note() -> None:
    assert "did you mean one_cycle?" in schedule_problems("onecycle", SchedulesConfig(), 12, 10)[0]
    assert schedule_notes("onecycle", SchedulesConfig(), 12, 10) == []
