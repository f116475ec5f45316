"""The rules of other LR finders, as the study `experiments/studies/lr_finder.py` reads them off a curve."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from itertools import combinations, pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

STUDIES = Path(__file__).parent.parent / "experiments" / "studies"
LRS = np.geomspace(1e-5, 10, 100)


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(STUDIES))
    return import_module("other_finders")


def test_the_longest_fall_against_all_subsequences(others: ModuleType) -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        values = random.integers(0, 6, size=8).tolist()
        falls = [
            chosen
            for length in range(1, 9)
            for chosen in combinations(range(8), length)
            if all(values[a] > values[b] for a, b in pairwise(chosen))
        ]
        longest = max(map(len, falls))
        first_end = min(chosen[-1] for chosen in falls if len(chosen) == longest)
        assert others._longest_fall(values) == (longest, first_end)


def test_torch_lr_finder_on_a_step(others: ModuleType) -> None:
    losses = np.where(np.arange(100) < 50, 2.0, 1.0)  # the average falls fastest at the step itself
    assert others.torch_lr_finder(LRS, losses) == pytest.approx(LRS[50])
    early = np.where(np.arange(100) < 5, 2.0, 1.0)  # a fall within the first ten steps is not looked at
    assert others.torch_lr_finder(LRS, early) == pytest.approx(LRS[10])


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # 10 steps are left out in front, 5 behind: 10 to 94 all fall, 85 of them.
        ("fastai_minimum", LRS[94] / 10),
        ("fastai_valley", LRS[10 + 84 - 85 + round(2 * 85 / 3)]),
    ],
)
def test_fastai_on_a_straight_fall(others: ModuleType, rule: str, expected: float) -> None:
    fall: Callable[..., float] = getattr(others, rule)
    assert fall(LRS, np.linspace(2.3, 1.0, 100)) == pytest.approx(expected)


def test_fastai_steep_is_where_the_average_falls_fastest(others: ModuleType) -> None:
    losses = np.where(np.arange(100) < 50, 2.0, 1.0)
    assert others.fastai_steep(LRS, losses) == pytest.approx(LRS[49])


def test_fastai_slide_stops_where_the_slopes_are_alike(others: ModuleType) -> None:
    flat = np.full(100, 2.0)
    assert others.fastai_slide(LRS, flat) == pytest.approx(LRS[94 - 15 + 1])
    rising = np.where(np.arange(100) < 90, 2.0, 2.0 + 0.8 * (np.arange(100) - 89))
    assert others.fastai_slide(LRS, rising) < others.fastai_slide(LRS, flat)


def test_a_curve_too_short_for_a_rule_gives_none(others: ModuleType) -> None:
    for rule in others.OTHER_RULES.values():
        assert rule(LRS[:4], np.array([2.3, 2.2, 2.1, 2.0])) is None
