"""Which trunks a harvest runs, where they fork, and what that will cost."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch

from metalr.config import (
    ConfigError,
    ControlConfig,
    ExperimentConfig,
    ProbeConfig,
    apply_overrides,
    short_hash,
)
from metalr.config.models import MethodName
from metalr.control import make_schedule
from metalr.tasks import Task
from metalr.training import ForkPlan, RunSpec, Training, make_optimizer, train_epoch
from metalr.training.records import schedules_of

__all__ = ["Estimate", "candidate_factors", "epochs_of", "estimate_cost", "plan_trunks", "resolved_device"]


def resolved_device(name: str) -> str:
    """`cpu` or `cuda` for `auto`, else `name`. Raises ConfigError where `cuda` is asked for and absent."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError(["train.device: cuda is asked for, but torch sees no GPU; use auto or cpu"])
    return ("cuda" if available else "cpu") if name == "auto" else name


def candidate_factors(config: ExperimentConfig) -> list[float]:
    """The K candidate peaks of a fork as multiples of the reference LR, evenly spaced in log."""
    low, high = config.harvest.candidate_span
    return [float(factor) for factor in np.geomspace(low, high, config.harvest.num_candidates)]


def plan_trunks(config: ExperimentConfig, digest_of: Callable[[ExperimentConfig], str]) -> list[RunSpec]:
    """The trunk runs of a harvest: tasks x budgets x seeds x schedules x initial LRs, thinned to `max_runs`.

    Every trunk forks at its later fork epochs; the fork before training belongs to the first trunk
    of each (task, budget, seed), since all of them start alike.

    Args:
        config: The recipe.
        digest_of: The data digest of a recipe's task.

    Raises:
        ConfigError: a wrong entry in `harvest.mixture`.
    """
    harvest = config.harvest
    recipes = [apply_overrides(config, overrides) for overrides in harvest.mixture]
    budgets = harvest.budgets or [config.train.epochs]
    cells = itertools.product(
        range(len(recipes)), budgets, harvest.seeds, harvest.schedules, harvest.initial_lrs
    )
    chosen = _thinned(list(cells), harvest.max_runs)
    digests = {index: digest_of(recipes[index]) for index in {cell[0] for cell in chosen}}
    started: set[tuple[int, int, int]] = set()
    specs = []
    for index, budget, seed, schedule, lr in chosen:
        is_first = (index, budget, seed) not in started
        started.add((index, budget, seed))
        specs.append(_trunk(recipes[index], budget, seed, schedule, lr, digests[index], is_first))
    return list({spec.run_id: spec for spec in specs}.values())


def _thinned(
    cells: list[tuple[int, int, int, str, float]], max_runs: int | None
) -> list[tuple[int, int, int, str, float]]:
    """At most `max_runs` cells: a seeded draw with every task, budget and LR in nearly equal numbers."""
    if max_runs is None or len(cells) <= max_runs:
        return cells
    shuffled = random.Random(0).sample(cells, len(cells))
    chosen: list[tuple[int, int, int, str, float]] = []
    counts: dict[tuple[int, object], int] = {}
    while len(chosen) < max_runs:
        best = min(shuffled, key=lambda cell: sum(counts.get(pair, 0) for pair in enumerate(cell)))
        shuffled.remove(best)
        chosen.append(best)
        for pair in enumerate(best):
            counts[pair] = counts.get(pair, 0) + 1
    return sorted(chosen)


def _trunk(
    recipe: ExperimentConfig, budget: int, seed: int, schedule: str, lr: float, digest: str, is_first: bool
) -> RunSpec:
    epochs = {round(fraction * budget) for fraction in recipe.harvest.fork_fractions}
    epochs = {epoch for epoch in epochs if epoch < budget and (epoch > 0 or is_first)}
    device = resolved_device(recipe.train.device)
    # A trunk never stops early: its forks must be there, and its labels are final losses of whole budgets.
    changes = {"epochs": budget, "lr": lr, "device": device, "early_stopping": None}
    # Of the control law only what shapes probe and branches can change a trunk; the rest keeps its default.
    control = ControlConfig(
        probe=recipe.control.probe or ProbeConfig(),
        anchor=recipe.control.anchor,
        warmup_fraction=recipe.control.warmup_fraction,
    )
    return RunSpec(
        task=recipe.task,
        train=recipe.train.model_copy(update=changes),
        method=cast(MethodName, schedule),
        schedules=schedules_of(schedule, recipe.schedules),
        control=control,
        forks=ForkPlan(epochs=sorted(epochs), peak_factors=candidate_factors(recipe)),
        seed=seed,
        data_digest=digest,
    )


def epochs_of(spec: RunSpec) -> int:
    """Epochs a run trains, the branches of its forks included."""
    budget = spec.train.epochs
    if spec.forks is None:
        return budget
    return budget + sum((budget - epoch) * len(spec.forks.peak_factors) for epoch in spec.forks.epochs)


@dataclass(frozen=True)
class Estimate:
    """What a set of runs will cost."""

    num_runs: int
    num_epochs: int
    """Epochs to train, branches included."""
    wall_time_s: float
    """Expected wall time in seconds with the given number of workers."""


def estimate_cost(specs: Sequence[RunSpec], task_of: Callable[[RunSpec], Task], num_workers: int) -> Estimate:
    """The cost of `specs`, from a few timed steps of each distinct task on this device.

    Args:
        specs: The runs still to do.
        task_of: Makes the task of a spec.
        num_workers: Runs trained at the same time, at least 1.
    """
    num_epochs, seconds = 0, 0.0
    timed: dict[str, float] = {}
    for spec in specs:
        key = short_hash([spec.task.model_dump(), spec.train.batch_size, spec.train.device])
        if key not in timed:
            timed[key] = _seconds_an_epoch(spec, task_of(spec))
        num_epochs += epochs_of(spec)
        seconds += timed[key] * epochs_of(spec)
    return Estimate(len(specs), num_epochs, seconds / max(1, num_workers))


def _seconds_an_epoch(spec: RunSpec, task: Task) -> float:
    steps = max(1, len(task.splits["train"].labels_B) // spec.train.batch_size)
    sample = min(4, steps)
    torch.set_num_threads(spec.train.threads)
    model = task.make_model(spec.seed)
    optimizer = make_optimizer(model, spec.train)
    schedule = make_schedule("constant", optimizer, spec.train.epochs, sample)
    training = Training(task, spec.train, model, optimizer, schedule, spec.seed, sample)
    train_epoch(training, observe=False)  # the first epoch pays for allocation
    started = time.perf_counter()
    train_epoch(training, observe=False)
    return (time.perf_counter() - started) * steps / sample
