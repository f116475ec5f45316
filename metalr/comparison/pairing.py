"""Learned against hand-made, seed by seed: tuned baselines, regret, and the family of paired tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metalr.comparison.measures import Outcome, mean_or_none
from metalr.comparison.protocol import Cell, is_controlled
from metalr.comparison.statistics import (
    MIN_PAIRS,
    Estimate,
    estimate_mean,
    holm,
    judge,
    permutation_p_value,
    smallest_p_value,
)

__all__ = ["Results", "Runs", "Tuned", "adjust_family", "compare_pairs", "differences", "tune"]

Runs = Mapping[int, Outcome]
"""Seed -> outcome, of one method in one cell."""

Results = Mapping[tuple[Cell, str], Runs]
"""(cell, method) -> its runs."""


@dataclass(frozen=True)
class Tuned:
    """A hand schedule or a peer at the initial LR that outer_valid prefers, for one task and budget."""

    method: str
    cell: Cell
    runs: Runs
    outer_valid_accuracy_pct: float
    at_grid_edge: bool
    """Whether the chosen LR is the least or the largest of several: a wider grid might serve it better."""

    @property
    def lr(self) -> float:
        """The LR its runs really had, which for a peer may be a multiple of the cell's."""
        return next(iter(self.runs.values())).cell.initial_lr


def tune(results: Results, task: str, budget_epochs: int) -> list[Tuned]:
    """Every method that is no learned controller at its best initial LR, best first; `test` has no say.

    Best is the mean outer_valid accuracy over seeds (a diverged run counts as chance); ties go to the
    lower outer_valid loss, then to the lower LR.
    """
    candidates: dict[str, list[Cell]] = {}
    for cell, method in results:
        if (cell.task, cell.budget_epochs) == (task, budget_epochs) and not is_controlled(method):
            candidates.setdefault(method, []).append(cell)
    tuned = [_tuned(results, method, cells) for method, cells in candidates.items()]
    return sorted(tuned, key=lambda choice: _preference(choice.runs, choice.cell.initial_lr))


def _tuned(results: Results, method: str, cells: Sequence[Cell]) -> Tuned:
    best = min(cells, key=lambda cell: _preference(results[cell, method], cell.initial_lr))
    lrs = {outcome.cell.initial_lr for cell in cells for outcome in results[cell, method].values()}
    runs = results[best, method]
    accuracy = mean_or_none([outcome.outer_valid_accuracy_pct for outcome in runs.values()])
    assert accuracy is not None
    at_edge = len(lrs) > 1 and next(iter(runs.values())).cell.initial_lr in (min(lrs), max(lrs))
    return Tuned(method, best, runs, accuracy, at_edge)


def _preference(runs: Runs, lr: float) -> tuple[float, float, float]:
    accuracy = mean_or_none([outcome.outer_valid_accuracy_pct for outcome in runs.values()])
    loss = mean_or_none([outcome.outer_valid_loss for outcome in runs.values()])
    return (-(accuracy or 0.0), float("inf") if loss is None else loss, lr)


def differences(runs: Runs, others: Runs) -> dict[int, float]:
    """Final test accuracy of `runs` minus that of `others` in percentage points, by the seeds both have."""
    return {
        seed: runs[seed].test_accuracy_pct - others[seed].test_accuracy_pct
        for seed in sorted(runs)
        if seed in others
    }


def compare_pairs(values: Iterable[float], confidence: float, num_resamples: int) -> dict[str, Any]:
    """Paired differences in pp for summary.json; `p` only from 6 pairs on, `p_holm` comes later."""
    pairs = list(values)
    estimate: Estimate = estimate_mean(pairs, confidence, num_resamples)
    entry = {"difference_pp": estimate.as_json(), "judgement": judge(estimate), "num_pairs": len(pairs)}
    enough = len(pairs) >= MIN_PAIRS
    too_few = f"{len(pairs)} pairs, fewer than {MIN_PAIRS}: no significance is claimed"
    return entry | {
        "p": permutation_p_value(pairs) if enough else None,
        "p_holm": None,
        "significant": False,
        "note": None if enough else too_few,
    }


def adjust_family(entries: Sequence[dict[str, Any]], confidence: float) -> dict[str, Any]:
    """What there is to say of a family of tests; fills in `p_holm` and `significant` where there is a `p`."""
    tested = [entry for entry in entries if entry["p"] is not None]
    for entry, adjusted in zip(tested, holm([entry["p"] for entry in tested]), strict=True):
        entry["p_holm"] = adjusted
        entry["significant"] = adjusted < 1.0 - confidence
    pairs = max((entry["num_pairs"] for entry in tested), default=0)
    reachable = min(1.0, smallest_p_value(pairs) * len(tested)) if tested else None
    return {
        "num_tests": len(tested),
        "alpha": round(1.0 - confidence, 12),
        "smallest_reachable_p_holm": reachable,
        "can_reach_significance": reachable is not None and reachable < 1.0 - confidence,
    }
