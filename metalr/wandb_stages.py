"""What a recipe's stages show in Weights & Biases: artifacts with their lineage, the comparison's figures.

Lineage: meta-dataset -> controllers -> comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metalr.config import ExperimentConfig
from metalr.training.artifacts import read_json
from metalr.training.tracking import Tracker

__all__ = [
    "COMPARISON_COLUMNS",
    "StageFiles",
    "log_comparison",
    "log_controller",
    "log_meta_dataset",
    "stage_files",
]

COMPARISON_COLUMNS = (
    "budget_epochs", "initial_lr", "method", "test_accuracy_pct", "ci95_low", "ci95_high", "seeds",
    "test_loss", "regret_pp", "wall_time_s", "control_time_s", "lr_variance", "schedule_efficiency",
    "num_diverged",
)  # fmt: skip
"""Columns of the table `comparison`: one row for every cell and method."""
OVERALL_FIGURES = ("mean_regret_pp", "worst_cell_regret_pp", "sensitivity_pp", "mean_rank", "overhead_pct")
"""Figures of a method over all cells, in the summary of the comparison's run as `figure/method`."""


@dataclass(frozen=True)
class StageFiles:
    """What a stage left behind, and how it is shown."""

    job_type: str
    files: list[Path]
    log: Callable[[Tracker], None]


def stage_files(config: ExperimentConfig) -> list[StageFiles]:
    """The stages of the recipe whose files are there, in the order of the lineage."""
    stages = []
    data = Path("meta_data") / config.name
    if (data / "card.json").is_file():
        files = meta_dataset_files(data)
        stages.append(
            StageFiles("metadataset", files, lambda tracker: log_meta_dataset(tracker, config, data))
        )
    controllers = Path(config.store) / "controllers" / config.name
    weights = sorted(controllers.glob("*.safetensors"))
    if weights:
        files = [file for path in weights for file in (path, path.with_suffix(".json"))]
        stages.append(
            StageFiles("train-meta", files, lambda tracker: _log_controllers(tracker, config, weights))
        )
    results = Path("experiments") / "results" / config.name
    if (results / "summary.json").is_file():
        learners = [path.stem for path in weights]
        files = [path for name in ("report.html", "summary.json") if (path := results / name).is_file()]
        stages.append(
            StageFiles("compare", files, lambda tracker: _log_compared(tracker, config, learners, results))
        )
    return stages


def meta_dataset_files(folder: Path) -> list[Path]:
    """The tables and the card of a meta-dataset."""
    return sorted(path for path in folder.iterdir() if path.suffix in {".parquet", ".json"})


def log_meta_dataset(tracker: Tracker, config: ExperimentConfig, folder: Path) -> None:
    """The meta-dataset as a version of its artifact, with its counts."""
    counts = read_json(folder / "card.json")["counts"]
    tracker.log_artifact(f"meta-dataset-{config.name}", "dataset", meta_dataset_files(folder), counts)


def log_controller(tracker: Tracker, config: ExperimentConfig, path: Path) -> None:
    """The controller at `path` as a version of its artifact, with its card."""
    card = path.with_suffix(".json")
    tracker.log_artifact(f"controller-{config.name}-{path.stem}", "model", [path, card], read_json(card))


def log_comparison(tracker: Tracker, config: ExperimentConfig, results: Path) -> None:
    """The comparison's table, its figures over all cells in the summary, and its report as an artifact."""
    summary = read_json(results / "summary.json")
    tracker.log_table("comparison", COMPARISON_COLUMNS, comparison_rows(summary))
    tracker.summary(comparison_figures(summary))
    files = [path for name in ("report.html", "summary.json") if (path := results / name).is_file()]
    tracker.log_artifact(f"comparison-{config.name}", "report", files, {"cells": len(summary["cells"])})


def comparison_rows(summary: Mapping[str, Any]) -> list[list[Any]]:
    """The rows of the table `comparison`; None where a figure is missing."""
    return [
        _row(cell, name, figures) for cell in summary["cells"] for name, figures in cell["methods"].items()
    ]


def _row(cell: Mapping[str, Any], name: str, figures: Mapping[str, Any]) -> list[Any]:
    accuracy, regret = figures.get("test_accuracy_pct") or {}, figures.get("regret_pp") or {}
    low, high = accuracy.get("ci95") or (None, None)
    loss = (figures.get("test_loss") or {}).get("mean")
    plain = ("wall_time_s", "control_time_s", "lr_variance", "schedule_efficiency", "num_diverged")
    head = [
        cell["budget_epochs"],
        cell["initial_lr"],
        name,
        accuracy.get("mean"),
        low,
        high,
        accuracy.get("n"),
    ]
    return [*head, loss, regret.get("mean"), *(figures.get(key) for key in plain)]


def comparison_figures(summary: Mapping[str, Any]) -> dict[str, float]:
    """`figure/method` -> value, for every method and figure over all cells."""
    return {
        f"{figure}/{name}": row[figure]
        for figure in OVERALL_FIGURES
        for name, row in summary["overall"].items()
        if row.get(figure) is not None
    }


def _log_controllers(tracker: Tracker, config: ExperimentConfig, weights: list[Path]) -> None:
    tracker.use_artifact(f"meta-dataset-{config.name}", "dataset")
    for path in weights:
        log_controller(tracker, config, path)


def _log_compared(tracker: Tracker, config: ExperimentConfig, learners: list[str], results: Path) -> None:
    for name in learners:
        tracker.use_artifact(f"controller-{config.name}-{name}", "model")
    log_comparison(tracker, config, results)
