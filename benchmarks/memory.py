"""Memory over many runs in one worker: resident MiB after each, and whether they grow."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cases import small_job, small_task
from benchmarks.measurement import Goal, Measurement, Row
from benchmarks.one_worker import Worker, resident_mib
from benchmarks.settings import Settings
from metalr.training import Job

__all__ = ["measure_memory", "memory_rows", "mixed_jobs"]

GROUP = "Memory of one worker over many runs"
GOAL = Goal("at most", 1.05)
"""Growth by 5 % after the warm-up counts as flat."""
WARMUP_FRACTION = 0.2
"""Allocators and caches (of tasks, of convolution plans) fill up over this part of the runs."""


def measure_memory(settings: Settings) -> list[Row]:
    """Resident memory after each of `memory_runs` runs, its slope, and the last part against the first."""
    if resident_mib(os.getpid()) is None:
        print(
            "memory: this system has no /proc to read a worker's memory from; not measured", file=sys.stderr
        )
        return []
    resident = []
    with tempfile.TemporaryDirectory() as folder, Worker() as worker:
        for job in mixed_jobs(settings, Path(folder)):
            worker.perform(job)
            resident.append(resident_mib(worker.pid) or 0.0)
    return memory_rows(resident)


def mixed_jobs(settings: Settings, store: Path) -> list[Job]:
    """As many short runs as the settings say: two networks, two schedules, each with a seed of its own."""
    small = replace(settings, run_images=min(settings.run_images, 128), run_epochs=1)
    jobs = []
    for seed in range(settings.memory_runs):
        method = ("cosine", "one_cycle")[seed % 2]
        changes: dict[str, Any] = {"method": method}
        if seed % 3 == 0:
            task = small_job(small, store, seed).spec.task.model_copy(update={"network": "mlp"})
            changes |= {"task": task, "data_digest": small_task(task).digest}
        jobs.append(small_job(small, store, seed, **changes))
    return jobs


def memory_rows(resident_mib: Sequence[float]) -> list[Row]:
    """The rows from the MiB after each run; the first fifth of the runs is the warm-up.

    Raises ValueError on fewer than ten runs: a slope needs some.
    """
    if len(resident_mib) < 10:
        raise ValueError(f"memory_runs={len(resident_mib)} must be at least 10 to tell a slope")
    warm = list(resident_mib)[round(WARMUP_FRACTION * len(resident_mib)) :]
    tenth = max(1, len(warm) // 10)
    slope = float(np.polyfit(np.arange(len(warm)), warm, 1)[0])
    first, last = float(np.mean(warm[:tenth])), float(np.mean(warm[-tenth:]))
    counted = f"{len(resident_mib)} runs, the first {len(resident_mib) - len(warm)} left out"
    return [
        Row(GROUP, Measurement("resident after each run", "MiB", tuple(resident_mib))),
        Row(GROUP, Measurement("slope after the warm-up", "MiB per 100 runs", (100 * slope,)), note=counted),
        Row(
            GROUP,
            Measurement("last tenth / first tenth", "ratio", (last / first,)),
            GOAL,
            note=f"{first:.1f} MiB, then {last:.1f} MiB",
        ),
    ]
