"""A run in progress: made from its spec, or gone on with from its newest checkpoint."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metalr.config import ConfigError, SchedulesConfig
from metalr.config.peers import PEERS
from metalr.control import (
    Controller,
    MetaLR,
    Observation,
    ProbeCurve,
    Setting,
    anchor_for,
    averages_iterates,
    feature_row,
    lr_range_test,
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
from metalr.training.loop import Training, epoch_generator, make_optimizer, seeded, training_loss
from metalr.training.param_groups import apply_freezing
from metalr.training.records import RunSpec

__all__ = [
    "LiveRun",
    "checkpoint_of",
    "probe_batch_size",
    "probe_cost_steps",
    "spent_steps",
    "start_or_resume",
    "steps_per_epoch",
]


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
    probe = _probe(spec, task, model, optimizer, state)
    setting = Setting(
        spec.train.epochs,
        steps,
        task.num_classes,
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
    first = Observation(epoch=0, train_loss=probe.initial_loss if probe else None)
    start_s = time.perf_counter() - started if spec.control else 0.0
    live = LiveRun(spec, folder, training, setting, probe, [first], start_s)
    if spec.train.early_stopping:
        live.early_stopping = EarlyStopping(spec.train.early_stopping)
    if state is not None:
        _load(live, state)
    return live, state is None


def _probe(
    spec: RunSpec,
    task: Task,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any] | None,
) -> ProbeCurve | None:
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
