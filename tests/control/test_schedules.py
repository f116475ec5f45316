"""Every hand schedule against values worked out by hand, per step, with groups and after a resume."""

import math
from typing import Any

import pytest
import torch
from control.schedule_cases import (
    CASES,
    EPOCHS,
    LOSSES,
    PEAK,
    RATIOS,
    STEPS,
    drive,
    momentum_of,
    optimizer_with_groups,
    per_epoch,
    resumed,
    settings_of,
)
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, CyclicLR, OneCycleLR, ReduceLROnPlateau

from metalr.config import ConfigError, SchedulesConfig
from metalr.control import SCHEDULE_NAMES, Observation
from metalr.control.anchor import Anchor
from metalr.control.schedules import Schedule, anchored_schedule, make_schedule

MOMENTA_UP = [0.95, 0.93, 0.91, 0.89, 0.87, 0.85]
MOMENTA = MOMENTA_UP + [0.85 + 0.1 * j / 6 for j in range(1, 7)]
"""one_cycle, linear, up over 5 steps and down over 6."""


def one_cycle(**values: Any) -> SchedulesConfig:
    return settings_of("one_cycle", {"rise_fraction": 0.5, "shape": "linear", **values})


def first_lrs(rows: list[tuple[float, ...]]) -> list[float]:
    return [row[0] for row in rows]


def test_every_schedule_has_a_case_worked_out_by_hand() -> None:
    assert {name for name, _, _ in CASES.values()} | {"explore"} == set(SCHEDULE_NAMES)


@pytest.mark.parametrize("case", CASES)
def test_lr_of_every_step_and_group(case: str) -> None:
    name, values, heights = CASES[case]
    optimizer = optimizer_with_groups()
    schedule = make_schedule(name, optimizer, EPOCHS, STEPS, settings_of(name, values))
    rows = drive(schedule, optimizer)
    for group, ratio in enumerate(RATIOS):
        expected = [PEAK * ratio * height for height in heights]
        assert [row[group] for row in rows] == pytest.approx(expected, rel=1e-12, abs=0.0)


@pytest.mark.parametrize("case", CASES)
def test_the_step_after_the_last_one_leaves_an_lr_that_could_be_used(case: str) -> None:
    name, values, _ = CASES[case]
    optimizer = optimizer_with_groups()
    drive(make_schedule(name, optimizer, EPOCHS, STEPS, settings_of(name, values)), optimizer)
    assert all(0.0 <= group["lr"] <= PEAK * (1 + 1e-12) for group in optimizer.param_groups)


@pytest.mark.parametrize("case", [*CASES, "explore"])
def test_a_resume_after_any_epoch_has_the_same_lrs_and_momenta(case: str) -> None:
    name, values, _ = CASES.get(case, ("explore", {}, []))
    settings = settings_of(name, values)
    optimizer = optimizer_with_groups()
    straight = drive(make_schedule(name, optimizer, EPOCHS, STEPS, settings), optimizer)
    for at in range(EPOCHS):
        assert resumed(name, settings, LOSSES, at) == straight


@pytest.mark.parametrize("case", CASES)
def test_a_tensor_for_an_lr(case: str) -> None:
    name, values, heights = CASES[case]
    groups = [{"params": [nn.Parameter(torch.ones(1))], "lr": torch.tensor(PEAK * r)} for r in (1.0, 0.1)]
    optimizer = torch.optim.SGD(groups, lr=1.0, momentum=0.9)
    rows = drive(make_schedule(name, optimizer, EPOCHS, STEPS, settings_of(name, values)), optimizer)
    assert all(isinstance(group["lr"], torch.Tensor) for group in optimizer.param_groups)
    expected = [PEAK * height for height in heights]
    # float32, and some of torch's classes multiply the LR on and on
    assert first_lrs(rows) == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert [row[1] for row in rows] == pytest.approx([0.1 * lr for lr in expected], rel=1e-5, abs=1e-8)


def test_momentum_moves_against_the_lr_in_one_cycle_only() -> None:
    optimizer = optimizer_with_groups()
    rows = drive(make_schedule("one_cycle", optimizer, EPOCHS, STEPS, one_cycle()), optimizer)
    assert [row[-1] for row in rows] == pytest.approx(MOMENTA, rel=1e-12)
    optimizer = optimizer_with_groups()
    rows = drive(make_schedule("cyclical", optimizer, EPOCHS, STEPS), optimizer)
    assert {row[-1] for row in rows} == {0.9}


