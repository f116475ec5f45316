"""The Weights & Biases workspace of a recipe, built from code: learning rate, accuracy, regret, comparison.

With a login it is saved and its address printed; without, its definition is written to a file. Either way
every key that a panel uses is checked against the keys that trainings and stages log.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from metalr.config import ConfigError, ExperimentConfig
from metalr.display import Display
from metalr.training.artifacts import write_json
from metalr.training.tracking import tracking_mode
from metalr.wandb_stages import OVERALL_FIGURES

__all__ = ["dashboard", "logged_keys", "used_keys", "workspace"]

ROW_KEYS = (
    "epoch", "lr", "lr_last", "train/loss", "inner_valid/loss", "inner_valid/accuracy",
    "time/train_s", "time/eval_s", "time/control_s",
)  # fmt: skip
"""What a training logs every epoch."""
SUMMARY_KEYS = (
    "run_id", "status", "final/inner_valid/accuracy", "final/inner_valid/loss", "final/outer_valid/accuracy",
    "final/outer_valid/loss", "final/test/accuracy", "final/test/loss",
    "timing/train_s", "timing/eval_s", "timing/control_s", "timing/wall_s",
)  # fmt: skip
"""What a training leaves in its summary."""
CONFIG_KEYS = ("method", "seed", "initial_lr", "budget_epochs")
"""Settings of a training that panels group and compare by."""


def dashboard(config: ExperimentConfig, display: Display) -> Path | str:
    """Save the workspace of the recipe, or write its definition where there is no login; returns where it is.

    Raises:
        ConfigError: wandb-workspaces is not installed, a panel uses a key that nothing logs, or W&B refuses.
    """
    made = workspace(config)
    problems = sorted(used_keys(made) - logged_keys(config))
    if problems:
        raise ConfigError([f"dashboard: nothing logs {key}, which a panel shows" for key in problems])
    if tracking_mode(config.wandb) == "online":
        return _saved(made)
    path = Path(config.store) / "dashboard" / f"{config.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, _definition(made))
    display.announce(
        "Dashboard: W&B is not online, so its definition was checked and written; after `wandb login` "
        "the same command saves it:"
    )
    return path


def workspace(config: ExperimentConfig) -> Any:
    """The `wandb_workspaces` workspace of the recipe's trainings and stages.

    Raises:
        ConfigError: the package is not installed.
    """
    ws = _package("workspaces")
    return ws.Workspace(
        entity=config.wandb.entity or "",
        project=config.wandb.project,
        name=f"metalr {config.name}",
        sections=[
            ws.Section(name=name, panels=panels, is_open=True) for name, panels in _sections(config).items()
        ],
        settings=ws.WorkspaceSettings(x_axis="epoch", max_runs=100),
        runset_settings=ws.RunsetSettings(
            groupby=[ws.Config("method")], filters=ws.And(ws.Metric("group") == config.name)
        ),
        auto_generate_panels=False,
    )


def _package(part: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # its own, of pydantic's first version
            return import_module(f"wandb_workspaces.{part}")
    except ImportError:
        problem = "it needs the package wandb-workspaces, which is not installed"
        raise ConfigError([f"dashboard: {problem}: pip install 'metalr[dashboard]'"]) from None


def _sections(config: ExperimentConfig) -> dict[str, list[Any]]:
    wr = _package("reports.v2")

    def line(title: str, key: str, unit: str, *, log: bool = False) -> Any:
        return wr.LinePlot(
            title=title, x="epoch", y=[key], title_x="epoch", title_y=unit, log_y=log,
            groupby=wr.Config("method"), groupby_aggfunc="mean", groupby_rangefunc="stderr",
        )  # fmt: skip

    def final(title: str, key: str, unit: str) -> Any:
        return wr.BarPlot(title=title, metrics=[key], title_x=unit, groupby=wr.Config("method"))

    def overall(title: str, figure: str, unit: str) -> Any:
        return wr.BarPlot(title=title, metrics=[f"{figure}/{name}" for name in methods], title_x=unit)

    methods = list(config.compare.methods)
    return {
        "Learning rate": [line("Learning rate", "lr", "mean over the epoch", log=True)],
        "Accuracy and loss": [
            line("Inner validation accuracy", "inner_valid/accuracy", "fraction"),
            line("Inner validation loss", "inner_valid/loss", "nats"),
            line("Training loss", "train/loss", "nats"),
        ],
        "Final figures": [
            final("Final test accuracy", "final/test/accuracy", "fraction"),
            final("Final test loss", "final/test/loss", "nats"),
            wr.ScatterPlot(
                title="Final test accuracy by initial LR",
                x=wr.Config("initial_lr"),
                y=wr.SummaryMetric("final/test/accuracy"),
                log_x=True,
            ),
        ],
        "Regret": [
            overall("Mean regret against the best tuned hand schedule", "mean_regret_pp", "points"),
            overall("Regret in the worst cell", "worst_cell_regret_pp", "points"),
            overall("Sensitivity to the initial LR", "sensitivity_pp", "points"),
        ],
        "Comparison": [wr.WeavePanelSummaryTable(table_name="comparison")],
        "Time": [
            final("Wall time of a training", "timing/wall_s", "s"),
            final("Time spent on control", "timing/control_s", "s"),
        ],
    }


def logged_keys(config: ExperimentConfig) -> set[str]:
    """Every key that a panel may use: of trainings, of the comparison's run, and of a training's settings."""
    figures = {f"{figure}/{method}" for figure in OVERALL_FIGURES for method in config.compare.methods}
    return {*ROW_KEYS, *SUMMARY_KEYS, *CONFIG_KEYS, *figures, "comparison"}


def used_keys(made: Any) -> set[str]:
    """Every metric, setting and table that the panels of a workspace name."""
    return {key for section in made.sections for panel in section.panels for key in _keys_of(panel)}


def _keys_of(panel: Any) -> Iterator[str]:
    fields = [getattr(panel, name, None) for name in ("x", "y", "z", "metrics", "groupby", "table_name")]
    for field in fields:
        for value in field if isinstance(field, Sequence) and not isinstance(field, str) else [field]:
            name = getattr(value, "name", value)
            if name is not None:
                yield str(name)


def _definition(made: Any) -> Any:
    return made._to_model().model_dump(mode="json", by_alias=True)


def _saved(made: Any) -> str:
    try:
        made.save()
    except Exception as error:
        cause = " ".join(str(error).split())[:200]
        raise ConfigError([f"dashboard: W&B did not take it ({type(error).__name__}: {cause})"]) from None
    return str(made.url)
