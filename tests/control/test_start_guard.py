"""A start at an LR that is far too high: what would be lost without the guard, and what it leaves alone."""

import copy
import logging
import math
from typing import Any

import pytest
import schedulefree
import torch
from control.controllers import RuleController
from torch import Tensor, nn
from torch.optim.lr_scheduler import LinearLR, SequentialLR

from metalr.control import MetaLR, ProbeCurve
from metalr.control.start_guard import NUM_WATCHED
from metalr.control.step_statistics import StepStatistics


class Training:
    """A small network of ReLUs on a problem that it can learn, in epochs of 40 steps."""

    def __init__(self, lr: float, *, optimizer: str = "sgd", norm: bool = False) -> None:
        torch.manual_seed(0)
        middle = [nn.BatchNorm1d(32)] if norm else []
        self.model = nn.Sequential(
            nn.Linear(6, 32), *middle, nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3)
        )
        self.inputs = torch.randn(640, 6)
        self.labels = (self.inputs[:, :3] * self.inputs[:, 3:]).argmax(dim=1)
        if optimizer == "sgd":
            self.optimizer: torch.optim.Optimizer = torch.optim.SGD(
                self.model.parameters(), lr=lr, momentum=0.9
            )
        else:
            self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=lr)

    def loss(self, step: int) -> Tensor:
        chosen = torch.arange(16) + 16 * (step % 40)
        return nn.functional.cross_entropy(self.model(self.inputs[chosen]), self.labels[chosen])

    def steps(self, num_steps: int, first: int = 0) -> list[float]:
        """The losses of training steps."""
        losses = []
        for step in range(first, first + num_steps):
            loss = self.loss(step)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            losses.append(loss.item())
        return losses

    @property
    def lr(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def weights(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self.model.parameters()]).clone()

    def scheduler(self, **changes: Any) -> MetaLR:
        given: dict[str, Any] = {"total_epochs": 8} | changes
        return MetaLR(self.optimizer, RuleController(lambda t, _: 2), **given)


def final_loss(lr: float, optimizer: str, *, guarded: bool) -> float:
    training = Training(lr, optimizer=optimizer)
    scheduler = training.scheduler()
    if not guarded:
        assert scheduler._autopilot.around.statistics is not None
        scheduler._autopilot.around.statistics.before_next_step = None
    losses = [math.inf]
    for _ in range(8):
        losses = training.steps(40)
        scheduler.step({"train_loss": sum(losses) / 40})
    return sum(losses) / 40


@pytest.mark.parametrize(("optimizer", "lr"), [("sgd", 3.0), ("adamw", 1.0)])
def test_a_network_that_would_die_at_the_users_lr_is_saved(optimizer: str, lr: float) -> None:
    """Without the guard it ends at the loss of guessing, log 3 = 1.1 nats, or worse."""
    assert final_loss(lr, optimizer, guarded=True) < 0.7
    assert not final_loss(lr, optimizer, guarded=False) < 1.0


@pytest.mark.parametrize(("optimizer", "lr"), [("sgd", 0.1), ("sgd", 1e-4), ("adamw", 0.01)])
def test_at_an_lr_that_trains_not_a_bit_is_changed(optimizer: str, lr: float) -> None:
    guarded, free = Training(lr, optimizer=optimizer), Training(lr, optimizer=optimizer)
    kept = [guarded.scheduler(), free.scheduler()]
    assert kept[1]._autopilot.around.statistics is not None
    kept[1]._autopilot.around.statistics.before_next_step = None
    assert guarded.steps(40) == free.steps(40)
    assert torch.equal(guarded.weights(), free.weights())
    assert guarded.lr == free.lr


def test_it_begins_again_where_it_began_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    training = Training(1e4)
    start = training.weights()
    scheduler = training.scheduler()
    lr = training.lr
    with caplog.at_level(logging.WARNING):
        training.steps(2)  # the second finds the weights gone, and is none itself
    assert torch.equal(training.weights(), start)
    assert not training.optimizer.state
    assert all(p.grad is None for p in training.model.parameters())
    assert training.lr == pytest.approx(lr / 4)
    assert scheduler.get_last_lr() == [training.lr]
    assert "flew off within one step: LR x 0.25" in caplog.text
    assert "flew off" in scheduler.explain()
    assert scheduler.last_decision.epoch == 0
    assert scheduler.num_rollbacks == 1


def test_it_begins_again_until_it_trains_and_what_was_measured_is_of_the_last_time() -> None:
    training = Training(1e4)
    scheduler = training.scheduler()
    losses = training.steps(40)
    assert training.lr < 100.0
    assert losses[-1] < 10.0
    scheduler.step({"train_loss": losses[-1]})
    row = scheduler.history[0]
    assert row["lr"] == pytest.approx(scheduler._autopilot.state.trace[-1].lr)
    assert row["lr"] < 100.0


