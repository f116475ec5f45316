"""The meta-dataset as arrays to learn from: each fork with the trace that led to it.

Legend: E examples (forks), T observations of the longest trace, F features, K candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from metalr.control import FEATURE_NAMES
from metalr.harvest.meta_dataset import MetaDataset

__all__ = ["Examples", "make_examples", "regret_at", "split_groups"]

REGRET_FLOOR = 0.01
"""Regrets are learned as log(regret + this), nats: differences below it are noise of the labels."""


@dataclass(frozen=True)
class Examples:
    """Forks with their traces. All candidates of all forks lie at the same multiples of the reference LR."""

    traces_ETF: np.ndarray
    """The whole trace of the fork's run, NaN where missing and behind its end."""
    positions_E: np.ndarray
    """The observation after which the fork was made: features up to here may be used."""
    groups_E: np.ndarray
    """Run group of each fork."""
    log_offsets_K: np.ndarray
    """Natural log of candidate over reference LR, rising."""
    regrets_EK: np.ndarray
    """Final regret, nats."""
    next_regrets_EK: np.ndarray
    """Regret one epoch after the fork, nats."""
    log_best_loss_E: np.ndarray
    """Natural log of the best candidate's final loss over log C."""
    log_reference_E: np.ndarray
    log_current_E: np.ndarray
    """Natural log of the equivalent peak that the run had."""

    def __len__(self) -> int:
        return len(self.positions_E)

    def subset(self, chosen_E: np.ndarray) -> Examples:
        """The examples where `chosen_E` is true, or at its positions."""
        return Examples(
            self.traces_ETF[chosen_E],
            self.positions_E[chosen_E],
            self.groups_E[chosen_E],
            self.log_offsets_K,
            self.regrets_EK[chosen_E],
            self.next_regrets_EK[chosen_E],
            self.log_best_loss_E[chosen_E],
            self.log_reference_E[chosen_E],
            self.log_current_E[chosen_E],
        )

    def log_targets_EK(self, label: Literal["branch", "greedy"]) -> np.ndarray:
        """What the regret head learns: log(regret + floor) of the chosen label."""
        regrets = self.regrets_EK if label == "branch" else self.next_regrets_EK
        return np.log(regrets + REGRET_FLOOR)


def make_examples(dataset: MetaDataset) -> Examples:
    """The forks of a meta-dataset as arrays, in the order of (run, epoch).

    Raises:
        ValueError: no fork, or forks with different candidates.
    """
    if dataset.forks.empty:
        raise ValueError("the meta-dataset has no fork to learn from; harvest more runs")
    columns = [f"feature/{name}" for name in FEATURE_NAMES]
    log_classes = FEATURE_NAMES.index("log_classes")
    runs = {run: rows.sort_values("epoch") for run, rows in dataset.transitions.groupby("run_id")}
    longest = max(len(rows) for rows in runs.values())
    parts: dict[str, list[object]] = {name: [] for name in Examples.__dataclass_fields__}
    for (run, epoch), rows in dataset.forks.sort_values("candidate").groupby(["run_id", "epoch"]):
        finals = rows["final_loss"].to_numpy(dtype=float)
        if np.isnan(finals).all():
            continue  # every candidate diverged: nothing to choose between
        features = runs[run][columns].to_numpy(dtype=float)
        trace = np.full((longest, len(columns)), np.nan)
        trace[: len(features)] = features
        parts["traces_ETF"].append(trace)
        parts["positions_E"].append(int(epoch))
        parts["groups_E"].append(rows["group"].iloc[0])
        parts["log_offsets_K"].append(np.log(rows["factor"].to_numpy(dtype=float)))
        parts["regrets_EK"].append(rows["regret"].to_numpy(dtype=float))
        parts["next_regrets_EK"].append(rows["next_regret"].to_numpy(dtype=float))
        parts["log_best_loss_E"].append(np.log(max(np.nanmin(finals), 1e-6) / features[0, log_classes]))
        parts["log_reference_E"].append(np.log(rows["peak_lr"].iloc[0] / rows["factor"].iloc[0]))
        parts["log_current_E"].append(np.log(rows["current_peak_lr"].iloc[0]))
    offsets = parts.pop("log_offsets_K")
    if not all(np.allclose(offset, offsets[0]) for offset in offsets):
        raise ValueError("the forks of this meta-dataset have different candidates; harvest them with one recipe")
    arrays = {name: np.array(values) for name, values in parts.items()}
    return Examples(log_offsets_K=np.array(offsets[0]), **arrays)


def split_groups(groups_E: np.ndarray, holdout_fraction: float, seed: int) -> np.ndarray:
    """Which examples are held out: a mask (E,) true for whole groups, about the given part of them.

    No group has examples on both sides, and neither side is empty.

    Raises:
        ValueError: fewer than two groups.
    """
    groups = np.unique(groups_E)
    if len(groups) < 2:
        raise ValueError(f"a held-out split needs at least two run groups, the meta-dataset has {len(groups)}")
    count = min(max(1, round(holdout_fraction * len(groups))), len(groups) - 1)
    held_out = np.random.default_rng(seed).permutation(groups)[:count]
    return np.isin(groups_E, held_out)


def regret_at(examples: Examples, log_peaks_E: np.ndarray) -> np.ndarray:
    """The final regret (E,) of choosing these peaks: linear in log LR between candidates, held outside them."""
    offsets = log_peaks_E - examples.log_reference_E
    return np.array(
        [
            np.interp(offset, examples.log_offsets_K, curve)
            for offset, curve in zip(offsets, examples.regrets_EK, strict=True)
        ]
    )
