"""The runs a comparison needs: each cell (task, budget, initial LR), each method, paired seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import TypeVar, get_args

from metalr.config import ExperimentConfig, TaskConfig
from metalr.config.models import MethodName
from metalr.training.records import RunSpec, control_of, schedules_of
from metalr.training.step import resolved_step

__all__ = ["METHODS", "Cell", "cell_of", "is_controlled", "plan_runs", "task_label"]

METHODS: tuple[MethodName, ...] = get_args(MethodName)
"""All methods, in the order of every table and legend."""

_PREFIX = "metalr-"
_T = TypeVar("_T")


@dataclass(frozen=True, order=True)
class Cell:
    """One question of the comparison: this task, this many epochs, started from this LR."""

    task: str
    budget_epochs: int
    initial_lr: float


def is_controlled(method: str) -> bool:
    """Whether `method` is a learned controller, not a baseline schedule."""
    return method.startswith(_PREFIX)


def task_label(task: TaskConfig) -> str:
    """What a reader calls the task, such as `cifar10 16px resnet18 w8`."""
    parts = [task.dataset, f"{task.image_size}px" if task.image_size else "", task.network, f"w{task.width}"]
    parts.append(f"noise {task.label_noise:g}" if task.label_noise else "")
    return " ".join(part for part in parts if part)


def cell_of(spec: RunSpec) -> Cell:
    """The cell a run belongs to."""
    return Cell(task_label(spec.task), spec.train.epochs, spec.train.lr)


def plan_runs(
    config: ExperimentConfig, data_digest: str, device: str, controllers: Mapping[str, str]
) -> list[RunSpec]:
    """Every run the comparison needs, each once, cell by cell, method by method, seed by seed.

    `device` is resolved (`cpu` or `cuda`); `controllers` maps a learner's name (`mlp`, `lstm`) to the
    SHA-256 of its safetensors file. A baseline's spec holds neither control nor controller, so that its
    result is shared by every comparison that needs it. Raises ValueError where a controller is missing.
    """
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device={device!r}: resolve it to 'cpu' or 'cuda' before planning runs")
    compare = config.compare
    budgets = compare.budgets or [config.train.epochs]
    initial_lrs = compare.initial_lrs or [config.train.lr]
    resolved = {"device": device, "step": resolved_step(config.train.step, device)}
    sha256s = {method: _controller_of(method, controllers) for method in compare.methods}
    return [
        RunSpec(
            task=config.task,
            train=config.train.model_copy(update=resolved | {"epochs": budget, "lr": lr}),
            method=method,
            control=control_of(method, config.control),
            controller_sha256=sha256s[method],
            schedules=schedules_of(method, config.schedules),
            seed=seed,
            data_digest=data_digest,
            evaluate_test=True,
        )
        for budget, lr, method, seed in product(budgets, initial_lrs, compare.methods, compare.seeds)
    ]


def _controller_of(method: MethodName, controllers: Mapping[str, str]) -> str | None:
    if not is_controlled(method):
        return None
    learner = method.removeprefix(_PREFIX)
    if learner not in controllers:
        known = ", ".join(sorted(controllers)) or "none"
        raise ValueError(
            f"method {method} needs a controller of learner {learner!r}, and there is {known}: "
            f"run `metalr train-meta` first, or leave {method} out of compare.methods"
        )
    return controllers[learner]
