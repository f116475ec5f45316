import math

import pytest
import schedulefree
import torch
from hypothesis import given
from hypothesis import strategies as st

from metalr.config import ControlConfig
from metalr.control import Anchor, anchor_for, averages_iterates, scales_gradients
from metalr.control.anchor import Shape

PARAMETERS = [torch.nn.Parameter(torch.zeros(1))]
SGD = torch.optim.SGD(PARAMETERS, lr=0.1)
ADAMW = torch.optim.AdamW(PARAMETERS, lr=0.1)
SCHEDULE_FREE = schedulefree.AdamWScheduleFree(PARAMETERS, lr=0.1)
SCHEDULE_FREE_SGD = schedulefree.SGDScheduleFree(PARAMETERS, lr=0.1)


@pytest.mark.parametrize(
    ("progress", "height"),
    [(0.0, 0.0), (0.05, 0.5), (0.1, 1.0), (0.325, 0.75), (0.55, 0.5), (1.0, 0.0)],
)
def test_linear_anchor_with_a_tenth_of_warmup(progress: float, height: float) -> None:
    assert Anchor("linear", warmup_fraction=0.1).height(progress) == pytest.approx(height, abs=1e-12)


@pytest.mark.parametrize(
    ("progress", "height"), [(0.0, 1.0), (1 / 3, 0.75), (0.5, 0.5), (2 / 3, 0.25), (1.0, 0.0)]
)
def test_cosine_anchor_without_warmup(progress: float, height: float) -> None:
    assert Anchor("cosine").height(progress) == pytest.approx(height, abs=1e-12)


@pytest.mark.parametrize(
    ("progress", "height"),
    [(0.0, 0.0), (0.05, 0.5), (0.1, 1.0), (0.5, 1.0), (0.8, 1.0), (0.85, 0.5), (0.9125, 0.25), (1.0, 0.0)],
)
def test_the_holding_anchor_rises_holds_and_falls_by_a_square_root(progress: float, height: float) -> None:
    assert Anchor("hold", warmup_fraction=0.1).height(progress) == pytest.approx(height, abs=1e-7)


@pytest.mark.parametrize(("progress", "height"), [(0.3, 0.5), (0.6, 1.0), (0.7, 0.5), (1.0, 0.0)])
def test_a_fall_that_would_begin_in_the_warmup_begins_at_its_end(progress: float, height: float) -> None:
    assert Anchor("hold", 0.6, decay_fraction=0.9).height(progress) == pytest.approx(height, abs=1e-7)


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_a_constant_anchor_is_one_from_the_warmup_on(progress: float) -> None:
    assert Anchor("constant").height(progress) == 1.0
    assert Anchor("constant", warmup_fraction=0.5).height(progress) == min(1.0, 2 * progress)


@pytest.mark.parametrize(
    ("progress", "height"), [(0.0, 0.25), (0.1, 0.625), (0.2, 1.0), (0.8, 1.0), (0.85, 0.5), (1.0, 0.0)]
)
def test_a_rise_leads_from_a_part_of_the_peak_to_it(progress: float, height: float) -> None:
    assert Anchor("hold", rise=4.0, rise_fraction=0.2).height(progress) == pytest.approx(height, abs=1e-7)


def test_a_rise_multiplies_the_warmup_and_the_shape() -> None:
    plain, risen = Anchor("linear", 0.1), Anchor("linear", 0.1, rise=2.0, rise_fraction=0.5)
    for progress, part in [(0.0, 0.5), (0.05, 0.55), (0.25, 0.75), (0.75, 1.0)]:
        assert risen.height(progress) == pytest.approx(part * plain.height(progress), abs=1e-12)


@pytest.mark.parametrize(("rise", "fraction"), [(0.5, 0.2), (math.inf, 0.2), (2.0, 0.0), (2.0, 1.5)])
def test_a_rise_out_of_range_is_refused(rise: float, fraction: float) -> None:
    with pytest.raises(ValueError, match="rise"):
        Anchor("hold", rise=rise, rise_fraction=fraction)


@pytest.mark.parametrize("progress", [-0.01, 1.01, math.nan])
def test_progress_outside_the_budget_is_refused(progress: float) -> None:
    with pytest.raises(ValueError, match="progress"):
        Anchor().height(progress)


