"""Which trunks a harvest runs, where they fork, and what that will cost."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Literal, cast

import numpy as np
import torch

from metalr.config import (
    ConfigError,
    ControlConfig,
    ExperimentConfig,
    ProbeConfig,
    apply_overrides,
)
from metalr.config.controlled import CONTROLLED, ControlledName, LearnerName
from metalr.config.models import MethodName
from metalr.harvest.branching import resolved_together
from metalr.training import ForkPlan, RunSpec
from metalr.training.specs import UNUSED_LAW, schedules_of
from metalr.training.step import resolved_step

__all__ = ["candidate_factors", "check_device", "epochs_of", "plan_trunks", "resolved_device"]


def resolved_device(name: str) -> str:
    """`cpu` or `cuda` for `auto`, else `name`: runs of a GPU are planned, and reported, on any machine."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def check_device(name: str) -> None:
    """Raise ConfigError where something is to be trained on `cuda` and there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(["train.device: cuda is asked for, but torch sees no GPU; use auto or cpu"])


def candidate_factors(config: ExperimentConfig) -> list[float]:
    """The K candidate peaks of a fork as multiples of the reference LR, evenly spaced in log."""
    low, high = config.harvest.candidate_span
    return [float(factor) for factor in np.geomspace(low, high, config.harvest.num_candidates)]


def plan_trunks(
    config: ExperimentConfig,
    digest_of: Callable[[ExperimentConfig], str],
    controllers: Mapping[LearnerName, str] | None = None,
) -> list[RunSpec]:
    """The trunk runs of a harvest: tasks x budgets x seeds x schedules x initial LRs, thinned to `max_runs`.

    Every trunk forks at its later fork epochs; the fork before training belongs to the first trunk
    of each (task, budget, seed), since all of them start alike.

    Args:
        config: The recipe.
        digest_of: The data digest of a recipe's task.
        controllers: The SHA-256 of each of `harvest.controllers`, by its name there.

    Raises:
        ConfigError: a wrong entry in `harvest.mixture`.
    """
    alone = apply_overrides(config, {"harvest.mixture": [{}]})  # an entry need not go with another one
    recipes = [apply_overrides(alone, overrides) for overrides in config.harvest.mixture]
    cells = [cell for index, recipe in enumerate(recipes) for cell in _cells(index, recipe)]
    chosen = _thinned(cells, config.harvest.max_runs)
    digests = {index: digest_of(recipes[index]) for index in {cell[0] for cell in chosen}}
    started: set[tuple[int, int, int]] = set()
    specs = []
    for index, budget, seed, schedule, lr in chosen:
        is_first = (index, budget, seed) not in started
        started.add((index, budget, seed))
        trunk = _trunk(recipes[index], budget, seed, schedule, lr, digests[index], is_first)
        if schedule in CONTROLLED:
            known = controllers or {}
            trunk = _under_controller(trunk, recipes[index], known[CONTROLLED[schedule].learner])
        specs.append(trunk)
    return list({spec.run_id: spec for spec in specs}.values())


_METHOD_OF: dict[LearnerName, ControlledName] = {"mlp": "metalr-mlp", "lstm": "metalr-lstm"}

Cell = tuple[int, int, int, str, float]
"""Task, budget, seed, schedule and initial LR of a trunk."""


def _cells(index: int, recipe: ExperimentConfig) -> list[Cell]:
    """Every trunk that one task of the mixture could have."""
    harvest = recipe.harvest
    budgets = harvest.budgets or [recipe.train.epochs]
    starts: list[tuple[str, float]] = list(itertools.product(harvest.schedules, harvest.initial_lrs))
    # The probe takes the place of an initial LR.
    starts += [(_METHOD_OF[learner], harvest.initial_lrs[0]) for learner in harvest.controllers]
    return [
        (index, budget, seed, schedule, lr)
        for budget, seed, (schedule, lr) in itertools.product(budgets, harvest.seeds, starts)
    ]


def _thinned(cells: list[Cell], max_runs: int | None) -> list[Cell]:
    """At most `max_runs` cells: a seeded draw with every task, budget and LR in nearly equal numbers.

    A value that not every task has is drawn as much less often as there are fewer cells with it.
    """
    if max_runs is None or len(cells) <= max_runs:
        return cells
    shares = _shares(cells)
    shuffled = random.Random(0).sample(cells, len(cells))
    chosen: list[Cell] = []
    counts: dict[tuple[int, object], int] = {}
    while len(chosen) < max_runs:
        best = min(
            shuffled, key=lambda cell: sum(counts.get(pair, 0) / shares[pair] for pair in enumerate(cell))
        )
        shuffled.remove(best)
        chosen.append(best)
        for pair in enumerate(best):
            counts[pair] = counts.get(pair, 0) + 1
    return sorted(chosen)


def _shares(cells: list[Cell]) -> dict[tuple[int, object], float]:
    """How often each value of each position is met, relative to the position's mean; 1 for every task."""
    counts = Counter(pair for cell in cells for pair in enumerate(cell))
    num_values = Counter(position for position, _ in counts)
    return {
        (position, value): count * num_values[position] / len(cells) if position else 1.0
        for (position, value), count in counts.items()
    }


