"""Whoever sets or reads an LR does so alike where the optimizer holds it as a tensor, filled in place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from control.controllers import RuleController
from torch import nn
from training.tiny import TRAIN, tiny_task

from metalr.config import FinderConfig, ProbeConfig, SchedulesConfig
from metalr.config.schedules import PlateauConfig, WarmupConfig
from metalr.control import MetaLR, Observation, Schedule, Snapshot, lr_range_test, make_schedule
from metalr.control.finder import find_lr
from metalr.control.schedules import SCHEDULE_NAMES
from metalr.training.loop import Training, make_optimizer, train_epoch

EPOCHS, STEPS = 6, 5


def optimizer_of(*, as_tensor: bool, dtype: torch.dtype = torch.float64) -> torch.optim.Optimizer:
    """Two groups at LRs 0.1 and 0.01; in float64, so that a tensor holds what a number does."""
    parameters = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))]
    lrs: list[Any] = [torch.tensor(lr, dtype=dtype) if as_tensor else lr for lr in (0.1, 0.01)]
    groups = [{"params": [p], "lr": lr} for p, lr in zip(parameters, lrs, strict=True)]
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9)


def lrs_of(optimizer: torch.optim.Optimizer, schedule: Schedule) -> list[list[float]]:
    held = [group["lr"] for group in optimizer.param_groups]
    optimizer.step()  # torch warns where a scheduler moves before its optimizer ever did
    lrs = []
    for epoch in range(1, EPOCHS + 1):
        for step in range(STEPS):
            lrs.append([float(group["lr"]) for group in optimizer.param_groups])
            if step < STEPS - 1:
                schedule.after_batch()
        loss = [2.0, 1.5, 1.6, 1.7, 1.8, 1.2][epoch - 1]
        schedule.after_epoch(Observation(epoch=epoch, inner_valid_loss=loss))
    if isinstance(held[0], torch.Tensor):
        assert all(group["lr"] is lr for group, lr in zip(optimizer.param_groups, held, strict=True))
    return lrs


@pytest.mark.parametrize("warmup", [0.0, 1.4])
@pytest.mark.parametrize("name", SCHEDULE_NAMES)
def test_every_schedule_sets_the_same_lrs(name: str, warmup: float) -> None:
    settings = SchedulesConfig(warmup=WarmupConfig(epochs=warmup), plateau=PlateauConfig(patience=1))
    number, tensor = optimizer_of(as_tensor=False), optimizer_of(as_tensor=True)
    expected = lrs_of(number, make_schedule(name, number, EPOCHS, STEPS, settings))
    found = lrs_of(tensor, make_schedule(name, tensor, EPOCHS, STEPS, settings))
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-6, atol=1e-12)
    assert name == "constant" or len({lrs[0] for lrs in expected}) > 1


def test_the_learned_controller_sets_the_same_lrs() -> None:
    schedules = []
    for as_tensor in (False, True):
        optimizer = optimizer_of(as_tensor=as_tensor)
        controller = RuleController(lambda t, features: 2 + (t % 2))
        learned = MetaLR(optimizer, controller, total_epochs=EPOCHS, steps_per_epoch=STEPS)
        schedules.append(lrs_of(optimizer, Schedule(learned, "step")))
    torch.testing.assert_close(*map(torch.tensor, schedules), rtol=1e-6, atol=1e-12)


def fresh(*, as_tensor: bool, **changes: Any) -> Training:
    task, config = tiny_task(dropout=0.0), TRAIN.model_copy(update=changes)
    model = task.make_model(3)
    optimizer = make_optimizer(model, config)
    for group in optimizer.param_groups if as_tensor else ():
        group["lr"] = torch.tensor(group["lr"], dtype=torch.float64)
    return Training(task, config, model, optimizer, make_schedule("cosine", optimizer, 4, 8), 3, 8)


def loss_of(training: Training) -> Any:
    images, labels = training.task.train_batch(torch.arange(16), torch.Generator().manual_seed(0))
    return lambda step: nn.functional.cross_entropy(training.model(images), labels)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_an_epoch_a_snapshot_and_the_probe(optimizer: str) -> None:
    number, tensor = (fresh(as_tensor=as_tensor, optimizer=optimizer) for as_tensor in (False, True))
    held = tensor.optimizer.param_groups[0]["lr"]
    curves = [
        lr_range_test(t.model, t.optimizer, loss_of(t), ProbeConfig(num_steps=8)) for t in (number, tensor)
    ]
    assert curves[1].losses == pytest.approx(curves[0].losses, rel=1e-5)
    assert tensor.optimizer.param_groups[0]["lr"] is held
    first, second = train_epoch(number), train_epoch(tensor)
    assert second.lrs == pytest.approx(first.lrs, rel=1e-9)
    assert second.observation.train_loss == pytest.approx(first.observation.train_loss, rel=1e-5)
    snapshot = Snapshot.take(tensor.model, tensor.optimizer)
    before = float(held)
    train_epoch(tensor)
    assert float(tensor.optimizer.param_groups[0]["lr"]) != before
    snapshot.restore(tensor.model, tensor.optimizer)
    assert float(tensor.optimizer.param_groups[0]["lr"]) == before


def test_the_finder() -> None:
    found = []
    for as_tensor in (False, True):
        training = fresh(as_tensor=as_tensor)
        batch = training.task.train_batch(torch.arange(16), torch.Generator().manual_seed(0))
        found.append(
            find_lr(
                training.model, training.optimizer, nn.functional.cross_entropy, [batch] * 41,
                config=FinderConfig(num_steps=40),
            )
        )  # fmt: skip
    assert found[1].curve.losses == pytest.approx(found[0].curve.losses, rel=1e-4)
    assert found[1].lr == pytest.approx(found[0].lr, rel=1e-6)
