"""Whatever is observed, whatever the controller says: LRs finite, in bounds, rising at most so fast.

The first decision after a user's LR that did not explode may rise by the square of `max_rise`.
"""

import math
import warnings
from typing import Any

import pytest
import torch
from control.controllers import RuleController
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from metalr.config import ControlConfig
from metalr.control import MetaLR, Prediction

NUMBERS = st.floats(allow_nan=True, allow_infinity=True)
METRICS = st.one_of(
    st.none(),
    NUMBERS,
    st.dictionaries(
        st.sampled_from(
            ["train_loss", "val_loss", "val_accuracy", "grad_norm", "weight_norm", "update_norm", "loss"]
        ),
        st.one_of(NUMBERS, st.floats(0.0, 3.0)),
    ),
)
WISHES = st.lists(st.lists(NUMBERS, min_size=5, max_size=5), min_size=1, max_size=4)


class WishfulController(RuleController):
    """Predicts whatever numbers it was given."""

    def __init__(self, wishes: list[list[float]]) -> None:
        super().__init__(lambda t, _: 0)
        self._wishes = wishes

    def step(self, state: list[float], features_F: Any) -> tuple[list[float], Prediction]:
        regrets = self._wishes[int(state[0]) % len(self._wishes)]
        return [state[0] + 1.0], Prediction(tuple(regrets), 0.0)


def check(
    sequence: list[Any], wishes: list[list[float]], lr: float, budget: int | None, has_model: bool
) -> None:
    model = nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD(
        [{"params": [model.weight], "lr": lr}, {"params": [nn.Parameter(torch.ones(1))], "lr": 3 * lr}], lr=lr
    )
    config = ControlConfig(max_lr=0.3, max_rise=2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # accuracies out of range, and silence
        scheduler = MetaLR(
            optimizer,
            WishfulController(wishes),
            total_epochs=budget,
            model=model if has_model else None,
            config=config,
        )
        peak = scheduler.last_decision.peak_lr
        for metrics in sequence:
            before = scheduler._autopilot.state
            num_rises = 2 if before.first_peak is None and before.num_rollbacks == 0 else 1
            optimizer.step()
            scheduler.step(metrics)
            lrs = [group["lr"] for group in optimizer.param_groups]
            assert all(math.isfinite(value) and 0.0 < value <= 0.3 * (1 + 1e-12) for value in lrs)
            assert lrs[1] == pytest.approx(3 * lrs[0])
            now = scheduler.last_decision.peak_lr
            assert config.min_lr <= now <= config.max_lr
            assert now <= peak * config.max_rise**num_rises * (1 + 1e-12)
            peak = now


ARGUMENTS = (
    st.lists(METRICS, min_size=1, max_size=12),
    WISHES,
    st.floats(1e-7, 10.0),
    st.one_of(st.none(), st.integers(12, 40)),
    st.booleans(),
)


@settings(max_examples=300, deadline=None)
@given(*ARGUMENTS)
def test_three_hundred_sequences(
    sequence: list[Any], wishes: list[list[float]], lr: float, budget: int | None, has_model: bool
) -> None:
    check(sequence, wishes, lr, budget, has_model)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=10_000, deadline=None)
@given(*ARGUMENTS)
def test_ten_thousand_sequences(
    sequence: list[Any], wishes: list[list[float]], lr: float, budget: int | None, has_model: bool
) -> None:
    check(sequence, wishes, lr, budget, has_model)
