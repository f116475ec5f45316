"""`train.evaluate_every`: which epochs are looked at, and who decides on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from training.tiny import TASK, TRAIN, job_of, rule_controller, tiny_spec, tiny_task, without_times

from metalr.config import TrainConfig
from metalr.control import Observation, Schedule
from metalr.training import train_run, training_loss
from metalr.training.evaluation import evaluate, last_evaluated


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


class _Fixed(nn.Module):
    """Answers with the same outputs whatever it sees."""

    def __init__(self, outputs: torch.Tensor) -> None:
        super().__init__()
        self.outputs_O = outputs

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.outputs_O.expand(len(images), -1)


def test_the_losses_of_each_objective_by_hand() -> None:
    classes, numbers, pixels = (
        tiny_task(objective=name, augmentation="none", dropout=0.0)
        for name in ("classify", "regress", "reconstruct")
    )
    labels = numbers.splits["outer_valid"].labels_B
    answer = torch.tensor([-0.5, 0.1, 0.0, 0.4])
    is_right = (labels == 3).double().mean()
    found = evaluate(_Fixed(answer), numbers, "outer_valid", TRAIN)
    squares = [(answer[o] - float(label == o)) ** 2 for label in labels for o in range(4)]
    assert found.loss == pytest.approx(float(sum(squares)) / len(squares), rel=1e-5)
    assert found.accuracy == pytest.approx(float(is_right))
    found = evaluate(_Fixed(answer), classes, "outer_valid", TRAIN)
    assert found.loss == pytest.approx(float(-answer.log_softmax(0)[labels].mean()), rel=1e-5)
    assert found.accuracy == pytest.approx(float(is_right))
    images, _ = pixels.eval_batch("outer_valid", 0, 32)
    mean = pixels.eval_batch("train", 0, 128)[0].flatten(1).mean(dim=0)
    found = evaluate(_Fixed(mean), pixels, "outer_valid", TRAIN)
    loss = float((images.flatten(1) - mean).square().mean())
    assert found.loss == pytest.approx(loss, rel=1e-5)
    assert found.accuracy == pytest.approx(max(0.0, 1.0 - loss / pixels.loss_of_guessing), abs=1e-5)
    assert evaluate(_Fixed(mean + 9.0), pixels, "outer_valid", TRAIN).accuracy == 0.0
    for task, outputs in ((numbers, answer), (pixels, mean)):
        batch = task.eval_batch("outer_valid", 0, 32)
        held_out = evaluate(_Fixed(outputs), task, "outer_valid", TRAIN).loss
        assert float(training_loss(_Fixed(outputs), *batch, TRAIN)) == pytest.approx(held_out, rel=1e-5)


@pytest.mark.parametrize("objective", ["regress", "reconstruct"])
@pytest.mark.parametrize("method", ["cosine", "metalr-mlp"])
def test_a_squared_error_is_learned(objective: str, method: str, tmp_path: Path) -> None:
    task = TASK.model_copy(update={"objective": objective, "augmentation": "none"})
    record = train_run(
        job_of(tiny_spec(method, task=task), tmp_path),
        tiny_task(**task.model_dump()),
        rule_controller() if method.startswith("metalr") else None,
    )
    losses = [row["train/loss"] for row in record.epochs]
    assert losses[-1] < losses[0] < 2.0 and record.epochs[-1]["inner_valid/loss"] < 2.0
    assert 0.0 <= record.result["final"]["test/accuracy"] <= 1.0
    if method != "cosine":
        assert record.rows[0]["probe"]["is_distance"]
