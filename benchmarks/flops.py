"""What the arithmetic of an epoch comes to: FLOPs by count, the device's measured peak, the share of it."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.attempts import Maker, attempt, synchronise, with_remarks
from benchmarks.cases import Case, cases_of, ready_batch, synthetic_task
from benchmarks.measurement import Measurement, Rounds, Row, Subject, measure
from benchmarks.settings import Settings
from benchmarks.steps import epoch_seconds, loop_label, loop_makers
from metalr.config import TrainConfig
from metalr.tasks import Task
from metalr.training import training_loss

__all__ = ["flop_rows", "matrix_subject", "measure_flops", "step_flops"]

STEPS = ("eager", "cuda_graph", "compile")
PRODUCTS = 5
"""Products of the largest matrices in a round; of smaller ones as many as take the same FLOPs."""


def measure_flops(settings: Settings) -> list[Row]:
    """For every case FLOPs a step and an epoch, the measured peak, and what each `train.step` makes of it."""
    rows = []
    for case in cases_of(settings):
        if settings.compile:
            torch._dynamo.reset()  # it gives up on a function after a few networks
        with tempfile.TemporaryDirectory() as folder:
            rows += _measure_case(case, settings, Path(folder))
    return rows


def _measure_case(case: Case, settings: Settings, folder: Path) -> list[Row]:
    task = synthetic_task(case)
    flops = step_flops(case, task)
    work = PRODUCTS * 2 * max(settings.matrix_sizes) ** 3
    repeats = {size: max(1, work // (2 * size**3)) for size in settings.matrix_sizes}
    makers: dict[str, Maker] = {}
    for size, count in repeats.items():
        makers[_product_label(size)] = partial(matrix_subject, size, count, case)
    makers |= loop_makers(case, task, folder, compiled=settings.compile)
    found = attempt(makers, case.device)
    rounds = measure(found.subjects, settings.rounds, warmup=0)  # each has run once
    return with_remarks(flop_rows(case, rounds, flops, repeats), found.failed)


def step_flops(case: Case, task: Task) -> int:
    """FLOPs of forward and backward of one batch; a multiplication and an addition are two.

    Convolutions and matrix products alone: what else there is, the update included, is a matter of memory.
    """
    model = task.make_model(seed=0).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    train = TrainConfig(batch_size=case.batch_size, dtype=case.dtype, channels_last=True, device=case.device)
    images_BCHW, labels_B = ready_batch(task, case, channels_last=True)
    with FlopCounterMode(display=False) as counter:
        training_loss(model, images_BCHW, labels_B, train).backward()  # type: ignore[no-untyped-call]
    return int(counter.get_total_flops())


def matrix_subject(size: int, repeats: int, case: Case) -> Subject:
    """`repeats` products of two square matrices of normal numbers, in dtype and on device of `case`."""
    generator = torch.Generator(case.device).manual_seed(0)
    dtype = torch.bfloat16 if case.dtype == "bfloat16" else torch.float32
    left, right = (
        torch.randn(size, size, generator=generator, device=case.device, dtype=dtype) for _ in range(2)
    )
    product = torch.empty_like(left)

    def multiply() -> None:
        torch.set_num_threads(case.threads)
        for _ in range(repeats):
            torch.mm(left, right, out=product)
        synchronise(case.device)

    return multiply


def _product_label(size: int) -> str:
    return f"product of {size} x {size} matrices"


def flop_rows(case: Case, rounds: Rounds, flops: int, repeats: dict[int, int]) -> list[Row]:
    """The rows of a case.

    Args:
        case: What was trained.
        rounds: Seconds of the products and of the loops, as `epoch_seconds` finds them.
        flops: Of one training step.
        repeats: Size of the matrices -> their products in a round.

    Raises:
        ValueError: no product was measured.
    """
    group = f"FLOPs: {case}"
    epoch_flops = case.num_images // case.batch_size * flops
    rows = [
        Row(group, Measurement("a training step, by count", "GFLOP", (flops / 1e9,))),
        Row(group, Measurement("an epoch, by count", "PFLOP", (epoch_flops / 1e15,))),
    ]
    products = [
        rounds.per_second(_product_label(size), count * 2 * size**3 / 1e12, _product_label(size), "TFLOP/s")
        for size, count in repeats.items()
        if _product_label(size) in rounds.seconds
    ]
    if not products:
        raise ValueError(f"{case}: no matrix product was measured")
    peak = max(products, key=lambda product: product.median)
    rows += [Row(group, found, note="the peak" if found is peak else "") for found in products]
    for step in STEPS:
        seconds = epoch_seconds(rounds, step)
        if seconds is None:
            continue
        speeds = tuple(epoch_flops / 1e12 / value for value in seconds)
        shares = tuple(100 * speed / peak.median for speed in speeds)
        rows.append(Row(group, Measurement(loop_label(step), "TFLOP/s", speeds)))
        rows.append(Row(group, Measurement(f"{loop_label(step)}, of the peak", "%", shares)))
    return rows
