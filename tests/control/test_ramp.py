from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from metalr.control.ramp import RampOutcome, run_ramp


def outcome_of(
    losses: Sequence[float], *, factor: float = 4.0, num_start: int = 1, patience: int = 1
) -> RampOutcome:
    """A ramp whose losses are given, the first before any update."""
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    lrs = [0.1] * (len(losses) - 1)
    return run_ramp(
        optimizer, lambda i: losses[i] + 0 * weight.sum(), lrs, factor, num_start=num_start, patience=patience
    )


def test_all_losses_are_kept_where_none_is_too_large() -> None:
    assert outcome_of([1.0, 2.0, 4.0]) == RampOutcome(1.0, (2.0, 4.0), False, 2)


@pytest.mark.parametrize(
    ("losses", "num_start", "patience", "kept", "exploded", "steps"),
    [
        ([1, 2, 4.5, 1], 1, 1, (2,), True, 2),
        ([1, 2, 4.5, 1], 1, 2, (2, 4.5, 1), False, 3),  # one hard batch is no explosion
        ([1, 2, 5, 6, 1], 1, 2, (2,), True, 3),
        ([1, 2, 5, math.inf, 1], 1, 2, (2,), True, 3),  # nor is what led to it kept
        ([1, 2, math.nan, 1], 1, 2, (2,), True, 2),
        ([1, 2, 3, 5], 1, 2, (2, 3), True, 3),  # the last one counts without another
        ([0.1, 1, 1, 1, 1, 3], 5, 1, (), True, 1),  # at first there is but one loss to go by
        ([0.1, 1, 1, 1, 1, 3], 5, 2, (), True, 2),
        ([1, 0.1, 1, 1, 1, 3.5], 5, 1, (0.1, 1, 1, 1, 3.5), False, 5),
        ([1, 0.1, 1, 1, 1, 4.5], 5, 1, (0.1, 1, 1, 1), True, 5),
        ([math.nan, 1], 1, 1, (), True, 0),
        ([-2, -3, 3, 4], 1, 1, (-3, 3, 4), False, 3),  # -2 + 3 * 2 = 4 is borne
        ([-2, -3, 5, 4], 1, 1, (-3,), True, 2),
    ],
)
def test_where_it_ends(
    losses: list[float], num_start: int, patience: int, kept: tuple[float, ...], exploded: bool, steps: int
) -> None:
    found = outcome_of(losses, num_start=num_start, patience=patience)
    assert found.losses == pytest.approx(kept)
    assert (found.exploded, found.num_steps) == (exploded, steps)


def test_groups_keep_their_ratios_and_a_tensor_lr_its_object() -> None:
    first, second = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    tensor = torch.tensor(0.02)
    optimizer = torch.optim.SGD([{"params": [first], "lr": 0.2}, {"params": [second], "lr": tensor}], lr=1.0)
    run_ramp(optimizer, lambda step: first.sum() + second.sum(), [0.5, 0.1], 4.0)
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert optimizer.param_groups[1]["lr"] is tensor
    assert tensor.item() == pytest.approx(0.01)
    assert first.item() == pytest.approx(1 - 0.5 - 0.1)
    assert second.item() == pytest.approx(1 - 0.05 - 0.01)


def test_a_warmup_that_is_at_zero_now() -> None:
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    with pytest.raises(ValueError, match="LR is 0"):
        run_ramp(optimizer, lambda step: weight.sum(), [0.5], 4.0)
    optimizer.param_groups[0]["initial_lr"] = 0.1
    run_ramp(optimizer, lambda step: weight.sum(), [0.5], 4.0)
    assert weight.item() == 0.5


def test_a_loss_of_its_own_is_measured_beside_the_steps() -> None:
    """By hand: steps down the slope of 1 from another batch's loss, while w^2 is what is looked at."""
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    found = run_ramp(
        optimizer, lambda step: weight.sum(), [0.5, 0.25], 4.0, measured_loss=lambda: weight.square().sum()
    )
    assert found == RampOutcome(1.0, (0.25, 0.0625), False, 2, step_losses=(1.0, 0.5))
    exploding = run_ramp(
        optimizer, lambda step: weight.sum(), [0.5, 2.0], 4.0, measured_loss=lambda: weight.square().sum()
    )
    assert (exploding.losses, exploding.exploded) == ((0.0625,), True)
