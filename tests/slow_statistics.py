"""The comparison's statistics again in plain loops: no SciPy, and of NumPy only the random numbers.

The resamples are those that the shipped functions draw, so that intervals must agree to the last digits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from statistics import NormalDist, StatisticsError

import numpy as np

__all__ = ["bca_interval", "holm", "interquartile_interval", "interquartile_mean", "mean", "sign_flip_p"]

Interval = tuple[float, float]
TIE = 1e-11
"""Means closer than this are equal by hand: the values are shares of some thousand images, or losses."""


def mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def sign_flip_p(values: Sequence[float]) -> float:
    """Two-sided: the share of all sign patterns whose mean is at least as far from zero."""
    observed = abs(math.fsum(values))
    patterns = list(itertools.product((1, -1), repeat=len(values)))
    sums = [abs(math.fsum(s * v for s, v in zip(p, values, strict=True))) for p in patterns]
    return sum(s >= observed * (1 - 1e-12) - 1e-12 for s in sums) / len(sums)


def holm(values: Sequence[float]) -> list[float]:
    """Of each p: the largest of (number of p not below) x p over all p not above it."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    steps = [min(1.0, (len(values) - place) * values[index]) for place, index in enumerate(order)]
    return [max(steps[: order.index(index) + 1]) for index in range(len(values))]


def quantile(ordered: Sequence[float], share: float) -> float:
    """Between the two nearest of the ordered values, in proportion."""
    place = share * (len(ordered) - 1)
    below = min(int(place), len(ordered) - 2)
    return ordered[below] + (place - below) * (ordered[below + 1] - ordered[below])


def _is_constant(values: Sequence[float]) -> bool:
    center = math.fsum(values) / len(values)
    return max(values) - min(values) <= 1e-12 * max(1.0, abs(center))


def bca_interval(values: Sequence[float], confidence: float, num_resamples: int) -> Interval | None:
    """Efron's formulas (1987), one resample after the other; percentiles where they have no answer."""
    n = len(values)
    if n < 2 or _is_constant(values):
        return None
    center = math.fsum(values) / n
    draws = np.random.default_rng(0).integers(0, n, (num_resamples, n)).tolist()
    means = sorted(math.fsum(values[index] for index in draw) / n for draw in draws)
    below = sum(m < center - TIE for m in means) + sum(m <= center + TIE for m in means)
    tails = ((1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0)
    left_out = [(math.fsum(values) - value) / (n - 1) for value in values]
    gaps = [math.fsum(left_out) / n - m for m in left_out]
    skew = math.fsum(gap**3 for gap in gaps) / (6.0 * math.fsum(gap**2 for gap in gaps) ** 1.5)
    normal = NormalDist()
    try:
        bias = normal.inv_cdf(below / (2.0 * num_resamples))
    except StatisticsError:
        return quantile(means, tails[0]), quantile(means, tails[1])
    tilted = [bias + normal.inv_cdf(tail) for tail in tails]
    shares = [normal.cdf(bias + z / (1.0 - skew * z)) for z in tilted]
    return quantile(means, shares[0]), quantile(means, shares[1])


def interquartile_mean(values: Sequence[float]) -> float | None:
    cut = int(0.25 * len(values))
    return mean(sorted(values)[cut : len(values) - cut])


def interquartile_interval(
    columns: Sequence[Sequence[float]], confidence: float, num_resamples: int
) -> Interval | None:
    """Each column resampled by itself; percentiles of the interquartile means of all of them."""
    columns = [column for column in columns if column]
    if all(len(set(column)) == 1 for column in columns):
        return None
    rng = np.random.default_rng(0)
    drawn = [rng.choice(np.array(column), (num_resamples, len(column))).tolist() for column in columns]
    rows = [list(itertools.chain.from_iterable(parts)) for parts in zip(*drawn, strict=True)]
    means = sorted(interquartile_mean(row) or 0.0 for row in rows)
    return quantile(means, (1.0 - confidence) / 2.0), quantile(means, (1.0 + confidence) / 2.0)