def test_adams_beta1_moves_as_momentum_does_and_beta2_stays() -> None:
    optimizer = optimizer_with_groups(torch.optim.AdamW, betas=(0.9, 0.98))
    rows = drive(make_schedule("one_cycle", optimizer, EPOCHS, STEPS, one_cycle()), optimizer)
    assert [row[-1] for row in rows] == pytest.approx(MOMENTA, rel=1e-12)
    assert optimizer.param_groups[0]["betas"][1] == 0.98


@pytest.mark.parametrize(
    ("kind", "settings", "values"),
    [
        (torch.optim.SGD, {"momentum": 0.0}, {}),
        (torch.optim.AdamW, {"betas": (0.0, 0.999)}, {}),
        (torch.optim.SGD, {"momentum": 0.7}, {"cycle_momentum": False}),
    ],
)
def test_a_momentum_that_shall_not_move_stays(kind: Any, settings: dict[str, Any], values: Any) -> None:
    optimizer = optimizer_with_groups(kind, **settings)
    before = momentum_of(optimizer)
    rows = drive(make_schedule("one_cycle", optimizer, EPOCHS, STEPS, one_cycle(**values)), optimizer)
    assert {row[-1] for row in rows} == {before}


def test_an_optimizer_without_momentum() -> None:
    optimizer = torch.optim.Adagrad([nn.Parameter(torch.ones(1))], lr=PEAK)
    schedule = make_schedule("one_cycle", optimizer, 2, 1, one_cycle(start_divisor=4.0))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(PEAK)  # two steps: no rise, the peak at once
    assert not schedule.scheduler.cycle_momentum


def test_the_traces_of_an_earlier_schedule_are_not_used() -> None:
    optimizer = optimizer_with_groups()
    drive(make_schedule("linear", optimizer, EPOCHS, STEPS), optimizer, LOSSES[:2])
    rows = drive(make_schedule("rex", optimizer, EPOCHS, STEPS), optimizer)
    expected = [PEAK / 2 * height for height in CASES["rex"][2]]
    assert first_lrs(rows) == pytest.approx(expected, rel=1e-12)


def test_a_branch_follows_its_anchor_from_its_first_epoch() -> None:
    optimizer = optimizer_with_groups()
    schedule = anchored_schedule(optimizer, 0.4, 2, EPOCHS, STEPS, Anchor("linear"))
    expected = [0.4 * (1 - (6 + step + 0.5) / 12) for step in range(6)]
    assert first_lrs(drive(schedule, optimizer, LOSSES[2:])) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("warmup_epochs", [0.0, 1.5])
@pytest.mark.parametrize("trunk", SCHEDULE_NAMES)
def test_a_branch_of_any_run_has_the_lr_of_its_own_peak(trunk: str, warmup_epochs: float) -> None:
    optimizer = optimizer_with_groups()
    settings = SchedulesConfig.model_validate(
        {"warmup": {"epochs": warmup_epochs}, "greedy": {"factor": 0.1}}
    )
    drive(make_schedule(trunk, optimizer, EPOCHS, STEPS, settings), optimizer, LOSSES[:3])
    restored = optimizer_with_groups()
    restored.load_state_dict(optimizer.state_dict())
    rows = drive(anchored_schedule(restored, 0.4, 3, EPOCHS, STEPS, Anchor("linear")), restored, LOSSES[3:])
    expected = [0.4 * (1 - (9 + step + 0.5) / 12) for step in range(3)]
    for group, ratio in enumerate(RATIOS):
        assert [row[group] for row in rows] == pytest.approx([ratio * lr for lr in expected], rel=1e-12)


def test_an_epoch_without_a_validation_loss_decides_nothing() -> None:
    optimizer = optimizer_with_groups()
    schedule = make_schedule("plateau", optimizer, 5, STEPS, settings_of("plateau", {"patience": 0}))
    rows = drive(schedule, optimizer, [1.0, 0.9, 0.95, None, 0.8])
    assert first_lrs(rows) == per_epoch(0.8, 0.8, 0.8, 0.4, 0.4)


