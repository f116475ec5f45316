"""Does `MetaLR` decide once an observation, resume exactly, and cost little, in every loop people train with?

    PYTHONPATH=. python experiments/studies/frameworks.py --out experiments/results/frameworks

Runs each example of `experiments/examples/` whole, and again in two halves through that framework's own
checkpoint, under a controller whose choice depends on every bit of what it sees. What the scheduler costs is
timed within: its calls and its hooks. One thread; 3 to 10 minutes. What is not installed is left out.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import math
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch.optim import Optimizer

from metalr import MetaLR
from metalr.control import FEATURE_NAMES, Prediction
from metalr.provenance import git_commit, hardware
from metalr.training import package_versions

EXAMPLES = Path(__file__).parent.parent / "examples"
REPEATS = 3
NUM_EPOCHS = 6
"""What the examples train."""
STOP_AFTER = 3
COMMIT = git_commit()


@dataclass(frozen=True)
class Loop:
    """One way to train."""

    name: str
    example: str
    package: str = "torch"
    settings: tuple[tuple[str, str], ...] = ()

    def load(self) -> Callable[..., Any]:
        """The example's `train`. Raises ImportError where the framework is missing."""
        if str(EXAMPLES) not in sys.path:
            sys.path.insert(0, str(EXAMPLES))
        return functools.partial(import_module(self.example).train, **dict(self.settings))


LOOPS = (
    Loop("plain torch", "own_loop"),
    Loop("SequentialLR", "sequential_and_chained"),
    Loop("ChainedScheduler", "sequential_and_chained", settings=(("outer_kind", "chained"),)),
    Loop("GradScaler, skipped steps", "gradient_scaler"),
    Loop("gradient accumulation", "gradient_accumulation"),
    Loop("Lightning", "with_lightning", "lightning"),
    Loop("Hugging Face Trainer", "with_transformers", "transformers"),
    Loop("accelerate", "with_accelerate", "accelerate"),
    Loop("timm", "with_timm", "timm"),
    Loop("skorch", "with_skorch", "skorch"),
    Loop("fastai, its own optimizer", "with_fastai", "fastai"),
    Loop("fastai, torch's optimizer", "with_fastai", "fastai", (("optimizer_kind", "torch"),)),
    Loop("DDP, 2 processes (gloo)", "two_processes"),
)


@dataclass(frozen=True)
class Row:
    """What one loop showed."""

    name: str
    framework: str
    observations: int
    decisions: int
    resume_equal: bool
    """Weights, the LR of every step, and the scheduler's state, bit by bit."""
    epoch_ms: float | None = None
    """CPU time of a whole training over its epochs: validation, checkpoints, framework; median of repeats."""
    scheduler_ms: float | None = None
    """CPU time in the scheduler's calls and hooks an epoch; median of repeats."""

    @property
    def overhead_pct(self) -> float | None:
        """Part of an epoch that the scheduler takes."""
        return (
            None
            if self.epoch_ms is None or self.scheduler_ms is None
            else 100 * self.scheduler_ms / self.epoch_ms
        )


def num_decisions(state: dict[str, Any]) -> int:
    """Decisions on observations in a scheduler's state; the one before the first epoch has seen none."""
    return len(state["trace"]) - 1


def check(loop: Loop, controller: Any) -> Row:
    """Train whole, and in two halves through the checkpoint, and compare."""
    train = loop.load()
    with TemporaryDirectory() as whole, TemporaryDirectory() as halves:
        undisturbed = train(Path(whole), controller)
        train(Path(halves), controller, stop_after=STOP_AFTER)
        resumed = train(Path(halves), controller)
    return Row(
        loop.name,
        _named(loop.package),
        undisturbed.observations,
        num_decisions(undisturbed.state),
        resumed.first_epoch == STOP_AFTER and _are_equal(undisturbed, resumed),
    )


def _are_equal(undisturbed: Any, resumed: Any) -> bool:
    weights = undisturbed.weights
    return (
        0 < len(resumed.lrs) < len(undisturbed.lrs)
        and undisturbed.lrs[-len(resumed.lrs) :] == resumed.lrs
        and undisturbed.state == resumed.state
        and weights.keys() == resumed.weights.keys()
        and all(torch.equal(weight, resumed.weights[name]) for name, weight in weights.items())
    )


