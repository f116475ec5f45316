"""The command ``metalr``: recipe and overrides in, one stage of the pipeline out.

How it ends is in `metalr.exits`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from metalr import __version__
from metalr.completion import complete_argument
from metalr.config import ExperimentConfig, load_config
from metalr.config.rendering import config_schema, show_config
from metalr.display import Display
from metalr.exits import clean_exits, make_store, raise_at_sigterm

__all__ = ["app", "main"]

app = typer.Typer(
    name="metalr",
    help="A meta-learned learning-rate controller for PyTorch.\n\n"
    "Every stage makes what is missing before it and skips what is done: `metalr compare` alone runs the "
    "whole study. RECIPE is a path, or a name in experiments/; overrides look like train.epochs=5.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
config_app = typer.Typer(no_args_is_help=True, help="Look at the settings of an experiment.")
app.add_typer(config_app, name="config")
wandb_app = typer.Typer(no_args_is_help=True, help="Weights & Biases, a mirror of the local records.")
app.add_typer(wandb_app, name="wandb")
controllers_app = typer.Typer(no_args_is_help=True, help="The controllers that come with the package.")
app.add_typer(controllers_app, name="controllers")
runs_app = typer.Typer(no_args_is_help=True, help="Finished runs as one small file, and back.")
app.add_typer(runs_app, name="runs")

Arguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RECIPE | KEY=VALUE",
        help="A recipe (default: the built-in `digits`), then overrides such as train.epochs=5.",
        autocompletion=complete_argument,
        show_default=False,
    ),
]


def _split_arguments(arguments: list[str] | None) -> tuple[str | None, list[str]]:
    """Recipe and overrides: a first word without `=` names the recipe."""
    words = list(arguments or [])
    if words and "=" not in words[0]:
        return words[0], words[1:]
    return None, words


def _run_stage(
    arguments: list[str] | None, stage: Callable[[ExperimentConfig, Display], Any], writes: bool = True
) -> None:
    """Load the configuration, do the stage, and print the paths of what it made."""
    with clean_exits():
        config = load_config(*_split_arguments(arguments))
    with clean_exits(config.store):
        if writes:
            make_store(Path(config.store))
        display = Display()
        made = stage(config, display)
        for path in made if isinstance(made, list) else [made]:
            display.announce(str(path))


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

    _run_stage(arguments, stage)


@app.command("train-meta")
def train_meta(arguments: Arguments = None) -> None:
    """Fit the meta-learners on the meta-dataset; write the controllers."""

    def stage(config: ExperimentConfig, display: Display) -> list[Path]:
        from metalr import stages

        return stages.train_meta(config, display)

    _run_stage(arguments, stage)


@app.command()
def compare(arguments: Arguments = None) -> None:
    """Train under every method on paired seeds; write tables, figures and report.html."""

    def stage(config: ExperimentConfig, display: Display) -> Path:
        from metalr import stages

        return stages.compare(config, display)

    _run_stage(arguments, stage)


@app.command()
def train(arguments: Arguments = None) -> None:
    """Train one network: strategy=cosine, one_cycle, plateau, find, metalr, ... says who sets the LR."""

    def stage(config: ExperimentConfig, display: Display) -> list[Path]:
        from metalr import single_runs

        return single_runs.train(config, display)

    _run_stage(arguments, stage)


@wandb_app.command()
def push(arguments: Arguments = None) -> None:
    """Send every finished run of the store that has not been sent, one W&B run each."""

    def stage(config: ExperimentConfig, display: Display) -> Path:
        from metalr import wandb_push

        return wandb_push.push(config, display)

    _run_stage(arguments, stage)


@controllers_app.command("build")
def build_controllers(arguments: Arguments = None) -> None:
    """Fit them again on the recipe's meta-dataset as it lies there; no image is needed."""

    def stage(config: ExperimentConfig, display: Display) -> list[Path]:
        from metalr import stages

        return stages.build_controllers(config, display)

    _run_stage(arguments, stage, writes=False)


@controllers_app.command("list")
def list_controllers() -> None:
    """Name, meta-datasets and held-out regret of each."""
    with clean_exits():
        from metalr.learning.controller import shipped_controllers
        from metalr.training.artifacts import read_json

        for name, path in shipped_controllers().items():
            card = read_json(path.with_suffix(".json"))
            print(
                f"{name:8} {path.stem}, {path.stat().st_size // 1024} KiB, from meta-dataset "
                f"{' + '.join(card['meta_datasets'])} ({card['counts']['forks']} forks); "
                f"regret on held-out tasks {card['held_out']['learned']:.4f} nats"
            )


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

    _run_stage(arguments, stage, writes=False)


@runs_app.command()
def unpack(file: Archive, arguments: Arguments = None) -> None:
    """Put the runs of FILE into the store, all checked first; a finished run stays as it is."""

    def stage(config: ExperimentConfig, display: Display) -> Path:
        from metalr.training import RunStore, archive

        unpacked = archive.unpack_runs(file, RunStore(config.store))
        display.announce(f"Unpack: {len(unpacked.written)} runs, {len(unpacked.kept)} were there already")
        return Path(config.store)

    _run_stage(arguments, stage)


@app.command()
def dashboard(arguments: Arguments = None) -> None:
    """Build the Weights & Biases workspace of a recipe; without a login, write and check its definition."""

    def stage(config: ExperimentConfig, display: Display) -> Path | str:
        from metalr import dashboard as workspaces

        return workspaces.dashboard(config, display)

    _run_stage(arguments, stage)


@app.command("lr-find")
def lr_find(arguments: Arguments = None) -> None:
    """Run the LR finder on the recipe's network; draw its curve and suggest an LR."""

    def stage(config: ExperimentConfig, display: Display) -> list[Path]:
        from metalr import single_runs

        return single_runs.lr_find(config, display)

    _run_stage(arguments, stage)


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

    _run_stage(arguments, stage)


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


@app.command()
def report(arguments: Arguments = None) -> None:
    """Write the report again from the records."""

    def stage(config: ExperimentConfig, display: Display) -> Path:
        from metalr import stages

        return stages.report(config, display)

    _run_stage(arguments, stage, writes=False)


@config_app.command("show")
def show(arguments: Arguments = None) -> None:
    """Print every setting with its meaning, its value and where the value comes from."""
    with clean_exits():
        print(show_config(*_split_arguments(arguments)), end="")


@config_app.command("schema")
def schema() -> None:
    """Print the JSON schema of a recipe file, for editors."""
    print(config_schema(), end="")


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


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"metalr {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line. Exits with 0, 1 (a run failed), 2 (wrong input), 130 (Ctrl-C), 143 (SIGTERM)."""
    raise_at_sigterm()
    app(prog_name="metalr")
