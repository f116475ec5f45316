"""The meta-dataset as arrays to learn from: each fork with the trace that led to it.

Legend: E examples (forks), T observations of the longest trace, F features, K candidates.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np
import pandas as pd

from metalr.control import FEATURE_NAMES
from metalr.harvest.meta_dataset import MetaDataset
from metalr.learning.task_groups import group_of_runs
from metalr.training.artifacts import ArtifactError

__all__ = ["REGRET_FLOOR", "Examples", "joined", "make_examples", "read_at", "regret_at"]

REGRET_FLOOR = 0.01
"""Regrets are learned as log(regret + this), nats: differences below it are noise of the labels."""
ACCURACY, LOG_CLASSES = (FEATURE_NAMES.index(name) for name in ("inner_valid_accuracy", "log_classes"))
ROUNDING = 1e-9
"""How far sums of logs may be off in their last bits."""


@dataclass(frozen=True)
class Examples:
    """Forks with their traces. All candidates of all forks lie at the same multiples of the reference LR."""

    traces_ETF: np.ndarray
    """The whole trace of the fork's run, NaN where missing and behind its end."""
    run_ids_E: np.ndarray
    """The run that was forked; with the position the fork's name in the meta-dataset."""
    positions_E: np.ndarray
    """The observation after which the fork was made: features up to here may be used."""
    groups_E: np.ndarray
    """Task group of each fork: what is held out together. The run group, where there is but one task."""
    log_offsets_K: np.ndarray
    """Natural log of candidate over reference LR, rising."""
    regrets_EK: np.ndarray
    """Final regret, nats; NaN where a candidate was not tried."""
    next_regrets_EK: np.ndarray
    """Regret one epoch after the fork, nats."""
    log_best_loss_E: np.ndarray
    """Natural log of the best candidate's final loss over that of guessing."""
    log_reference_E: np.ndarray
    log_current_E: np.ndarray
    """Natural log of the equivalent peak that the run had."""

    def __len__(self) -> int:
        return len(self.positions_E)

    def subset(self, chosen_E: np.ndarray) -> Examples:
        """The examples where `chosen_E` is true, or at its positions."""
        return replace(self, **{name: getattr(self, name)[chosen_E] for name in _PER_EXAMPLE})

    def log_targets_EK(self, label: Literal["branch", "greedy"]) -> np.ndarray:
        """What the regret head learns: log(regret + floor) of the chosen label."""
        regrets = self.regrets_EK if label == "branch" else self.next_regrets_EK
        return np.log(regrets + REGRET_FLOOR)

    def prior_K(self, label: Literal["branch", "greedy"]) -> np.ndarray:
        """The mean log target of each candidate: what to expect where nothing but the probe is known."""
        mean_K: np.ndarray = np.nanmean(self.log_targets_EK(label), axis=0)
        return mean_K


_PER_EXAMPLE = tuple(field.name for field in fields(Examples) if field.name != "log_offsets_K")


def joined(first: Examples, second: Examples) -> Examples:
    """The examples of both, which must have the same candidates and length of trace."""
    both = {name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in _PER_EXAMPLE}
    return replace(first, **both)


def make_examples(dataset: MetaDataset) -> Examples:
    """The forks of a meta-dataset as arrays, in the order of (run, epoch).

    Candidates lie at the multiples of the reference LR that most forks have; a fork with others is read
    between its own, has no regret (NaN) outside, and is left out where fewer than three remain. A regret
    counts up to the loss of guessing: a network that errs with confidence is worse only by name. Forks of
    other harvests may have more candidates, or fewer.

    Raises:
        ArtifactError: no fork, or nothing but divergence.
    """
    traces = _traces_by_run(dataset)
    forks = _forks_with_a_choice(dataset)
    group_of = group_of_runs(dataset.transitions)
    offsets_EK = np.log(_values(forks, "factor"))
    log_offsets_K = _most_frequent(offsets_EK)
    run_ids = [str(rows["run_id"].iloc[0]) for rows in forks]
    longest = max(len(trace) for trace in traces.values())
    traces_ETF = np.stack([_padded(traces[run_id], longest) for run_id in run_ids])
    log_classes_E = traces_ETF[:, 0, LOG_CLASSES]
    is_squared_E = np.isnan(log_classes_E)
    traces_ETF[is_squared_E, :, ACCURACY] = np.nan  # a loop of one's own tells none
    guessing_E = np.where(is_squared_E, np.log(10), log_classes_E)  # the unit it is harvested in

    def read(column: str, loss: str) -> np.ndarray:
        return read_at(log_offsets_K, offsets_EK, _capped(forks, column, loss, guessing_E))

    best_E = np.nanmin(_values(forks, "final_loss"), axis=1)
    examples = Examples(
        traces_ETF=traces_ETF,
        run_ids_E=np.array(run_ids),
        positions_E=_values(forks, "epoch")[:, 0].astype(int),
        groups_E=np.array([group_of[run_id] for run_id in run_ids]),
        log_offsets_K=log_offsets_K,
        regrets_EK=read("regret", "final_loss"),
        next_regrets_EK=read("next_regret", "next_loss"),
        log_best_loss_E=np.log(np.maximum(best_E, 1e-6) / guessing_E),
        log_reference_E=np.log(_values(forks, "peak_lr")[:, 0]) - offsets_EK[:, 0],
        log_current_E=np.log(_values(forks, "current_peak_lr")[:, 0]),
    )
    return examples.subset((~np.isnan(examples.regrets_EK)).sum(axis=1) >= 3)


