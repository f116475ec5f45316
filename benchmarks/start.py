"""A run's start in a warm worker: from receiving a job to its first training step, and its parts."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import torch

from benchmarks.cases import ARCHITECTURE, make_members, small_job, small_task
from benchmarks.measurement import Goal, Measurement, Row
from benchmarks.one_worker import Worker
from benchmarks.settings import Settings
from metalr.config import ControlConfig, canonical_json
from metalr.control import Controller
from metalr.learning.controller import load_controller, save_controller
from metalr.tasks import Task
from metalr.training import Job, LiveRun, RunStore, make_optimizer, train_run
from metalr.training.artifacts import write_atomically

__all__ = ["measure_start", "start_parts"]

GOAL = Goal("at most", 50.0)
GROUP = "A run's start in a warm worker"
WHOLE = "from job to first step"
REPEATS = 4
"""Starts for each round of the settings: a start is short."""


class _StartedError(Exception):
    """Raised before the first training step, to leave a run there."""


def measure_start(settings: Settings) -> list[Row]:
    """Milliseconds to the first step and their parts, of a schedule's run and of a controlled one.

    Without its probe, whose steps are training steps of the run's budget. Beside them, what a real worker
    needs for a whole short run beyond training it.
    """
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        path = save_controller(
            Path(folder), "mlp", make_members("mlp"), {"learner": "mlp", **ARCHITECTURE}, {}
        )
        controlled = {
            "method": "metalr-mlp",
            "control": ControlConfig(probe=None),
            "controller_sha256": load_controller(path).sha256,
        }
        kinds: dict[str, Callable[[int], Job]] = {
            "cosine": lambda seed: small_job(settings, Path(folder), seed),
            "metalr-mlp": lambda seed: small_job(settings, Path(folder), seed, **controlled).model_copy(
                update={"controller": str(path)}
            ),
        }
        for name, make_job in kinds.items():
            seeds = range(1 + REPEATS * settings.rounds)
            parts = [start_parts(make_job(seed).model_dump_json()) for seed in seeds][1:]
            rows += _rows_of(name, parts)
        rows += _whole_runs(settings, Path(folder) / "worker")
    return rows


def start_parts(job_json: str) -> dict[str, float]:
    """Seconds from a job's line to its first training step (`WHOLE`), then those of its parts by name.

    Does what a worker does with a line, in this process. What `train_run` is made of is done and timed once
    more, apart (`of which: ...`): it need not add up.

    Raises ValueError where the run is finished.
    """
    clock = _Laps()
    job = Job.model_validate_json(job_json)
    clock.lap("read the job")
    task = small_task(job.spec.task)
    clock.lap("make the task")
    controller = load_controller(job.controller) if job.controller else None
    clock.lap("load the controller")
    _go_to_first_step(job, task, controller)
    clock.lap("start train_run")
    whole_s = sum(clock.laps.values())
    model = task.make_model(job.spec.seed)
    clock.lap("of which: make the network")
    make_optimizer(model.to(memory_format=torch.channels_last), job.spec.train)  # type: ignore[call-overload]
    clock.lap("of which: lay it out, make the optimizer")
    write_atomically(Path(job.store) / "spec.json", canonical_json(job.spec).encode())
    clock.lap("of which: write the spec (fsync)")
    return {WHOLE: whole_s} | clock.laps


class _Laps:
    """Seconds between the ends of successive parts."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = now - self._last
        self._last = now


def _go_to_first_step(job: Job, task: Task, controller: Controller | None) -> None:
    """Begin the run and leave it where it would train."""

    def leave(live: LiveRun) -> None:
        raise _StartedError

    try:
        train_run(job, task, controller, leave)
    except _StartedError:
        return
    raise ValueError(f"run {job.spec.run_id} is finished in {job.store}: a start needs a new run")


def _rows_of(kind: str, starts: list[dict[str, float]]) -> list[Row]:
    rows = []
    for part in starts[0]:
        values = tuple(1e3 * start[part] for start in starts)
        found = Measurement(f"{kind}: {part}", "ms", values)
        rows.append(Row(GROUP, found, GOAL if part == WHOLE else None))
    return rows


def _whole_runs(settings: Settings, store: Path) -> list[Row]:
    """First run of a worker, and what each later one costs beyond its training, evaluation and control."""
    seeds = count()
    with Worker() as worker:
        first_s = worker.perform(small_job(settings, store, next(seeds)))
        beyond = []
        for _ in range(settings.rounds):
            job = small_job(settings, store, next(seeds))
            whole_s = worker.perform(job)
            beyond.append(whole_s - RunStore(store).load(job.spec.run_id).result["timing"]["wall_s"])
    later = Measurement("start, records and end of a run", "ms", tuple(1e3 * value for value in beyond))
    first = Measurement("first run of a new worker", "s", (first_s,))
    return [Row(GROUP, later, note="beyond its timed training"), Row(GROUP, first, note="imports torch")]