def test_with_the_model_its_buffers_come_back_too() -> None:
    training = Training(1e4, norm=True)
    before = copy.deepcopy(training.model.state_dict())
    scheduler = training.scheduler(model=training.model)
    training.steps(1)
    assert not torch.equal(training.model.state_dict()["1.running_mean"], before["1.running_mean"])
    loss = training.loss(1)
    loss.backward()  # type: ignore[no-untyped-call]
    training.optimizer.step()
    assert "flew off" in scheduler.explain()
    for name, value in training.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_an_averaging_optimizer_counts_from_the_start_again() -> None:
    training = Training(0.1)
    optimizer = schedulefree.AdamWScheduleFree(training.model.parameters(), lr=300.0)
    optimizer.train()
    training.optimizer = optimizer
    training.scheduler()
    start = training.weights()
    training.steps(1)
    assert optimizer.param_groups[0]["k"] == 1
    training.steps(1)
    assert torch.equal(training.weights(), start)
    assert optimizer.param_groups[0]["k"] == 1  # the step without a gradient is the first again
    training.steps(38)
    assert bool(training.weights().isfinite().all())


def test_a_probe_leaves_nothing_to_guard() -> None:
    training = Training(1e4)
    curve = ProbeCurve((0.001, 1.0), (1.0, 3.0), initial_loss=1.1, exploded=False, num_steps=2)
    scheduler = training.scheduler(probe=curve)
    assert scheduler._autopilot.around.statistics is not None
    assert scheduler._autopilot.around.statistics.before_next_step is None


def test_under_respect_the_lr_falls_to_its_bound_and_no_further() -> None:
    training = Training(8.0)
    scheduler = training.scheduler(respect=6.0)
    training.steps(40)
    assert scheduler.last_decision.peak_lr == pytest.approx(8.0 / 6.0)


def test_another_schedules_warm_up_is_not_its_business() -> None:
    training = Training(1e4)
    scheduler = training.scheduler()
    warm_up = LinearLR(training.optimizer, start_factor=1.0, total_iters=2)
    sequence = SequentialLR(training.optimizer, [warm_up, scheduler], [2])
    lrs = []
    for _ in range(2):
        training.steps(3)
        lrs.append(training.lr)
        sequence.step()
    assert lrs == [1e4, 1e4]
    assert "flew off" not in scheduler.explain()


def test_with_a_closure_the_step_is_made_at_the_weights_it_began_from() -> None:
    training = Training(1e4)
    scheduler = training.scheduler()
    start = training.weights()

    def closure() -> float:
        training.optimizer.zero_grad()
        loss = training.loss(0)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    for _ in range(12):
        training.optimizer.step(closure)
    assert "flew off" in scheduler.explain()
    assert bool(training.weights().isfinite().all())
    assert float((training.weights() - start).norm()) < 4 * float(start.norm())


def test_weights_that_begin_at_zero_have_no_norm_to_compare_with() -> None:
    model = nn.Linear(6, 3)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = MetaLR(optimizer, RuleController(lambda t, _: 2), total_epochs=3)
    for _ in range(20):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(torch.randn(16, 6)), torch.zeros(16, dtype=torch.long))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert "flew off" not in scheduler.explain()


def test_after_the_first_steps_it_looks_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(0.01)
    scheduler = training.scheduler()
    statistics = scheduler._autopilot.around.statistics
    assert statistics is not None
    looks = []

    def looked_at(self: StepStatistics) -> float:
        looks.append(self)
        return 0.0

    monkeypatch.setattr(StepStatistics, "update_norm", property(looked_at))
    training.steps(40)
    assert len(looks) == NUM_WATCHED


def test_the_users_lr_that_flew_off_does_not_bound_the_controllers() -> None:
    training = Training(1e4)
    scheduler = training.scheduler()
    training.steps(40)
    assert scheduler._autopilot.state.scale == 1.0
    for epoch in range(4):
        scheduler.step({"train_loss": 1.0 - 0.1 * epoch})
        training.steps(40)
    assert scheduler.last_decision.peak_lr == pytest.approx(scheduler._autopilot.state.reference_lr)


def test_a_resumed_training_goes_on_from_what_was_begun_again() -> None:
    training = Training(1e4)
    scheduler = training.scheduler()
    losses = training.steps(40)
    scheduler.step({"train_loss": losses[-1]})
    state = copy.deepcopy(scheduler.state_dict())
    lr = training.lr
    scheduler.close()
    resumed = training.scheduler()
    resumed.load_state_dict(state)
    for group in training.optimizer.param_groups:
        group["lr"] = lr
    training.steps(40)
    assert resumed.last_decision == scheduler.last_decision
    assert training.lr == lr
