"""The applications that commands belong to, and what all of them do alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from metalr.completion import complete_argument
from metalr.config import ExperimentConfig, load_config
from metalr.display import Display
from metalr.exits import clean_exits, make_store

__all__ = [
    "Arguments",
    "app",
    "config_app",
    "controllers_app",
    "run_stage",
    "runs_app",
    "split_arguments",
    "wandb_app",
]

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


def split_arguments(arguments: list[str] | None) -> tuple[str | None, list[str]]:
    """Recipe and overrides: a first word without `=` names the recipe."""
    words = list(arguments or [])
    if words and "=" not in words[0]:
        return words[0], words[1:]
    return None, words


def run_stage(
    arguments: list[str] | None, stage: Callable[[ExperimentConfig, Display], Any], writes: bool = True
) -> None:
    """Load the configuration, do the stage, and print the paths of what it made."""
    with clean_exits():
        config = load_config(*split_arguments(arguments))
    with clean_exits(config.store):
        if writes:
            make_store(Path(config.store))
        display = Display()
        made = stage(config, display)
        for path in made if isinstance(made, list) else [made]:
            display.announce(str(path))
