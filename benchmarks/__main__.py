"""`python -m benchmarks [GROUP ...] [--quick] [--output FILE]`; `--help` lists groups and sizes.

Without a group, the whole of what is measured on a CPU; with `--device cuda`, what is meant for a GPU.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.attempts import reason_of
from benchmarks.control import measure_control
from benchmarks.epoch import measure_epoch
from benchmarks.floor import measure_floor
from benchmarks.flops import measure_flops
from benchmarks.forks import measure_forks
from benchmarks.harvest import measure_harvest
from benchmarks.measurement import Row
from benchmarks.memory import measure_memory
from benchmarks.operators import format_operators, profile_epochs
from benchmarks.packing import measure_packing
from benchmarks.report import format_goals, format_table, machine, report_of, unquiet
from benchmarks.settings import GPU, QUICK, Settings
from benchmarks.start import measure_start
from benchmarks.steps import measure_steps
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
    "steps": measure_steps,
    "flops": measure_flops,
    "forks": measure_forks,
    "packing": measure_packing,
}
FOR_GPU = ("steps", "flops", "forks", "packing")
"""Measured where named, and by default with `--device cuda`; the others are the default on the CPU."""
ON_DEVICE = ("floor", "epoch", *FOR_GPU)
"""Follow `--device` and `--dtype`."""
LISTS = ("widths", "image_sizes", "threads", "packed_workers", "matrix_sizes")
COUNTS = (
    *("batch_size", "num_images", "people_images", "rounds", "floor_steps", "num_jobs", "memory_runs"),
    *("run_images", "run_epochs", "run_width", "fork_width", "fork_images", "num_candidates"),
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks", description="Measure metalr's speed.")
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}")
    parser.add_argument("--quick", action="store_true", help="small sizes, few rounds: does everything work?")
    parser.add_argument("--output", type=Path, help="write everything to this JSON file")
    parser.add_argument("--profile", action="store_true", help="also where an epoch's time goes")
    parser.add_argument("--no-compile", action="store_true", help="do not try torch.compile")
    parser.add_argument("--device", choices=("cpu", "cuda"), help=f"of {', '.join(ON_DEVICE)}")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of the same")
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
    """The sizes asked for: the defaults, those for a GPU and of `--quick` over them, what was named over all.

    Raises ValueError on a size that cannot be, and where a GPU is asked for and absent.
    """
    changes: dict[str, Any] = dict(GPU) if arguments.device == "cuda" else {}
    changes |= QUICK if arguments.quick else {}
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
    """The exit code: 0, also where a goal is missed; 1 where a group fails.

    Raises SystemExit(2) where an argument is wrong.
    """
    parser = _parser()
    parsed = parser.parse_args(arguments)
    try:
        names = _names(parsed)
        settings = settings_of(parsed)
    except ValueError as error:
        parser.error(str(error))
    if parsed.output and not parsed.output.parent.is_dir():
        parser.error(f"--output {parsed.output}: there is no directory {parsed.output.parent}; make it first")
    return 1 if _measure(names, settings, parsed) else 0


def _names(parsed: argparse.Namespace) -> list[str]:
    """The groups to measure. Raises ValueError where one does not exist, or not on a GPU."""
    on_gpu = parsed.device == "cuda"
    unknown = [name for name in parsed.groups if name not in GROUPS]
    if unknown:
        raise ValueError(f"no group {', '.join(unknown)}; choose of {', '.join(GROUPS)}")
    elsewhere = [name for name in parsed.groups if on_gpu and name not in ON_DEVICE]
    if elsewhere:
        raise ValueError(f"{', '.join(elsewhere)}: measured on the CPU; name it without --device cuda")
    default = FOR_GPU if on_gpu else tuple(name for name in GROUPS if name not in FOR_GPU)
    return parsed.groups or list(default)


def _measure(names: Sequence[str], settings: Settings, parsed: argparse.Namespace) -> dict[str, str]:
    """Measure, print and write; returns why groups failed, by name."""
    facts = machine()
    where = facts["gpu"] if settings.device == "cuda" else facts["processor"]
    print(f"{where}, {facts['cores']} cores, torch {facts['versions']['torch']}")
    if warning := unquiet(facts):
        print(warning)
    rows: list[Row] = []
    failed: dict[str, str] = {}
    extras: dict[str, Any] = {"failed": failed}
    for name in names:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        try:
            rows += (found := GROUPS[name](settings))
        except Exception as error:  # what the others have found, or will, is worth keeping
            traceback.print_exc()
            failed[name] = reason_of(error)
            print(f"\n{name} failed: {failed[name]}", flush=True)
        else:
            print(f"\n{format_table(found)}", flush=True)
        _write(parsed.output, report_of(rows, facts, settings, extras))  # the next one may be stopped
    if parsed.profile:
        extras["operators"] = profile_epochs(settings)
        print(f"\n{format_operators(extras['operators'])}")
    print(f"\n{format_goals(rows)}")
    _write(parsed.output, report_of(rows, facts, settings, extras))
    if parsed.output:
        print(parsed.output)
    return failed


def _write(path: Path | None, report: dict[str, Any]) -> None:
    if path is not None:
        write_json(path, report)


if __name__ == "__main__":
    sys.exit(main())
