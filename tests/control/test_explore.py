"""Random LR paths: from the seed alone, within their span, straight in log LR, with the jumps asked for."""

import math
import random
from itertools import pairwise

import pytest
import torch
from control.schedule_cases import EPOCHS, PEAK, RATIOS, STEPS, drive, optimizer_with_groups, settings_of
from hypothesis import given
from hypothesis import strategies as st

from metalr.config.schedules import ExploreConfig
from metalr.control import make_schedule
from metalr.control.explore import ExplorePath, explore_path


def test_a_path_drawn_by_hand() -> None:
    path = ExplorePath([0.0, 0.25, 1.0], [(0.0, math.log(4)), (math.log(0.5), math.log(2))], 10.0)
    found = [path.multiple(progress) for progress in (0.0, 0.125, 0.25, 0.625, 1.0, 1.5)]
    # from 1 to 4, a jump to a half, and up to 2, where it stays
    assert found == pytest.approx([1.0, 2.0, 0.5, 1.0, 2.0, 2.0], rel=1e-12)


def test_the_schedule_follows_its_path_step_for_step() -> None:
    optimizer = optimizer_with_groups()
    settings = settings_of("explore", {"pieces": 2, "span": 4.0})
    rows = drive(make_schedule("explore", optimizer, EPOCHS, STEPS, settings, seed=3), optimizer)
    path = explore_path(settings.explore, 3)
    for step, row in enumerate(rows):
        lr = PEAK * path.multiple(step / 12)
        assert row[:-1] == pytest.approx([lr * ratio for ratio in RATIOS], rel=1e-12)


def test_a_seed_has_its_own_path_on_every_machine() -> None:
    random.seed(1)
    torch.manual_seed(1)
    first = explore_path(ExploreConfig(), 0)
    state = random.getstate()
    assert explore_path(ExploreConfig(), 0) == first
    assert random.getstate() == state
    assert explore_path(ExploreConfig(), 1) != first
    assert first.edges == pytest.approx([0.0, 0.255399, 0.331251, 0.869805, 1.0], abs=1e-6)


@given(
    st.integers(0, 2**31 - 1),
    st.integers(1, 12),
    st.floats(1.01, 1e3),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.floats(0.0, 2.0),
)
def test_it_stays_within_its_span(
    seed: int, pieces: int, span: float, jump_probability: float, progress: float
) -> None:
    config = ExploreConfig(pieces=pieces, span=span, jump_probability=jump_probability)
    path = explore_path(config, seed)
    assert len(path.ends) == pieces and path.edges == sorted(path.edges)
    assert 1.0 / span <= path.multiple(progress) <= span


def test_the_bounds_hold_to_the_last_bit() -> None:
    assert math.exp(math.log(3.0)) > 3.0
    path = ExplorePath([0.0, 1.0], [(math.log(3.0), -math.log(3.0))], 3.0)
    assert path.multiple(0.0) == 3.0 and path.multiple(1.0) == 1.0 / 3.0


def test_a_piece_is_straight_in_log_lr() -> None:
    path = explore_path(ExploreConfig(pieces=3), 7)
    for left, right in pairwise(path.edges):
        logs = [math.log(path.multiple(left + part * (right - left))) for part in (0.0, 0.25, 0.5, 0.75)]
        slopes = [later - earlier for earlier, later in pairwise(logs)]
        assert slopes == pytest.approx([slopes[0]] * 3, abs=1e-9)


@pytest.mark.parametrize(("probability", "low", "high"), [(0.0, 0, 0), (1.0, 300, 300), (0.5, 120, 180)])
def test_jumps_are_as_frequent_as_asked(probability: float, low: int, high: int) -> None:
    config = ExploreConfig(pieces=4, jump_probability=probability)
    paths = [explore_path(config, seed) for seed in range(100)]
    jumps = sum(path.ends[i][1] != path.ends[i + 1][0] for path in paths for i in range(3))
    assert low <= jumps <= high


def test_paths_use_the_whole_span_and_the_whole_run() -> None:
    paths = [explore_path(ExploreConfig(span=10.0), seed) for seed in range(200)]
    ends = [height / math.log(10) for path in paths for pair in path.ends for height in pair]
    assert min(ends) < -0.95 and max(ends) > 0.95 and abs(sum(ends) / len(ends)) < 0.1
    cuts = [cut for path in paths for cut in path.edges[1:-1]]
    assert abs(sum(cuts) / len(cuts) - 0.5) < 0.05