def test_patience_and_threshold_of_plateau() -> None:
    optimizer = optimizer_with_groups()
    settings = settings_of("plateau", {"patience": 1, "threshold": 0.1})
    schedule = make_schedule("plateau", optimizer, 6, STEPS, settings)
    # 0.95 is less than a tenth below 1: two epochs without an improvement, at 0.85 is one, then none again
    rows = drive(schedule, optimizer, [1.0, 0.95, 0.95, 0.85, 0.84, 0.84])
    assert first_lrs(rows) == per_epoch(0.8, 0.8, 0.8, 0.4, 0.4, 0.4)
    assert optimizer.param_groups[0]["lr"] == 0.2


class TestWhyNotTorchAsItIs:
    """What the classes of ours are there for; where torch mends it, they can go."""

    def test_cosine_has_one_floor_for_all_groups(self) -> None:
        optimizer = optimizer_with_groups()
        drive(Schedule(CosineAnnealingLR(optimizer, EPOCHS, eta_min=0.08), "epoch"), optimizer)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.08] * 3)

    def test_plateau_leaves_a_low_lr_alone(self) -> None:
        optimizer = optimizer_with_groups()
        drive(Schedule(ReduceLROnPlateau(optimizer, factor=0.5, patience=0), "epoch"), optimizer, LOSSES[:2])
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.4, 0.04, 8e-9])

    def test_one_cycle_divides_by_zero_and_falls_below_zero(self) -> None:
        with pytest.raises(ZeroDivisionError):
            OneCycleLR(optimizer_with_groups(), 1.0, total_steps=4, pct_start=0.25)
        optimizer = optimizer_with_groups()
        torchs = OneCycleLR(optimizer, 1.0, total_steps=4, anneal_strategy="linear", pct_start=0.5)
        drive(Schedule(torchs, "epoch"), optimizer)
        assert optimizer.param_groups[0]["lr"] < 0.0

    def test_cyclic_loads_a_state_once(self) -> None:
        torchs = CyclicLR(optimizer_with_groups(), 0.1, 1.0, cycle_momentum=False)
        state = torchs.state_dict()
        torchs.load_state_dict(state)
        with pytest.raises(KeyError):
            torchs.load_state_dict(state)
        ours = make_schedule("cyclical", optimizer_with_groups(), EPOCHS, STEPS).scheduler
        state = ours.state_dict()
        ours.load_state_dict(state)
        ours.load_state_dict(state)


@pytest.mark.parametrize(
    ("name", "lr", "line"),
    [
        ("cosin", 0.1, "unknown schedule 'cosin'; did you mean cosine? known: constant, step, "),
        ("xyz", 0.1, "unknown schedule 'xyz'; known: constant, step, "),
        ("linear", -0.1, "the optimizer's LR must be a finite number above 0, not -0.1 (parameter group 0)"),
        ("linear", 0.0, "the optimizer's LR must be a finite number above 0, not 0 (parameter group 0)"),
        (
            "greedy",
            math.inf,
            "the optimizer's LR must be a finite number above 0, not inf (parameter group 0)",
        ),
        ("restarts", 1e-6, "schedules.restarts.min_lr: 1e-06 is not below the LR 1e-06; take less"),
    ],
)
def test_what_is_refused(name: str, lr: float, line: str) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    optimizer.param_groups[0]["lr"] = lr
    with pytest.raises(ConfigError) as caught:
        make_schedule(name, optimizer, 2, 2)
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith(line)
    assert "initial_lr" not in optimizer.param_groups[0]  # nothing was touched


def test_empty_budgets_are_refused() -> None:
    for epochs, steps in ((0, 1), (1, 0), (-1, 1)):
        with pytest.raises(ConfigError, match=f"total_epochs={epochs} and steps_per_epoch={steps}"):
            make_schedule("cosine", optimizer_with_groups(), epochs, steps)


@pytest.mark.parametrize("name", SCHEDULE_NAMES)
def test_the_shortest_run(name: str) -> None:
    optimizer = optimizer_with_groups()
    if name == "one_cycle":
        with pytest.raises(ConfigError, match=r"one_cycle\.interval: one step is too short"):
            make_schedule(name, optimizer, 1, 1)
        return
    schedule = make_schedule(name, optimizer, 1, 1)
    assert 0.0 < optimizer.param_groups[0]["lr"] <= 10.0 * PEAK
    optimizer.step()
    schedule.after_epoch(Observation(epoch=1, inner_valid_loss=1.0))
