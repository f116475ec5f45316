"""Forks: continue one state under K candidate LRs to the end of the budget, and see which was best.

Common random numbers: the branches of a fork share weights, momentum, batch-norm statistics, data
order, augmentation and dropout, and differ in the peak of their anchor alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from metalr.config import ControlConfig
from metalr.control import Snapshot, anchored_schedule
from metalr.tasks import Task
from metalr.training import (
    Job,
    LiveRun,
    RunRecord,
    Training,
    evaluate,
    make_optimizer,
    train_epoch,
    train_run,
)
from metalr.training.artifacts import append_json_line, read_json_lines, write_json_lines
from metalr.training.loop import branched

__all__ = ["fork", "run_trunk"]

OnEpochs = Callable[[int], None]


def run_trunk(job: Job, task: Task, on_epochs: OnEpochs | None = None) -> RunRecord:
    """The finished record of a trunk: an ordinary run, forked where its spec says so.

    Forks already in `forks.jsonl` are not repeated, so a killed trunk goes on where it was.

    Args:
        job: Its spec must hold a fork plan and a control law with a probe.
        task: Made from the spec's task.
        on_epochs: Told the number of epochs just trained, branches included.

    Raises:
        ValueError: the spec has no fork plan or no probe.
    """
    if job.spec.forks is None or job.spec.control is None or job.spec.control.probe is None:
        raise ValueError(f"run {job.spec.run_id} is no trunk: it needs `forks` and `control.probe`")
    tell = on_epochs or (lambda epochs: None)

    def on_epoch(live: LiveRun) -> None:
        if live.training.epoch > 0:
            tell(1)
        if job.spec.forks is not None and live.training.epoch in job.spec.forks.epochs:
            fork(live, job.spec.forks.peak_factors, job.spec.control or ControlConfig(), tell)

    return train_run(job, task, on_epoch=on_epoch)


def fork(live: LiveRun, factors: list[float], control: ControlConfig, tell: OnEpochs) -> list[dict[str, Any]]:
    """Train the missing candidates of the present epoch, append their rows, and put the run back.

    Args:
        live: A run at the end of an epoch, or before training.
        factors: Candidate peaks as multiples of the probe's reference LR.
        control: Gives the anchor's shape and warm-up.
        tell: Told the number of epochs just trained.
    """
    path = live.folder / "forks.jsonl"
    rows = read_json_lines(path)
    write_json_lines(path, rows)  # a torn last line must not swallow the next one
    epoch = live.training.epoch
    done = {(row["epoch"], row["candidate"]) for row in rows}
    assert live.probe is not None
    with _put_back(live.training) as snapshot:
        for candidate, factor in enumerate(factors):
            if (epoch, candidate) in done:
                tell(live.spec.train.epochs - epoch)
                continue
            started = time.perf_counter()
            peak = factor * live.probe.reference_lr
            next_loss, final_loss = _branch(live.training, snapshot, peak, control, tell)
            row = {
                "epoch": epoch,
                "candidate": candidate,
                "factor": factor,
                "peak_lr": peak,
                "next_loss": next_loss,
                "final_loss": final_loss,
                "time/branch_s": time.perf_counter() - started,
            }
            append_json_line(path, row)
            rows.append(row)
    return rows


@contextmanager
def _put_back(training: Training) -> Iterator[Snapshot]:
    snapshot = Snapshot.take(training.model, training.optimizer)
    try:
        yield snapshot
    finally:
        snapshot.restore(training.model, training.optimizer)


def _branch(
    trunk: Training, snapshot: Snapshot, peak_lr: float, control: ControlConfig, tell: OnEpochs
) -> tuple[float | None, float | None]:
    """`outer_valid` loss one epoch on and at the end of the budget; None from a divergence on."""
    optimizer = make_optimizer(trunk.model, trunk.config)
    _restore_under_recipe(snapshot, trunk.model, optimizer)
    schedule = anchored_schedule(
        optimizer,
        peak_lr,
        trunk.epoch,
        trunk.config.epochs,
        trunk.steps_per_epoch,
        control.anchor,
        control.warmup_fraction,
    )
    branch = branched(trunk, schedule, optimizer)
    next_loss: float | None = None
    for first in [True] + [False] * (trunk.config.epochs - trunk.epoch - 1):
        result = train_epoch(branch, observe=False)
        tell(1)
        if not result.observation.is_finite:
            tell(trunk.config.epochs - branch.epoch)
            return next_loss, None
        if first:
            next_loss = _outer_loss(branch)
    return next_loss, _outer_loss(branch)


def _restore_under_recipe(snapshot: Snapshot, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """As `Snapshot.restore`, but the fresh `optimizer` keeps its groups' settings, and gets no others.

    So neither the momentum that a trunk's schedule has cycled, nor its LRs, reach a branch.
    """
    recipe = [
        {key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups
    ]
    snapshot.restore(model, optimizer)
    for group, settings in zip(optimizer.param_groups, recipe, strict=True):
        parameters = group["params"]
        group.clear()
        group.update(settings, params=parameters)


def _outer_loss(branch: Training) -> float | None:
    loss = evaluate(branch.model, branch.task, "outer_valid", branch.config).loss
    return loss if loss < float("inf") else None
