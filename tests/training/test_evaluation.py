"""`train.evaluate_every`: which epochs are looked at, and who decides on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from training.tiny import TRAIN, job_of, rule_controller, tiny_spec, tiny_task, without_times

from metalr.config import TrainConfig
from metalr.control import Observation, Schedule
from metalr.training import train_run
from metalr.training.evaluation import last_evaluated


def config_of(every: int, epochs: int = 7) -> TrainConfig:
    return TRAIN.model_copy(update={"epochs": epochs, "evaluate_every": every})


@pytest.mark.parametrize(
    ("every", "expected"),
    [(1, [0, 1, 2, 3, 4, 5, 6, 7]), (3, [0, 0, 0, 3, 3, 3, 6, 7]), (10, [0, 0, 0, 0, 0, 0, 0, 7])],
)
def test_the_last_evaluation_before_each_epoch(every: int, expected: list[int]) -> None:
    assert [last_evaluated(config_of(every), epoch) for epoch in range(8)] == expected


def rows_of(method: str, every: int, store: Path) -> list[dict[str, Any]]:
    spec = tiny_spec(method, train=config_of(every))
    controller = rule_controller() if method.startswith("metalr") else None
    return without_times(train_run(job_of(spec, store), tiny_task(), controller).rows)[1:]


@pytest.mark.parametrize("method", ["cosine", "constant", "greedy", "plateau", "metalr-mlp"])
def test_only_some_epochs_are_evaluated(method: str, tmp_path: Path) -> None:
    rows = rows_of(method, 3, tmp_path)
    assert [row["epoch"] for row in rows if row["inner_valid/loss"] is not None] == [3, 6, 7]
    assert [row["epoch"] for row in rows if row["inner_valid/accuracy"] is not None] == [3, 6, 7]


@pytest.mark.parametrize("method", ["cosine", "one_cycle", "exponential"])
def test_a_schedule_that_looks_at_nothing_trains_as_ever(method: str, tmp_path: Path) -> None:
    often, rarely = rows_of(method, 1, tmp_path / "often"), rows_of(method, 3, tmp_path / "rarely")
    assert [row["train/loss"] for row in rarely] == [row["train/loss"] for row in often]
    assert [row["lr"] for row in rarely] == [row["lr"] for row in often]
    for row, full in zip(rarely, often, strict=True):
        assert row["inner_valid/loss"] in (None, full["inner_valid/loss"])


def test_the_learned_controller_holds_between_evaluations(tmp_path: Path) -> None:
    decided = [row["decision"]["epoch"] for row in rows_of("metalr-mlp", 3, tmp_path / "rarely")]
    assert decided == [0, 0, 3, 3, 3, 6, 7]
    often = [row["decision"]["epoch"] for row in rows_of("metalr-mlp", 1, tmp_path / "often")]
    assert often == [1, 2, 3, 4, 5, 6, 7]


class _Heard:
    """A scheduler that notes what it is told, and how often it is moved on."""

    def __init__(self) -> None:
        self.heard: list[int] = []
        self.moved = 0

    def observe(self, observation: Observation) -> None:
        self.heard.append(observation.epoch)

    def step(self) -> None:
        self.moved += 1


def test_a_lost_loss_is_told_at_once() -> None:
    scheduler: Any = _Heard()
    schedule = Schedule(scheduler, "epoch")
    schedule.after_epoch(Observation(epoch=1, is_finite=True), is_fresh=False)
    schedule.after_epoch(Observation(epoch=2, is_finite=False), is_fresh=False)
    schedule.after_epoch(Observation(epoch=3, is_finite=True), is_fresh=True)
    assert (scheduler.heard, scheduler.moved) == ([2, 3], 3)
