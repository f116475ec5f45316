"""The finder's curve as a figure, with the suggestions marked; readable on light and on dark pages."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metalr.control.finder_rules import FinderCurve, Suggestion

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["CURVE", "FIGURE_STYLE", "INK", "MARKS", "draw_finder", "save_figure"]

INK = "#7D8894"
"""A grey with a contrast of about 4 on white as on near-black: the background is transparent."""
CURVE = "#2F80C3"
MARKS = {"steepest": ("#DB5A00", "v"), "valley": ("#2A9D5B", "o"), "minimum": ("#A45EC7", "s")}
"""Colour and marker of each rule."""
FIGURE_STYLE: Any = {
    "svg.hashsalt": "metalr",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    **{key: INK for key in ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")},
}


def draw_finder(
    curve: FinderCurve, suggestions: dict[str, Suggestion], path: str | Path | None = None
) -> Figure:
    """The losses over LR, raw and smoothed, with the suggested LRs; saved where `path` is given.

    Raises:
        ValueError: a suffix of `path` that matplotlib cannot write.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        figure.patch.set_alpha(0.0)
        axes = figure.subplots()
        axes.patch.set_alpha(0.0)
        axes.set_xlabel("LR of the first parameter group")
        axes.set_ylabel("training loss")
        if curve.lrs:
            _draw_curve(axes, curve)
            _mark(axes, curve, suggestions)
        else:
            reason = next(iter(suggestions.values())).reason
            axes.set_title(reason)
        if path is not None:
            save_figure(figure, Path(path))
    return figure


def _draw_curve(axes: Axes, curve: FinderCurve) -> None:
    axes.set_xscale("log")
    axes.plot(curve.lrs, curve.losses, ".", ms=4, color=INK, alpha=0.6, label="loss of each batch")
    axes.plot(curve.lrs, curve.smoothed(), color=CURVE, lw=1.8, label="smoothed")
    low, high = _limits(curve)
    axes.set_ylim(low, high)
    if curve.exploded:
        axes.axvline(curve.lrs[-1], color=INK, lw=1.0, ls=":")
        axes.annotate(
            "explodes",
            (curve.lrs[-1], 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(-3, -2),
            textcoords="offset points",
            ha="right",
            va="top",
            rotation=90,
        )


def _limits(curve: FinderCurve) -> tuple[float, float]:
    """What is shown: the fall, and as much above the start."""
    losses = np.asarray(curve.losses)
    low, start = float(losses.min()), max(curve.start_loss, float(losses[0]))
    high = min(float(losses.max()), start + 1.2 * max(start - low, 0.05 * abs(start)))
    margin = 0.06 * max(high - low, 1e-9)
    return low - margin, high + margin


def _mark(axes: Axes, curve: FinderCurve, suggestions: dict[str, Suggestion]) -> None:
    smoothed, log_lrs = curve.smoothed(), np.log(curve.lrs)
    for rule, suggestion in suggestions.items():
        color, marker = MARKS[rule]
        if suggestion.lr is None:
            continue
        loss = float(np.interp(math.log(suggestion.lr), log_lrs, smoothed))
        axes.axvline(suggestion.lr, color=color, lw=0.9, alpha=0.7)
        axes.plot(
            [suggestion.lr], [loss], marker, ms=7, color=color, label=f"{rule}: {suggestion.lr:.2g}", zorder=3
        )
    missing = {s.reason for s in suggestions.values() if s.lr is None}
    if len(missing) == 1 and all(s.lr is None for s in suggestions.values()):
        axes.set_title("no suggestion: " + missing.pop().split(":")[0])
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2)


def save_figure(figure: Figure, path: Path) -> None:
    """Write `figure` to `path`, with the same bytes for the same figure. Raises ValueError on a suffix."""
    suffix = path.suffix.lower().removeprefix(".")
    known = figure.canvas.get_supported_filetypes()
    if suffix not in known:
        raise ValueError(
            f"{path.name}: a figure cannot be saved as {suffix or 'no suffix'!r}; take .svg or .png"
        )
    fixed = {"Date": None, "Creator": None} if suffix == "svg" else {}
    figure.savefig(path, format=suffix, dpi=160, metadata=fixed)
