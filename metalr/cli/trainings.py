"""Single trainings, what sets their LR, and two recipes against each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from metalr.cli.application import Arguments, app, run_stage
from metalr.completion import complete_argument
from metalr.config import ExperimentConfig, load_config
from metalr.display import Display
from metalr.exits import clean_exits, make_store

__all__ = ["ablate", "lr_find", "run_one", "schedules", "train"]


@app.command()
def train(arguments: Arguments = None) -> None:
    """Train one network: strategy=cosine, one_cycle, plateau, find, metalr, ... says who sets the LR."""

    def stage(config: ExperimentConfig, display: Display) -> list[Path]:
        from metalr import single_runs

        return single_runs.train(config, display)

    run_stage(arguments, stage)


@app.command("lr-find")
def lr_find(arguments: Arguments = None) -> None:
    """Run the LR finder on the recipe's network; draw its curve and suggest an LR."""

    def stage(config: ExperimentConfig, display: Display) -> list[Path]:
        from metalr import single_runs

        return single_runs.lr_find(config, display)

    run_stage(arguments, stage)


@app.command()
def schedules(
    arguments: Arguments = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="A schedule to show; again for more. Default: all.", show_default=False),
    ] = None,
    at: Annotated[
        list[int] | None, typer.Option(help="An epoch of the table; again for more.", show_default=False)
    ] = None,
    steps_per_epoch: Annotated[int, typer.Option(help="Optimizer steps an epoch.", min=1)] = 20,
    output: Annotated[
        Path | None, typer.Option(help="Where the SVG goes. Default: in the store.", show_default=False)
    ] = None,
) -> None:
    """Draw every hand schedule over train.epochs, and print its LRs, without training."""

    def stage(config: ExperimentConfig, display: Display) -> Path:
        from metalr import single_runs

        return single_runs.schedules(config, only or [], at or [], steps_per_epoch, output, display)

    run_stage(arguments, stage)


@app.command()
def ablate(
    plain: Annotated[str, typer.Argument(help="The recipe before.", autocompletion=complete_argument)],
    improved: Annotated[str, typer.Argument(help="The recipe after.", autocompletion=complete_argument)],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings of both.", show_default=False),
    ] = None,
    leave_one_out: Annotated[
        bool, typer.Option("--leave-one-out", help="Also the improved recipe without each of its changes.")
    ] = False,
) -> None:
    """Train two recipes, and the first with each change of the second by itself: which one mattered."""
    with clean_exits():
        configs = [load_config(recipe, overrides or []) for recipe in (plain, improved)]
    with clean_exits(configs[1].store):
        make_store(Path(configs[1].store))
        from metalr.ablations import ablate as stage

        display = Display()
        display.announce(str(stage(configs[0], configs[1], display, leave_one_out=leave_one_out)))


@app.command("run-one")
def run_one(
    spec: Annotated[Path, typer.Option(help="A run's spec.json.", show_default=False)],
    store: Annotated[Path, typer.Option(help="Directory of the run records.", show_default=False)],
    data_dir: Annotated[Path | None, typer.Option(help="As data.dir.", show_default=False)] = None,
    controller: Annotated[
        Path | None, typer.Option(help="The controller's .safetensors file.", show_default=False)
    ] = None,
) -> None:
    """Do one run; the entry point for a cluster's scheduler."""
    with clean_exits(str(store)):
        from pydantic import ValidationError

        from metalr import worker
        from metalr.training import ArtifactError, Job, RunSpec
        from metalr.training.artifacts import read_json

        try:
            parsed = RunSpec.model_validate(read_json(spec))
        except ValidationError as error:
            problems = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
            raise ArtifactError(f"{spec}: not a run's spec ({'; '.join(problems)})") from None
        job = Job(
            spec=parsed,
            store=str(store),
            data_dir=None if data_dir is None else str(data_dir),
            controller=None if controller is None else str(controller),
        )
        worker.execute(job.model_dump_json())
        print(store / parsed.run_id)
