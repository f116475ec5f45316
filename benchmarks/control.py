"""What control costs: observing and deciding, one decision alone, snapshot, fork and restore.

Observing works on weights and gradients, whatever the images' size. Its seconds are therefore taken as a
difference of epochs on the smallest images and batches, where they are not lost in the noise of the rest,
and held against an epoch of the real size.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.cases import Case, cases_of, live_run, make_controller, synthetic_task
from benchmarks.epoch import epoch_subject
from benchmarks.measurement import Goal, Measurement, Row, Subject, measure
from benchmarks.settings import Settings
from metalr.control import MetaLR, Observation, ProbeCurve, Setting, Snapshot, make_schedule
from metalr.training import Training, make_optimizer, train_epoch

__all__ = ["control_rows", "decision_seconds", "fork_seconds", "measure_control"]

SHARE_GOAL = Goal("at most", 1.0)
DECISION_GOAL = Goal("at most", 1.0)
SMALL_SIDE, SMALL_BATCH = 8, 8


def measure_control(settings: Settings) -> list[Row]:
    """Shares of the epoch for every network, and the milliseconds of one decision of either learner."""
    rows = [
        Row(
            "One decision",
            Measurement(f"{learner}, features included", "ms", tuple(1e3 * s for s in seconds)),
            DECISION_GOAL,
        )
        for learner in ("mlp", "lstm")
        for seconds in [decision_seconds(learner, settings.decisions)]
    ]
    for case in cases_of(replace(settings, threads=settings.threads[:1], device="cpu", dtype="float32")):
        with tempfile.TemporaryDirectory() as folder:
            rows += _measure_case(case, settings, Path(folder))
    return rows


def decision_seconds(learner: str, num_decisions: int) -> tuple[float, ...]:
    """Seconds of each `MetaLR.step` that decides on a fresh observation; no model, so no snapshot."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    lrs = tuple(10 ** (-3 + 0.2 * step) for step in range(20))
    probe = ProbeCurve(lrs, tuple(2.3 - 0.01 * step for step in range(20)), 2.3, False, 20)
    setting = Setting(num_decisions + 1, 31, 10, 128, 0.9, 5e-4)
    torch.set_num_threads(1)
    scheduler = MetaLR(
        optimizer, make_controller(learner), total_epochs=num_decisions + 1, setting=setting, probe=probe
    )
    optimizer.step()
    seconds = []
    for epoch in range(1, num_decisions + 1):
        observation = _observation(epoch, num_decisions)
        started = time.perf_counter()
        scheduler.observe(observation)
        scheduler.step()
        seconds.append(time.perf_counter() - started)
    return tuple(seconds)


def _observation(epoch: int, num_epochs: int) -> Observation:
    """Everything a controller can be told, of a loss that falls slowly."""
    loss = 2.3 - epoch / num_epochs
    losses = {"train_loss": loss, "train_loss_first": loss + 0.1, "train_loss_last": loss - 0.1}
    valid = {"inner_valid_loss": loss + 0.2, "inner_valid_accuracy": 0.3, "train_loss_sd": 0.1}
    norms = {"grad_norm": 1.0, "grad_norm_sd": 0.2, "update_norm": 0.5, "weight_norm": 20.0}
    return Observation.from_measurements(epoch, losses | valid | norms | {"lr": 0.01, "peak_lr": 0.01})


def _measure_case(case: Case, settings: Settings, folder: Path) -> list[Row]:
    training = live_run(case, synthetic_task(case), folder / "real", channels_last=True).training
    small = replace(
        case,
        image_size=SMALL_SIDE,
        batch_size=SMALL_BATCH,
        num_images=SMALL_BATCH * (training.steps_per_epoch + 1),  # one step an epoch pays for the probe
        num_inner_valid=SMALL_BATCH,
    )
    twin = live_run(small, synthetic_task(small), folder / "small", channels_last=True).training
    unobserved = _unobserved(
        live_run(small, synthetic_task(small), folder / "bare", channels_last=True).training
    )
    rounds = measure({"observed": epoch_subject(twin), "bare": unobserved}, 2 * settings.rounds)
    epochs = measure({"epoch": epoch_subject(training)}, min(2, settings.rounds))
    seconds = rounds.seconds
    observing = tuple(
        whole - evaluation - bare
        for whole, evaluation, bare in zip(
            seconds["observed"], seconds["observed/eval"], seconds["bare"], strict=True
        )
    )
    return control_rows(
        case, epochs.seconds["epoch/train"], observing, fork_seconds(training, settings.rounds)
    )


def _unobserved(training: Training) -> Subject:
    """The next epoch with nothing observed, under a schedule that costs next to nothing."""
    schedule = make_schedule("constant", training.optimizer, training.config.epochs, training.steps_per_epoch)
    bare = replace(training, schedule=schedule)

    def epoch() -> Mapping[str, float] | None:
        torch.set_num_threads(bare.config.threads)
        train_epoch(bare, observe=False)
        return None

    return epoch


def fork_seconds(training: Training, num_forks: int) -> tuple[float, ...]:
    """Seconds to hold a state, start one branch from it, and put the run back; the warm-up is left out."""

    def fork() -> None:
        snapshot = Snapshot.take(training.model, training.optimizer)
        snapshot.restore(training.model, make_optimizer(training.model, training.config))
        snapshot.restore(training.model, training.optimizer)

    return measure({"fork": fork}, num_forks).seconds["fork"]


def control_rows(
    case: Case, epoch_s: tuple[float, ...], observing_s: tuple[float, ...], fork_s: tuple[float, ...]
) -> list[Row]:
    """Shares of the median epoch.

    Args:
        case: What was trained.
        epoch_s: Seconds of training of epochs of the real size, evaluation apart.
        observing_s: Seconds an epoch to observe and decide.
        fork_s: Seconds to snapshot, fork and restore.
    """
    group = f"Control: {case}"
    epoch = Measurement("epoch, evaluation apart", "s", epoch_s)

    def share(name: str, seconds: tuple[float, ...]) -> Row:
        values = tuple(100 * value / epoch.median for value in seconds)
        return Row(group, Measurement(f"{name}, share of the epoch", "%", values), SHARE_GOAL)

    return [
        Row(group, epoch),
        Row(group, Measurement("observing and deciding", "ms", tuple(1e3 * value for value in observing_s))),
        share("observing and deciding", observing_s),
        Row(group, Measurement("snapshot, fork, restore", "ms", tuple(1e3 * value for value in fork_s))),
        share("snapshot, fork, restore", fork_s),
    ]
