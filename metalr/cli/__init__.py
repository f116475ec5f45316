"""The command ``metalr``: recipe and overrides in, one stage of the pipeline out.

How it ends is in `metalr.exits`. Importing a module here registers its commands, in the order of the help.
"""

from __future__ import annotations

from typing import Annotated

import typer

from metalr import __version__
from metalr.cli import inspection, pipeline, trainings, transfer  # noqa: F401
from metalr.cli.application import app
from metalr.exits import raise_at_sigterm

__all__ = ["app", "main"]


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
