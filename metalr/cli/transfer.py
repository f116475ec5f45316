"""Finished runs elsewhere: in one small file, and at Weights & Biases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from metalr.cli.application import Arguments, app, run_stage, runs_app, wandb_app
from metalr.config import ExperimentConfig
from metalr.display import Display

__all__ = ["dashboard", "pack", "push", "unpack"]

Archive = Annotated[Path, typer.Argument(metavar="FILE", help="A .jsonl.xz file.", show_default=False)]


@runs_app.command()
def pack(
    file: Archive,
    arguments: Arguments = None,
    run_ids_from: Annotated[
        list[Path] | None,
        typer.Option(
            help="A manifest.json: the runs it names; again for more. Default: all finished.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Put finished runs of the store into FILE, without checkpoints: the same runs, the same bytes."""

    def stage(config: ExperimentConfig, display: Display) -> Path:
        from metalr.training import RunStore, archive

        store = RunStore(config.store)
        named = [identity for path in run_ids_from or () for identity in archive.run_ids_of_manifest(path)]
        num_runs = archive.pack_runs(store, named if run_ids_from else archive.finished_runs(store), file)
        display.announce(f"Pack: {num_runs} runs, {file.stat().st_size:,} bytes")
        return file

    run_stage(arguments, stage, writes=False)


@runs_app.command()
def unpack(file: Archive, arguments: Arguments = None) -> None:
    """Put the runs of FILE into the store, all checked first; a finished run stays as it is."""

    def stage(config: ExperimentConfig, display: Display) -> Path:
        from metalr.training import RunStore, archive

        unpacked = archive.unpack_runs(file, RunStore(config.store))
        display.announce(f"Unpack: {len(unpacked.written)} runs, {len(unpacked.kept)} were there already")
        return Path(config.store)

    run_stage(arguments, stage)


@wandb_app.command()
def push(arguments: Arguments = None) -> None:
    """Send every finished run of the store that has not been sent, one W&B run each."""

    def stage(config: ExperimentConfig, display: Display) -> Path:
        from metalr import wandb_push

        return wandb_push.push(config, display)

    run_stage(arguments, stage)


@app.command()
def dashboard(arguments: Arguments = None) -> None:
    """Build the Weights & Biases workspace of a recipe; without a login, write and check its definition."""

    def stage(config: ExperimentConfig, display: Display) -> Path | str:
        from metalr import dashboard as workspaces

        return workspaces.dashboard(config, display)

    run_stage(arguments, stage)
