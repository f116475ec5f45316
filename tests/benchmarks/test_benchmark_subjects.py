"""What is measured does what it says, at the smallest sizes; the command from end to end. Never a time."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import floor
from benchmarks.__main__ import main
from benchmarks.cases import (
    cases_of,
    live_run,
    make_controller,
    ready_batch,
    small_job,
    small_task,
    synthetic_task,
)
from benchmarks.control import decision_seconds, fork_seconds, measure_control
from benchmarks.epoch import measure_epoch
from benchmarks.floor import VARIANTS, best_variant, floor_subject, measure_floor
from benchmarks.harvest import harvest_config
from benchmarks.measurement import Rounds, Row
from benchmarks.memory import mixed_jobs
from benchmarks.one_worker import Worker, resident_mib
from benchmarks.operators import profile_epochs
from benchmarks.people_loop import PictureDataset, make_loader
from benchmarks.settings import QUICK, HarvestSize, Settings
from benchmarks.start import WHOLE, start_parts
from metalr.control import FEATURE_NAMES
from metalr.harvest.plan import epochs_of, plan_trunks
from metalr.tasks import Task
from metalr.training import RunStore, train_epoch

TINY = Settings(
    **QUICK
    | {"image_sizes": (8,), "batch_size": 8, "num_images": 24, "num_inner_valid": 8, "rounds": 1}
    | {
        "people_images": 24,
        "fork_images": 24,
        "floor_steps": 1,
        "run_images": 64,
        "decisions": 3,
        "memory_runs": 12,
    }
)
CASE = cases_of(TINY)[0]
SMALL_FLAGS = ["--image-sizes", "8", "--batch-size", "8", "--num-images", "24", "--rounds", "1"]


def weights_of(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])


def names(rows: list[Row]) -> list[str]:
    return [row.measurement.name for row in rows]


def test_every_variant_of_the_floor_trains_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    task = synthetic_task(CASE)
    models: list[torch.nn.Module] = []
    make_model = Task.make_model

    def remembered(task: Task, seed: int) -> torch.nn.Module:
        models.append(make_model(task, seed))
        return models[-1]

    monkeypatch.setattr(Task, "make_model", remembered)
    for variant in VARIANTS:
        floor_subject(CASE, task, variant, num_steps=3)()
    plain, *others = [weights_of(model) for model in models]
    initial = weights_of(make_model(task, 0))
    assert len(others) == 5
    moved = float((plain - initial).norm())
    assert moved > 1e-3
    for weights in others:
        assert float((weights - plain).norm()) < 1e-3 * moved


def test_the_fastest_variant_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {str(variant): (3.0, 5.0) for variant in VARIANTS} | {str(VARIANTS[4]): (2.0, 4.0)}
    monkeypatch.setattr(floor, "measure", lambda subjects, rounds: Rounds(seconds, 0))
    assert best_variant(CASE, synthetic_task(CASE), 1, 1) == VARIANTS[4]


def test_the_floor_says_why_something_does_not_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse_channels_last(model: torch.nn.Module, case: Any) -> torch.nn.Module:
        weights = next(iter(model.parameters()))
        if weights.is_contiguous(memory_format=torch.channels_last):
            raise RuntimeError("no\n compiler")
        return model

    monkeypatch.setattr(floor, "_compiled", refuse_channels_last)
    monkeypatch.setattr(floor, "VARIANTS", VARIANTS[:1])
    rows = measure_floor(replace(TINY, compile=True))
    assert names(rows) == [str(VARIANTS[0]), "contiguous, fused SGD, compiled"]
    assert sum("the best here" in row.note for row in rows) == 1
    assert (
        "channels_last, fused SGD, compiled: does not work here (RuntimeError: no compiler)" in rows[-1].note
    )


def test_people_see_the_same_pictures_as_torchvision_would_give() -> None:
    task = synthetic_task(CASE)
    pictures = PictureDataset(task, np.asarray)
    image_HWC, label = pictures[5]
    np.testing.assert_array_equal(image_HWC, task.splits["train"].images_BCHW[5].permute(1, 2, 0))
    assert label == int(task.splits["train"].labels_B[5])
    batches = list(make_loader(task, batch_size=7, num_loaders=0))
    assert [len(labels) for _, labels in batches] == [7, 7, 7]  # of 24: the rest is dropped
    images_BCHW = batches[0][0]
    assert images_BCHW.dtype == torch.float32 and images_BCHW.shape[1:] == (3, 8, 8)
    black, white = (0 - 0.5) / 0.29, (1 - 0.5) / 0.29
    assert float(images_BCHW.min()) == pytest.approx(black) and float(images_BCHW.max()) <= white + 1e-6


def test_the_ready_batch_is_one_of_the_epochs(tmp_path: Path) -> None:
    task = synthetic_task(CASE)
    plain, labels = ready_batch(task, CASE, channels_last=False)
    strided, _ = ready_batch(task, CASE, channels_last=True)
    assert torch.equal(plain, strided) and len(labels) == 8
    assert plain.is_contiguous() and not strided.is_contiguous()
    assert strided.is_contiguous(memory_format=torch.channels_last)


def test_the_live_run_is_controlled_and_probed(tmp_path: Path) -> None:
    live = live_run(CASE, synthetic_task(CASE), tmp_path, channels_last=True)
    assert live.probe is not None
    result = train_epoch(live.training)
    decision = live.training.schedule.scheduler.last_decision  # type: ignore[attr-defined]
    assert decision.epoch == 1 and result.observation.grad_norm is not None
    assert decision.peak_lr == pytest.approx(live.probe.reference_lr)


@pytest.mark.parametrize("learner", ["mlp", "lstm"])
def test_the_controller_always_chooses_the_reference(learner: str) -> None:
    controller = make_controller(learner)
    features = np.random.default_rng(0).normal(size=len(FEATURE_NAMES))
    _, prediction = controller.step(controller.initial_state(), features)
    assert prediction.log_regrets == pytest.approx([offset**2 for offset in controller.log_offsets], rel=1e-6)
    assert len(decision_seconds(learner, 3)) == 3


def test_a_fork_leaves_the_run_as_it_was(tmp_path: Path) -> None:
    training = live_run(CASE, synthetic_task(CASE), tmp_path, channels_last=True).training
    train_epoch(training)
    before = weights_of(training.model)
    assert len(fork_seconds(training, 2)) == 2
    assert torch.equal(weights_of(training.model), before)


def test_the_groups_that_train_here_give_all_their_rows() -> None:
    epoch = measure_epoch(TINY, num_loaders=0)
    assert len(epoch) == 8 and {len(row.measurement.values) for row in epoch} == {1}
    control = measure_control(TINY)
    assert len(control) == 7
    assert [len(row.measurement.values) for row in control] == [3, 3, 1, 2, 2, 1, 1]


def test_a_start_ends_before_the_first_step_and_commits_nothing(tmp_path: Path) -> None:
    job = small_job(TINY, tmp_path, seed=1)
    parts = start_parts(job.model_dump_json())
    whole, read, task, controller, train_run = list(parts)[:5]
    assert (whole, train_run) == (WHOLE, "start train_run")
    assert parts[WHOLE] == pytest.approx(sum(parts[name] for name in (read, task, controller, train_run)))
    assert not RunStore(tmp_path).is_finished(job.spec.run_id)
    assert len((tmp_path / job.spec.run_id / "metrics.jsonl").read_text().splitlines()) == 1
    RunStore(tmp_path).commit(job.spec.run_id, {})
    (tmp_path / job.spec.run_id / "forks.jsonl").write_text("")
    with pytest.raises(ValueError, match="a start needs a new run"):
        start_parts(job.model_dump_json())


def test_the_jobs_for_memory_are_all_new_runs_of_both_networks(tmp_path: Path) -> None:
    jobs = mixed_jobs(TINY, tmp_path)
    assert len({job.spec.run_id for job in jobs}) == 12
    kinds = {(job.spec.task.network, job.spec.method) for job in jobs}
    assert kinds == {(n, m) for n in ("mlp", "resnet18") for m in ("cosine", "one_cycle")}


@pytest.mark.parametrize(
    ("size", "epochs"),
    # 4 epochs a trunk; a fork at epoch e trains 4 - e epochs a candidate
    [(HarvestSize(2, (0.5,), 3), 2 * (4 + 3 * 2)), (HarvestSize(3, (0.0, 0.5), 4), 3 * (4 + 4 * 4 + 4 * 2))],
)
def test_a_harvest_has_the_size_it_is_given(size: HarvestSize, epochs: int, tmp_path: Path) -> None:
    config = harvest_config(TINY, size, str(tmp_path))
    specs = plan_trunks(config, lambda recipe: small_task(recipe.task).digest)
    assert len(specs) == size.num_runs
    assert sum(epochs_of(spec) for spec in specs) == epochs


def test_the_profile_of_an_epoch_has_its_convolutions() -> None:
    (operators,) = profile_epochs(TINY).values()
    assert sum(row["share_pct"] for row in operators) == pytest.approx(100.0)
    found = {row["name"]: row["calls"] for row in operators}
    assert found["aten::convolution_backward"] == 20 * 2  # convolutions of the network, steps


def test_the_command_prints_a_table_and_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bench.json"
    assert main(["floor", "--quick", *SMALL_FLAGS, "--output", str(path)]) == 0
    report = json.loads(path.read_text())
    assert [row["n"] for row in report["rows"]] == [1] * len(VARIANTS)
    assert report["settings"]["num_images"] == 24 and report["settings"]["widths"] == [8]
    printed = capsys.readouterr().out
    assert "The bare floor: width 8, 8 px, 1 thread" in printed
    assert f"{len(VARIANTS)} rows, 0 below their goal" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["flour"], "no group flour; choose of floor, epoch"),
        (["floor", "--rounds", "0"], "rounds=0: give whole numbers of at least 1"),
        (["floor", "--output", "/nowhere/at/all.json"], "there is no directory /nowhere/at"),
    ],
)
def test_a_wrong_argument_is_one_clear_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_own_memory_can_be_read() -> None:
    found = resident_mib(os.getpid())
    assert found is None or 50 < found < 50_000
    assert resident_mib(2**30) is None


@pytest.mark.slow
def test_a_worker_does_jobs_and_says_why_it_cannot(tmp_path: Path) -> None:
    job = small_job(TINY, tmp_path, seed=1)
    wrong = job.model_copy(update={"spec": job.spec.model_copy(update={"data_digest": "0" * 64})})
    with Worker() as worker:
        assert worker.perform(job) > 0
        with pytest.raises(RuntimeError, match="failed in its worker: the data changed"):
            worker.perform(wrong)
    assert RunStore(tmp_path).is_finished(job.spec.run_id)
