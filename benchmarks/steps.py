"""Seconds an epoch under every `train.step`, beside the bare floor plain and compiled, and people's loop.

Meant for a GPU, where the plain step waits for the processor that launches it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.attempts import Maker, attempt, with_remarks
from benchmarks.cases import Case, StepName, cases_of, live_run, synthetic_task
from benchmarks.epoch import epoch_subject
from benchmarks.floor import Variant, floor_subject
from benchmarks.measurement import Goal, Measurement, Rounds, Row, Subject, measure, paired_ratio
from benchmarks.people_loop import NUM_LOADERS, people_subject
from benchmarks.settings import Settings
from metalr.tasks import Task

__all__ = ["epoch_seconds", "is_study", "loop_label", "loop_makers", "measure_steps", "step_rows"]

EPOCH_GOAL = Goal("at most", 1.2)
"""Seconds, on an H200-class GPU."""
FLOOR_GOAL = Goal("at least", 0.9)
PEOPLE_GOAL = Goal("at least", 8.0)
STEPS: tuple[StepName, ...] = ("eager", "cuda_graph", "compile")
EAGER_FLOOR, COMPILED_FLOOR, PEOPLE = "bare floor, eager", "bare floor, compiled", "people's loop"


def measure_steps(settings: Settings, num_loaders: int = NUM_LOADERS) -> list[Row]:
    """For every case the seconds an epoch of all that works here, and the loop's ratios to the others."""
    rows = []
    for case in cases_of(settings):
        if settings.compile:
            torch._dynamo.reset()  # it gives up on a function after a few networks
        with tempfile.TemporaryDirectory() as folder:
            rows += _measure_case(case, settings, Path(folder), num_loaders)
    return rows


def _measure_case(case: Case, settings: Settings, folder: Path, num_loaders: int) -> list[Row]:
    task = synthetic_task(case)
    people = replace(case, num_images=min(settings.people_images, case.num_images))
    makers = loop_makers(case, task, folder, compiled=settings.compile)
    makers |= _floor_makers(case, task, compiled=settings.compile)
    makers[PEOPLE] = lambda: people_subject(people, synthetic_task(people), num_loaders)
    found = attempt(makers, case.device)
    rounds = measure(found.subjects, settings.rounds, warmup=0)  # each has run once
    images = {PEOPLE: people.num_images // case.batch_size * case.batch_size}
    images |= {EAGER_FLOOR: _epoch_images(case), COMPILED_FLOOR: _epoch_images(case)}
    notes = {PEOPLE: f"measured on {images[PEOPLE]} images; {num_loaders} loader processes, float32"}
    return with_remarks(step_rows(case, rounds, images, notes | found.warned), found.failed)


def loop_label(step: str) -> str:
    """What the loop under `train.step` is called in the table."""
    return f"loop, train.step={step}"


def loop_makers(case: Case, task: Task, folder: Path, *, compiled: bool) -> dict[str, Maker]:
    """metalr's loop of the case under every `train.step`, `compile` where that is to be tried.

    Args:
        case: What is trained.
        task: Of `synthetic_task`.
        folder: An empty directory.
        compiled: Whether `torch.compile` is tried.
    """

    def make(step: StepName) -> Subject:
        live = live_run(case, task, folder / step, channels_last=True, step=step)
        return _whole_epoch(epoch_subject(live.training), live.training.steps_per_epoch, case)

    return {loop_label(step): partial(make, step) for step in STEPS if compiled or step != "compile"}


def _whole_epoch(subject: Subject, steps: int, case: Case) -> Subject:
    """`subject` with one part more: the seconds of all batches of an epoch, evaluation apart.

    The probe of a controlled run is paid for by steps of its epochs, so they are a step or two short.
    """
    share = steps * case.batch_size / _epoch_images(case)

    def epoch() -> Mapping[str, float]:
        parts = subject() or {}
        return {"whole": (parts["train"] + parts["control"]) / share}

    return epoch


def _floor_makers(case: Case, task: Task, *, compiled: bool) -> dict[str, Maker]:
    steps = _epoch_images(case) // case.batch_size
    makers: dict[str, Maker] = {
        EAGER_FLOOR: lambda: floor_subject(case, task, Variant(True, "fused"), steps),
    }
    if compiled:
        variant = Variant(True, "fused", compiled=True)
        makers[COMPILED_FLOOR] = lambda: floor_subject(case, task, variant, steps)
    return makers


def _epoch_images(case: Case) -> int:
    return case.num_images // case.batch_size * case.batch_size


def epoch_seconds(rounds: Rounds, step: str) -> tuple[float, ...] | None:
    """Seconds an epoch of the loop under `train.step` in each round; None where it was not measured."""
    return rounds.seconds.get(f"{loop_label(step)}/whole")


def is_study(case: Case) -> bool:
    """Whether the goals on a GPU are set for this: the study's network on as many images as CIFAR-10 has."""
    size = (case.width, case.image_size, case.batch_size, case.num_images)
    return case.device == "cuda" and case.dtype == "bfloat16" and size == (64, 32, 128, 50_000)


def step_rows(case: Case, rounds: Rounds, images: Mapping[str, int], notes: Mapping[str, str]) -> list[Row]:
    """The rows of a case; goals stand at the fastest loop's alone.

    Args:
        case: What was trained.
        rounds: Seconds by label; of a loop its part `whole`.
        images: Images a round of the floors and of people's loop.
        notes: Label -> remark on its row.

    Raises:
        ValueError: no loop was measured.
    """
    others = {
        label: tuple(value * _epoch_images(case) / images[label] for value in rounds.seconds[label])
        for label in (EAGER_FLOOR, COMPILED_FLOOR, PEOPLE)
        if label in rounds.seconds
    }
    loops = {step: found for step in STEPS if (found := epoch_seconds(rounds, step))}
    if not loops:
        raise ValueError(f"{case}: metalr's loop was not measured under any train.step")
    fastest = min(loops, key=lambda step: Measurement(step, "s", loops[step]).median)
    group = f"Seconds an epoch: {case}"
    rows = [
        Row(group, Measurement(label, "s", found), note=notes.get(label, ""))
        for label, found in others.items()
    ]
    for step, found in loops.items():
        label, goal = loop_label(step), is_study(case) and step == fastest
        note = "; ".join(filter(None, ["the fastest loop" if step == fastest else "", notes.get(label, "")]))
        rows.append(Row(group, Measurement(label, "s", found), EPOCH_GOAL if goal else None, note))
    for step, found in loops.items():
        goals = (
            {COMPILED_FLOOR: FLOOR_GOAL, PEOPLE: PEOPLE_GOAL} if is_study(case) and step == fastest else {}
        )
        for label, seconds in others.items():
            ratio = paired_ratio(f"images/s: {loop_label(step)} / {label}", seconds, found)
            rows.append(Row(group, ratio, goals.get(label)))
    return rows
