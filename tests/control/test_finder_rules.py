from __future__ import annotations

import math

import numpy as np
import pytest

from metalr.control.finder_rules import (
    RULES,
    FinderCurve,
    Suggestion,
    choose,
    suggest,
    suggested_lr,
    suggestions_of,
)
from metalr.control.probe_curve import ProbeCurve

LRS = tuple(10 ** np.linspace(-5, 1, 101))


def curve_of(losses: np.ndarray, *, exploded: bool = False, initial: float | None = None) -> FinderCurve:
    values = tuple(float(loss) for loss in losses)
    return FinderCurve(LRS[: len(values)], values, initial or values[0], exploded, len(values))


def bowl(noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """2.3 up to LR 1e-3, then a straight fall in log LR to 1.1 at LR 1e-1, then a rise."""
    logs = np.log10(LRS)
    losses = 2.3 - 0.6 * np.clip(logs + 3, 0, 2) + 1.5 * np.clip(logs + 1, 0, None)
    return losses + noise * np.random.default_rng(seed).standard_normal(len(LRS))


def test_the_rules_against_values_worked_out_by_hand() -> None:
    found = suggestions_of(curve_of(bowl()))
    assert list(found) == list(RULES)
    # A fall of 1.2 from 1e-3 to 1e-1: nine tenths of it are done at 10 ** -1.2; smoothing rounds the corner.
    assert math.log10(found["valley"].lr or 0) == pytest.approx(-1.2, abs=0.25)
    assert math.log10(found["minimum"].lr or 0) == pytest.approx(-2, abs=0.25)
    assert -2.6 < math.log10(found["steepest"].lr or 0) < -1.2
    assert found["minimum"].reason.startswith("a tenth of LR 0.")
    assert "the floor of the valley begins at LR 0.0" in found["valley"].reason


def test_the_steepest_point_of_a_sigmoid() -> None:
    losses = 2.3 - 1 / (1 + np.exp(-4 * (np.log10(LRS) + 2)))
    assert suggest(curve_of(losses), "steepest").lr == pytest.approx(1e-2, rel=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_noise_moves_them_little(seed: int) -> None:
    clean, noisy = suggestions_of(curve_of(bowl())), suggestions_of(curve_of(bowl(0.06, seed)))
    for rule in ("valley", "minimum"):
        assert abs(math.log10((noisy[rule].lr or 0) / (clean[rule].lr or 1))) < 0.35


def test_a_lone_spike_is_not_seen() -> None:
    losses, spiked = bowl(), bowl()
    spiked[60] = 2.2  # less than the cap: it is the median that takes it out
    assert spiked[60] - losses[60] > 0.7
    difference = curve_of(spiked).smoothed() - curve_of(losses).smoothed()
    assert np.abs(difference).max() < 0.02
    spiked[59] = 2.2  # negative control: two are no longer alone
    assert np.abs(curve_of(spiked).smoothed() - curve_of(losses).smoothed()).max() > 0.1


def test_the_height_of_an_explosion_is_not_seen() -> None:
    high, higher = bowl(), bowl()
    high[-8:], higher[-8:] = 50.0, 5e4
    np.testing.assert_allclose(curve_of(high).smoothed(), curve_of(higher).smoothed())


def test_smoothing_has_no_lag_also_at_the_ends() -> None:
    line = np.linspace(2.3, 0.3, 101)
    curve = curve_of(line)
    np.testing.assert_allclose(curve.smoothed(), line, atol=1e-9)
    average, lagging = line[0], []
    for loss in line:  # negative control: a running average is late
        average = 0.9 * average + 0.1 * loss
        lagging.append(average)
    assert np.abs(lagging - line).max() > 0.1
    probe = ProbeCurve(curve.lrs, curve.losses, 2.3, False, 101)  # the probe's window bends at the ends
    assert np.abs(probe.smoothed() - line).max() > 0.01


def test_smoothing_against_a_slow_weighted_fit() -> None:
    curve = curve_of(bowl(0.05))
    calm = np.array(
        [sorted(np.asarray(curve.losses)[[max(i - 1, 0), i, min(i + 1, 100)]])[1] for i in range(101)]
    )
    calm = np.minimum(calm, 2 * curve.start_loss - calm.min())
    for step in (0, 1, 50, 99, 100):
        weights = np.exp(-0.5 * ((np.arange(101) - step) / 4.04) ** 2)
        _, level = np.polyfit(np.arange(101) - step, calm, 1, w=np.sqrt(weights))
        assert curve.smoothed()[step] == pytest.approx(level, abs=1e-9)


def test_smoothing_averages_noise_away() -> None:
    noise = bowl(0.1) - bowl()
    smoothed = curve_of(2.3 + noise).smoothed() - 2.3
    assert smoothed[15:-15].std() < 0.6 * noise[15:-15].std()


@pytest.mark.parametrize(
    ("curve", "words"),
    [
        (FinderCurve((), (), math.nan, True, 0), "nan before any update: mend the model"),
        (FinderCurve((), (), 2.3, True, 1), "exploded after 1 steps: start lower"),
        (FinderCurve((0.1, 0.2), (2.3, 5.0), 2.3, True, 3), "exploded after 3 steps, at LR 0.2: start lower"),
        (curve_of(np.full(101, 2.3)), "flat: the loss falls by"),
        (curve_of(2.3 + bowl(0.1) - bowl()), "flat"),
        (curve_of(np.linspace(2.3, 9.0, 60), exploded=True), "rises without a fall before, from LR 1e-05"),
        (curve_of(np.linspace(2.3, 9.0, 101)), "rises without a fall before"),
        (curve_of(np.r_[(2.3 + bowl(0.2) - bowl())[:80], 4, 6, 8], exploded=True), "stands out of the noise"),
    ],
)
def test_none_never_comes_without_the_reason(curve: ProbeCurve, words: str) -> None:
    for rule in RULES:
        found = suggest(curve, rule)
        assert found.lr is None
        assert words in found.reason


def test_a_loss_that_still_falls_says_so() -> None:
    falling = curve_of(np.linspace(2.3, 1.0, 101))
    assert all("still falls at the end" in suggest(falling, rule).reason for rule in RULES)
    assert not any("still falls" in suggest(curve_of(bowl()), rule).reason for rule in RULES)


def test_another_rule_stands_in_and_says_so() -> None:
    # Nearly the whole fall is done at the first LR of the ramp: where it began is not seen, its end is.
    losses = (1.1, 1.08, 1.06, 1.04, 1.02, 1.0, 1.0, 1.0, 1.5, 2.5)
    curve = ProbeCurve(tuple(0.1 * 2**step for step in range(10)), losses, 2.3, False, 10)
    found = suggestions_of(curve)
    assert found["valley"].lr is None
    assert "first LR, 0.1, already: start lower" in found["valley"].reason
    assert found["minimum"].lr is not None
    first, second = "steepest in place of valley (that is", "minimum in place of valley (that is"
    for lr, reason in [(0.3, first), (None, second)]:
        found["steepest"] = Suggestion(lr, "given")
        chosen = choose(found, "valley")
        assert chosen.lr == (lr or found["minimum"].lr)
        assert chosen.reason.startswith(reason)
    assert choose(found, "minimum") == found["minimum"]


def test_a_probe_without_any_suggestion_falls_back_to_its_reference() -> None:
    curve = ProbeCurve((0.1, 0.2, 0.4), (2.3, 2.3, 2.3), 2.3, False, 3)
    assert choose(suggestions_of(curve), "valley").lr is None
    assert suggested_lr(curve, "valley") == curve.reference_lr == pytest.approx((0.4 / 8 * 0.03) ** 0.5)


def test_a_probes_curve_of_twenty_steps() -> None:
    lrs = tuple(float(lr) for lr in np.geomspace(1e-3, 10, 20))
    losses = tuple(2.3 - 0.8 * min(1, i / 12) for i in range(14))  # steps of 10 ** (4 / 19)
    curve = ProbeCurve(lrs[:14], (*losses[:13], 4.0), 2.3, True, 15)
    assert suggested_lr(curve, "reference") == curve.reference_lr
    assert lrs[6] < suggested_lr(curve, "valley") <= lrs[11]
    assert lrs[9] / 10 <= suggested_lr(curve, "minimum") <= lrs[12] / 10


def test_an_unknown_rule_is_refused() -> None:
    for call in (suggest, suggested_lr):
        with pytest.raises(ValueError, match="rule='steep': choose one of valley, steepest, minimum"):
            call(curve_of(bowl()), "steep")


def test_plain_values() -> None:
    values = FinderCurve((), (), math.inf, True, 0).to_dict()
    assert values["initial_loss"] is None and values["smoothed"] == []
