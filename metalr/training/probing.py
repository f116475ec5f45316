"""The probe of a recorded run: on which batches, and the steps of the budget that it costs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from metalr.config import ConfigError
from metalr.control import ProbeCurve, lr_range_test
from metalr.tasks import Task
from metalr.training.loop import epoch_generator, seeded, training_loss
from metalr.training.specs import RunSpec

__all__ = ["probe_batch_size", "probe_cost_steps", "probe_of", "spent_steps", "steps_per_epoch"]


def probe_of(
    spec: RunSpec,
    task: Task,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any] | None,
) -> ProbeCurve | None:
    """The curve of the run's probe, or that of `state`, the checkpoint it goes on from; None without one."""
    if spec.control is None or spec.control.probe is None:
        return None
    if state is not None:
        return ProbeCurve.from_dict(state["probe"])
    config = spec.control.probe
    device = torch.device(spec.train.device)
    generator = epoch_generator(spec.seed, 0, device, "probe")
    batches = _probe_batches(task, config.num_steps, probe_batch_size(spec), generator, config.fresh_batches)

    def loss_of(batch: tuple[Tensor, Tensor]) -> Tensor:
        return training_loss(model, *batch, spec.train)

    with seeded(spec.seed, 0, device, "probe model"):
        return lr_range_test(
            model,
            optimizer,
            lambda step: loss_of(batches[min(step, len(batches) - 1)]),
            config,
            measured_loss=(lambda: loss_of(batches[-1])) if config.fresh_batches else None,
            is_distance=not task.config.classifies,
        )


def _probe_batches(
    task: Task, num_steps: int, size: int, generator: torch.Generator, fresh: bool
) -> list[tuple[Tensor, Tensor]]:
    """The batches of the probe's steps and the one that is measured, last; without `fresh` that one alone."""
    num_train = len(task.splits["train"].labels_B)
    order = torch.randperm(num_train, generator=generator, device=generator.device)
    first = torch.arange(num_steps + 1 if fresh else 1, device=order.device)[:, None] * size
    chosen = order[(first + torch.arange(size, device=order.device)) % num_train]
    return [task.train_batch(indices_B, generator) for indices_B in chosen]


def probe_batch_size(spec: RunSpec) -> int:
    """Images of the probe's batch."""
    probe = spec.control.probe if spec.control else None
    return min(spec.train.batch_size, (probe.batch_size if probe else None) or spec.train.batch_size)


def probe_cost_steps(spec: RunSpec) -> int:
    """Training steps that the probe costs, at its planned length; 0 without one.

    Measuring beside a step takes a forward pass, a third of what a step of as many images takes.
    """
    probe = spec.control.probe if spec.control else None
    if probe is None:
        return 0
    images = probe.num_steps * probe_batch_size(spec) * (4 / 3 if probe.fresh_batches else 1)
    return math.ceil(images / spec.train.batch_size)


def steps_per_epoch(spec: RunSpec, task: Task) -> int:
    """Optimizer steps an epoch of the run, the first one's `spent_steps` included.

    The probe's steps are taken out of the first epoch, or of all, as `control.probe.paid` says. It counts at
    its planned length, even where an explosion cuts it short: a budget must not depend on luck.

    Raises:
        ConfigError: the settings leave no step to train.
    """
    steps = _full_steps(spec, task)
    if spent_steps(spec, task):
        return steps
    spent, epochs = probe_cost_steps(spec), spec.train.epochs
    left = (steps * epochs - spent) // epochs
    if left < 1:
        problem = f"{spent} steps leave none to train in {epochs} epochs of {steps}"
        raise ConfigError([f"control.probe.num_steps: {problem}; take fewer, or a larger budget"])
    return left


def spent_steps(spec: RunSpec, task: Task) -> int:
    """Steps by which the first epoch is shorter, since the probe has had them; 0 where all epochs pay."""
    probe = spec.control.probe if spec.control else None
    spent = probe_cost_steps(spec)
    fits = probe is not None and probe.paid == "first_epoch" and spent <= _full_steps(spec, task) // 2
    return spent if fits else 0


def _full_steps(spec: RunSpec, task: Task) -> int:
    size = len(task.splits["train"].labels_B)
    steps = size // spec.train.batch_size
    if steps < 1:
        raise ConfigError(
            [f"train.batch_size: {spec.train.batch_size} is larger than the {size} training images"]
        )
    return steps
