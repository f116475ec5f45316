import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalr.control.anchor import anchor, equivalent_peak, mean_anchor


@pytest.mark.parametrize(
    ("progress", "height"),
    [(0.0, 0.0), (0.05, 0.5), (0.1, 1.0), (0.325, 0.75), (0.55, 0.5), (1.0, 0.0)],
)
def test_linear_anchor_with_a_tenth_of_warmup(progress: float, height: float) -> None:
    assert anchor(progress, "linear", 0.1) == pytest.approx(height, abs=1e-12)


@pytest.mark.parametrize(
    ("progress", "height"), [(0.0, 1.0), (1 / 3, 0.75), (0.5, 0.5), (2 / 3, 0.25), (1.0, 0.0)]
)
def test_cosine_anchor_without_warmup(progress: float, height: float) -> None:
    assert anchor(progress, "cosine") == pytest.approx(height, abs=1e-12)


@pytest.mark.parametrize("progress", [-0.01, 1.01, math.nan])
def test_progress_outside_the_budget_is_refused(progress: float) -> None:
    with pytest.raises(ValueError, match="progress"):
        anchor(progress)


def test_mean_anchor_is_the_mean_over_steps() -> None:
    heights = [1 - (4 + step + 0.5) / 12 for step in range(4)]
    assert mean_anchor(1, 3, 4, "linear", 0.0) == pytest.approx(sum(heights) / 4, rel=1e-12)


@given(peak=st.floats(1e-5, 10), epoch=st.integers(0, 9), warmup=st.floats(0, 0.5))
def test_a_run_on_the_anchor_has_its_peak_as_equivalent_peak(peak: float, epoch: int, warmup: float) -> None:
    lr = peak * mean_anchor(epoch, 10, 7, "linear", warmup)
    assert equivalent_peak(lr, epoch, 10, 7, "linear", warmup) == pytest.approx(peak, rel=1e-9)
