"""Seconds and FLOPs of an epoch on a GPU: the arithmetic by hand, the work at tiny sizes on the CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import epoch, floor, flops, people_loop, steps
from benchmarks.attempts import synchronise
from benchmarks.cases import Case, cases_of, live_run, synthetic_task
from benchmarks.flops import flop_rows, matrix_subject, measure_flops, step_flops
from benchmarks.measurement import Goal, Rounds, Row
from benchmarks.settings import GPU, QUICK, Settings
from benchmarks.steps import measure_steps, step_rows

TINY = Settings(
    **QUICK
    | {"image_sizes": (8,), "batch_size": 8, "num_images": 24, "num_inner_valid": 8, "people_images": 16}
    | {"rounds": 1, "run_images": 64, "run_epochs": 1, "num_jobs": 2, "fork_images": 24}
    | {"matrix_sizes": (16, 32)}
)
CASE = cases_of(TINY)[0]
STUDY = cases_of(Settings(**GPU | {"device": "cuda", "dtype": "bfloat16"}))[0]


def by_name(rows: list[Row]) -> dict[str, Row]:
    return {row.measurement.name: row for row in rows}


def study_rounds(graph_s: float = 1.0) -> Rounds:
    seconds = {
        "bare floor, eager": (2.0, 2.2),
        "bare floor, compiled": (0.95, 0.95),
        "people's loop": (2.0, 2.0),
        "loop, train.step=eager": (9.0, 9.0),  # evaluation included, so of no use here
        "loop, train.step=eager/whole": (2.5, 2.5),
        "loop, train.step=cuda_graph/whole": (graph_s, graph_s),
    }
    return Rounds(seconds, 0)


IMAGES = {"bare floor, eager": 49_920, "bare floor, compiled": 49_920, "people's loop": 9_984}


def test_seconds_an_epoch_and_the_loops_ratios() -> None:
    rows = by_name(step_rows(STUDY, study_rounds(), IMAGES, {"loop, train.step=eager": "a remark"}))
    assert rows["people's loop"].measurement.values == (10.0, 10.0)  # a fifth of the images
    assert rows["loop, train.step=cuda_graph"].measurement.values == (1.0, 1.0)
    assert rows["loop, train.step=cuda_graph"].note == "the fastest loop"
    assert rows["loop, train.step=eager"].note == "a remark"
    assert rows["loop, train.step=eager"].measurement.values == (2.5, 2.5)
    ratios = {name.removeprefix("images/s: "): row for name, row in rows.items() if " / " in name}
    found = {name: row.measurement.values for name, row in ratios.items()}
    assert found == {
        "loop, train.step=eager / bare floor, eager": pytest.approx((0.8, 0.88)),
        "loop, train.step=eager / bare floor, compiled": pytest.approx((0.38, 0.38)),
        "loop, train.step=eager / people's loop": (4.0, 4.0),
        "loop, train.step=cuda_graph / bare floor, eager": (2.0, 2.2),
        "loop, train.step=cuda_graph / bare floor, compiled": (0.95, 0.95),
        "loop, train.step=cuda_graph / people's loop": (10.0, 10.0),
    }


@pytest.mark.parametrize(("graph_s", "reached"), [(1.0, True), (1.3, False)])
def test_the_goals_stand_at_the_fastest_loop_of_the_study_alone(graph_s: float, reached: bool) -> None:
    rows = step_rows(STUDY, study_rounds(graph_s), IMAGES, {})
    goals = {row.measurement.name: (row.goal, row.reached) for row in rows if row.goal}
    assert goals == {
        "loop, train.step=cuda_graph": (Goal("at most", 1.2), reached),
        "images/s: loop, train.step=cuda_graph / bare floor, compiled": (Goal("at least", 0.9), reached),
        "images/s: loop, train.step=cuda_graph / people's loop": (Goal("at least", 8.0), reached),
    }
    for other in (
        replace(STUDY, device="cpu"),
        replace(STUDY, width=16),
        replace(STUDY, num_images=4_000),
        replace(STUDY, dtype="float32"),
    ):
        assert all(row.goal is None for row in step_rows(other, study_rounds(graph_s), IMAGES, {}))


def test_without_any_loop_there_are_no_rows() -> None:
    with pytest.raises(ValueError, match="not measured under any"):
        step_rows(STUDY, Rounds({"bare floor, eager": (1.0,)}, 0), IMAGES, {})


def test_the_steps_on_a_cpu_say_why_there_is_no_cuda_graph(capsys: pytest.CaptureFixture[str]) -> None:
    rows = measure_steps(TINY, num_loaders=0)
    assert list(by_name(rows)) == [
        "bare floor, eager",
        "people's loop",
        "loop, train.step=eager",
        "images/s: loop, train.step=eager / bare floor, eager",
        "images/s: loop, train.step=eager / people's loop",
    ]
    reason = "loop, train.step=cuda_graph: does not work here (ConfigError"
    assert reason in rows[-1].note and "needs a GPU" in rows[-1].note
    assert reason in capsys.readouterr().err
    assert "measured on 16 images" in by_name(rows)["people's loop"].note


def test_an_epoch_is_as_long_as_its_batches_though_the_probe_took_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {"train": 3.0, "eval": 7.0, "control": 1.0}
    monkeypatch.setattr(steps, "epoch_subject", lambda training: lambda: parts)
    makers = steps.loop_makers(CASE, synthetic_task(CASE), tmp_path, compiled=True)
    assert list(makers) == [f"loop, train.step={step}" for step in ("eager", "cuda_graph", "compile")]
    found = makers["loop, train.step=eager"]()()
    assert found == {"whole": pytest.approx(6.0)}  # 4 s for two of the three batches


def test_every_subject_waits_for_its_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    waits: list[str] = []
    for module in (floor, epoch, people_loop, flops):
        monkeypatch.setattr(module, "synchronise", lambda device, name=module.__name__: waits.append(name))
    task = synthetic_task(CASE)
    floor.floor_subject(CASE, task, floor.VARIANTS[0], 1)()
    epoch.epoch_subject(live_run(CASE, task, tmp_path, channels_last=True).training)()
    people_loop.people_subject(CASE, task, 0)()
    matrix_subject(16, 1, CASE)()
    assert waits == [f"benchmarks.{name}" for name in ("floor", "epoch", "people_loop", "flops")]
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append("the GPU"))
    synchronise("cpu")
    assert "the GPU" not in waits
    synchronise("cuda")
    assert waits[-1] == "the GPU"


def test_each_step_of_the_compiled_floor_on_a_gpu_says_where_it_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []
    monkeypatch.setattr(torch, "compile", lambda model, mode: lambda images: told.append(mode) or images)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: told.append("begin"))
    forward = floor._compiled(torch.nn.Identity(), STUDY)
    forward(torch.zeros(1))
    forward(torch.zeros(1))
    assert told == ["begin", "reduce-overhead"] * 2


def slow_flops(case: Case) -> int:
    """Twice the multiplications of every layer forward; backward as much for the weights and for the input.

    But the first layer, whose input needs no gradient.
    """
    model = synthetic_task(case).make_model(0)
    found: list[int] = []

    def count(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        weights = next(module.parameters())
        found.append(2 * output.numel() * weights[0].numel() * (2 if not found else 3))

    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(count)
    model(torch.zeros(case.batch_size, 3, case.image_size, case.image_size))
    return sum(found)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_flops_of_a_step_are_those_of_its_layers(dtype: str) -> None:
    case = replace(CASE, dtype=dtype)
    assert step_flops(case, synthetic_task(case)) == slow_flops(case)


def test_the_share_of_the_largest_products_speed() -> None:
    seconds = {
        "product of 1000 x 1000 matrices": (2e-3, 2e-3),  # 5 products of 2e9
        "product of 2000 x 2000 matrices": (4e-3, 4e-3),
        "loop, train.step=eager/whole": (3.0, 6.0),
    }
    rows = by_name(flop_rows(STUDY, Rounds(seconds, 0), 10**12, {1_000: 5, 2_000: 1}))
    assert rows["a training step, by count"].measurement.values == (1000.0,)
    assert rows["an epoch, by count"].measurement.values == (0.39,)
    peak = rows["product of 1000 x 1000 matrices"]
    assert peak.measurement.values == pytest.approx((5.0, 5.0)) and peak.note == "the peak"
    assert rows["product of 2000 x 2000 matrices"].measurement.values == pytest.approx((4.0, 4.0))
    assert rows["product of 2000 x 2000 matrices"].note == ""
    assert rows["loop, train.step=eager"].measurement.values == pytest.approx((130.0, 65.0))
    assert rows["loop, train.step=eager, of the peak"].measurement.values == pytest.approx((2600.0, 1300.0))
    with pytest.raises(ValueError, match="no matrix product"):
        flop_rows(STUDY, Rounds({}, 0), 1, {1_000: 5})


def test_products_as_many_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[torch.Tensor] = []
    monkeypatch.setattr(torch, "mm", lambda left, right, out: calls.append(left))
    matrix_subject(16, 3, replace(CASE, dtype="bfloat16"))()
    assert [(call.shape, call.dtype) for call in calls] == [((16, 16), torch.bfloat16)] * 3


def test_the_flops_group_gives_all_its_rows() -> None:
    rows = measure_flops(TINY)
    assert list(by_name(rows)) == [
        "a training step, by count",
        "an epoch, by count",
        "product of 16 x 16 matrices",
        "product of 32 x 32 matrices",
        "loop, train.step=eager",
        "loop, train.step=eager, of the peak",
    ]
    assert "cuda_graph: does not work here" in rows[-1].note
