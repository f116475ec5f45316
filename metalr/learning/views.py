"""The same examples seen otherwise: without a probe, or relative to another LR.

Legend: E examples (forks), T observations of the longest trace, F features, K candidates.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from metalr.control import FEATURE_GROUPS, FEATURE_NAMES, usual_lr
from metalr.learning.examples import Examples, read_at

__all__ = ["log_usual_lrs", "rereferenced", "seen_range", "unprobed"]


def unprobed(examples: Examples, *, knows_model: bool = False) -> Examples:
    """The same examples as a training without a probe would have shown them.

    The reference LR is the usual one, and the features of the probe are missing; those of the model too,
    unless it is there.
    """
    seen = examples if knows_model else _without(examples, "model")
    return _without(rereferenced(seen, log_usual_lrs(seen)), "probe")


def seen_range(examples: Examples) -> tuple[list[float], list[float]]:
    """The lowest and the highest value of each of the F features in the runs of the examples, with a probe
    and as without one; minus infinity and infinity where a feature was never seen.
    """
    ways = (examples, unprobed(examples), unprobed(examples, knows_model=True))
    values_NF = np.concatenate([way.traces_ETF.reshape(-1, way.traces_ETF.shape[2]) for way in ways])
    lowest_F = np.where(np.isnan(values_NF), np.inf, values_NF).min(axis=0)
    highest_F = np.where(np.isnan(values_NF), -np.inf, values_NF).max(axis=0)
    was_seen_F = lowest_F <= highest_F
    return (
        np.where(was_seen_F, lowest_F, -np.inf).tolist(),
        np.where(was_seen_F, highest_F, np.inf).tolist(),
    )


def _without(examples: Examples, group: str) -> Examples:
    traces_ETF = examples.traces_ETF.copy()
    traces_ETF[:, :, list(FEATURE_GROUPS[group])] = np.nan
    return replace(examples, traces_ETF=traces_ETF)


def log_usual_lrs(examples: Examples) -> np.ndarray:
    """The natural log (E,) of the LR that is usual under each example's optimizer."""
    return np.array([_log_usual_lr(trace_TF[0]) for trace_TF in examples.traces_ETF])


def rereferenced(examples: Examples, log_reference_E: np.ndarray) -> Examples:
    """The examples with their candidates relative to another reference LR, given by its natural log.

    Regrets are read between the candidates that were tried; those outside have none (NaN).
    """
    traces_ETF = examples.traces_ETF.copy()
    shift_E = log_reference_E - examples.log_reference_E
    traces_ETF[:, :, FEATURE_NAMES.index("log_peak_over_reference")] -= shift_E[:, None]
    own_EK = examples.log_offsets_K - shift_E[:, None]
    return replace(
        examples,
        traces_ETF=traces_ETF,
        regrets_EK=read_at(examples.log_offsets_K, own_EK, examples.regrets_EK),
        next_regrets_EK=read_at(examples.log_offsets_K, own_EK, examples.next_regrets_EK),
        log_reference_E=log_reference_E,
    )


def _log_usual_lr(features_F: np.ndarray) -> float:
    def value(name: str) -> float | None:
        found = float(features_F[FEATURE_NAMES.index(name)])
        return None if np.isnan(found) else found

    scales, averages, norms = (
        bool(value(name)) for name in ("scales_gradients", "averages_iterates", "normalises")
    )
    log_rest = value("log_one_minus_momentum")
    momentum = None if log_rest is None else 1.0 - float(np.exp(log_rest))
    return float(np.log(usual_lr(scales, averages, momentum, norms)))