def _traces_by_run(dataset: MetaDataset) -> dict[str, np.ndarray]:
    """The features (t, F) of every run after each of its observations."""
    columns = [f"feature/{name}" for name in FEATURE_NAMES]
    return {
        str(run): rows.sort_values("epoch")[columns].to_numpy(dtype=float)
        for run, rows in dataset.transitions.groupby("run_id")
    }


def _forks_with_a_choice(dataset: MetaDataset) -> list[pd.DataFrame]:
    """The rows of every fork, one a candidate, by (run, epoch), but of those where every one diverged."""
    if dataset.forks.empty:
        raise ArtifactError("the meta-dataset has no fork to learn from; harvest more runs")
    forks = [rows for _, rows in dataset.forks.sort_values("candidate").groupby(["run_id", "epoch"])]
    forks = [rows for rows in forks if rows["final_loss"].notna().any()]
    if not forks:
        raise ArtifactError("every candidate of every fork diverged: the harvest's LRs are all too high")
    return forks


def _capped(forks: list[pd.DataFrame], column: str, loss: str, guessing_E: np.ndarray) -> np.ndarray:
    """The regrets (E, K) of `column`, none above what guessing loses to the least `loss` of its fork."""
    losses_EK = _values(forks, loss)
    lowest_E = np.nanmin(losses_EK, axis=1, initial=np.inf, where=~np.isnan(losses_EK))
    most_E = np.maximum(guessing_E - np.where(np.isfinite(lowest_E), lowest_E, 0.0), 0.1)
    capped_EK: np.ndarray = np.minimum(_values(forks, column), most_E[:, None])
    return capped_EK


def _most_frequent(offsets_EK: np.ndarray) -> np.ndarray:
    """The offsets that most forks have, without the NaN behind a row's end."""
    _rows, positions, counts = np.unique(
        np.nan_to_num(offsets_EK.round(6), nan=np.inf), axis=0, return_index=True, return_counts=True
    )
    chosen_K = offsets_EK[positions[counts.argmax()]]
    return np.array(chosen_K[~np.isnan(chosen_K)])


def read_at(log_offsets_K: np.ndarray, own_EK: np.ndarray, curves_EK: np.ndarray) -> np.ndarray:
    """Each curve, known at its own offsets, at the common ones: linear in log LR, NaN outside.

    A row ends where its offsets are NaN.
    """
    known_EK = ~np.isnan(own_EK)
    read_EK = np.stack(
        [
            np.interp(log_offsets_K, own_K[known_K], curve_K[known_K])
            for own_K, curve_K, known_K in zip(own_EK, curves_EK, known_EK, strict=True)
        ]
    )
    low_E1 = np.nanmin(own_EK, axis=1, keepdims=True) - ROUNDING
    high_E1 = np.nanmax(own_EK, axis=1, keepdims=True) + ROUNDING
    return np.where((log_offsets_K >= low_E1) & (log_offsets_K <= high_E1), read_EK, np.nan)


def _values(forks: list[pd.DataFrame], column: str) -> np.ndarray:
    """A column of every fork's candidates; (E, K), NaN behind the end of a fork with fewer."""
    values_EK = np.full((len(forks), max(len(rows) for rows in forks)), np.nan)
    for values_K, rows in zip(values_EK, forks, strict=True):
        values_K[: len(rows)] = rows[column].to_numpy(dtype=float)
    return values_EK


def _padded(trace_tF: np.ndarray, length: int) -> np.ndarray:
    missing = np.full((length - len(trace_tF), trace_tF.shape[1]), np.nan)
    return np.concatenate([trace_tF, missing])


def regret_at(examples: Examples, log_peaks_E: np.ndarray) -> np.ndarray:
    """The final regret (E,) of choosing these peaks: linear in log LR, held outside the known candidates."""
    offsets_E = log_peaks_E - examples.log_reference_E
    known_EK = ~np.isnan(examples.regrets_EK)
    return np.array(
        [
            np.interp(offset, examples.log_offsets_K[known_K], curve_K[known_K])
            for offset, curve_K, known_K in zip(offsets_E, examples.regrets_EK, known_EK, strict=True)
        ]
    )
