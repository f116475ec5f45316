"""What the controllers cost to make, what that bought in single decisions, and when it pays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metalr.comparison.tables import Table
from metalr.comparison.wording import DASH, plural

__all__ = ["controller_cost_table", "decisions_table", "making"]

Summary = Mapping[str, Any]

_HARVEST = {
    "num_runs": "trainings harvested",
    "num_forks": "forks of them",
    "num_epochs": "epochs trained, forks included",
    "wall_s": "seconds of one worker",
}
_DECISIONS = {
    "learned": "the controller",
    "learned_unprobed": "the controller, without a probe",
    "learned_se": "standard error of the controller's",
    "best_fixed_multiple": "one multiple of the reference LR for all",
    "best_fixed_lr": "one LR for all",
    "greedy_label": "the LR that makes the next epoch best",
    "keep": "the LR that the run had",
    "gain_over_anchor": "gain over one multiple for all, mean over run groups",
    "gain_over_anchor_low": "that gain, lower end of its interval",
    "num_forks": "forks",
    "num_groups": "run groups",
    "num_folds": "folds",
}
"""Figures of meta-training in words; one that is not here is shown under its own name."""


def controller_cost_table(summary: Summary) -> Table:
    """What it cost to make the controllers, as far as it is known."""
    harvest = summary["harvest"] or {}
    rows = [
        ("harvest", words, _plain_text(harvest[key]))
        for key, words in _HARVEST.items()
        if harvest.get(key) is not None
    ]
    for name, entry in summary["meta_training"].items():
        seconds = (entry or {}).get("wall_s")
        rows.append((f"meta-training {name}", "seconds", _plain_text(seconds)))
    return Table("What the controller cost to make", ("Stage", "Figure", "Value"), rows, [""] * len(rows))


def decisions_table(summary: Summary) -> Table:
    """Mean extra final loss by decision rule on forks that the controller had not seen."""
    found = {name: (entry or {}).get("held_out") or {} for name, entry in summary["meta_training"].items()}
    known = [key for key in _DECISIONS if any(key in figures for figures in found.values())]
    others = sorted({key for figures in found.values() for key in figures} - set(known))
    rows = [
        (_DECISIONS.get(key, key), *(_plain_text(figures.get(key)) for figures in found.values()))
        for key in [*known, *others]
    ]
    title = "Single decisions on held-out run groups: mean extra final loss (nats)"
    return Table(title, ("Decision by", *found), rows, [""] * len(rows))


def making(summary: Summary) -> str:
    """The harvest in epochs against the price of tuning one schedule; nothing where it is not known."""
    epochs = (summary["harvest"] or {}).get("num_epochs")
    grid, cells = summary["tuning_grid_lr"], summary["cells"]
    if not epochs or not cells or len(grid) < 2:
        return ""
    budget = max(cell["budget_epochs"] for cell in cells)
    search = budget * len(grid)
    where = f"for a budget of {plural(budget, 'epoch')}"
    return (
        f"Making the controllers took {epochs:,} epochs of training, once. Tuning one schedule over the "
        f"{len(grid)} LRs of the grid takes {search:,} {where}, every time: as much as the harvest after "
        f"{epochs / search:,.1f} such searches."
    )


def _plain_text(value: Any) -> str:
    if value is None:
        return DASH
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e9:
        value = int(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
