"""One run from its spec to its committed result: start, resume, record.

The order of writes makes a kill harmless: an epoch's row is appended before its checkpoint, rows
newer than the checkpoint gone on from are dropped, and `result.json` comes last.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from metalr.config import ConfigError, canonical_json
from metalr.control import (
    Controller,
    MetaLR,
    Observation,
    ProbeCurve,
    Setting,
    feature_row,
    lr_range_test,
    make_schedule,
    weights_are_finite,
)
from metalr.control.schedules import Schedule
from metalr.tasks import Task
from metalr.training.artifacts import (
    append_json_line,
    read_json_lines,
    remove_leftovers,
    write_atomically,
    write_json_lines,
)
from metalr.training.checkpoint import load_latest_checkpoint, remove_checkpoints, save_checkpoint
from metalr.training.loop import (
    EpochResult,
    Training,
    epoch_generator,
    evaluate,
    make_optimizer,
    seeded,
    train_epoch,
    training_loss,
)
from metalr.training.records import Job, RunRecord, RunSpec, RunStore

__all__ = ["LiveRun", "package_versions", "steps_per_epoch", "train_run"]


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

    def features(self) -> list[float | None]:
        """The features after the last observation, None where missing."""
        row = feature_row(self.trace, self.setting, self.probe)
        return [None if math.isnan(value) else float(value) for value in row]


OnEpoch = Callable[[LiveRun], None]


def train_run(
    job: Job, task: Task, controller: Controller | None = None, on_epoch: OnEpoch | None = None
) -> RunRecord:
    """The finished record of a run: read back where it is committed, gone on with or started where not.

    Same spec, same bits (but for times), however often the run was killed on its way.

    Args:
        job: The run and where its records lie.
        task: Made from `job.spec.task`; its digest must be the spec's.
        controller: The frozen controller of a `metalr-*` run.
        on_epoch: Called before training and after every epoch with the live run, which it must leave as
            it was; the harvest forks here.

    Raises:
        ValueError: task or controller are not the ones of the spec.
    """
    spec, store = job.spec, RunStore(job.store)
    _check_inputs(spec, task, controller)
    folder = store.run_dir(spec.run_id)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        if not store.is_finished(spec.run_id):
            remove_leftovers(folder)
            torch.set_num_threads(spec.train.threads)
            write_atomically(folder / "spec.json", canonical_json(spec).encode())
            store.commit(spec.run_id, _train_to_the_end(job, task, controller, folder, on_epoch))
            remove_checkpoints(folder)
    return store.load(spec.run_id)


def _check_inputs(spec: RunSpec, task: Task, controller: Controller | None) -> None:
    if task.digest != spec.data_digest:
        raise ValueError(
            f"the data changed since run {spec.run_id} was planned: digest {task.digest[:12]}, "
            f"planned {spec.data_digest[:12]}"
        )
    given = controller.sha256 if controller else None
    if given != spec.controller_sha256:
        raise ValueError(f"run {spec.run_id} wants controller {spec.controller_sha256}, got {given}")


def _train_to_the_end(
    job: Job, task: Task, controller: Controller | None, folder: Path, on_epoch: OnEpoch | None
) -> dict[str, Any]:
    live, fresh = _start_or_resume(job.spec, task, controller, folder)
    if fresh:
        _record_start(live)
        if on_epoch:
            on_epoch(live)
    last_checkpoint = time.monotonic()
    diverged_epoch = None
    while live.training.epoch < job.spec.train.epochs and diverged_epoch is None:
        _run_epoch(live)
        if not _is_sound(live):
            diverged_epoch = live.training.epoch
            continue
        if on_epoch:
            on_epoch(live)
        if time.monotonic() - last_checkpoint >= job.checkpoint_interval_s:
            save_checkpoint(folder, live.training.epoch, _checkpoint(live))
            last_checkpoint = time.monotonic()
    return _result(live, diverged_epoch)


def _start_or_resume(
    spec: RunSpec, task: Task, controller: Controller | None, folder: Path
) -> tuple[LiveRun, bool]:
    device = torch.device(spec.train.device)
    state = load_latest_checkpoint(folder, device)
    model = task.make_model(spec.seed)
    if spec.train.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(model, spec.train)
    started = time.perf_counter()
    probe = _probe(spec, task, model, optimizer, state)
    steps = steps_per_epoch(spec, task)
    setting = Setting(
        spec.train.epochs,
        steps,
        task.num_classes,
        spec.train.batch_size,
        spec.train.momentum,
        spec.train.weight_decay,
    )
    schedule = _schedule(spec, model, optimizer, setting, probe, controller)
    training = Training(task, spec.train, model, optimizer, schedule, spec.seed, steps)
    if spec.control:
        training.anchor_shape = spec.control.anchor
        training.warmup_fraction = spec.control.warmup_fraction
    first = Observation(epoch=0, train_loss=probe.initial_loss if probe else None)
    start_s = time.perf_counter() - started if spec.control else 0.0
    live = LiveRun(spec, folder, training, setting, probe, [first], start_s)
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
    device = torch.device(spec.train.device)
    generator = epoch_generator(spec.seed, 0, device, "probe")
    size = len(task.splits["train"].labels_B)

    indices_B = torch.randperm(size, generator=generator, device=device)[: spec.train.batch_size]
    batch = task.train_batch(indices_B, generator)
    with seeded(spec.seed, 0, device, "probe model"):
        return lr_range_test(
            model, optimizer, lambda step: training_loss(model, *batch, spec.train), spec.control.probe
        )


def steps_per_epoch(spec: RunSpec, task: Task) -> int:
    """Optimizer steps an epoch of the run; those of the probe are taken evenly out of all epochs.

    The probe counts at its planned length, even where an explosion cuts it short: a budget must not depend
    on luck.

    Raises:
        ConfigError: the settings leave no step to train.
    """
    size = len(task.splits["train"].labels_B)
    steps = size // spec.train.batch_size
    if steps < 1:
        raise ConfigError(
            [f"train.batch_size: {spec.train.batch_size} is larger than the {size} training images"]
        )
    if spec.control is None or spec.control.probe is None:
        return steps
    spent, epochs = spec.control.probe.num_steps, spec.train.epochs
    left = (steps * epochs - spent) // epochs
    if left < 1:
        problem = f"{spent} steps leave none to train in {epochs} epochs of {steps}"
        raise ConfigError([f"control.probe.num_steps: {problem}; take fewer, or a larger budget"])
    return left


def _schedule(
    spec: RunSpec,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    setting: Setting,
    probe: ProbeCurve | None,
    controller: Controller | None,
) -> Schedule:
    if controller is None:
        return make_schedule(spec.method, optimizer, setting.total_epochs, setting.steps_per_epoch)
    learned = MetaLR(
        optimizer,
        controller,
        total_epochs=setting.total_epochs,
        steps_per_epoch=setting.steps_per_epoch,
        setting=setting,
        probe=probe,
        model=model,
        config=spec.control,
    )
    return Schedule(learned, "step")


def _record_start(live: LiveRun) -> None:
    (live.folder / "metrics.jsonl").unlink(missing_ok=True)
    row = {
        "epoch": 0,
        "probe": live.probe.to_dict() if live.probe else None,
        "observation": live.trace[0].to_dict(),
        "decision": _decision(live),
        "features": live.features(),
        "time/train_s": 0.0,
        "time/eval_s": 0.0,
        "time/control_s": live.start_s,
    }
    append_json_line(live.folder / "metrics.jsonl", row)


def _run_epoch(live: LiveRun) -> None:
    result = train_epoch(live.training)
    live.trace.append(result.observation)
    row = _row(live, result)
    started = time.perf_counter()
    if live.spec.forks is not None:
        outer = evaluate(live.training.model, live.training.task, "outer_valid", live.spec.train)
        row |= {"outer_valid/loss": _plain(outer.loss), "outer_valid/accuracy": outer.accuracy}
    row["time/train_s"] = result.train_s
    row["time/eval_s"] = result.eval_s + time.perf_counter() - started
    row["time/control_s"] = result.control_s
    append_json_line(live.folder / "metrics.jsonl", row)


def _row(live: LiveRun, result: EpochResult) -> dict[str, Any]:
    seen = result.observation
    return {
        "epoch": seen.epoch,
        "lr": seen.lr,
        "lr_last": result.lrs[-1],
        "train/loss": seen.train_loss,
        "inner_valid/loss": seen.inner_valid_loss,
        "inner_valid/accuracy": seen.inner_valid_accuracy,
        "observation": seen.to_dict(),
        "decision": _decision(live),
        "features": live.features(),
    }


def _decision(live: LiveRun) -> dict[str, Any] | None:
    decision = getattr(live.training.schedule.scheduler, "last_decision", None)
    return decision.to_dict() if decision is not None else None


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _is_sound(live: LiveRun) -> bool:
    """Whether training can go on: a rollback makes the weights finite again, else it has diverged."""
    return weights_are_finite(live.training.model)


def _checkpoint(live: LiveRun) -> dict[str, Any]:
    return {
        "epoch": live.training.epoch,
        "model": live.training.model.state_dict(),
        "optimizer": live.training.optimizer.state_dict(),
        "scheduler": live.training.schedule.scheduler.state_dict(),
        "probe": live.probe.to_dict() if live.probe else None,
        "trace": [observation.to_dict() for observation in live.trace],
    }


def _load(live: LiveRun, state: dict[str, Any]) -> None:
    live.training.model.load_state_dict(state["model"])
    live.training.optimizer.load_state_dict(state["optimizer"])
    live.training.schedule.scheduler.load_state_dict(state["scheduler"])
    live.training.epoch = state["epoch"]
    live.trace[:] = [Observation.from_dict(values) for values in state["trace"]]
    path = live.folder / "metrics.jsonl"
    write_json_lines(path, [row for row in read_json_lines(path) if row["epoch"] <= state["epoch"]])


def _result(live: LiveRun, diverged_epoch: int | None) -> dict[str, Any]:
    started = time.perf_counter()
    final: dict[str, float | None] = {}
    if diverged_epoch is None:
        splits = ["inner_valid", "outer_valid"] + (["test"] if live.spec.evaluate_test else [])
        for split in splits:
            found = evaluate(live.training.model, live.training.task, split, live.spec.train)
            final |= {f"{split}/loss": _plain(found.loss), f"{split}/accuracy": found.accuracy}
    rows = read_json_lines(live.folder / "metrics.jsonl")
    timing = {name: sum(row[f"time/{name}"] for row in rows) for name in ("train_s", "eval_s", "control_s")}
    num_steps = (len(rows) - 1) * live.training.steps_per_epoch + (live.probe.num_steps if live.probe else 0)
    timing["eval_s"] += time.perf_counter() - started
    return {
        "status": "done" if diverged_epoch is None else "diverged",
        "diverged_epoch": diverged_epoch,
        "final": final,
        "timing": timing | {"wall_s": sum(timing.values())},
        "num_samples": num_steps * live.spec.train.batch_size,
        "num_rollbacks": getattr(live.training.schedule.scheduler, "num_rollbacks", 0),
        "device": str(live.training.device),
        "versions": package_versions(),
    }


def package_versions() -> dict[str, str]:
    """Versions of metalr, torch and Python."""
    return {"metalr": version("metalr"), "torch": torch.__version__, "python": platform.python_version()}
