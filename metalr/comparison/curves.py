"""Curves over epochs of one cell: LR, accuracy and loss, one line and band per method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from metalr.comparison.definitions import LOSS_NAMES
from metalr.comparison.measures import LR_FLOOR
from metalr.comparison.panels import DASHES, PALETTE, legend, log_axis, panel
from metalr.training.records import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["CURVES", "draw_curves"]

CURVES: Mapping[str, str] = {"lr": "LR", "accuracy": "Accuracy", "loss": "Loss"}
"""Kind of figure -> its title."""

_SPLITS = ("outer_valid", "inner_valid", "train")
"""Splits a curve may show, best first: the first one that every method recorded each epoch."""


def draw_curves(by_method: Mapping[str, Sequence[RunRecord]], kind: str) -> Figure:
    """Mean over finished runs with a band from the least to the largest seed.

    A diverged run is a thin line of its own that ends in a cross: leaving the mean, it would make it leap.
    """
    log = kind == "lr"
    figure, axes = panel()
    metric = "lr" if log else _metric(by_method, kind)
    for method, records in by_method.items():
        series = [(record.diverged, _series(record, metric, log)) for record in records]
        finished = [values for diverged, values in series if not diverged and values]
        wrecks = [values for diverged, values in series if diverged and values]
        _band(axes, method, finished, log)
        _wrecks(axes, method, wrecks, None if finished else f"{method} (all diverged)")
    if log:
        axes.set_yscale("log")
        log_axis(axes.yaxis)
    _integer_epochs(axes)
    axes.set_ylabel("LR of each epoch" if log else f"{metric.split('/')[0]} {_quantity(by_method, kind)}")
    legend(figure, axes)
    return figure


def _quantity(by_method: Mapping[str, Sequence[RunRecord]], kind: str) -> str:
    if kind == "accuracy":
        return "accuracy (%)"
    objectives = {record.spec.task.objective for records in by_method.values() for record in records}
    return " or ".join(sorted({LOSS_NAMES[objective] for objective in objectives}))


def _metric(by_method: Mapping[str, Sequence[RunRecord]], kind: str) -> str:
    keys = [f"{split}/{kind}" for split in _SPLITS]
    return next(
        (key for key in keys if all(_is_recorded(records, key) for records in by_method.values())), keys[1]
    )


def _is_recorded(records: Sequence[RunRecord], key: str) -> bool:
    return any(row.get(key) is not None for record in records for row in record.epochs)


def _integer_epochs(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    axes.set_xlabel("epoch")


def _band(axes: Axes, method: str, series: Sequence[Mapping[int, float]], log: bool) -> None:
    epochs = sorted({epoch for values in series for epoch in values})
    columns = [[values[epoch] for values in series if epoch in values] for epoch in epochs]
    if not epochs:
        return
    color = PALETTE[method]
    mean = [_center(column, log) for column in columns]
    marker = "o" if len(epochs) == 1 else "none"
    axes.plot(epochs, mean, color=color, ls=DASHES[method], lw=1.7, marker=marker, label=method)
    low, high = [min(column) for column in columns], [max(column) for column in columns]
    axes.fill_between(epochs, low, high, color=color, alpha=0.16, lw=0)


def _wrecks(axes: Axes, method: str, series: Sequence[Mapping[int, float]], label: str | None) -> None:
    color = PALETTE[method]
    for values in series:
        axes.plot(
            list(values), list(values.values()), color=color, ls=DASHES[method], lw=0.8, alpha=0.7,
            marker="x", markersize=6, markevery=[len(values) - 1], label=label,
        )  # fmt: skip
        label = None


def _series(record: RunRecord, metric: str, log: bool) -> dict[int, float]:
    values = {row["epoch"]: row.get(metric) for row in record.epochs}
    known = {epoch: float(v) for epoch, v in values.items() if v is not None and np.isfinite(v)}
    if metric.endswith("/accuracy"):
        return {epoch: 100.0 * value for epoch, value in known.items()}
    floor = LR_FLOOR * (max(known.values(), default=0.0) or 1.0)
    return {epoch: max(value, floor) for epoch, value in known.items()} if log else known


def _center(column: Sequence[float], log: bool) -> float:
    return float(np.exp(np.mean(np.log(column)))) if log else float(np.mean(column))
