"""What a snapshot puts back where an optimizer counts its steps among its groups' settings."""

import pytest
import schedulefree
import torch

from metalr.control import Snapshot

STEPS = {"k": 2, "weight_sum": 0.02, "lr_max": 0.1}


def after_steps(num_steps: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = torch.nn.Linear(2, 1)
    optimizer = schedulefree.SGDScheduleFree(model.parameters(), lr=0.1)
    optimizer.train()
    for _ in range(num_steps):
        train_step(model, optimizer)
    return model, optimizer


def train_step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()


def test_a_rollback_keeps_the_lr_and_takes_back_the_average() -> None:
    model, optimizer = after_steps(2)
    snapshot = Snapshot.take(model, optimizer)
    optimizer.param_groups[0]["lr"] = 0.7
    train_step(model, optimizer)
    assert optimizer.param_groups[0]["k"] == 3
    snapshot.restore_keeping_lr(model, optimizer)
    group = optimizer.param_groups[0]
    assert group["lr"] == 0.7
    assert {name: group[name] for name in STEPS} == pytest.approx(STEPS)
