from __future__ import annotations

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from slow_statistics import bca_interval, interquartile_interval

from metalr.comparison.statistics import (
    estimate_mean,
    holm,
    interquartile_mean,
    judge,
    permutation_p_value,
    smallest_p_value,
)


def slow_bca(values: list[float], confidence: float) -> tuple[float, float]:
    """BCa over every one of the n**n resamples, by Efron's formulas, without random numbers."""
    n = len(values)
    means = sorted(sum(sample) / n for sample in itertools.product(values, repeat=n))
    mean = sum(values) / n
    normal = NormalDist()
    below = sum(m < mean - 1e-12 for m in means) + 0.5 * sum(abs(m - mean) <= 1e-12 for m in means)
    bias = normal.inv_cdf(below / len(means))
    left_out = [(sum(values) - value) / (n - 1) for value in values]
    center = sum(left_out) / n
    skew = sum((center - m) ** 3 for m in left_out)
    acceleration = skew / (6 * sum((center - m) ** 2 for m in left_out) ** 1.5)
    limits = []
    for tail in ((1 - confidence) / 2, (1 + confidence) / 2):
        z = bias + normal.inv_cdf(tail)
        share = normal.cdf(bias + z / (1 - acceleration * z))
        limits.append(means[min(len(means) - 1, math.floor(share * len(means)))])
    return limits[0], limits[1]


def test_bootstrap_interval_is_that_of_all_resamples() -> None:
    values = [1.0, 2.5, 2.9, 4.2, 7.3, 9.1]
    low, high = slow_bca(values, 0.95)
    estimate = estimate_mean(values, 0.95, 50_000)
    assert estimate.interval is not None
    assert estimate.interval == pytest.approx((low, high), abs=0.06)
    assert estimate.mean == pytest.approx(4.5)
    assert estimate.sd == pytest.approx(np.std(values, ddof=1))


def decimal_samples(size: int) -> list[list[float]]:
    """Accuracies as a test set of 2,000 images gives them: many resamples tie with the mean."""
    rng = np.random.default_rng(size)
    return [(rng.integers(780, 880, size) / 20.0).tolist() for _ in range(12)]


@pytest.mark.parametrize("size", [2, 3, 6, 10])
def test_bootstrap_interval_is_the_slow_one_to_the_last_digits(size: int) -> None:
    for values in decimal_samples(size):
        found = estimate_mean(values, 0.9, 999).interval
        slow = bca_interval(values, 0.9, 999)
        assert (found is None) == (slow is None)
        assert found is None or found == pytest.approx(slow, abs=1e-8)


def test_negative_control_unrounded_means_let_ties_fall_by_chance() -> None:
    def gap(values: list[float]) -> float:
        plain = stats.bootstrap((values,), np.mean, n_resamples=999, rng=np.random.default_rng(0))
        slow = bca_interval(values, 0.95, 999)
        assert slow is not None
        return float(np.abs(np.subtract(plain.confidence_interval, slow)).max() / (slow[1] - slow[0]))

    assert max(map(gap, decimal_samples(6))) > 1e-3


def test_interquartile_interval_is_the_slow_one() -> None:
    columns = decimal_samples(6)[:5]
    found = interquartile_mean(columns, 0.95, 299)
    assert found["ci95"] == pytest.approx(interquartile_interval(columns, 0.95, 299), abs=1e-9)
    assert interquartile_mean([[1.0, 1.0], [2.0]], 0.95, 299)["ci95"] is None


def test_negative_control_the_plain_percentile_interval_is_another_one() -> None:
    values = [1.0, 2.5, 2.9, 4.2, 7.3, 9.1]
    means = sorted(sum(sample) / 6 for sample in itertools.product(values, repeat=6))
    percentile_low = means[int(0.025 * len(means))]
    assert abs(percentile_low - slow_bca(values, 0.95)[0]) > 0.06


def test_student_interval_by_hand() -> None:
    # n = 4, mean 2.5, sd 1.29099, t(0.975, 3) = 3.18245 from the table.
    estimate = estimate_mean([1.0, 2.0, 3.0, 4.0], 0.95, 999)
    half = 3.18245 * 1.29099 / 2
    assert estimate.t_interval == pytest.approx((2.5 - half, 2.5 + half), abs=1e-4)


