"""The bare floor: forward, backward and optimizer step on one ready batch, in every way torch offers.

What an epoch is held against is the fastest of them that needs no compiler.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.attempts import Maker, attempt, synchronise, with_remarks
from benchmarks.cases import Case, cases_of, ready_batch, synthetic_task
from benchmarks.measurement import Measurement, Row, Subject, measure
from benchmarks.settings import Settings
from metalr.tasks import Task

__all__ = ["VARIANTS", "Variant", "best_variant", "floor_subject", "measure_floor"]

Optimizer = Literal["plain", "foreach", "fused"]
LR = 1e-3
"""Small: one batch is seen hundreds of times, and a loss near zero makes numbers that slow a core down."""


@dataclass(frozen=True)
class Variant:
    """A way to do the same step."""

    channels_last: bool
    optimizer: Optimizer
    compiled: bool = False

    def __str__(self) -> str:
        layout = "channels_last" if self.channels_last else "contiguous"
        return f"{layout}, {self.optimizer} SGD{', compiled' if self.compiled else ''}"


VARIANTS = [
    Variant(channels_last, optimizer)
    for channels_last, optimizer in itertools.product((False, True), get_args(Optimizer))
]


def floor_subject(case: Case, task: Task, variant: Variant, num_steps: int) -> Subject:
    """`num_steps` bare steps of `variant`, on the threads of `case`."""
    model = task.make_model(seed=0)
    layout = torch.channels_last if variant.channels_last else torch.contiguous_format
    model = model.to(memory_format=layout)  # type: ignore[call-overload]
    optimizer = _optimizer(model, variant)
    images_BCHW, labels_B = ready_batch(task, case, channels_last=variant.channels_last)
    network: Callable[[Tensor], Tensor] = _compiled(model, case) if variant.compiled else model
    bf16 = case.dtype == "bfloat16"

    def steps() -> None:
        torch.set_num_threads(case.threads)
        for _ in range(num_steps):
            with torch.autocast(case.device, torch.bfloat16, enabled=bf16):
                logits = network(images_BCHW)
            loss = functional.cross_entropy(logits.float(), labels_B)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        synchronise(case.device)

    return steps


def _optimizer(model: nn.Module, variant: Variant) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        model.parameters(),
        lr=LR,
        momentum=0.9,
        weight_decay=5e-4,
        foreach=variant.optimizer == "foreach",
        fused=variant.optimizer == "fused",
    )


def _compiled(model: nn.Module, case: Case) -> Callable[[Tensor], Tensor]:
    if case.device == "cpu":
        return torch.compile(model)
    compiled = torch.compile(model, mode="reduce-overhead")

    def forward(images_BCHW: Tensor) -> Tensor:
        # Torch guesses where a step begins only until anyone, here metalr's own loop, has told it once.
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        logits: Tensor = compiled(images_BCHW)
        return logits

    return forward


def best_variant(case: Case, task: Task, num_steps: int, rounds: int) -> Variant:
    """The fastest of `VARIANTS` for the case, by its median over interleaved rounds."""
    subjects = {str(variant): floor_subject(case, task, variant, num_steps) for variant in VARIANTS}
    seconds = measure(subjects, rounds).seconds
    fastest = min(seconds, key=lambda label: Measurement(label, "s", seconds[label]).median)
    return next(variant for variant in VARIANTS if str(variant) == fastest)


def measure_floor(settings: Settings) -> list[Row]:
    """The floor's images/s for every network, size and thread count in every variant, the best one marked."""
    rows = []
    for case in cases_of(settings):
        rows += _rows_of(case, settings)
    return rows


def _rows_of(case: Case, settings: Settings) -> list[Row]:
    task = synthetic_task(case)
    subjects = {
        str(variant): floor_subject(case, task, variant, settings.floor_steps) for variant in VARIANTS
    }
    failed: dict[str, str] = {}
    if settings.compile:
        compiled = attempt(_compiled_makers(case, task, settings.floor_steps), case.device, needed=False)
        subjects |= compiled.subjects
        failed = compiled.failed
    return with_remarks(_marked(case, _speeds(case, settings, subjects)), failed)


def _compiled_makers(case: Case, task: Task, num_steps: int) -> dict[str, Maker]:
    torch._dynamo.reset()  # it gives up on a function after a few networks
    variants = [Variant(channels_last, "fused", compiled=True) for channels_last in (False, True)]
    return {str(variant): partial(floor_subject, case, task, variant, num_steps) for variant in variants}


def _speeds(case: Case, settings: Settings, subjects: dict[str, Subject]) -> list[Measurement]:
    rounds = measure(subjects, settings.rounds)
    amount = settings.floor_steps * case.batch_size
    return [rounds.per_second(label, amount, label, "images/s") for label in subjects]


def _marked(case: Case, speeds: Sequence[Measurement]) -> list[Row]:
    best = max(speeds, key=lambda speed: speed.median)
    return [
        Row(f"The bare floor: {case}", speed, note="the best here" if speed is best else "")
        for speed in speeds
    ]
