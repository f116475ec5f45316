"""Intervals, tests and corrections that stay honest with few, equal or missing numbers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

__all__ = [
    "MIN_PAIRS",
    "Estimate",
    "Judgement",
    "estimate_mean",
    "holm",
    "interquartile_mean",
    "judge",
    "permutation_p_value",
    "smallest_p_value",
]

MIN_PAIRS = 6
"""Fewer pairs than this cannot reach p < 0.05 in a two-sided paired test: 2 / 2**5 = 0.0625."""

Judgement = Literal["above", "below", "not told apart", "not judged"]


@dataclass(frozen=True)
class Estimate:
    """A mean and its uncertainty; what is not defined is None, with the reason in `note`."""

    mean: float | None
    interval: tuple[float, float] | None
    """Bootstrap interval of the mean."""
    t_interval: tuple[float, float] | None
    """Student's interval of the mean, wider for few values: the bootstrap's is too narrow there."""
    sd: float | None
    """Standard deviation of a sample (n - 1)."""
    n: int
    note: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values under the names of summary.json; intervals are `[low, high]` or None."""
        return {
            "mean": self.mean,
            "ci95": list(self.interval) if self.interval else None,
            "t_ci95": list(self.t_interval) if self.t_interval else None,
            "n": self.n,
            "sd": self.sd,
            "note": self.note,
        }


def estimate_mean(values: Sequence[float], confidence: float = 0.95, num_resamples: int = 9999) -> Estimate:
    """The mean of `values` with a BCa bootstrap interval (Efron 1987) at `confidence`.

    BCa is not defined for fewer than two values or for equal ones: then there is no interval, and `note`
    says so; where it fails otherwise, the percentile interval stands in, and `note` says that. The
    resamples are drawn from a fixed seed, so equal values have equal intervals. Raises ValueError where
    a value is not finite.
    """
    array = np.asarray(values, dtype=float)
    if not np.isfinite(array).all():
        raise ValueError(
            "estimate_mean: every value must be finite; leave diverged runs out or value them first"
        )
    n = int(array.size)
    if n == 0:
        return Estimate(None, None, None, None, 0, "no values")
    mean = float(array.mean())
    if n == 1:
        return Estimate(mean, None, None, None, 1, "one value: no interval")
    if float(np.ptp(array)) <= 1e-12 * max(1.0, abs(mean)):
        return Estimate(mean, None, None, 0.0, n, f"all {n} values are equal: no interval")
    sd = float(array.std(ddof=1))
    interval, note = _bootstrap(array, confidence, num_resamples)
    low, high = stats.t.interval(confidence, n - 1, loc=mean, scale=sd / np.sqrt(n))
    return Estimate(mean, interval, (float(low), float(high)), sd, n, note)


def _tied_mean(array: Any) -> Any:
    """The mean, rounded so that what is equal by hand is equal as floats: 41.2 + 41.4 and 41.3 + 41.3.

    BCa counts half of the resamples that tie with the mean as below it. Unrounded, a tie falls to either side
    by chance, which moved intervals of six values by up to 2 % of their width.
    """
    decimals = max(10, 10 - int(np.floor(np.log10(np.abs(array).max()))))

    def mean(sample: Any, axis: int) -> Any:
        return np.round(np.mean(sample, axis=axis), decimals)

    return mean


def _bootstrap(
    array: Any, confidence: float, num_resamples: int
) -> tuple[tuple[float, float] | None, str | None]:
    notes: dict[Literal["BCa", "percentile"], str | None] = {
        "BCa": None,
        "percentile": "BCa is not defined for these values: percentile interval",
    }
    for method, note in notes.items():
        with warnings.catch_warnings():
            # scipy warns of degenerate data and answers NaN, which is what is looked at below.
            warnings.simplefilter("ignore")
            limits = stats.bootstrap(
                (array,),
                _tied_mean(array),
                confidence_level=confidence,
                n_resamples=num_resamples,
                method=method,
                rng=np.random.default_rng(0),
            ).confidence_interval
        if np.isfinite(limits.low) and np.isfinite(limits.high):
            return (float(limits.low), float(limits.high)), note
    return None, "the bootstrap is not defined for these values: no interval"


def interquartile_mean(
    columns: Sequence[Sequence[float]], confidence: float = 0.95, num_resamples: int = 9999
) -> dict[str, Any]:
    """The mean of the middle half of all values in `columns`, with a stratified bootstrap interval.

    A column holds the seeds of one cell, and is resampled by itself (Agarwal et al. 2021, arXiv 2108.13264).
    Percentile interval from a fixed seed; no interval where no column has two unequal values.
    """
    arrays = [np.asarray(column, dtype=float) for column in columns if len(column)]
    if not arrays:
        return {"mean": None, "ci95": None, "n": 0}
    mean = float(stats.trim_mean(np.concatenate(arrays), 0.25))
    size = sum(array.size for array in arrays)
    if all(np.ptp(array) == 0.0 for array in arrays):
        return {"mean": mean, "ci95": None, "n": size}
    rng = np.random.default_rng(0)
    draws_RN = np.concatenate([rng.choice(array, (num_resamples, array.size)) for array in arrays], axis=1)
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(stats.trim_mean(draws_RN, 0.25, axis=1), [tail, 100.0 - tail])
    return {"mean": mean, "ci95": [float(low), float(high)], "n": size}


def permutation_p_value(differences: Sequence[float]) -> float | None:
    """The two-sided p value of the hypothesis that paired `differences` are as likely to have either sign.

    Exact (every one of the 2**n sign patterns of the mean) up to 13 pairs, 9,999 random patterns above;
    None without differences.
    """
    array = np.asarray(differences, dtype=float)
    if array.size == 0:
        return None
    if not array.any():
        return 1.0
    outcome = stats.permutation_test(
        (array,), np.mean, permutation_type="samples", n_resamples=9999, rng=np.random.default_rng(0)
    )
    return float(min(1.0, outcome.pvalue))


def smallest_p_value(num_pairs: int) -> float:
    """The least p value that `permutation_p_value` can give for `num_pairs` pairs."""
    return float(min(1.0, 2.0 ** (1 - num_pairs)))


def holm(p_values: Sequence[float]) -> list[float]:
    """`p_values` adjusted for their number (Holm 1979), in the order given, each in [0, 1].

    The k-th smallest of m (k from 0) is multiplied by m - k, and never falls below the one before it.
    """
    adjusted = [0.0] * len(p_values)
    floor = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        floor = max(floor, min(1.0, p_values[index] * (len(p_values) - rank)))
        adjusted[index] = floor
    return adjusted


def judge(estimate: Estimate) -> Judgement:
    """Where a mean lies from zero: a side only where both intervals agree on it, from 6 values on."""
    if estimate.n < MIN_PAIRS or estimate.interval is None or estimate.t_interval is None:
        return "not judged"
    low = min(estimate.interval[0], estimate.t_interval[0])
    high = max(estimate.interval[1], estimate.t_interval[1])
    if low > 0.0:
        return "above"
    return "below" if high < 0.0 else "not told apart"
