"""`MetaLR` in six loops no one tuned it for, from three initial LRs each, against the tuned cosine.

    python experiments/studies/other_loops.py

A language model, a tabular network, an autoencoder, a fine-tuning run with frozen layers and discriminative
LRs, a regression, and a CNN without normalisation: each with SGD of momentum 0.9 and with AdamW. `MetaLR` is
used with a probe, in three lines, without a known budget, and without a validation loss. What the networks
learn from ships with Python and scikit-learn. Finished trainings are kept under --runs, so that the study
goes on where it was stopped. About 20 minutes on two idle cores; `--quick` tries everything out in one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from other_loops_figures import draw
from other_loops_methods import METHODS, Cell, probe_epochs, train
from other_loops_report import report, summary_of
from other_loops_tasks import LOOPS

import metalr
from metalr.provenance import git_commit, hardware
from metalr.training import package_versions

GRIDS = {
    "sgd": (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
    "adamw": (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1),
}
"""Where the cosine is tuned."""
LONGER_GRIDS = {("autoencoder", "sgd"): (3.0, 10.0, 30.0, 100.0)}
"""Appended where the best of the seven was the last one."""
STARTS = {optimizer: (grid[0], grid[3], grid[6]) for optimizer, grid in GRIDS.items()}
"""The users' LRs: far too small as a rule, usual, far too large as a rule."""
QUICK_EPOCHS, QUICK_SEEDS = 5, 2

_controller: Any = None
"""Of this process: a worker loads it once."""


def main() -> None:
    """Run what is missing of the study, and write its results."""
    arguments = _arguments()
    controller = metalr.load_controller(arguments.controller)
    arguments.runs.mkdir(parents=True, exist_ok=True)
    seeds = range(QUICK_SEEDS if arguments.quick else arguments.seeds)
    keys = {_key(cell, controller.sha256): cell for cell in cells(seeds, quick=arguments.quick)}
    rows = _finished(arguments.runs / "cells.jsonl", keys)
    _run_missing(arguments, keys, rows)
    settings = {
        "controller": {"name": arguments.controller, "sha256": controller.sha256},
        "seeds": list(seeds),
        "grids": GRIDS,
        "longer_grids": {f"{loop}, {optimizer}": lrs for (loop, optimizer), lrs in LONGER_GRIDS.items()},
        "starts": STARTS,
        "loops": {name: _described(name) for name in LOOPS},
        "commit": git_commit(),
        "versions": package_versions() | {name: version(name) for name in ("numpy", "scikit-learn")},
        "hardware": hardware("cpu"),
    }
    _write(arguments.out, settings, list(rows.values()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="directory of the results")
    parser.add_argument("--runs", type=Path, default=Path("runs/other-loops"), help="of finished trainings")
    parser.add_argument("--controller", default="default", help="a shipped controller's name, or a path")
    parser.add_argument("--seeds", type=int, default=6, help="paired seeds, from 0")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_EPOCHS} epochs, {QUICK_SEEDS} seeds, the usual LR only"
    )
    arguments = parser.parse_args()
    if arguments.out is None:
        usual = Path("experiments/results/other-loops")
        arguments.out = arguments.runs / "quick" if arguments.quick else usual
    return arguments


def cells(seeds: range, *, quick: bool = False) -> Iterator[Cell]:
    """All trainings: the cosine over the whole grid, every other method from the users' LRs."""
    for seed in seeds:
        for name, loop in LOOPS.items():
            for optimizer, grid in GRIDS.items():
                starts = STARTS[optimizer]
                for method in METHODS:
                    lrs = (*grid, *LONGER_GRIDS.get((name, optimizer), ())) if method == "cosine" else starts
                    for lr in starts[1:2] if quick else lrs:
                        yield Cell(name, optimizer, method, lr, seed, QUICK_EPOCHS if quick else loop.epochs)


def _key(cell: Cell, controller_sha256: str) -> str:
    """Names a training by all that it depends on: another program or controller trains anew."""
    here = Path(__file__).parent
    sources = [here / "other_loops_tasks.py", here / "other_loops_methods.py"]
    used = ""
    if cell.method.startswith("MetaLR"):
        sources += sorted((Path(metalr.__file__).parent / "control").glob("*.py"))
        used = controller_sha256
    described = json.dumps([asdict(cell), used, torch.__version__, _digest(tuple(sources))])
    return hashlib.sha256(described.encode()).hexdigest()[:24]


_digests: dict[tuple[Path, ...], str] = {}


def _digest(sources: tuple[Path, ...]) -> str:
    """Of the files as they were when first asked for: the program that is running."""
    if sources not in _digests:
        _digests[sources] = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    return _digests[sources]


def _finished(path: Path, keys: dict[str, Cell]) -> dict[str, dict[str, Any]]:
    """Rows of `path` that are of this study; a last line torn by an interruption is trained again."""
    found: dict[str, dict[str, Any]] = {}
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if row["key"] in keys:
            found[row["key"]] = row
    return found


def _run_missing(
    arguments: argparse.Namespace, keys: dict[str, Cell], rows: dict[str, dict[str, Any]]
) -> None:
    missing = [(key, cell) for key, cell in keys.items() if key not in rows]
    print(f"{len(rows)} trainings are there, {len(missing)} to go", flush=True)
    if not missing:
        return
    os.environ["OMP_NUM_THREADS"] = "1"  # for the workers, before they import torch
    context = multiprocessing.get_context("spawn")
    with (
        (arguments.runs / "cells.jsonl").open("a") as kept,
        context.Pool(arguments.workers, _start_worker, (arguments.controller,)) as pool,
    ):
        kept.write("\n")  # ends a torn line
        for number, row in enumerate(pool.imap_unordered(_train, missing), start=1):
            rows[row["key"]] = row
            kept.write(json.dumps(row) + "\n")
            kept.flush()
            if number % 50 == 0 or number == len(missing):
                print(f"{number} of {len(missing)}", flush=True)


def _start_worker(controller: str) -> None:
    global _controller
    torch.set_num_threads(1)
    _controller = metalr.load_controller(controller)


def _train(keyed: tuple[str, Cell]) -> dict[str, Any]:
    key, cell = keyed
    return {"key": key, **train(cell, LOOPS[cell.loop], _controller)}


def _described(name: str) -> dict[str, Any]:
    loop = LOOPS[name]
    return {
        "description": loop.description,
        "epochs": loop.epochs,
        "batch_size": loop.batch_size,
        "steps_per_epoch": loop.steps_per_epoch(),
        "probe_epochs": probe_epochs(loop),
        "examples": {split: len(inputs) for split, (inputs, _) in loop.load().splits.items()},
        "data_sha256": loop.load().sha256,
    }


def _write(out: Path, settings: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    summary = summary_of(settings, rows)
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    (out / "report.md").write_text(report(summary))
    for name in LOOPS:
        (out / f"{name}.svg").write_text(draw(name, summary, rows))
    print(report(summary))


if __name__ == "__main__":
    main()
