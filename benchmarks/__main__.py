"""`python -m benchmarks [floor epoch workers control start memory harvest] [--quick] [--output FILE]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.control import measure_control
from benchmarks.epoch import measure_epoch
from benchmarks.floor import measure_floor
from benchmarks.harvest import measure_harvest
from benchmarks.measurement import Row
from benchmarks.memory import measure_memory
from benchmarks.operators import format_operators, profile_epochs
from benchmarks.report import format_table, machine, report_of, unquiet
from benchmarks.settings import QUICK, Settings
from benchmarks.start import measure_start
from benchmarks.workers import measure_workers
from metalr.training.artifacts import write_json

__all__ = ["GROUPS", "main", "settings_of"]

GROUPS: dict[str, Callable[[Settings], list[Row]]] = {
    "floor": measure_floor,
    "epoch": measure_epoch,
    "workers": measure_workers,
    "control": measure_control,
    "start": measure_start,
    "memory": measure_memory,
    "harvest": measure_harvest,
}
LISTS = ("widths", "image_sizes", "threads")
COUNTS = ("batch_size", "num_images", "rounds", "floor_steps", "num_jobs", "memory_runs")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks", description="Measure metalr's speed.")
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}; all by default")
    parser.add_argument("--quick", action="store_true", help="small sizes, few rounds: does everything work?")
    parser.add_argument("--output", type=Path, help="write everything to this JSON file")
    parser.add_argument("--profile", action="store_true", help="also where an epoch's time goes")
    parser.add_argument("--no-compile", action="store_true", help="do not try torch.compile")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="of floor, epoch and --profile")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of floor, epoch and --profile")
    for name in LISTS:
        parser.add_argument(_flag(name), type=int, nargs="+", help=f"default {_default(name)}")
    for name in COUNTS:
        parser.add_argument(_flag(name), type=int, help=f"default {_default(name)}")
    return parser


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _default(name: str) -> str:
    value = getattr(Settings(), name)
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def settings_of(arguments: argparse.Namespace) -> Settings:
    """The sizes asked for: the defaults, those of `--quick` over them, and what was named over both.

    Raises ValueError on a size that cannot be, and where a GPU is asked for and absent.
    """
    changes: dict[str, Any] = dict(QUICK) if arguments.quick else {}
    for name in (*LISTS, *COUNTS, "device", "dtype"):
        value = getattr(arguments, name)
        if value is not None:
            changes[name] = tuple(value) if isinstance(value, list) else value
    if arguments.no_compile:
        changes["compile"] = False
    if changes.get("device") == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no GPU here; leave it out")
    return Settings(**changes)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0, also where a goal is missed; SystemExit(2) where an argument is wrong."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    names = parsed.groups or list(GROUPS)
    unknown = [name for name in names if name not in GROUPS]
    if unknown:
        parser.error(f"no group {', '.join(unknown)}; choose of {', '.join(GROUPS)}")
    if parsed.output and not parsed.output.parent.is_dir():
        parser.error(f"--output {parsed.output}: there is no directory {parsed.output.parent}; make it first")
    try:
        settings = settings_of(parsed)
    except ValueError as error:
        parser.error(str(error))
    _measure(names, settings, parsed)
    return 0


def _measure(names: Sequence[str], settings: Settings, parsed: argparse.Namespace) -> None:
    facts = machine()
    print(f"{facts['processor']}, {facts['cores']} cores, torch {facts['versions']['torch']}")
    if warning := unquiet(facts):
        print(warning)
    rows: list[Row] = []
    for name in names:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        rows += (found := GROUPS[name](settings))
        print(f"\n{format_table(found)}", flush=True)
        _write(parsed.output, report_of(rows, facts, settings, {}))  # a later group may fail, or be stopped
    extras: dict[str, Any] = {}
    if parsed.profile:
        extras["operators"] = profile_epochs(settings)
        print(f"\n{format_operators(extras['operators'])}")
    missed = sum(row.reached is False for row in rows)
    print(f"\n{len(rows)} rows, {missed} below their goal")
    _write(parsed.output, report_of(rows, facts, settings, extras))
    if parsed.output:
        print(parsed.output)


def _write(path: Path | None, report: dict[str, Any]) -> None:
    if path is not None:
        write_json(path, report)


if __name__ == "__main__":
    sys.exit(main())
