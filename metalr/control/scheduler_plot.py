"""A training under `MetaLR` as a figure: its LR, and under it the losses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metalr.control.finder_plot import CURVE, FIGURE_STYLE, INK, MARKS, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_history"]

LOSSES = {
    "train_loss": ("training", CURVE),
    "inner_valid_loss": ("validation", MARKS["steepest"][0]),
}
"""Name and colour of each curve."""


def draw_history(history: Sequence[Mapping[str, Any]], path: str | Path | None = None) -> Figure:
    """LR and losses over the epochs of `MetaLR.history`; saved where `path` is given.

    Epochs that were undone are marked; where nothing was observed a curve has a gap.

    Raises:
        ValueError: a suffix of `path` that matplotlib cannot write.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(6.4, 4.4), layout="constrained")
        figure.patch.set_alpha(0.0)
        upper, lower = figure.subplots(2, 1, sharex=True)
        for axes in (upper, lower):
            axes.patch.set_alpha(0.0)
        _draw_lrs(upper, history)
        _draw_losses(lower, history)
        if path is not None:
            save_figure(figure, Path(path))
    return figure


def _draw_lrs(axes: Axes, history: Sequence[Mapping[str, Any]]) -> None:
    axes.set_ylabel("mean LR of the epoch")
    axes.plot([row["epoch"] for row in history], [_number(row["lr"]) for row in history], ".-", color=CURVE)
    if any(row["lr"] for row in history):
        axes.set_yscale("log")
    undone = [row["epoch"] for row in history if "LR x" in row["decision"]]
    for index, epoch in enumerate(undone):
        axes.axvline(epoch, color=INK, lw=1.0, ls=":", label="" if index else "epoch undone")
    if undone:
        axes.legend()


def _draw_losses(axes: Axes, history: Sequence[Mapping[str, Any]]) -> None:
    axes.set_xlabel("epochs")
    axes.set_ylabel("loss")
    drawn = False
    for name, (label, color) in LOSSES.items():
        losses = [_number(row[name]) for row in history]
        if any(map(math.isfinite, losses)):
            axes.plot([row["epoch"] for row in history], losses, ".-", color=color, label=label)
            drawn = True
    if drawn:
        axes.legend()


def _number(value: float | None) -> float:
    return math.nan if value is None else value
