"""What a set of runs will cost, from a few timed steps of each kind of training on this device."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from metalr.config import short_hash
from metalr.control import make_schedule
from metalr.harvest.plan import epochs_of
from metalr.tasks import Task
from metalr.training import (
    RunSpec,
    Training,
    evaluate,
    make_optimizer,
    steps_per_epoch,
    train_epoch,
)
from metalr.training.probing import probe_cost_steps

__all__ = ["Estimate", "estimate_cost"]

SAMPLE_STEPS = 6
"""Optimizer steps that are timed, after as many that are not: the first ones pay for allocation."""


@dataclass(frozen=True)
class Estimate:
    """What a set of runs will cost."""

    num_runs: int
    num_epochs: int
    """Epochs to train, branches included."""
    wall_time_s: float
    """Expected wall time in seconds with the given number of workers, without their start."""


@dataclass(frozen=True)
class _Pace:
    """Seconds of one kind of training on this device."""

    step_s: float
    image_s: float
    """Evaluating one image."""


def estimate_cost(specs: Sequence[RunSpec], task_of: Callable[[RunSpec], Task], num_workers: int) -> Estimate:
    """The cost of `specs`: steps of training, branches and probes, and evaluated images, at their pace.

    Args:
        specs: The runs still to do.
        task_of: Makes the task of a spec.
        num_workers: Runs trained at the same time, at least 1.
    """
    seconds = 0.0
    paces: dict[str, _Pace] = {}
    for spec in specs:
        task = task_of(spec)
        settings = spec.train.model_dump(exclude={"epochs", "lr", "early_stopping", "depth_groups"})
        key = short_hash([spec.task.model_dump(), settings])
        if key not in paces:
            paces[key] = _pace_of(spec, task)
        seconds += _seconds_of(spec, task, paces[key])
    num_epochs = sum(epochs_of(spec) for spec in specs)
    return Estimate(len(specs), num_epochs, seconds / max(1, num_workers))


def _seconds_of(spec: RunSpec, task: Task, pace: _Pace) -> float:
    """Seconds of one run alone; a trunk's branches are part of it."""
    num_steps = epochs_of(spec) * steps_per_epoch(spec, task) + probe_cost_steps(spec)
    sizes = {name: len(split.labels_B) for name, split in task.splits.items()}
    num_images = spec.train.epochs * sizes["inner_valid"] + sizes["inner_valid"] + sizes["outer_valid"]
    num_images += sizes["test"] if spec.evaluate_test else 0
    if spec.forks is not None:
        # A trunk evaluates outer_valid every epoch, and each branch after its first epoch and at its end.
        num_branches = len(spec.forks.epochs) * len(spec.forks.peak_factors)
        num_images += (spec.train.epochs + 2 * num_branches) * sizes["outer_valid"]
    return num_steps * pace.step_s + num_images * pace.image_s


def _pace_of(spec: RunSpec, task: Task) -> _Pace:
    """The seconds of a step and of an evaluated image, timed."""
    sample = min(SAMPLE_STEPS, max(1, len(task.splits["train"].labels_B) // spec.train.batch_size))
    torch.set_num_threads(spec.train.threads)
    model = task.make_model(spec.seed)
    if spec.train.channels_last is True:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(model, spec.train)
    settings = spec.train.model_copy(update={"epochs": 2})  # one to warm up, one that is timed
    schedule = make_schedule("constant", optimizer, settings.epochs, sample)
    training = Training(task, settings, model, optimizer, schedule, spec.seed, sample)
    train_epoch(training, observe=False)
    started = time.perf_counter()
    train_epoch(training, observe=False)
    trained = time.perf_counter()
    evaluate(model, task, "inner_valid", spec.train)
    evaluated = time.perf_counter()
    num_images = len(task.splits["inner_valid"].labels_B)
    return _Pace((trained - started) / sample, (evaluated - trained) / num_images)
