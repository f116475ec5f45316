"""The LR that each method drew in the first seed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from metalr.comparison.svg import INK, as_svg, drawing_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

COLORS = {
    "tuned cosine": INK,
    "MetaLR, probe": "#2f7ed8",
    "MetaLR": "#d9822b",
    "MetaLR, unknown total": "#3a9a5b",
    "MetaLR, train loss only": "#a05fb4",
}
DASHES = {"MetaLR, train loss only": (0, (1.5, 1.5)), "tuned cosine": (0, (4, 2))}


def draw(loop: str, summary: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """SVG of a row of panels an optimizer, a panel a user's LR."""
    from matplotlib.figure import Figure

    seed = summary["seeds"][0]
    mine = [row for row in rows if row["loop"] == loop and row["seed"] == seed]
    judged = summary["results"][loop]
    num_starts = max(len(values["starts"]) for values in judged.values())
    with drawing_style():
        figure = Figure(figsize=(2.9 * num_starts + 0.6, 4.6), layout="constrained")
        panels = figure.subplots(len(judged), num_starts, sharex=True, sharey="row", squeeze=False)
        for line, (optimizer, values) in zip(panels, judged.items(), strict=True):
            for axes, start in zip(line, values["starts"], strict=True):
                _draw_panel(axes, dict(_curves(mine, optimizer, start, values["tuned"]["lr"])))
                axes.set_title(f"{optimizer}, the user's LR {start:g}")
            line[0].set_ylabel("mean LR of the epoch")
        for axes in panels[-1]:
            axes.set_xlabel("epochs")
        handles, labels = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
        return as_svg(figure, f"LR of each epoch on {loop}, seed {seed}")


def _curves(
    rows: list[dict[str, Any]], optimizer: str, start: float, tuned_lr: float
) -> Iterator[tuple[str, list[float]]]:
    for name in COLORS:
        method, lr = ("cosine", tuned_lr) if name == "tuned cosine" else (name, start)
        for row in rows:
            if (row["optimizer"], row["method"], row["lr"]) == (optimizer, method, lr):
                yield name, row["lrs"]


def _draw_panel(axes: Axes, curves: dict[str, list[float]]) -> None:
    for name, lrs in curves.items():
        dash = DASHES.get(name, "-")
        axes.plot(
            range(1, len(lrs) + 1), lrs, color=COLORS[name], ls=dash, lw=1.4, marker=".", ms=3, label=name
        )
    axes.set_yscale("log")
