"""Several runs of a narrow network at once on one device: runs per hour by the number of workers."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.attempts import Maker, attempt, with_remarks
from benchmarks.cases import StepName, small_job
from benchmarks.measurement import Rounds, Row, Subject, measure, paired_ratio
from benchmarks.settings import Settings
from metalr.harvest.execution import WorkerExecutor
from metalr.training import Job

__all__ = ["measure_packing", "packed_job", "packing_rows"]


def measure_packing(settings: Settings) -> list[Row]:
    """Runs per hour under each number of workers, all kept alive from round to round, and their ratios."""
    seeds = itertools.count()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        workers = {
            count: stack.enter_context(WorkerExecutor(count, max_attempts=1))
            for count in settings.packed_workers
        }
        makers: dict[str, Maker] = {
            _label(step, count): partial(_jobs_subject, executor, settings, Path(folder), step, seeds)
            for step in _steps(settings)
            for count, executor in workers.items()
        }
        found = attempt(makers, settings.device)
        rounds = measure(found.subjects, settings.rounds, warmup=0)  # each has run once
    return with_remarks(packing_rows(settings, rounds), found.failed)


def _steps(settings: Settings) -> list[StepName]:
    return ["eager", "cuda_graph"] if settings.device == "cuda" else ["eager"]


def _label(step: str, count: int) -> str:
    return f"train.step={step}, {count} worker{'s' if count > 1 else ''}"


def _jobs_subject(
    executor: WorkerExecutor, settings: Settings, store: Path, step: StepName, seeds: Iterator[int]
) -> Subject:
    """As many new runs each time as the settings say."""

    def finish_jobs() -> None:
        jobs = [packed_job(settings, store, next(seeds), step) for _ in range(settings.num_jobs)]
        executor.run(jobs, lambda job: None)

    return finish_jobs


def packed_job(settings: Settings, store: Path, seed: int, step: StepName) -> Job:
    """The small job of `small_job` on the device and in the dtype of the settings."""
    train = small_job(settings, store, seed).spec.train
    changes = {"device": settings.device, "dtype": settings.dtype, "step": step}
    return small_job(settings, store, seed, train=train.model_copy(update=changes))


def packing_rows(settings: Settings, rounds: Rounds) -> list[Row]:
    """The rows from the seconds that all runs of a round took, by `train.step` and number of workers."""
    sizes = f"width {settings.run_width}, 16 px, {settings.run_images} images, {settings.run_epochs} epochs"
    group = f"Several runs at once on one device ({settings.device}): {sizes}"
    first, *others = settings.packed_workers
    speeds, ratios = [], []
    for step in _steps(settings):
        labels = [_label(step, count) for count in (first, *others)]
        found = {
            label: rounds.per_second(label, 3_600 * settings.num_jobs, label, "runs/h")
            for label in labels
            if label in rounds.seconds
        }
        speeds += [Row(group, speed) for speed in found.values()]
        if (one := found.pop(labels[0], None)) is not None:
            ratios += [
                Row(group, paired_ratio(f"{label} / {first}", speed.values, one.values))
                for label, speed in found.items()
            ]
    return [*speeds, *ratios]
