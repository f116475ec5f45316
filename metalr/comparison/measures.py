"""What is measured of one run, and of a group of runs that differ in their seed only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metalr.comparison.protocol import Cell, cell_of
from metalr.training.records import RunRecord

__all__ = [
    "LR_FLOOR",
    "LRMovement",
    "Outcome",
    "group_measures",
    "lr_movement",
    "mean_or_none",
    "outcome_of",
    "target_of",
    "time_to_target",
]

LR_FLOOR = 1e-6
"""LRs below this fraction of the run's largest count as that fraction in logarithms: log 0 is not defined."""


@dataclass(frozen=True)
class LRMovement:
    """How far one run's LR (mean of each epoch) moved."""

    variance: float
    """Variance over epochs (population), in LR squared."""
    log_sd_decades: float
    """Standard deviation of log10 LR over epochs (population)."""
    log_total_variation: float
    """Sum of |log10 lr[t+1] - log10 lr[t]|, in decades."""
    num_clamped: int
    """Epochs whose LR was below the floor."""


@dataclass(frozen=True)
class Outcome:
    """One run as the comparison sees it; a diverged run has chance accuracy and no loss."""

    run_id: str
    cell: Cell
    method: str
    seed: int
    diverged: bool
    test_accuracy_pct: float
    test_loss: float | None
    outer_valid_accuracy_pct: float
    outer_valid_loss: float | None
    movement: LRMovement | None
    timing: Mapping[str, float]
    num_samples: int
    progress: tuple[tuple[int, float, float], ...] = ()
    """Of each epoch read: its number, inner_valid accuracy in percent, seconds since the start."""


def lr_movement(lrs: Sequence[float]) -> LRMovement | None:
    """How far the LR moved over the epochs of a run; None without epochs."""
    if not lrs:
        return None
    array = np.asarray(lrs, dtype=float)
    floor = LR_FLOOR * float(array.max())
    if floor <= 0.0:
        return LRMovement(0.0, 0.0, 0.0, len(lrs))
    if np.ptp(array) <= 1e-12 * array.max():
        return LRMovement(0.0, 0.0, 0.0, 0)
    logs = np.log10(np.maximum(array, floor))
    return LRMovement(
        variance=float(array.var()),
        log_sd_decades=float(logs.std()),
        log_total_variation=float(np.abs(np.diff(logs)).sum()),
        num_clamped=int((array < floor).sum()),
    )


def outcome_of(record: RunRecord, chance_pct: float) -> Outcome:
    """The run's outcome. Raises ValueError where a finished run lacks its test or outer_valid accuracy.

    A diverged run has the accuracy of guessing, `chance_pct`; of images that are reconstructed that is none.
    """
    if record.spec.task.objective == "reconstruct":
        chance_pct = 0.0
    final = {} if record.diverged else record.result["final"]
    lrs = [row["lr"] for row in record.epochs if row.get("lr") is not None]
    return Outcome(
        run_id=record.run_id,
        cell=cell_of(record.spec),
        method=record.spec.method,
        seed=record.spec.seed,
        diverged=record.diverged,
        test_accuracy_pct=chance_pct if record.diverged else _accuracy_pct(record, "test"),
        test_loss=_finite(final.get("test/loss")),
        outer_valid_accuracy_pct=chance_pct if record.diverged else _accuracy_pct(record, "outer_valid"),
        outer_valid_loss=_finite(final.get("outer_valid/loss")),
        movement=lr_movement(lrs),
        timing=record.result.get("timing", {}),
        num_samples=record.result.get("num_samples", 0),
        progress=_progress(record),
    )


def _progress(record: RunRecord) -> tuple[tuple[int, float, float], ...]:
    seconds, readings = 0.0, []
    for row in record.rows:
        seconds += sum(row.get(f"time/{part}_s") or 0.0 for part in ("train", "eval", "control"))
        accuracy = _finite(row.get("inner_valid/accuracy"))
        if accuracy is not None and row["epoch"] > 0:
            readings.append((int(row["epoch"]), 100.0 * accuracy, seconds))
    return tuple(readings)


def target_of(reference: Sequence[Outcome]) -> float | None:
    """The accuracy in percent to be reached: the mean of the reference's last readings of inner_valid."""
    return mean_or_none([outcome.progress[-1][1] for outcome in reference if outcome.progress])


def time_to_target(outcomes: Sequence[Outcome], target_pct: float | None) -> dict[str, Any]:
    """Median epochs and seconds to the first reading at or above `target_pct`; a miss is never (None)."""
    hits = [
        next(((epoch, s) for epoch, accuracy, s in o.progress if accuracy >= target_pct), None)
        if target_pct is not None and not o.diverged
        else None
        for o in outcomes
    ]
    return {
        "epochs_to_target": _median([math.inf if hit is None else float(hit[0]) for hit in hits]),
        "seconds_to_target": _median([math.inf if hit is None else hit[1] for hit in hits]),
        "num_reached": sum(hit is not None for hit in hits),
    }


def _median(values: Sequence[float]) -> float | None:
    """The upper median, so that half the runs missing is never; None for never."""
    ordered = sorted(values)
    return _finite(ordered[len(ordered) // 2]) if ordered else None


def _accuracy_pct(record: RunRecord, split: str) -> float:
    value = _finite(record.result["final"].get(f"{split}/accuracy"))
    if value is None:
        raise ValueError(
            f"run {record.run_id} ({record.spec.method}, seed {record.spec.seed}) has no {split}/accuracy: "
            "it was not made for a comparison, or is damaged; delete its directory to run it again"
        )
    return 100.0 * value


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def mean_or_none(values: Sequence[float | None]) -> float | None:
    """The mean of the values that are there; None without any."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def group_measures(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Time and LR movement averaged over the runs that finished: a run cut short would flatter both."""
    finished = [outcome for outcome in outcomes if not outcome.diverged]
    train_s = sum(outcome.timing.get("train_s", 0.0) for outcome in finished)
    movements = [outcome.movement for outcome in finished if outcome.movement is not None]
    return {
        "wall_time_s": mean_or_none([outcome.timing.get("wall_s") for outcome in finished]),
        "train_time_s": mean_or_none([outcome.timing.get("train_s") for outcome in finished]),
        "control_time_s": mean_or_none([outcome.timing.get("control_s") for outcome in finished]),
        "eval_time_s": mean_or_none([outcome.timing.get("eval_s") for outcome in finished]),
        "samples_per_s": sum(o.num_samples for o in finished) / train_s if train_s > 0.0 else None,
        "lr_variance": mean_or_none([movement.variance for movement in movements]),
        "log_lr_sd_decades": mean_or_none([movement.log_sd_decades for movement in movements]),
        "total_variation_log_lr": mean_or_none([movement.log_total_variation for movement in movements]),
        "num_lrs_clamped": sum(movement.num_clamped for movement in movements),
        "num_diverged": len(outcomes) - len(finished),
    }
