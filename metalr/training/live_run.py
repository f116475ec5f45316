"""A run in progress: made from its spec, or gone on with from its newest checkpoint."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from metalr.config import SchedulesConfig
from metalr.config.peers import PEERS
from metalr.control import (
    Controller,
    MetaLR,
    Observation,
    ProbeCurve,
    Setting,
    anchor_for,
    averages_iterates,
    before_training,
    feature_row,
    make_schedule,
    normalises,
    scales_gradients,
)
from metalr.control.finder_rules import suggested_lr
from metalr.control.schedules import Schedule
from metalr.tasks import Task
from metalr.training.artifacts import append_json_line, read_json_lines, write_json_lines
from metalr.training.checkpoint import load_latest_checkpoint
from metalr.training.early_stopping import EarlyStopping
from metalr.training.evaluation import last_evaluated
from metalr.training.loop import Training, make_optimizer
from metalr.training.param_groups import apply_freezing
from metalr.training.probing import probe_of, spent_steps, steps_per_epoch
from metalr.training.specs import RunSpec

__all__ = ["LiveRun", "checkpoint_of", "start_or_resume"]


@dataclass
class LiveRun:
    """A run in progress with what it has shown so far."""

    spec: RunSpec
    folder: Path
    training: Training
    setting: Setting
    probe: ProbeCurve | None
    trace: list[Observation]
    start_s: float = 0.0
    """Seconds that the probe and the first decision took."""
    early_stopping: EarlyStopping | None = None
    unwritten_lrs: list[dict[str, Any]] = field(default_factory=list)
    """Lines of `lrs.jsonl` for the epochs since the last checkpoint."""

    @property
    def num_rollbacks(self) -> int:
        """Epochs that the controller has undone so far."""
        return int(getattr(self.training.schedule.scheduler, "num_rollbacks", 0))

    @property
    def is_over(self) -> bool:
        """Whether the budget is spent, or early stopping has had enough."""
        epoch = self.training.epoch
        stopped = self.early_stopping is not None and self.early_stopping.is_over(
            last_evaluated(self.spec.train, epoch)
        )
        return stopped or epoch >= self.spec.train.epochs

    def keep_lrs(self, lrs: list[float]) -> None:
        """Remember the LRs of the steps of the epoch just trained, to 7 significant digits."""
        rounded = [float(f"{lr:.7g}") if math.isfinite(lr) else None for lr in lrs]
        self.unwritten_lrs.append({"epoch": self.training.epoch, "lrs": rounded})

    def write_lrs(self) -> None:
        """Append what is remembered to `lrs.jsonl`: before a checkpoint, so that it never lacks an epoch."""
        for line in self.unwritten_lrs:
            append_json_line(self.folder / "lrs.jsonl", line)
        self.unwritten_lrs.clear()

    def features(self) -> list[float | None]:
        """The features after the last observation, None where missing."""
        row = feature_row(self.trace, self.setting, self.probe)
        return [None if math.isnan(value) else float(value) for value in row]


def start_or_resume(
    spec: RunSpec, task: Task, controller: Controller | None, folder: Path
) -> tuple[LiveRun, bool]:
    """The run before its next epoch, and whether that is its first: nothing to go on from was found.

    Raises:
        ConfigError: the settings leave no step to train.
    """
    device = torch.device(spec.train.device)
    state = load_latest_checkpoint(folder, device)
    model = task.make_model(spec.seed)
    if spec.train.channels_last is True:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    steps = steps_per_epoch(spec, task)
    # Schedule-Free warms up by itself; under a schedule or a controller that is theirs to do.
    own_warmup = steps * spec.train.epochs if spec.method in PEERS else 0
    optimizer = make_optimizer(model, spec.train, own_warmup)
    apply_freezing(model, spec.train, epoch=0)  # the probe sees what the first epoch will train
    started = time.perf_counter()
    probe = probe_of(spec, task, model, optimizer, state)
    setting = Setting(
        spec.train.epochs,
        steps,
        task.num_classes if spec.task.classifies else None,
        spec.train.batch_size,
        spec.train.momentum,
        spec.train.weight_decay,
        averages_iterates(optimizer),
        scales_gradients(optimizer),
        normalises(model),
    )
    schedule = _schedule(spec, model, optimizer, setting, probe, controller)
    training = Training(
        task, spec.train, model, optimizer, schedule, spec.seed, steps, spent_steps=spent_steps(spec, task)
    )
    if spec.control:
        training.anchor = anchor_for(optimizer, spec.control)
    first = before_training(setting, probe)
    start_s = time.perf_counter() - started if spec.control else 0.0
    live = LiveRun(spec, folder, training, setting, probe, [first], start_s)
    if spec.train.early_stopping:
        live.early_stopping = EarlyStopping(spec.train.early_stopping)
    if state is not None:
        _load(live, state)
    return live, state is None


def _schedule(
    spec: RunSpec,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    setting: Setting,
    probe: ProbeCurve | None,
    controller: Controller | None,
) -> Schedule:
    assert setting.total_epochs is not None and setting.steps_per_epoch is not None
    if controller is None:
        settings = spec.schedules or SchedulesConfig()
        name = spec.schedule_name
        assert name is not None, "a run without a controller has a schedule"
        if spec.method == "find":
            assert probe is not None, "the LR finder runs where the spec has a probe"
            _start_from(suggested_lr(probe, settings.find.rule), optimizer)
        return make_schedule(
            name, optimizer, setting.total_epochs, setting.steps_per_epoch, settings, seed=spec.seed
        )
    learned = MetaLR(
        optimizer,
        controller,
        total_epochs=setting.total_epochs,
        steps_per_epoch=setting.steps_per_epoch,
        setting=setting,
        probe=probe,
        model=model,
        gather=False,
        config=spec.control,
    )
    return Schedule(learned, "step")


def _start_from(lr: float, optimizer: torch.optim.Optimizer) -> None:
    """Give the first parameter group the LR `lr`; the others keep their ratio to it."""
    factor = lr / float(optimizer.param_groups[0]["lr"])
    for group in optimizer.param_groups:
        group["lr"] = float(group["lr"]) * factor


def checkpoint_of(live: LiveRun) -> dict[str, Any]:
    """All that is needed to go on with the run, as plain values and tensors."""
    early_stopping = live.early_stopping
    return {
        "epoch": live.training.epoch,
        "model": live.training.model.state_dict(),
        "optimizer": live.training.optimizer.state_dict(),
        "scheduler": live.training.schedule.scheduler.state_dict(),
        "probe": live.probe.to_dict() if live.probe else None,
        "trace": [observation.to_dict() for observation in live.trace],
    } | ({"early_stopping": early_stopping.state_dict()} if early_stopping else {})


def _load(live: LiveRun, state: dict[str, Any]) -> None:
    live.training.model.load_state_dict(state["model"])
    live.training.optimizer.load_state_dict(state["optimizer"])
    live.training.schedule.scheduler.load_state_dict(state["scheduler"])
    live.training.epoch = state["epoch"]
    live.trace[:] = [Observation.from_dict(values) for values in state["trace"]]
    if live.early_stopping:
        live.early_stopping.load_state_dict(state["early_stopping"])
    for name in ("metrics.jsonl", "lrs.jsonl"):
        path = live.folder / name
        write_json_lines(path, [row for row in read_json_lines(path) if row["epoch"] <= state["epoch"]])
