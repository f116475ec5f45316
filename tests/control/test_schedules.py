"""Every hand schedule against values worked out by hand, per step, with groups and after a resume."""

import math

import pytest
import torch
from torch import nn

from metalr.control import Observation
from metalr.control.schedules import Schedule, anchored_schedule, make_schedule

EPOCHS, STEPS = 4, 3


def optimizer_with_two_groups() -> torch.optim.SGD:
    first, second = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    return torch.optim.SGD([{"params": [first], "lr": 0.8}, {"params": [second], "lr": 0.08}], lr=1.0)


def lrs_of(schedule: Schedule, optimizer: torch.optim.Optimizer, epochs: int) -> list[float]:
    lrs = []
    for epoch in range(epochs):
        for step in range(STEPS):
            lrs.append(optimizer.param_groups[0]["lr"])
            assert optimizer.param_groups[1]["lr"] == pytest.approx(lrs[-1] / 10, abs=1e-15)
            optimizer.step()
            if step < STEPS - 1:
                schedule.after_batch()
        schedule.after_epoch(Observation(epoch=epoch + 1))
    return lrs


EXPECTED = {
    "constant": [0.8] * 12,
    # a tenth from half the budget (epoch 2), a hundredth from three quarters (epoch 3)
    "step": [0.8] * 6 + [0.08] * 3 + [0.008] * 3,
    "linear": [0.8 * (12 - step) / 12 for step in range(12)],
    "cosine": [0.4 * (1 + math.cos(math.pi * step / 12)) for step in range(12)],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_lr_of_every_step(name: str) -> None:
    optimizer = optimizer_with_two_groups()
    schedule = make_schedule(name, optimizer, EPOCHS, STEPS)
    assert lrs_of(schedule, optimizer, EPOCHS) == pytest.approx(EXPECTED[name], rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("name", EXPECTED)
def test_lr_of_every_step_after_a_resume(name: str) -> None:
    optimizer = optimizer_with_two_groups()
    schedule = make_schedule(name, optimizer, EPOCHS, STEPS)
    lrs_of(schedule, optimizer, 2)
    resumed_optimizer = optimizer_with_two_groups()
    resumed = make_schedule(name, resumed_optimizer, EPOCHS, STEPS)
    resumed_optimizer.load_state_dict(optimizer.state_dict())
    resumed.scheduler.load_state_dict(schedule.scheduler.state_dict())
    assert lrs_of(resumed, resumed_optimizer, 2) == pytest.approx(EXPECTED[name][6:], rel=1e-12, abs=1e-15)


def test_a_branch_follows_its_anchor_from_its_first_epoch() -> None:
    optimizer = optimizer_with_two_groups()
    schedule = anchored_schedule(optimizer, 0.4, 2, EPOCHS, STEPS, "linear", 0.0)
    expected = [0.4 * (1 - (6 + step + 0.5) / 12) for step in range(6)]
    assert lrs_of(schedule, optimizer, 2) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("trunk", ["constant", "step", "cosine", "linear"])
def test_a_branch_of_a_decayed_run_has_the_lr_of_its_own_peak(trunk: str) -> None:
    optimizer = optimizer_with_two_groups()
    lrs_of(make_schedule(trunk, optimizer, EPOCHS, STEPS), optimizer, 3)
    restored = optimizer_with_two_groups()
    restored.load_state_dict(optimizer.state_dict())
    schedule = anchored_schedule(restored, 0.4, 3, EPOCHS, STEPS, "linear", 0.0)
    expected = [0.4 * (1 - (9 + step + 0.5) / 12) for step in range(3)]
    assert lrs_of(schedule, restored, 1) == pytest.approx(expected, rel=1e-12)


def test_any_torch_scheduler_can_be_stepped_the_metric_driven_one_included() -> None:
    optimizer = optimizer_with_two_groups()
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    schedule = Schedule(plateau, "epoch")
    lrs = []
    for epoch, loss in enumerate([1.0, 0.9, 0.95, None, 0.8], start=1):
        schedule.after_batch()
        schedule.after_epoch(Observation(epoch=epoch, inner_valid_loss=loss))
        lrs.append(optimizer.param_groups[0]["lr"])
    assert lrs == [0.8, 0.8, 0.4, 0.4, 0.4]  # an epoch without a validation loss decides nothing


def test_unknown_names_and_empty_budgets_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown schedule 'cosin'; known: constant"):
        make_schedule("cosin", optimizer_with_two_groups(), 1, 1)
    with pytest.raises(ValueError, match="total_epochs=0"):
        make_schedule("cosine", optimizer_with_two_groups(), 0, 1)
