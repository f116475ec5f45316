"""The whole epoch of metalr's loop against the bare floor, and against the loop people write."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.attempts import synchronise
from benchmarks.cases import Case, cases_of, live_run, synthetic_task
from benchmarks.floor import best_variant, floor_subject
from benchmarks.measurement import Goal, Measurement, Rounds, Row, Subject, measure, paired_ratio
from benchmarks.people_loop import NUM_LOADERS, people_subject
from benchmarks.settings import Settings
from metalr.training import Training, train_epoch

__all__ = ["epoch_rows", "epoch_subject", "measure_epoch"]

FLOOR_GOAL = 0.95
PEOPLE_GOALS = {8: 2.0, 16: 1.3}
"""Width -> how many times as fast as the loop people write."""


def measure_epoch(settings: Settings, num_loaders: int = NUM_LOADERS) -> list[Row]:
    """Images/s of floor, epoch and people's loop for every case, with their paired ratios."""
    rows = []
    for case in cases_of(settings):
        with tempfile.TemporaryDirectory() as folder:
            rows += _measure_case(case, settings, Path(folder), num_loaders)
    return rows


def _measure_case(case: Case, settings: Settings, folder: Path, num_loaders: int) -> list[Row]:
    task = synthetic_task(case)
    best = best_variant(case, task, settings.floor_steps, min(2, settings.rounds))
    training = live_run(case, task, folder, channels_last=best.channels_last).training
    floor_steps = -(-training.steps_per_epoch // 2)  # half an epoch: every step of the floor costs the same
    people = replace(case, num_images=min(settings.people_images, case.num_images))
    subjects: dict[str, Subject] = {
        "floor": floor_subject(case, task, best, floor_steps),
        "epoch": epoch_subject(training),
        "people": people_subject(people, synthetic_task(people), num_loaders),
    }
    rounds = measure(subjects, settings.rounds)
    images = {
        "floor": floor_steps * case.batch_size,
        "epoch": training.steps_per_epoch * case.batch_size,
        "people": people.num_images // case.batch_size * case.batch_size,
    }
    notes = {
        "floor": f"{best}",
        "people": f"its {num_loaders} loader processes share the cores with it",
        "epoch": f"collections of garbage inside timed work: {rounds.num_collections}",
    }
    return epoch_rows(case, rounds, images, notes)


def epoch_subject(training: Training) -> Subject:
    """The next epoch of a run, with the seconds of its parts `train`, `eval` and `control`."""

    def epoch() -> Mapping[str, float]:
        torch.set_num_threads(training.config.threads)
        result = train_epoch(training)
        synchronise(training.device.type)
        return {"train": result.train_s, "eval": result.eval_s, "control": result.control_s}

    return epoch


def epoch_rows(case: Case, rounds: Rounds, images: Mapping[str, int], notes: Mapping[str, str]) -> list[Row]:
    """The rows of a case.

    Args:
        case: What was trained.
        rounds: Seconds of `floor`, `epoch` (evaluation included), `epoch/eval`, `people`.
        images: Images each of them trained on in a round.
        notes: Remarks on their rows.
    """
    speeds = {
        label: rounds.per_second(label, images[label], "", "images/s").values for label in ("floor", "people")
    }
    pairs = list(zip(rounds.seconds["epoch"], rounds.seconds["epoch/eval"], strict=True))
    speeds["epoch"] = tuple(images["epoch"] / (whole - evaluation) for whole, evaluation in pairs)
    with_eval = tuple(images["epoch"] / whole for whole, _ in pairs)
    shares = tuple(100 * evaluation / whole for whole, evaluation in pairs)

    group = f"The whole epoch: {case}"

    def row(name: str, unit: str, values: tuple[float, ...], note: str = "") -> Row:
        return Row(group, Measurement(name, unit, values), note=note)

    ratio = paired_ratio("epoch / people's loop", speeds["epoch"], speeds["people"])
    people_goal = PEOPLE_GOALS.get(case.width) if case.device == "cpu" else None
    return [
        row("bare floor, in its best way", "images/s", speeds["floor"], notes.get("floor", "")),
        row("epoch", "images/s", speeds["epoch"], notes.get("epoch", "")),
        row("epoch with evaluation", "images/s", with_eval),
        row("evaluation's share", "%", shares),
        row("people's loop", "images/s", speeds["people"], notes.get("people", "")),
        Row(group, paired_ratio("epoch / floor", speeds["epoch"], speeds["floor"]), _at_least(FLOOR_GOAL)),
        Row(group, paired_ratio("epoch with evaluation / floor", with_eval, speeds["floor"])),
        Row(group, ratio, _at_least(people_goal)),
    ]


def _at_least(bound: float | None) -> Goal | None:
    return None if bound is None else Goal("at least", bound)
