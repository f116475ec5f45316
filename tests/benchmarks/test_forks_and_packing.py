"""Forks together and runs at once: the arithmetic by hand, the work at tiny sizes on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import packing
from benchmarks.cases import cases_of, synthetic_task
from benchmarks.flops import measure_flops
from benchmarks.forks import fork_rows, forked_run, measure_forks
from benchmarks.measurement import Rounds, Row
from benchmarks.packing import measure_packing, packed_job, packing_rows
from benchmarks.settings import GPU, QUICK, Settings
from benchmarks.steps import measure_steps
from metalr.harvest import branching
from metalr.harvest.execution import InlineExecutor
from metalr.training import Job, RunStore
from metalr.worker import execute

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


def weights_of(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])


def test_a_fork_together_finds_the_losses_of_one_after_another(tmp_path: Path) -> None:
    task = synthetic_task(CASE)
    case = replace(CASE, num_images=24)
    apart = forked_run(case, task, tmp_path / "apart", 3, step="eager", together=False)
    stacked = forked_run(case, task, tmp_path / "stacked", 3, step="eager", together=True)
    before = weights_of(apart.live.training.model)
    for run in (apart, stacked):
        run()
    first = list(apart.losses)
    assert len(set(first)) == 3  # the candidates differ
    assert stacked.losses == pytest.approx(first, rel=1e-4)
    assert torch.equal(weights_of(apart.live.training.model), before)
    apart()  # again from the same state
    assert apart.losses == first


def test_every_round_trains_the_whole_fork_in_its_own_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    train_epoch, together = branching.train_epoch, branching.branches_together
    monkeypatch.setattr(
        branching, "train_epoch", lambda *a, **named: trained.append("branch") or train_epoch(*a, **named)
    )
    monkeypatch.setattr(branching, "branches_together", lambda *a: trained.append("all") or together(*a))
    task = synthetic_task(CASE)
    for is_together, expected in ((False, ["branch"] * 4), (True, ["all"])):
        run = forked_run(CASE, task, tmp_path / str(is_together), 2, step="eager", together=is_together)
        for _ in range(2):
            trained.clear()
            run()
            assert trained == expected  # two candidates, two epochs each


def test_a_candidate_that_diverges_spoils_the_measurement(tmp_path: Path) -> None:
    run = forked_run(CASE, synthetic_task(CASE), tmp_path / "fork", 2, step="eager", together=False)
    run.factors[1] *= 1e12
    with pytest.raises(ValueError, match="1 of 2 candidates diverged"):
        run()


def test_the_ratio_of_forks() -> None:
    seconds = {
        "one after another, eager": (9.0, 8.0),
        "one after another, cuda_graph": (3.0, 3.0),
        "together": (2.0, 2.0),
    }
    losses = {"one after another, eager": [2.0, 1.0], "one after another, cuda_graph": [2.0, 1.01]}
    losses["together"] = [2.0, 1.01]
    rows = by_name(fork_rows(STUDY, Rounds(seconds, 0), losses, {"together": "a remark"}))
    assert rows["one after another, eager / together"].measurement.values == (4.5, 4.0)
    assert rows["one after another, eager / together"].reached is True
    assert rows["one after another, cuda_graph / together"].measurement.values == (1.5, 1.5)
    assert rows["one after another, cuda_graph / together"].reached is False
    assert rows["final losses apart from one after another, eager"].measurement.values == pytest.approx(
        (1.0,)
    )
    assert rows["final losses apart from one after another, cuda_graph"].measurement.values == (0.0,)
    assert rows["together"].note == "a remark"
    on_cpu = fork_rows(CASE, Rounds(seconds, 0), losses, {})
    assert all(row.goal is None for row in on_cpu)


def test_the_forks_group_gives_all_its_rows() -> None:
    rows = measure_forks(TINY)
    assert list(by_name(rows)) == [
        "one after another, eager",
        "together",
        "one after another, eager / together",
        "final losses apart from one after another, eager",
    ]
    assert rows[0].group == "A fork into 3 candidates: width 8, 8 px, 1 thread"
    assert "one after another, cuda_graph: does not work here" in rows[-1].note


class InlineWorkers(InlineExecutor):
    """Does the jobs here, and remembers who was asked for how many."""

    asked: list[tuple[int, int]] = []  # noqa: RUF012 (one list for all, as the test wants it)

    def __init__(self, count: int, max_attempts: int) -> None:
        super().__init__(lambda job: execute(job.model_dump_json()))
        self.count = count

    def __enter__(self) -> InlineWorkers:
        return self

    def __exit__(self, *reason: object) -> None:
        return None

    def run(self, jobs: Sequence[Job], on_done: Callable[[Job], None]) -> None:
        self.asked.append((self.count, len(jobs)))
        super().run(jobs, on_done)
        for job in jobs:
            assert RunStore(job.store).is_finished(job.spec.run_id)


def test_the_packing_group_gives_new_runs_to_every_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "WorkerExecutor", InlineWorkers)
    InlineWorkers.asked.clear()
    rows = measure_packing(TINY)
    assert list(by_name(rows)) == [
        "train.step=eager, 1 worker",
        "train.step=eager, 2 workers",
        "train.step=eager, 2 workers / 1",
    ]
    assert InlineWorkers.asked == [(1, 2), (2, 2)] * 2  # to try, and one round


def test_packing_in_runs_per_hour() -> None:
    settings = replace(TINY, packed_workers=(1, 2, 4), num_jobs=4, device="cuda")
    seconds = {
        "train.step=eager, 1 worker": (8.0,),
        "train.step=eager, 4 workers": (2.0,),
        "train.step=cuda_graph, 2 workers": (1.0,),
    }
    found = {
        row.measurement.name: row.measurement.values for row in packing_rows(settings, Rounds(seconds, 0))
    }
    assert found == {
        "train.step=eager, 1 worker": (1800.0,),
        "train.step=eager, 4 workers": (7200.0,),
        "train.step=cuda_graph, 2 workers": (14400.0,),
        "train.step=eager, 4 workers / 1": (4.0,),
    }


def test_a_packed_job_follows_device_dtype_and_step(tmp_path: Path) -> None:
    settings = replace(TINY, device="cuda", dtype="bfloat16")
    train = packed_job(settings, tmp_path, 3, "cuda_graph").spec.train
    assert (train.device, train.dtype, train.step) == ("cuda", "bfloat16", "cuda_graph")
    assert packed_job(TINY, tmp_path, 3, "eager").spec.train.device == "cpu"


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_the_groups_run_on_a_gpu() -> None:
    settings = replace(TINY, device="cuda", dtype="bfloat16", fork_images=64)
    names = list(by_name([*measure_steps(settings, num_loaders=0), *measure_flops(settings)]))
    assert "loop, train.step=cuda_graph" in names
    assert "loop, train.step=cuda_graph, of the peak" in names
    assert "one after another, cuda_graph / together" in by_name(measure_forks(settings))
