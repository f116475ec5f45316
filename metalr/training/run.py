"""One run from its spec to its committed result: start, resume, record.

The order of writes makes a kill harmless: an epoch's row is appended before its checkpoint, rows
newer than the checkpoint gone on from are dropped, and `result.json` comes last.
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from metalr.config import canonical_json
from metalr.control import (
    Controller,
    weights_are_finite,
)
from metalr.tasks import Task
from metalr.training.artifacts import (
    append_json_line,
    read_json_lines,
    remove_leftovers,
    write_atomically,
)
from metalr.training.checkpoint import remove_checkpoints, save_checkpoint
from metalr.training.live_run import LiveRun, checkpoint_of, start_or_resume
from metalr.training.loop import (
    EpochResult,
    evaluate_splits,
    train_epoch,
)
from metalr.training.probing import probe_batch_size
from metalr.training.records import RunRecord, RunStore
from metalr.training.specs import Job, RunSpec

__all__ = ["hardware", "package_versions", "train_run"]


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
    live, fresh = start_or_resume(job.spec, task, controller, folder)
    if fresh:
        _record_start(live)
        if on_epoch:
            on_epoch(live)
    last_checkpoint = time.monotonic()
    diverged_epoch = None
    while not live.is_over and diverged_epoch is None:
        _run_epoch(live)
        if not _is_sound(live):
            diverged_epoch = live.training.epoch
            continue
        if on_epoch:
            on_epoch(live)
        if time.monotonic() - last_checkpoint >= job.checkpoint_interval_s:
            live.write_lrs()
            save_checkpoint(folder, live.training.epoch, checkpoint_of(live))
            last_checkpoint = time.monotonic()
    live.write_lrs()
    return _result(live, diverged_epoch)


def _record_start(live: LiveRun) -> None:
    for name in ("metrics.jsonl", "lrs.jsonl"):
        (live.folder / name).unlink(missing_ok=True)
    row: dict[str, Any] = {
        "epoch": 0,
        "probe": live.probe.to_dict() if live.probe else None,
        "observation": live.trace[0].to_dict(),
        "decision": _decision(live),
        "time/train_s": 0.0,
        "time/eval_s": 0.0,
        "time/control_s": live.start_s,
    }
    if live.spec.forks is not None:
        row |= {"setting": asdict(live.setting), "features": live.features()}
    append_json_line(live.folder / "metrics.jsonl", row)


def _run_epoch(live: LiveRun) -> None:
    undone = live.num_rollbacks
    result = train_epoch(live.training)
    live.trace.append(result.observation)
    live.keep_lrs(result.lrs)
    if live.early_stopping and live.num_rollbacks == undone:
        live.early_stopping.observe(result.observation, live.training.model)
    row = _row(live, result)
    started = time.perf_counter()
    if live.spec.forks is not None:
        (outer,) = evaluate_splits(live.training, ["outer_valid"])
        row |= {"outer_valid/loss": _plain(outer.loss), "outer_valid/accuracy": outer.accuracy}
        row["features"] = live.features()
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
    }


def _decision(live: LiveRun) -> dict[str, Any] | None:
    decision = getattr(live.training.schedule.scheduler, "last_decision", None)
    return decision.to_dict() if decision is not None else None


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _is_sound(live: LiveRun) -> bool:
    """Whether training can go on: a rollback makes the weights finite again, else it has diverged."""
    return weights_are_finite(live.training.model)


def _result(live: LiveRun, diverged_epoch: int | None) -> dict[str, Any]:
    started = time.perf_counter()
    final: dict[str, float | None] = {}
    if diverged_epoch is None:
        if live.early_stopping:
            live.early_stopping.restore(live.training.model)
        splits = ["inner_valid", "outer_valid"] + (["test"] if live.spec.evaluate_test else [])
        for split, found in zip(splits, evaluate_splits(live.training, splits), strict=True):
            final |= {f"{split}/loss": _plain(found.loss), f"{split}/accuracy": found.accuracy}
    rows = read_json_lines(live.folder / "metrics.jsonl")
    timing = {name: sum(row[f"time/{name}"] for row in rows) for name in ("train_s", "eval_s", "control_s")}
    num_steps = (len(rows) - 1) * live.training.steps_per_epoch - live.training.spent_steps
    num_samples = num_steps * live.spec.train.batch_size
    num_samples += live.probe.num_steps * probe_batch_size(live.spec) if live.probe else 0
    timing["eval_s"] += time.perf_counter() - started
    return {
        "status": "done" if diverged_epoch is None else "diverged",
        "diverged_epoch": diverged_epoch,
        "final": final,
        "timing": timing | {"wall_s": sum(timing.values())},
        "num_samples": num_samples,
        "num_rollbacks": live.num_rollbacks,
        "stopped_epoch": _stopped_epoch(live, diverged_epoch),
        "best_epoch": live.early_stopping.best_epoch or None if live.early_stopping else None,
        "device": str(live.training.device),
        "hardware": hardware(live.training.device.type),
        "versions": package_versions(),
    }


def _stopped_epoch(live: LiveRun, diverged_epoch: int | None) -> int | None:
    """Epochs after which early stopping ended the run; None where it did not."""
    epoch = live.training.epoch
    stopped = live.early_stopping is not None and diverged_epoch is None and epoch < live.spec.train.epochs
    return epoch if stopped else None


def hardware(device: str) -> str:
    """The device in words, `cpu` or `cuda`: the GPU's name, or processor architecture and core count."""
    if device == "cuda":
        return torch.cuda.get_device_name() if torch.cuda.is_available() else "a GPU, not of this machine"
    return f"{platform.machine()} CPU, {os.cpu_count()} cores"


def package_versions() -> dict[str, str]:
    """Versions of metalr, torch and Python."""
    return {"metalr": version("metalr"), "torch": torch.__version__, "python": platform.python_version()}
