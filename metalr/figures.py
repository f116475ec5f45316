"""Figures of one network and of the schedules: the gallery, and a training's curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from metalr.comparison.panels import log_axis
from metalr.comparison.svg import INK, as_svg, drawing_style
from metalr.training import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_ablation", "draw_schedules", "draw_training"]

_LR_COLOR, _TRAIN_COLOR, _VALID_COLOR = "#2F80C3", "#808080", "#DB5A00"
_COLUMNS = 3
_TITLES = {"greedy": "greedy (log axis)", "explore": "explore, one draw (log axis)"}
"""Schedules that move by factors, both ways."""
_LOG_FROM = 300.0
"""The LR axis is logarithmic where the largest LR is so many times the smallest at an epoch's end."""


def draw_schedules(lrs: Mapping[str, Sequence[float]], total_epochs: int, title: str) -> str:
    """The gallery as an SVG document: a small panel a schedule, its LR over epochs.

    Args:
        lrs: Schedule name -> LR of every step over the budget.
        total_epochs: The budget.
        title: For screen readers.
    """
    from matplotlib.figure import Figure

    num_rows = -(-len(lrs) // _COLUMNS)
    columns = min(_COLUMNS, len(lrs))
    with drawing_style():
        figure = Figure(figsize=(2.6 * columns, 1.55 * num_rows + 0.25), layout="constrained")
        grid = figure.subplots(num_rows, columns, sharex=True, squeeze=False)
        for axes, (name, values) in zip(grid.flat, lrs.items(), strict=False):
            _draw_schedule(axes, name, values, total_epochs)
        for axes in list(grid.flat)[len(lrs) :]:
            axes.set_axis_off()
        for axes in grid[-1]:
            axes.set_xlabel("epoch")
        return as_svg(figure, title)


def _draw_schedule(axes: Axes, name: str, values: Sequence[float], total_epochs: int) -> None:
    per_epoch = len(values) / total_epochs
    epochs = [(step + 0.5) / per_epoch for step in range(len(values))]
    axes.plot(epochs, values, color=_LR_COLOR, lw=1.6, drawstyle="steps-mid")
    axes.set_title(_TITLES.get(name, name))
    axes.set_xlim(0, total_epochs)
    axes.locator_params(axis="x", nbins=5)
    if name in _TITLES:
        axes.set_yscale("log")
        axes.set_ylim(10.0 ** math.floor(math.log10(min(values))), 10.0 ** math.ceil(math.log10(max(values))))
        log_axis(axes.yaxis)
    else:
        axes.set_ylim(0, max(values) * 1.08)
        axes.locator_params(axis="y", nbins=3)


def draw_training(record: RunRecord, lrs: Sequence[Mapping[str, Any]]) -> str:
    """Loss, accuracy and LR of one run over epochs as an SVG document.

    Args:
        record: The finished run.
        lrs: The LRs of each epoch's steps (`epoch`, `lrs`); without any, the epochs' means are drawn.
    """
    from matplotlib.figure import Figure

    with drawing_style():
        figure = Figure(figsize=(5.4, 6.2), layout="constrained")
        loss, accuracy, lr = figure.subplots(3, 1, sharex=True)
        _series(loss, record, "train/loss", "train", _TRAIN_COLOR, 1.0)
        _series(loss, record, "inner_valid/loss", "inner_valid", _VALID_COLOR, 1.0)
        loss.set_ylabel("cross-entropy (nats)")
        loss.legend(loc="best")
        _series(accuracy, record, "inner_valid/accuracy", "inner_valid", _VALID_COLOR, 100.0)
        accuracy.set_ylabel("accuracy (%)")
        _draw_lr(lr, record, lrs)
        best = record.result.get("best_epoch")
        if best:
            for axes in (loss, accuracy, lr):
                axes.axvline(best, color=INK, lw=0.8, ls=(0, (2, 2)))
            accuracy.set_title(f"best epoch {best}; the run ended after epoch {len(record.epochs)}")
        return as_svg(figure, f"Training {record.run_id} under {record.spec.method}")


def _series(axes: Axes, record: RunRecord, key: str, label: str, color: str, scale: float) -> None:
    points = [(row["epoch"], scale * row[key]) for row in record.epochs if row.get(key) is not None]
    marker = "o" if len(points) == 1 else "none"
    axes.plot([x for x, _ in points], [y for _, y in points], color=color, lw=1.6, marker=marker, label=label)


def _draw_lr(axes: Axes, record: RunRecord, lrs: Sequence[Mapping[str, Any]]) -> None:
    from matplotlib.ticker import MaxNLocator

    epochs: list[float] = []
    values: list[float] = []
    for row in lrs:
        steps = row["lrs"]
        epochs += [row["epoch"] - 1 + (step + 0.5) / len(steps) for step in range(len(steps))]
        values += steps
    if not values:
        epochs = [row["epoch"] - 0.5 for row in record.epochs]
        values = [row["lr"] for row in record.epochs]
    marker = "o" if len(values) == 1 else "none"
    axes.plot(epochs, values, color=_LR_COLOR, lw=1.6, marker=marker, drawstyle="steps-mid")
    means = [row["lr"] for row in record.epochs if row["lr"]]
    if means and max(means) > _LOG_FROM * min(means):
        axes.set_yscale("log")
        log_axis(axes.yaxis)
    elif values and max(values) > 0.0:
        axes.set_ylim(0.0, 1.08 * max(values))
    axes.set_ylabel("LR of each step" if lrs else "LR of each epoch")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))


def draw_ablation(entries: Sequence[Mapping[str, Any]]) -> str:
    """Each row's paired difference in points with its interval, top to bottom, as an SVG document."""
    from matplotlib.figure import Figure

    rows = [entry for entry in entries if "paired" in entry]
    with drawing_style():
        figure = Figure(figsize=(6.2, 0.7 + 0.27 * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        for place, entry in enumerate(rows):
            found = entry["paired"]["difference_pp"]
            color = {"above": "#0F9D76", "below": _VALID_COLOR}.get(
                entry["paired"]["judgement"], _TRAIN_COLOR
            )
            if found["ci95"]:
                axes.plot(found["ci95"], [place, place], color=color, lw=2.2, solid_capstyle="butt")
            axes.plot([found["mean"]], [place], color=color, marker="o", markersize=5)
        axes.axvline(0.0, color=INK, lw=0.9)
        axes.set_yticks(range(len(rows)), [entry["row"] for entry in rows])
        axes.invert_yaxis()
        axes.set_xlabel("difference in final test accuracy (points)")
        return as_svg(figure, "Paired differences of each change")
