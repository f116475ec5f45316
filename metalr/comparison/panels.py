"""What all figures share: one colour, dash and marker per method, one panel size, one legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["DASHES", "MARKERS", "PALETTE", "legend", "log_axis", "panel"]

PALETTE: Mapping[str, str] = {
    "constant": "#808080",
    "step": "#B07D00",
    "exponential": "#8C6BB8",
    "inverse_time": "#A0745A",
    "polynomial": "#5B8C3E",
    "linear": "#0F9D76",
    "cosine": "#2F80C3",
    "restarts": "#3E93A8",
    "cyclical": "#2E8B8B",
    "one_cycle": "#C9487B",
    "plateau": "#9C7A86",
    "wsd": "#3A9A4B",
    "rex": "#5E7FD0",
    "greedy": "#C06A3C",
    "explore": "#7A8691",
    "find": "#A653B5",
    "schedule-free-sgd": "#7F8F2A",
    "schedule-free-adamw": "#008FA3",
    "prodigy": "#B5793B",
    "dadapt-sgd": "#8F8F3C",
    "dog": "#94729C",
    "mechanic-sgd": "#5A8FA0",
    "hypergradient-sgd": "#B56A72",
    "metalr-mlp": "#DB5A00",
    "metalr-lstm": "#C2619B",
    "metalr-mlp-sf": "#D2334A",
    "metalr-lstm-sf": "#8E62D9",
}
"""After Okabe and Ito, shaded so that each is readable on white and on near-black. Those that usually
share a panel of lines (`constant`, `step`, `cosine`, `wsd`, Schedule-Free, controllers) are far apart."""

_DASHES: tuple[Any, ...] = (
    (0, (1, 1.2)),
    (0, (4, 1.5)),
    (0, (6, 1.5, 1, 1.5)),
    (0, (3, 1, 1, 1, 1, 1)),
    (0, (2, 1)),
    (0, (5, 1, 2, 1)),
)
DASHES: Mapping[str, Any] = (
    {
        "constant": _DASHES[0],
        "step": _DASHES[1],
        "cosine": _DASHES[2],
        "linear": _DASHES[3],
        "metalr-mlp": "solid",
        "metalr-lstm": (0, (8, 1.2)),
        "metalr-mlp-sf": (0, (9, 1, 1, 1)),
        "metalr-lstm-sf": (0, (9, 1, 3, 1)),
    }
    | {
        name: _DASHES[index % len(_DASHES)]
        for index, name in enumerate(
            (
                *("exponential", "inverse_time", "polynomial", "restarts", "cyclical", "one_cycle"),
                *("plateau", "wsd", "rex", "greedy", "explore", "find"),
                *("schedule-free-sgd", "schedule-free-adamw", "prodigy", "dadapt-sgd", "dog", "mechanic-sgd"),
                "hypergradient-sgd",
            )
        )
    }
    | {"wsd": _DASHES[5], "schedule-free-sgd": _DASHES[3], "schedule-free-adamw": _DASHES[4]}
)
"""Line style of each method, so that colour is never the only difference between neighbours in the legend."""

MARKERS: Mapping[str, str] = {
    "constant": "s", "step": "^", "exponential": "<", "inverse_time": ">", "polynomial": "p", "linear": "v",
    "cosine": "D", "restarts": "d", "cyclical": "X", "one_cycle": "*", "plateau": "h", "wsd": "H", "rex": "8",
    "greedy": "1", "explore": "x", "find": "2", "schedule-free-sgd": "3",
    "schedule-free-adamw": "4", "prodigy": "+", "dadapt-sgd": "|", "dog": "_",
    "mechanic-sgd": ".", "hypergradient-sgd": ",", "metalr-mlp": "o", "metalr-lstm": "P",
    "metalr-mlp-sf": "$o$", "metalr-lstm-sf": "$+$",
}  # fmt: skip
"""Marker of each method."""

_LEGEND_COLUMNS = 3
_LEGEND_ROW_INCHES = 0.17
PANEL_INCHES = (4.3, 3.2)
"""Small enough to stand at full size on a phone."""


def panel(height: float = PANEL_INCHES[1]) -> tuple[Figure, Axes]:
    """An empty figure of one plot, `height` in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(PANEL_INCHES[0], height), layout="constrained")
    return figure, figure.add_subplot()


def legend(figure: Figure, axes: Axes) -> None:
    """Put the legend of `axes` under it, in three columns; many methods make the figure taller."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        width, height = figure.get_size_inches()
        num_rows = -(-len(handles) // _LEGEND_COLUMNS)
        figure.set_size_inches(width, height + _LEGEND_ROW_INCHES * max(0, num_rows - 2))
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=_LEGEND_COLUMNS,
            handlelength=2.6,
            columnspacing=1.2,
        )


def log_axis(axis: Any, ticks: Sequence[float] | None = None) -> None:
    """Label a logarithmic axis with plain numbers, at `ticks` where given."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

    axis.set_major_locator(FixedLocator(ticks) if ticks else LogLocator(numticks=7))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