def _trunk(
    recipe: ExperimentConfig, budget: int, seed: int, schedule: str, lr: float, digest: str, is_first: bool
) -> RunSpec:
    epochs = {round(fraction * budget) for fraction in recipe.harvest.fork_fractions}
    epochs = {epoch for epoch in epochs if epoch < budget and (epoch > 0 or is_first)}
    device = resolved_device(recipe.train.device)
    # A trunk never stops early: its forks must be there, and its labels are final losses of whole budgets.
    # And it is evaluated every epoch: a fork's features are those after an epoch that was.
    changes = {"epochs": budget, "lr": lr, "device": device, "early_stopping": None, "evaluate_every": 1}
    changes["step"] = resolved_step(recipe.train.step, device, recipe.train.optimizer)
    train = recipe.train.model_copy(update=changes)
    # Every epoch of a trunk and its branches is equally long.
    probe = (recipe.control.probe or ProbeConfig()).model_copy(update={"paid": "every_epoch"})
    # Of the control law only what shapes probe and branches can change a trunk; the rest is as it first was.
    control = ControlConfig(
        probe=probe,
        anchor=recipe.control.anchor,
        warmup_fraction=_warmup_fraction(recipe),
        decay_fraction=recipe.control.decay_fraction,
        **UNUSED_LAW,
    )
    return RunSpec(
        task=recipe.task,
        train=train,
        method=cast(MethodName, schedule),
        schedules=schedules_of(schedule, recipe.schedules),
        control=control,
        forks_together=resolved_together(recipe.harvest.together, train),
        forks=ForkPlan(epochs=sorted(epochs), peak_factors=candidate_factors(recipe)),
        seed=seed,
        data_digest=digest,
    )


def _under_controller(trunk: RunSpec, recipe: ExperimentConfig, sha256: str) -> RunSpec:
    """The trunk with all of the control law, each setting of which can change its course.

    But for the rise: the LR of a candidate is the one to start with and to hold, before training as later.
    """
    assert trunk.control is not None
    changes = {"probe": trunk.control.probe, "warmup_fraction": _warmup_fraction(recipe), "rise": 1.0}
    control = recipe.control.model_copy(update=changes)
    return RunSpec.model_validate(
        trunk.model_dump() | {"control": control, "controller_sha256": sha256, "schedules": None}
    )


def _warmup_fraction(recipe: ExperimentConfig) -> float | Literal["auto"]:
    own = recipe.harvest.warmup_fraction
    return recipe.control.warmup_fraction if own is None else own


def epochs_of(spec: RunSpec) -> int:
    """Epochs a run trains, the branches of its forks included."""
    budget = spec.train.epochs
    if spec.forks is None:
        return budget
    return budget + sum((budget - epoch) * len(spec.forks.peak_factors) for epoch in spec.forks.epochs)