@pytest.mark.parametrize(
    ("values", "mean", "note"),
    [([], None, "no values"), ([3.0], 3.0, "one value"), ([5.0] * 6, 5.0, "all 6 values are equal")],
)
def test_no_interval_is_said_in_words(values: list[float], mean: float | None, note: str) -> None:
    estimate = estimate_mean(values)
    assert (estimate.mean, estimate.interval, estimate.t_interval) == (mean, None, None)
    assert estimate.note is not None and note in estimate.note
    assert judge(estimate) == "not judged"


def test_non_finite_values_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        estimate_mean([1.0, math.nan])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.1, 1.0, 99.9, 100.0]), max_size=8))
def test_estimates_never_hold_nan_and_bracket_the_mean(values: list[float]) -> None:
    estimate = estimate_mean(values, 0.95, 199)
    if estimate.interval is not None and estimate.mean is not None:
        low, high = estimate.interval
        assert math.isfinite(low) and math.isfinite(high)
        assert low <= estimate.mean + 1e-9 and estimate.mean - 1e-9 <= high


def brute_force_p(differences: list[float]) -> float:
    observed = abs(sum(differences))
    patterns = list(itertools.product((1, -1), repeat=len(differences)))
    hits = sum(
        abs(sum(s * d for s, d in zip(signs, differences, strict=True))) >= observed - 1e-12
        for signs in patterns
    )
    return hits / len(patterns)


@pytest.mark.parametrize(
    "differences",
    [
        [0.3, 0.5, 0.1, 0.9, 0.4, 0.2],
        [0.3, -0.5, 0.1, 0.9, -0.4, 0.2],
        [1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 2.0],
        [-2.0, -1.0, -0.5, -0.25, -0.1, -3.0, -1.5, 0.01],
    ],
)
def test_permutation_test_is_the_enumeration_of_signs(differences: list[float]) -> None:
    assert permutation_p_value(differences) == pytest.approx(brute_force_p(differences), abs=1e-12)


def test_permutation_test_at_its_limits() -> None:
    assert permutation_p_value([]) is None
    assert permutation_p_value([0.0] * 6) == 1.0
    assert permutation_p_value([1.0] * 6) == smallest_p_value(6) == 0.03125
    assert smallest_p_value(5) == 0.0625


def test_holm_by_hand() -> None:
    # Sorted: .01 x 4 = .04; .02 x 3 = .06; .03 x 2 = .06; .20 x 1 = .20.
    assert holm([0.03, 0.01, 0.20, 0.02]) == pytest.approx([0.06, 0.04, 0.20, 0.06])
    # .02 x 2 = .04, then .021 x 1 = .021 would fall below it.
    assert holm([0.021, 0.02]) == pytest.approx([0.04, 0.04])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_judgement_needs_both_intervals_and_six_values() -> None:
    assert judge(estimate_mean([1.0, 1.1, 0.9, 1.2, 0.8, 1.05], 0.95, 999)) == "above"
    assert judge(estimate_mean([-1.0, -1.1, -0.9, -1.2, -0.8, -1.05], 0.95, 999)) == "below"
    assert judge(estimate_mean([1.0, -1.1, 0.9, -1.2, 0.8, -0.9], 0.95, 999)) == "not told apart"
    assert judge(estimate_mean([1.0, 1.1, 0.9, 1.2, 0.8], 0.95, 999)) == "not judged"
    # The bootstrap alone would call this one: Student's interval reaches below zero.
    few_large = estimate_mean([0.1, 0.1, 0.2, 0.1, 0.15, 3.0], 0.95, 999)
    assert few_large.interval is not None and few_large.interval[0] > 0.0
    assert judge(few_large) == "not told apart"


def test_equal_methods_are_seldom_called_different() -> None:
    """300 studies of 6 paired seeds without a difference: at most the level's 5 %, give or take chance.

    The bootstrap alone would call far more of them different, which is why a judgement asks Student too.
    """
    rng = np.random.default_rng(0)
    estimates = [estimate_mean(rng.normal(size=6).tolist(), num_resamples=499) for _ in range(300)]
    called = sum(judge(estimate) in ("above", "below") for estimate in estimates)
    by_bootstrap = sum(
        estimate.interval is not None and not estimate.interval[0] <= 0.0 <= estimate.interval[1]
        for estimate in estimates
    )
    assert called <= 0.08 * 300
    assert by_bootstrap > 0.09 * 300