class Stopwatch:
    """CPU seconds spent in what it wraps; a call within a call counts once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._is_running = False

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, timed."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._is_running:
                return function(*args, **kwargs)
            self._is_running, started = True, time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self._is_running = False
                self.seconds += time.process_time() - started

        return timed


@contextmanager
def scheduler_timed() -> Iterator[Stopwatch]:
    """Times the calls of every `MetaLR`, and the hooks that it puts on optimizers, while open."""
    watch = Stopwatch()
    originals: dict[tuple[type, str], Any] = {}

    def replace(owner: type, name: str, value: Any) -> None:
        originals[owner, name] = vars(owner)[name]
        setattr(owner, name, value)

    def timing_registration(register: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(register)
        def registered(self: Optimizer, hook: Callable[..., Any]) -> Any:
            ours = getattr(hook, "__module__", "").startswith("metalr.control")
            return register(self, watch.wrap(hook) if ours else hook)

        return registered

    for name in ("step", "observe"):
        replace(MetaLR, name, watch.wrap(getattr(MetaLR, name)))
    for name in ("register_step_pre_hook", "register_step_post_hook"):
        replace(Optimizer, name, timing_registration(getattr(Optimizer, name)))
    try:
        yield watch
    finally:
        for (owner, name), original in originals.items():
            setattr(owner, name, original)


class EveryBitCounts:
    """A controller whose choice is a hash of the features: whatever a resume changed shows in the LR."""

    sha256 = hashlib.sha256(b"every bit counts").hexdigest()
    log_offsets = tuple(math.log(factor) for factor in (0.25, 0.5, 1.0, 2.0))

    def initial_state(self) -> list[float]:
        """None."""
        return []

    def step(self, state: list[float], features_F: np.ndarray) -> tuple[list[float], Prediction]:
        """The candidate that the features' hash points at."""
        assert features_F.shape == (len(FEATURE_NAMES),)
        chosen = hashlib.sha256(features_F.tobytes()).digest()[0] % len(self.log_offsets)
        return state, Prediction(tuple(float(k != chosen) for k in range(len(self.log_offsets))), 0.0)


def measured(loop: Loop, controller: Any) -> Row:
    """The row of one loop: `check`, then the times of `REPEATS` whole trainings, medians."""
    row = check(loop, controller)
    if "processes" in loop.name:  # its time is that of starting them
        return row
    train = loop.load()
    totals, parts = [], []  # CPU seconds: the clock also counts what else the machine does
    for _ in range(REPEATS):
        with TemporaryDirectory() as folder, scheduler_timed() as watch:
            started = time.process_time()
            train(Path(folder), controller)
            totals.append(time.process_time() - started)
            parts.append(watch.seconds)
    return replace(row, epoch_ms=_median_ms(totals), scheduler_ms=_median_ms(parts))


def _median_ms(seconds: list[float]) -> float:
    return 1e3 * statistics.median(seconds) / NUM_EPOCHS


def main() -> None:
    """Run the study and write its results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, type=Path, help="directory of the results")
    parser.add_argument("--only", nargs="*", help="names of loops, such as Lightning")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # what the frameworks warn of is not the matter here
    started = time.perf_counter()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    missing: list[str] = []
    for loop in LOOPS:
        try:
            if not arguments.only or loop.name in arguments.only:
                rows.append(measured(loop, EveryBitCounts()))
        except ImportError as error:
            missing.append(f"{loop.name}: {error}")
        summary = _summary(rows, missing) | {"wall_time_s": round(time.perf_counter() - started, 1)}
        (arguments.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
        (arguments.out / "report.md").write_text(report(summary))
    print(report(summary))


def _summary(rows: list[Row], missing: list[str]) -> dict[str, Any]:
    return {
        "rows": [asdict(row) | {"overhead_pct": row.overhead_pct} for row in rows],
        "left_out": missing,
        "n": REPEATS,
        "epochs": NUM_EPOCHS,
        "commit": COMMIT,
        "versions": package_versions(),
        "hardware": hardware("cpu"),
        "load_average": os.getloadavg()[2],
    }


def report(summary: dict[str, Any]) -> str:
    """The table."""
    lines = [
        "# MetaLR in the loops people train with",
        "",
        "An MLP of 64-32-10 on scikit-learn's digits, 44 batches of 32 an epoch, "
        f"{summary['epochs']} epochs. Each training once whole, and once in two halves through the "
        "framework's own checkpoint; a resume is equal where the weights, the LR of every step and the "
        f"scheduler's state are, bit by bit. CPU time: median of n = {summary['n']} whole trainings. "
        f"{summary['hardware']}, one thread, load average "
        f"{summary['load_average']:.1f}; torch {summary['versions']['torch']}; commit {summary['commit']}.",
        "",
        "| loop | with | observations | decisions | resume equal | epoch, ms | scheduler, ms | part |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in summary["rows"]:
        cells = [row["name"], row["framework"], row["observations"], row["decisions"]]
        cells += ["yes" if row["resume_equal"] else "**no**"]
        cells += ["-"] * 3 if row["epoch_ms"] is None else _times(row)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", "A step of this network takes about 1 ms: larger ones leave the scheduler a smaller part."]
    lines += [f"Left out: {name}." for name in summary["left_out"]]
    return "\n".join(lines) + "\n"


def _times(row: dict[str, Any]) -> list[str]:
    return [f"{row['epoch_ms']:.1f}", f"{row['scheduler_ms']:.2f}", f"{row['overhead_pct']:.1f} %"]


def _named(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return package


if __name__ == "__main__":
    main()