@pytest.mark.parametrize(("warmup", "decay"), [(1.0, 0.2), (-0.1, 0.2), (0.0, 0.0), (0.0, 1.1)])
def test_fractions_out_of_range_are_refused(warmup: float, decay: float) -> None:
    with pytest.raises(ValueError, match="fraction must be in"):
        Anchor("hold", warmup, decay)


def test_mean_height_is_the_mean_over_steps() -> None:
    heights = [1 - (4 + step + 0.5) / 12 for step in range(4)]
    assert Anchor("linear").mean_height(1, 3, 4) == pytest.approx(sum(heights) / 4, rel=1e-12)


@given(
    peak=st.floats(1e-5, 10),
    epoch=st.integers(0, 9),
    warmup=st.floats(0, 0.5),
    rise=st.floats(1, 10),
    shape=st.sampled_from(["hold", "linear", "cosine", "constant"]),
)
def test_a_run_on_the_anchor_has_its_peak_as_equivalent_peak(
    peak: float, epoch: int, warmup: float, rise: float, shape: Shape
) -> None:
    anchor = Anchor(shape, warmup, rise=rise)
    lr = peak * anchor.mean_height(epoch, 10, 7)
    assert anchor.equivalent_peak(lr, epoch, 10, 7) == pytest.approx(peak, rel=1e-9)


@pytest.mark.parametrize(
    ("optimizer", "shape", "scales"),
    [
        (SGD, "hold", False),
        (ADAMW, "hold", True),
        (SCHEDULE_FREE, "constant", True),
        (SCHEDULE_FREE_SGD, "constant", False),
    ],
)
def test_what_an_optimizer_is(optimizer: torch.optim.Optimizer, shape: Shape, scales: bool) -> None:
    config = ControlConfig(warmup_fraction=0.1, decay_fraction=0.3)
    assert anchor_for(optimizer, config) == Anchor(shape, 0.1, 0.3)
    assert averages_iterates(optimizer) == (shape == "constant")
    assert scales_gradients(optimizer) == scales


def test_a_named_anchor_is_taken_for_any_optimizer() -> None:
    assert anchor_for(SCHEDULE_FREE, ControlConfig(anchor="linear")).shape == "linear"


@pytest.mark.parametrize(
    ("optimizer", "normalises", "fraction"),
    [
        (SGD, True, 0.0),
        (SGD, False, 0.05),
        (SGD, None, 0.05),
        (ADAMW, True, 0.05),
        (SCHEDULE_FREE_SGD, True, 0.0),
    ],
)
def test_a_warm_up_where_it_saves_something(
    optimizer: torch.optim.Optimizer, normalises: bool | None, fraction: float
) -> None:
    assert anchor_for(optimizer, ControlConfig(), normalises).warmup_fraction == fraction
    assert anchor_for(optimizer, ControlConfig(warmup_fraction=0.1), normalises).warmup_fraction == 0.1


@pytest.mark.parametrize(
    ("optimizer", "normalises", "epochs", "rise"),
    [
        (SGD, True, 4, 1.0),
        (SGD, True, 8, 1.0),
        (SGD, True, 12, 1.5),
        (SGD, True, 16, 2.0),
        (SGD, True, 100, 2.0),
        (SGD, True, None, 1.0),
        (SGD, False, 100, 1.0),
        (SGD, None, 100, 1.0),
        (ADAMW, True, 100, 1.0),
        (SCHEDULE_FREE, True, 4, 2.0),
        (SCHEDULE_FREE_SGD, True, 100, 2.0),
        (SCHEDULE_FREE_SGD, False, 100, 1.0),
    ],
)
def test_a_rise_where_it_gains_something(
    optimizer: torch.optim.Optimizer, normalises: bool | None, epochs: int | None, rise: float
) -> None:
    assert anchor_for(optimizer, ControlConfig(), normalises, epochs).rise == rise
    chosen = anchor_for(optimizer, ControlConfig(rise=3.0, rise_fraction=0.4), normalises, epochs)
    assert (chosen.rise, chosen.rise_fraction) == (3.0, 0.4)
