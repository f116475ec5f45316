import math

import pytest

from metalr.control.decision import best_offset


def test_the_lowest_point_is_refined_by_its_parabola() -> None:
    offsets = [-2.0, -1.0, 0.0, 1.0]
    assert best_offset(offsets, [(x + 0.3) ** 2 for x in offsets]) == pytest.approx(-0.3)


def test_an_edge_stays_an_edge_and_a_tie_its_first() -> None:
    assert best_offset([0.0, 1.0, 2.0], [1.0, 2.0, 3.0]) == 0.0
    assert best_offset([0.0, 1.0, 2.0], [3.0, 2.0, 1.0]) == 2.0
    assert best_offset([0.0, 1.0, 2.0], [1.0, 1.0, 1.0]) == 0.0


def test_a_prediction_that_is_not_finite_gives_nan() -> None:
    assert math.isnan(best_offset([0.0, 1.0, 2.0], [1.0, math.inf, 0.0]))
