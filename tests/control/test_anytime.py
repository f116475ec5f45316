import math

import pytest
import torch
from torch import nn

from metalr.config import ControlConfig
from metalr.control.anytime import AnytimeCourse, course_for


def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)


def test_a_budget_is_read_at_the_middle_of_each_unit_and_held_outside() -> None:
    course = course_for(sgd(), ControlConfig(anchor="linear", warmup_fraction=0.0), 2, 2)
    assert [course.height(k) for k in (-1, 0, 1, 2, 3, 4, 9)] == [
        7 / 8,
        7 / 8,
        5 / 8,
        3 / 8,
        1 / 8,
        1 / 8,
        1 / 8,
    ]
    assert course.total_units == 4


@pytest.mark.parametrize("units", [1, 4])
def test_without_a_budget_one_epoch_of_warm_up_then_an_inverse_square_root(units: int) -> None:
    course = course_for(sgd(), ControlConfig(), None, units)
    assert course.total_units is None
    assert course.shape == "anytime"
    for unit in range(60 * units):
        time = (unit + 0.5) / units
        expected = time if time < 1.0 else math.sqrt(10 / (10 + time))
        assert course.height(unit) == pytest.approx(expected, rel=1e-15)
    assert course.height(30 * units) == pytest.approx(0.5, abs=0.01)
    assert course.height(-1) == course.height(0) > 0.0
    assert course.height(10**9) > 0.0


def test_without_a_budget_a_constant_anchor_stays_one() -> None:
    course = course_for(sgd(), ControlConfig(anchor="constant"), None, 1)
    assert isinstance(course, AnytimeCourse)
    assert [course.height(unit) for unit in (0, 1, 100)] == [0.5, 1.0, 1.0]
