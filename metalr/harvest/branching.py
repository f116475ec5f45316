"""Forks: continue one state under K candidate LRs to the end of the budget, and see which was best.

Common random numbers: the branches of a fork share weights, momentum, batch-norm statistics, data
order, augmentation and dropout, and differ in the peak of their anchor alone.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn

from metalr.config import ControlConfig, TrainConfig
from metalr.control import Controller, Snapshot, anchor_for, anchored_schedule
from metalr.control.snapshot import PROGRESS_SETTINGS
from metalr.tasks import Task
from metalr.training import (
    Job,
    LiveRun,
    RunRecord,
    RunSpec,
    Training,
    evaluate_splits,
    make_optimizer,
    train_epoch,
    train_run,
)
from metalr.training.artifacts import append_json_line, read_json_lines, write_json_lines
from metalr.training.loop import branched
from metalr.training.together import BranchLosses, branches_together, reason_against_together

__all__ = ["branch_losses", "fork", "resolved_together", "run_trunk"]

OnEpochs = Callable[[int], None]


def run_trunk(
    job: Job, task: Task, on_epochs: OnEpochs | None = None, controller: Controller | None = None
) -> RunRecord:
    """The finished record of a trunk: an ordinary run, forked where its spec says so.

    Forks already in `forks.jsonl` are not repeated, so a killed trunk goes on where it was.

    Args:
        job: Its spec must hold a fork plan and a control law with a probe.
        task: Made from the spec's task.
        on_epochs: Told the number of epochs just trained, branches included.
        controller: The frozen controller of a trunk that runs under one.

    Raises:
        ValueError: the spec has no fork plan or no probe, or another controller.
    """
    if job.spec.forks is None or job.spec.control is None or job.spec.control.probe is None:
        raise ValueError(f"run {job.spec.run_id} is no trunk: it needs `forks` and `control.probe`")
    tell = on_epochs or (lambda epochs: None)

    def on_epoch(live: LiveRun) -> None:
        if live.training.epoch > 0:
            tell(1)
        if job.spec.forks is not None and live.training.epoch in job.spec.forks.epochs:
            fork(live, job.spec.forks.peak_factors, job.spec.control or ControlConfig(), tell)

    return train_run(job, task, controller, on_epoch)


def resolved_together(wanted: bool | Literal["auto"], train: TrainConfig) -> bool:
    """Whether the branches of a trunk under `train`, its device resolved, shall train as one network.

    `auto` is False: on the CPU one after another is faster, and on an H200, where that trains by recorded
    steps, as fast (ratio 1.06 for 8 candidates of a ResNet-18 of width 16). A recipe that does not allow it
    gives False, after a warning where `wanted` is true.
    """
    if wanted == "auto":
        return False
    reason = reason_against_together(train) if wanted else None
    if reason is not None:
        warnings.warn(f"harvest.together=true is ignored: {reason}", stacklevel=2)
    return wanted and reason is None


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
    done = {row["candidate"] for row in rows if row["epoch"] == epoch}
    missing = [candidate for candidate in range(len(factors)) if candidate not in done]
    if not missing:
        tell((live.spec.train.epochs - epoch) * len(factors))
        return rows
    assert live.probe is not None
    peaks = [factor * live.probe.reference_lr for factor in factors]
    train = _all_together if _trains_together(live.spec) else _one_by_one
    with _put_back(live.training) as snapshot:
        for candidate, losses, seconds in train(live.training, snapshot, peaks, missing, control, tell):
            row = {
                "epoch": epoch,
                "candidate": candidate,
                "factor": factors[candidate],
                "peak_lr": peaks[candidate],
                "next_loss": losses[0],
                "final_loss": losses[1],
                "time/branch_s": seconds,
            }
            append_json_line(path, row)
            rows.append(row)
    return rows


def _trains_together(spec: RunSpec) -> bool:
    """Whether the spec's branches train as one network; says so where they should and cannot."""
    reason = reason_against_together(spec.train) if spec.forks_together else None
    if reason is not None:
        warnings.warn(f"branches train one after another: {reason}", stacklevel=3)
    return spec.forks_together and reason is None


Found = Iterator[tuple[int, BranchLosses, float]]
"""Candidate, `outer_valid` losses one epoch on and at the end, and seconds of each missing branch."""


