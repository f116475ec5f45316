"""The report's figures: small multiples, one colour and dash per method everywhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from metalr.comparison.curves import CURVES, draw_curves
from metalr.comparison.panels import DASHES, MARKERS, PALETTE, legend, log_axis, panel
from metalr.comparison.protocol import METHODS, Cell, cells_of, is_controlled
from metalr.comparison.svg import INK, as_svg, drawing_style
from metalr.config import ExperimentConfig
from metalr.training.records import RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Picture", "draw_figures"]

_TIME_PARTS = {
    "train": ("training", "#2F80C3"),
    "eval": ("evaluation", "#808080"),
    "control": ("control", "#DB5A00"),
}

MOST_LINES = 8
"""More lines than this in one panel cannot be told apart."""
_WELL_KNOWN = ("constant", "step", "cosine")


@dataclass(frozen=True)
class Picture:
    """One figure: a file name without ending, what it shows, the group it belongs to, and its SVG."""

    name: str
    kind: str
    title: str
    group: tuple[str, int]
    svg: str


def draw_figures(
    records: Sequence[RunRecord], summary: Mapping[str, Any], config: ExperimentConfig
) -> list[Picture]:
    """Every figure of the report, group by group (task and budget), the same bytes for the same records."""
    with drawing_style():
        placed = [(cell, record) for record in records for cell in cells_of(record.spec, config)]
        return [picture for group in summary["tuned"] for picture in _group_pictures(placed, summary, group)]


def _group_pictures(
    placed: Sequence[tuple[Cell, RunRecord]], summary: Mapping[str, Any], group: Mapping[str, Any]
) -> Iterable[Picture]:
    key = (group["task"], group["budget_epochs"])
    cells = [cell for cell in summary["cells"] if (cell["task"], cell["budget_epochs"]) == key]
    whole: dict[str, tuple[str, Callable[[], Figure]]] = {
        "accuracy-by-lr": ("Final test accuracy by initial LR", lambda: _accuracy_by_lr(cells, group)),
        "wall-time": ("Mean wall time of a run (s)", lambda: _wall_time(cells)),
    }
    where = f", {key[0]}" if len({other["task"] for other in summary["tuned"]}) > 1 else ""
    of_task = [cell for cell in summary["cells"] if cell["task"] == key[0]]
    if cells and cells[0] is of_task[0]:  # one map for all budgets of a task, beside its first
        words = "Regret (pp): method by initial LR and budget (epochs)"
        yield _picture("regret", words + where, key, "", _regret_map(of_task))
    for kind, (title, draw) in whole.items():
        yield _picture(kind, f"{title}, {key[1]} epochs{where}", key, "", draw())
    for cell in cells:
        lr = cell["initial_lr"]
        by_method = _runs_of(placed, Cell(*key, lr), _shown(cell["methods"], group))
        for kind, title in CURVES.items():
            words = f"{title} from {'' if kind == 'lr' else 'LR '}{lr:g}, {key[1]} epochs{where}"
            yield _picture(kind, words, key, f"-lr{lr:g}", draw_curves(by_method, kind))


def _picture(kind: str, title: str, key: tuple[str, int], suffix: str, figure: Figure) -> Picture:
    task = re.sub(r"[^a-z0-9.]+", "-", key[0].lower()).strip("-")
    return Picture(f"{kind}-{task}-t{key[1]}{suffix}", kind, title, key, as_svg(figure, title))


def _runs_of(
    placed: Sequence[tuple[Cell, RunRecord]], cell: Cell, methods: Sequence[str]
) -> dict[str, list[RunRecord]]:
    mine = sorted((record for place, record in placed if place == cell), key=lambda record: record.spec.seed)
    return {method: [r for r in mine if r.spec.method == method] for method in methods}


def _shown(methods: Iterable[str], group: Mapping[str, Any]) -> list[str]:
    """The methods a panel of lines can hold: of many the controllers, the reference and a few well known."""
    present = [str(method) for method in METHODS if method in methods]
    if len(present) <= MOST_LINES:
        return present
    chosen = {*_WELL_KNOWN, group["best"], group["best_of_all"]}
    return [method for method in present if method in chosen or is_controlled(method)]


def _accuracy_by_lr(cells: Sequence[Mapping[str, Any]], group: Mapping[str, Any]) -> Figure:
    figure, axes = panel()
    methods = _shown(_methods(cells), group)
    for index, method in enumerate(methods):
        points = [
            (c["initial_lr"], c["methods"][method]["test_accuracy_pct"])
            for c in cells
            if method in c["methods"]
        ]
        # Methods stand a little apart in x, so that intervals do not hide each other.
        lrs = [lr * 1.06 ** (index - (len(methods) - 1) / 2) for lr, _ in points]
        means = [entry["mean"] for _, entry in points]
        limits = [entry["ci95"] or [entry["mean"], entry["mean"]] for _, entry in points]
        errors = [[max(0.0, m - lo) for m, (lo, _) in zip(means, limits, strict=True)],
                  [max(0.0, hi - m) for m, (_, hi) in zip(means, limits, strict=True)]]  # fmt: skip
        axes.errorbar(
            lrs, means, yerr=errors, color=PALETTE[method], linestyle=DASHES[method], marker=MARKERS[method],
            markersize=4.5, linewidth=1.5, elinewidth=1.2, capsize=2, label=method,
        )  # fmt: skip
    if group["best"]:
        reference = group["methods"][group["best"]]["test_accuracy_pct"]["mean"]
        axes.axhline(reference, color=INK, linewidth=0.9, linestyle=(0, (2, 2)), label="tuned best")
    axes.set_xscale("log")
    grid = [cell["initial_lr"] for cell in cells]
    axes.set_xlim(min(grid) / 1.6, max(grid) * 1.6)
    log_axis(axes.xaxis, grid if len(grid) <= 6 else None)
    axes.set(xlabel="initial LR", ylabel="final test accuracy (%)")
    legend(figure, axes)
    return figure


def _methods(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    return [method for method in METHODS if any(method in cell["methods"] for cell in cells)]


def _regret_map(cells: Sequence[Mapping[str, Any]]) -> Figure:
    """Purple is better than the tuned best, white as good, orange worse; every number is printed."""
    import matplotlib

    methods = _methods(cells)
    regret = [[_regret(cell, method) for cell in cells] for method in methods]
    known = [abs(value) for row in regret for value in row if value is not None]
    # Beyond 10 pp everything is as orange as can be, so that one wreck does not bleach the rest.
    span = min(10.0, max(1.0, max(known, default=1.0)))
    figure, axes = panel(1.1 + 0.36 * len(methods))
    colors = matplotlib.colormaps["PuOr_r"]
    values = np.array([[np.nan if v is None else v for v in row] for row in regret])
    axes.pcolormesh(np.ma.masked_invalid(values), cmap=colors, vmin=-span, vmax=span, edgecolors=INK, lw=0.3)
    size = 9.0 if len(cells) <= 6 else 6.5
    for y, row in enumerate(regret):
        for x, value in enumerate(row):
            text = "–" if value is None else f"{value:+.1f}"  # noqa: RUF001
            axes.text(
                x + 0.5,
                y + 0.5,
                text,
                ha="center",
                va="center",
                size=size,
                color=_contrast(value, span, colors),
            )
    labels = [f"{cell['initial_lr']:g}\n{cell['budget_epochs']}" for cell in cells]
    axes.set_xticks(np.arange(len(cells)) + 0.5, labels, size=size)
    axes.set_yticks(np.arange(len(methods)) + 0.5, methods)
    axes.invert_yaxis()
    axes.grid(False)
    axes.set_xlabel("initial LR, and below it the budget in epochs")
    return figure


def _regret(cell: Mapping[str, Any], method: str) -> float | None:
    entry = cell["methods"].get(method)
    value: float | None = entry["regret_pp"]["mean"] if entry else None
    return value


def _contrast(value: float | None, span: float, colors: Any) -> str:
    if value is None:
        return INK
    red, green, blue, _ = colors(min(1.0, max(0.0, 0.5 + value / (2 * span))))
    # Pure black would be left out of the SVG as the default, and then take the page's colour.
    return "#111111" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.45 else "#ffffff"


def _wall_time(cells: Sequence[Mapping[str, Any]]) -> Figure:
    methods = _methods(cells)
    figure, axes = panel(1.3 + 0.3 * len(methods))
    left = np.zeros(len(methods))
    for part, (label, color) in _TIME_PARTS.items():
        widths = np.array([_mean_time(cells, method, part) for method in methods])
        axes.barh(methods, widths, left=left, color=color, label=label, height=0.62)
        left = left + widths
    for y, total in enumerate(left):
        axes.annotate(f"{total:.3g}", (total, y), xytext=(4, 0), textcoords="offset points", va="center")
    axes.set_xlim(0.0, 1.18 * max(left.max(), 1e-9))
    axes.set_ylim(len(methods) - 0.4, -0.6)  # the first on top, and no empty rows
    axes.grid(False, axis="y")
    axes.set_xlabel("seconds a run, mean over cells and seeds")
    legend(figure, axes)
    return figure


def _mean_time(cells: Sequence[Mapping[str, Any]], method: str, part: str) -> float:
    entries = [cell["methods"][method] for cell in cells if method in cell["methods"]]
    times = [entry[f"{part}_time_s"] for entry in entries if entry[f"{part}_time_s"] is not None]
    return float(np.mean(times)) if times else 0.0
