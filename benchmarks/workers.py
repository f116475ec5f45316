"""Two workers of one thread against one: runs per hour over the real executor, on small real runs."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.cases import small_job
from benchmarks.measurement import Goal, Rounds, Row, Subject, measure, paired_ratio
from benchmarks.settings import Settings
from metalr.harvest.execution import WorkerExecutor

__all__ = ["measure_workers", "worker_rows"]

GOAL = Goal("at least", 1.9)
GROUP = "Two workers of one thread against one worker"


def measure_workers(settings: Settings) -> list[Row]:
    """Runs per hour of one and of two workers, both alive from round to round, and their paired ratio."""
    seeds = itertools.count()
    with tempfile.TemporaryDirectory() as folder, WorkerExecutor(1) as one, WorkerExecutor(2) as two:
        subjects = {
            "1": _jobs_subject(one, settings, Path(folder), seeds),
            "2": _jobs_subject(two, settings, Path(folder), seeds),
        }
        rounds = measure(subjects, settings.rounds)
    return worker_rows(rounds, settings.num_jobs)


def _jobs_subject(executor: WorkerExecutor, settings: Settings, store: Path, seeds: Iterator[int]) -> Subject:
    """As many new runs each time as the settings say."""

    def finish_jobs() -> None:
        jobs = [small_job(settings, store, next(seeds)) for _ in range(settings.num_jobs)]
        executor.run(jobs, lambda job: None)

    return finish_jobs


def worker_rows(rounds: Rounds, num_jobs: int) -> list[Row]:
    """The rows from the seconds that `num_jobs` runs took with `1` and with `2` workers."""
    one = rounds.per_second("1", 3_600 * num_jobs, "one worker", "runs/h")
    two = rounds.per_second("2", 3_600 * num_jobs, "two workers", "runs/h")
    ratio = paired_ratio("two workers / one", two.values, one.values)
    cores = f"{os.cpu_count()} cores; {num_jobs} runs a round"
    return [Row(GROUP, one), Row(GROUP, two, note=cores), Row(GROUP, ratio, GOAL)]
