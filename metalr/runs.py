"""Bringing runs to their committed results, with what that costs shown before and meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from metalr.config import ConfigError, ExperimentConfig, SchedulesConfig
from metalr.config.controlled import CONTROLLED
from metalr.control import make_schedule, schedule_notes
from metalr.display import Display, format_duration
from metalr.harvest.cost import estimate_cost
from metalr.harvest.execution import InlineExecutor, WorkerExecutor
from metalr.harvest.plan import check_device, epochs_of, resolved_device
from metalr.tasks import Task, make_task
from metalr.training import Job, RunSpec, RunStore, steps_per_epoch
from metalr.worker import execute

__all__ = ["data_digest", "finish_runs", "unfinished"]


def _task(config: ExperimentConfig, spec: RunSpec) -> Task:
    return make_task(spec.task, config.data, torch.device(spec.train.device))


def data_digest(config: ExperimentConfig, recipe: ExperimentConfig) -> str:
    """The digest of the data of `recipe` (64 hexadecimal digits), looked for where `config` says."""
    return make_task(recipe.task, config.data, torch.device(resolved_device("auto"))).digest


def finish_runs(
    config: ExperimentConfig,
    specs: Sequence[RunSpec],
    controllers: Mapping[str, Path],
    display: Display,
    title: str,
    on_done: Callable[[Job], None],
) -> None:
    """Bring every run to its committed result, showing what it will cost and how far it is.

    Args:
        config: Workers, store, data.
        specs: The runs; finished ones are skipped.
        controllers: Learner name -> path of its weights, for the runs under a learned controller.
        display: Shows the estimate and the progress, in epochs.
        title: What the bar is called.
        on_done: Told of each run finished here.

    Raises:
        ConfigError: settings that leave a run nothing to train, or a device that is not there.
        JobFailed: some runs could not be finished; the others were.
    """
    todo = unfinished(config, specs)
    if not todo:
        display.announce(f"{title}: all {len(specs)} runs are there already")
        return
    for device in sorted({spec.train.device for spec in todo}):
        check_device(device)
    for note in _checked(config, todo):
        display.announce(note)
    estimate = estimate_cost(todo, partial(_task, config), config.workers or 1)
    display.announce(
        f"{title}: {len(todo)} of {len(specs)} runs to train, {estimate.num_epochs:,} epochs, "
        f"about {format_duration(estimate.wall_time_s)} on {todo[0].train.device} "
        f"with {config.workers or 1} worker{'s' if config.workers > 1 else ''}"
    )
    total = sum(epochs_of(spec) for spec in specs)
    with display.track(title, total=total, done=total - estimate.num_epochs) as progress:

        def finished(job: Job) -> None:
            spec = job.spec
            progress.advance(0, f"done: {spec.method}, lr {spec.train.lr:g}, seed {spec.seed}")
            on_done(job)

        jobs = [_job(config, spec, controllers) for spec in todo]
        if config.workers == 0:
            InlineExecutor(lambda job: execute(job.model_dump_json(), progress.advance)).run(jobs, finished)
            return
        with WorkerExecutor(config.workers, on_epochs=progress.advance) as executor:
            executor.run(jobs, finished)


def _checked(config: ExperimentConfig, specs: Sequence[RunSpec]) -> list[str]:
    """What does not fit its budget, though it can be run; what cannot work is refused before any work.

    Raises ConfigError with every problem.
    """
    problems: list[str] = []
    notes: list[str] = []
    for spec in specs:
        steps = steps_per_epoch(spec, _task(config, spec))
        if spec.schedule_name is None:
            continue
        settings, epochs = spec.schedules or SchedulesConfig(), spec.train.epochs
        stand_in = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=spec.train.lr)
        try:
            make_schedule(spec.schedule_name, stand_in, epochs, steps, settings)
        except ConfigError as error:
            problems += error.problems
        found = schedule_notes(spec.schedule_name, settings, epochs, steps)
        notes += [f"Note on {spec.method}, {epochs} epochs: {note}" for note in found]
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return list(dict.fromkeys(notes))


def unfinished(config: ExperimentConfig, specs: Sequence[RunSpec]) -> list[RunSpec]:
    """The runs without a committed result."""
    store = RunStore(config.store)
    return [spec for spec in specs if not store.is_finished(spec.run_id)]


def _job(config: ExperimentConfig, spec: RunSpec, controllers: Mapping[str, Path]) -> Job:
    controller = controllers.get(CONTROLLED[spec.method].learner) if spec.method in CONTROLLED else None
    return Job(
        spec=spec,
        store=config.store,
        data_dir=config.data.dir,
        download=config.data.download,
        controller=str(controller) if controller else None,
    )
