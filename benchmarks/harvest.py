"""The cost of a harvest at three sizes: as predicted, as measured, and whether it is linear in its size."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from benchmarks.cases import small_job, small_task
from benchmarks.measurement import Goal, Measurement, Row
from benchmarks.settings import HarvestSize, Settings
from metalr.config import ExperimentConfig
from metalr.harvest.cost import estimate_cost
from metalr.harvest.execution import WorkerExecutor
from metalr.harvest.plan import plan_trunks
from metalr.training import Job

__all__ = ["HarvestCost", "harvest_config", "harvest_rows", "measure_harvest"]

GROUP = "The cost of a harvest"
ERROR_GOAL = Goal("at most", 20.0)
LINEAR_GOAL = Goal("at most", 1.2)
NUM_WORKERS = 2


@dataclass(frozen=True)
class HarvestCost:
    """What a harvest of one size cost."""

    size: HarvestSize
    num_runs: int
    num_epochs: int
    """Epochs trained, those of branches included."""
    predicted_s: float
    measured_s: float

    def __str__(self) -> str:
        forks, candidates = len(self.size.fork_fractions), self.size.num_candidates
        return f"{self.num_runs} runs, forked {forks}x into {candidates}, {self.num_epochs} epochs"


def measure_harvest(settings: Settings) -> list[Row]:
    """Predicted and measured seconds of each size on two workers, started anew each time as for a user."""
    return harvest_rows([_cost_of(settings, size) for size in settings.harvest_sizes])


def _cost_of(settings: Settings, size: HarvestSize) -> HarvestCost:
    with tempfile.TemporaryDirectory() as store:
        config = harvest_config(settings, size, store)
        specs = plan_trunks(config, lambda recipe: small_task(recipe.task).digest)
        estimate = estimate_cost(specs, lambda spec: small_task(spec.task), NUM_WORKERS)
        started = time.perf_counter()
        with WorkerExecutor(NUM_WORKERS) as executor:
            executor.run([Job(spec=spec, store=store) for spec in specs], lambda job: None)
            measured_s = time.perf_counter() - started
    return HarvestCost(size, len(specs), estimate.num_epochs, estimate.wall_time_s, measured_s)


def harvest_config(settings: Settings, size: HarvestSize, store: str) -> ExperimentConfig:
    """A recipe of one task whose plan has the trunks of `size`."""
    spec = small_job(settings, Path(store), seed=0).spec
    harvest = {
        "mixture": [{}],
        "schedules": ["constant", "cosine"],
        "initial_lrs": [0.01, 0.1],
        "budgets": None,
        "seeds": list(range(1_000, 1_000 + size.num_runs)),
        "max_runs": size.num_runs,
        "fork_fractions": list(size.fork_fractions),
        "num_candidates": size.num_candidates,
    }
    control = {"probe": {"num_steps": 8}}
    values = {"task": spec.task, "train": spec.train, "harvest": harvest, "control": control, "store": store}
    return ExperimentConfig.model_validate({"name": "benchmark", **values})


def harvest_rows(costs: Sequence[HarvestCost]) -> list[Row]:
    """The rows of all sizes: seconds, how far off the prediction was, and the cost of a further epoch.

    The last is taken from size to size, so that the workers' start cancels out; at least three sizes.
    """
    rows = []
    for cost in costs:
        error_pct = 100 * abs(cost.predicted_s / cost.measured_s - 1)
        rows += [
            Row(GROUP, Measurement(f"{cost}: measured", "s", (cost.measured_s,))),
            Row(GROUP, Measurement(f"{cost}: predicted", "s", (cost.predicted_s,))),
            Row(GROUP, Measurement(f"{cost}: error of the prediction", "%", (error_pct,)), ERROR_GOAL),
        ]
    further = tuple(
        (after.measured_s - before.measured_s) / (after.num_epochs - before.num_epochs)
        for before, after in pairwise(costs)
    )
    linear = Measurement(
        "seconds a further epoch, dearest / cheapest", "ratio", (max(further) / min(further),)
    )
    note = "1 is linear; the workers' start is in what is measured, not in what is predicted"
    return [
        *rows,
        Row(GROUP, Measurement("seconds a further epoch", "s", further)),
        Row(GROUP, linear, LINEAR_GOAL, note),
    ]
