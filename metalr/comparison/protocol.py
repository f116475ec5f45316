"""The runs a comparison needs: each cell (task, budget, initial LR), each method, paired seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from typing import get_args

from metalr.config import ExperimentConfig, TaskConfig, TrainConfig
from metalr.config.controlled import CONTROLLED, optimizer_of, peer_of
from metalr.config.models import MethodName
from metalr.config.peers import PEERS
from metalr.config.schedules import ScheduleName
from metalr.training.specs import RunSpec, control_of, schedules_of
from metalr.training.step import resolved_step

__all__ = [
    "METHODS",
    "Cell",
    "cell_of",
    "cells_of",
    "is_controlled",
    "is_hand_schedule",
    "missing_peers",
    "plan_runs",
    "report_lrs",
    "task_label",
]

METHODS: tuple[MethodName, ...] = get_args(MethodName)
"""All methods, in the order of every table and legend."""

_NO_HAND_SCHEDULES = ("greedy", "explore")
"""`greedy` looks at the run and counts as a peer; `explore` is a random path, made to be harvested."""
_LR_DIGITS = 12
"""Significant digits of a peer's LR, so that 10 x 0.03 is the 0.3 that a reader expects."""


@dataclass(frozen=True, order=True)
class Cell:
    """One question of the comparison: this task, this many epochs, started from this LR."""

    task: str
    budget_epochs: int
    initial_lr: float


def is_controlled(method: str) -> bool:
    """Whether `method` is a learned controller, not a baseline schedule."""
    return method in CONTROLLED


def is_hand_schedule(method: str) -> bool:
    """Whether `method` is a schedule set by hand, and so a candidate for the reference of regret."""
    return method in get_args(ScheduleName) and method not in _NO_HAND_SCHEDULES


def report_lrs(config: ExperimentConfig) -> list[float]:
    """The initial LRs of the report's cells."""
    return list(config.compare.initial_lrs or [config.train.lr])


def missing_peers(methods: Sequence[str]) -> dict[str, str]:
    """Those of `methods` that need a package which is not installed, each with what to install."""
    peers = {method: peer for method in methods if (peer := peer_of(method)) is not None}
    return {
        method: f"the package {peer.package} is not installed"
        for method, peer in peers.items()
        if peer.module is not None and find_spec(peer.module) is None
    }


def task_label(task: TaskConfig) -> str:
    """What a reader calls the task, such as `cifar10 16px resnet18 w8`."""
    parts = [task.dataset, f"{task.image_size}px" if task.image_size else "", task.network, f"w{task.width}"]
    parts.append(f"{len(task.classes)} classes" if task.classes else "")
    parts.append(f"noise {task.label_noise:g}" if task.label_noise else "")
    return " ".join(part for part in parts if part)


def cell_of(spec: RunSpec) -> Cell:
    """Task, budget and the LR the run really had; for where it stands in a comparison, see `cells_of`."""
    return Cell(task_label(spec.task), spec.train.epochs, spec.train.lr)


def cells_of(spec: RunSpec, config: ExperimentConfig) -> list[Cell]:
    """Where a run stands in the comparison of `config`: in one cell, or in all where its method needs no LR.

    A peer whose LR is a multiple of the cell's stands in that cell; LRs that only tune have cells too,
    which the report leaves out.
    """
    task, epochs = task_label(spec.task), spec.train.epochs
    if _needs_no_lr(spec.method):
        return [Cell(task, epochs, lr) for lr in report_lrs(config)]
    grid = _grid(spec.method, config)
    lrs = [lr for lr in grid if _lr_of(spec.method, lr, config) == spec.train.lr]
    return [Cell(task, epochs, lr) for lr in lrs or [spec.train.lr / _factor(spec.method)]]


def _needs_no_lr(method: str) -> bool:
    return method == "find" or (method in PEERS and PEERS[method].lr_factor is None)


def _factor(method: str) -> float:
    return (PEERS[method].lr_factor or 1.0) if method in PEERS else 1.0


def _grid(method: str, config: ExperimentConfig) -> list[float]:
    """The cells' LRs, and those for tuning where the method is tuned."""
    lrs, compare = report_lrs(config), config.compare
    is_tuned = not is_controlled(method) and method in (compare.tuned_methods or compare.methods)
    return sorted({*lrs, *(compare.tuning_lrs or [])}) if is_tuned else lrs


def _lr_of(method: str, cell_lr: float, config: ExperimentConfig) -> float:
    """The LR that `method` runs at in a cell of `cell_lr`."""
    if method == "find":
        return config.train.lr
    if _needs_no_lr(method):
        return PEERS[method].lr
    factor = _factor(method)
    return cell_lr if factor == 1.0 else float(f"{factor * cell_lr:.{_LR_DIGITS}g}")


def _run_lrs(method: str, config: ExperimentConfig) -> list[float]:
    grid = _grid(method, config)
    return [_lr_of(method, lr, config) for lr in (grid[:1] if _needs_no_lr(method) else grid)]


def _train_of(method: str, config: ExperimentConfig, device: str, epochs: int, lr: float) -> TrainConfig:
    """The recipe's `train` section, under the optimizer that `method` brings along."""
    step = resolved_step(config.train.step, device)
    changes = {"device": device, "step": step, "epochs": epochs, "lr": lr}
    optimizer = optimizer_of(method)
    if optimizer is None:
        return config.train.model_copy(update=changes)
    # Neither exists for these optimizers, and a comparison should not end there.
    changes |= {"optimizer": optimizer, "nesterov": False}
    changes["step"] = "eager" if step == "cuda_graph" else step
    return TrainConfig.model_validate(config.train.model_dump() | changes)


def plan_runs(
    config: ExperimentConfig, data_digest: str, device: str, controllers: Mapping[str, str]
) -> list[RunSpec]:
    """Every run the comparison needs, each once: budget by budget, method by method, LR by LR, seed by seed.

    `device` is resolved (`cpu` or `cuda`); `controllers` maps a learner's name (`mlp`, `lstm`) to the
    SHA-256 of its safetensors file. A baseline's spec holds neither control nor controller, so that its
    result is shared by every comparison that needs it. Hand schedules and peers also run at
    `compare.tuning_lrs`; a method that needs no LR runs once per budget and seed. Raises ValueError where a
    controller is missing, and where a setting of `train` does not go with a peer's optimizer.
    """
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device={device!r}: resolve it to 'cpu' or 'cuda' before planning runs")
    compare = config.compare
    budgets = compare.budgets or [config.train.epochs]
    sha256s = {method: _controller_of(method, controllers) for method in compare.methods}
    return [
        RunSpec(
            task=config.task,
            train=_train_of(method, config, device, budget, lr),
            method=method,
            control=control_of(method, config.control),
            controller_sha256=sha256s[method],
            schedules=schedules_of(method, config.schedules),
            seed=seed,
            data_digest=data_digest,
            evaluate_test=True,
        )
        for budget, method in product(budgets, compare.methods)
        for lr, seed in product(_run_lrs(method, config), compare.seeds)
    ]


def _controller_of(method: MethodName, controllers: Mapping[str, str]) -> str | None:
    if method not in CONTROLLED:
        return None
    learner = CONTROLLED[method].learner
    if learner not in controllers:
        known = ", ".join(sorted(controllers)) or "none"
        raise ValueError(
            f"method {method} needs a controller of learner {learner!r}, and there is {known}: "
            f"run `metalr train-meta` first, or leave {method} out of compare.methods"
        )
    return controllers[learner]