def _one_by_one(
    trunk: Training,
    snapshot: Snapshot,
    peaks: list[float],
    missing: list[int],
    control: ControlConfig,
    tell: OnEpochs,
) -> Found:
    for candidate, peak in enumerate(peaks):
        if candidate not in missing:
            tell(trunk.config.epochs - trunk.epoch)
            continue
        started = time.perf_counter()
        losses = _branch(trunk, snapshot, peak, control, tell)
        yield candidate, losses, time.perf_counter() - started


def _all_together(
    trunk: Training,
    snapshot: Snapshot,
    peaks: list[float],
    missing: list[int],
    control: ControlConfig,
    tell: OnEpochs,
) -> Found:
    """All of them even where only some are missing: a stack of another height has other last bits."""
    started = time.perf_counter()
    optimizer = make_optimizer(trunk.model, trunk.config)
    _restore_under_recipe(snapshot, trunk.model, optimizer)
    losses = branches_together(replace(trunk, optimizer=optimizer), peaks, control, tell)
    seconds = (time.perf_counter() - started) / len(peaks)
    yield from ((candidate, losses[candidate], seconds) for candidate in missing)


@contextmanager
def _put_back(training: Training) -> Iterator[Snapshot]:
    snapshot = Snapshot.take(training.model, training.optimizer)
    try:
        yield snapshot
    finally:
        snapshot.restore(training.model, training.optimizer)


def _branch(
    trunk: Training, snapshot: Snapshot, peak_lr: float, control: ControlConfig, tell: OnEpochs
) -> BranchLosses:
    """`outer_valid` loss one epoch on and at the end of the budget; None from a divergence on."""
    losses = branch_losses(trunk, snapshot, peak_lr, control, {1}, tell)
    return losses[0], losses[-1]


def branch_losses(
    trunk: Training,
    snapshot: Snapshot,
    peak_lr: float,
    control: ControlConfig,
    read_after: Container[int],
    tell: OnEpochs = lambda epochs: None,
) -> list[float | None]:
    """The `outer_valid` losses of one branch to the end of the budget; None from a divergence on.

    They are in nats, a squared error as `Task.in_nats` has it.

    Args:
        trunk: The run at the fork; its weights are left as the branch has made them.
        snapshot: What the branch starts from.
        peak_lr: The peak of the branch's anchor.
        control: Gives the anchor's shape and warm-up.
        read_after: The numbers of epochs after the fork at which the loss is read, beside the last.
        tell: Told the number of epochs just trained.
    """
    optimizer = make_optimizer(trunk.model, trunk.config)
    _restore_under_recipe(snapshot, trunk.model, optimizer)
    schedule = anchored_schedule(
        optimizer,
        peak_lr,
        trunk.epoch,
        trunk.config.epochs,
        trunk.steps_per_epoch,
        anchor_for(optimizer, control),
    )
    branch = branched(trunk, schedule, optimizer)
    last = trunk.config.epochs - trunk.epoch
    read = [epoch for epoch in range(1, last + 1) if epoch in read_after or epoch == last]
    losses: list[float | None] = []
    for epoch in range(1, last + 1):
        result = train_epoch(branch, observe=False)
        tell(1)
        if not result.observation.is_finite:
            tell(last - epoch)
            return losses + [None] * (len(read) - len(losses))
        if epoch in read:
            losses.append(_outer_loss(branch))
    return losses


def _restore_under_recipe(snapshot: Snapshot, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """As `Snapshot.restore`, but the fresh `optimizer` keeps its groups' settings, and gets no others.

    So neither the momentum that a trunk's schedule has cycled, nor its LRs, reach a branch; what counts the
    steps of an averaging optimizer does.
    """
    recipe = [
        {key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups
    ]
    snapshot.restore(model, optimizer)
    for group, settings in zip(optimizer.param_groups, recipe, strict=True):
        parameters = group["params"]
        progress = {key: value for key, value in group.items() if key in PROGRESS_SETTINGS}
        group.clear()
        group.update(settings | progress, params=parameters)


def _outer_loss(branch: Training) -> float | None:
    loss = evaluate_splits(branch, ["outer_valid"])[0].loss
    return branch.task.in_nats(loss) if loss < float("inf") else None
