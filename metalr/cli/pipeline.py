"""The stages: meta-dataset, controllers, comparison, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from metalr.cli.application import Arguments, app, run_stage
from metalr.config import ExperimentConfig
from metalr.display import Display

__all__ = ["compare", "metadataset", "report", "train_meta"]


@app.command()
def metadataset(
    arguments: Arguments = None,
    as_is: Annotated[
        bool, typer.Option("--as-is", help="Train nothing: write it from the runs that are finished.")
    ] = False,
) -> None:
    """Run and fork baseline trainings; write the meta-dataset and its card."""

    def stage(config: ExperimentConfig, display: Display) -> Path:
        from metalr import stages

        return stages.metadataset(config, display, as_is=as_is)

    run_stage(arguments, stage)


@app.command("train-meta")
def train_meta(arguments: Arguments = None) -> None:
    """Fit the meta-learners on the meta-dataset; write the controllers."""

    def stage(config: ExperimentConfig, display: Display) -> list[Path]:
        from metalr import stages

        return stages.train_meta(config, display)

    run_stage(arguments, stage)


@app.command()
def compare(arguments: Arguments = None) -> None:
    """Train under every method on paired seeds; write tables, figures and report.html."""

    def stage(config: ExperimentConfig, display: Display) -> Path:
        from metalr import stages

        return stages.compare(config, display)

    run_stage(arguments, stage)


@app.command()
def report(arguments: Arguments = None) -> None:
    """Write the report again from the records."""

    def stage(config: ExperimentConfig, display: Display) -> Path:
        from metalr import stages

        return stages.report(config, display)

    run_stage(arguments, stage, writes=False)
