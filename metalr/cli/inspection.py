"""The settings of an experiment, and the controllers that come with the package."""

from __future__ import annotations

from pathlib import Path

from metalr.cli.application import Arguments, config_app, controllers_app, run_stage, split_arguments
from metalr.config import ExperimentConfig
from metalr.config.rendering import config_schema, show_config
from metalr.display import Display
from metalr.exits import clean_exits

__all__ = ["build_controllers", "list_controllers", "schema", "show"]


@config_app.command("show")
def show(arguments: Arguments = None) -> None:
    """Print every setting with its meaning, its value and where the value comes from."""
    with clean_exits():
        print(show_config(*split_arguments(arguments)), end="")


@config_app.command("schema")
def schema() -> None:
    """Print the JSON schema of a recipe file, for editors."""
    print(config_schema(), end="")


@controllers_app.command("build")
def build_controllers(arguments: Arguments = None) -> None:
    """Fit them again on the recipe's meta-dataset as it lies there; no image is needed."""

    def stage(config: ExperimentConfig, display: Display) -> list[Path]:
        from metalr import stages

        return stages.build_controllers(config, display)

    run_stage(arguments, stage, writes=False)


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
