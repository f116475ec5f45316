"""The state of `MetaLR`: exact resume at every epoch, in either order, and nothing missing from it."""

import copy
import io
import warnings
from typing import Any

import pytest
import torch
from control.controllers import RuleController
from torch import nn

from metalr.control import FEATURE_NAMES, MetaLR

EPOCHS, STEPS = 8, 5
LOSSES = [1.0, 0.9, 9.0, 0.8, None, 0.7, 0.6, 0.5]
"""The third epoch explodes; nothing is told of the fifth."""
GRADIENT = FEATURE_NAMES.index("log_update_over_weights")


def rule(name: str = "rule") -> RuleController:
    # looks at a feature that only the hooks give, so that what they lost would show
    def choose(t: int, features: Any) -> int:
        value = features[GRADIENT]
        return (2 * t + 1 + (0 if value != value else int(1e4 * abs(value)))) % 5

    return RuleController(choose, name)


class Loop:
    """A user's own loop on a small network; `steps_per_epoch` tells how often it steps its scheduler."""

    def __init__(self, units: int = 1, **kwargs: Any) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        self.units, self.epoch = units, 0
        arguments = {
            "controller": rule(), "total_epochs": EPOCHS, "steps_per_epoch": units, "model": self.model
        }  # fmt: skip
        self.scheduler = MetaLR(self.optimizer, **(arguments | kwargs))

    def train_epoch(self) -> list[float]:
        lrs = []
        for step in range(STEPS):
            inputs = torch.sin(torch.arange(32.0).reshape(8, 4) * (1 + step + self.epoch * STEPS))
            self.optimizer.zero_grad()
            (self.model(inputs) - inputs.sum(1, keepdim=True)).square().mean().backward()
            lrs.append(self.optimizer.param_groups[0]["lr"])
            self.optimizer.step()
            is_last = step == STEPS - 1
            if is_last and LOSSES[self.epoch] is not None:
                self.scheduler.observe({"loss": LOSSES[self.epoch], "val_loss": 1.1 * LOSSES[self.epoch]})
            if self.units > 1 or is_last:
                self.scheduler.step()
        self.epoch += 1
        return lrs

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("scheduler_first", [False, True])
@pytest.mark.parametrize("units", [1, STEPS])
@pytest.mark.parametrize("done", range(1, EPOCHS))
def test_a_run_resumed_after_any_epoch_is_the_straight_one(
    done: int, units: int, scheduler_first: bool
) -> None:
    straight = Loop(units)
    expected = [straight.train_epoch() for _ in range(EPOCHS)]
    assert straight.scheduler.num_rollbacks == 1
    first = Loop(units)
    for _ in range(done):
        first.train_epoch()
    state = through_a_file(first.state())
    second = Loop(units)
    second.epoch = done
    if scheduler_first:
        second.scheduler.load_state_dict(state["scheduler"])
    second.model.load_state_dict(state["model"])
    second.optimizer.load_state_dict(state["optimizer"])
    if not scheduler_first:
        second.scheduler.load_state_dict(state["scheduler"])
    assert second.scheduler.state_dict() == state["scheduler"]
    assert [second.train_epoch() for _ in range(EPOCHS - done)] == expected[done:]
    assert second.scheduler.state_dict() == straight.scheduler.state_dict()
    for a, b in zip(second.model.parameters(), straight.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_run_resumed_within_an_epoch_lacks_only_that_epochs_update_norm() -> None:
    straight, first = Loop(), Loop()
    for loop in (straight, first):
        loop.train_epoch()
    inputs = torch.ones(8, 4)
    for loop in (straight, first):
        loop.optimizer.zero_grad()
        loop.model(inputs).square().mean().backward()
        loop.optimizer.step()
    second = Loop()
    second.epoch = 1
    for name, part in through_a_file(first.state()).items():
        getattr(second, name).load_state_dict(part)
    straight.train_epoch(), second.train_epoch()
    whole, resumed = (loop.scheduler.state_dict()["trace"][-1] for loop in (straight, second))
    assert whole.pop("update_norm") > 0.0
    assert resumed == whole


def state_after(epochs: int) -> dict[str, Any]:
    loop = Loop()
    for _ in range(epochs):
        loop.train_epoch()
    return loop.scheduler.state_dict()


@pytest.mark.parametrize("field", sorted(state_after(1)))
def test_a_state_with_a_field_missing_is_refused_in_one_line_and_nothing_is_changed(field: str) -> None:
    state = state_after(4)
    del state[field]
    loop = Loop()
    before = copy.deepcopy(loop.scheduler.state_dict())
    with pytest.raises(ValueError, match=field if field != "version" else "version None") as caught:
        loop.scheduler.load_state_dict(state)
    assert "\n" not in str(caught.value)
    assert loop.scheduler.state_dict() == before


def is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(type(key) is str and is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def test_the_state_is_made_of_plain_values() -> None:
    state = state_after(5)
    assert is_plain(state)
    assert not is_plain({"a": [torch.ones(1)]}) and not is_plain((1,))


def test_a_state_of_version_1_goes_on() -> None:
    """As the first release wrote it: without hooks, history, budget and, at first, the count of stalls."""
    state = state_after(4)
    old = {key: value for key, value in state.items() if key not in {*ADDED_IN_2, "carried"}} | {"version": 1}
    loop = Loop()
    loop.epoch = 4
    loop.scheduler.load_state_dict(old)
    assert loop.scheduler.last_decision.peak_lr == state["peak"]
    assert loop.scheduler.history == []


def test_a_state_of_version_2_goes_on_as_one_of_now() -> None:
    state = state_after(4)
    old = {key: value for key, value in state.items() if key != "carried"} | {"version": 2}
    loop = Loop()
    loop.epoch = 4
    loop.scheduler.load_state_dict(old)
    assert loop.scheduler.state_dict() == state


ADDED_IN_2 = {
    "num_stalls", "total_epochs", "steps_per_epoch", "window", "statistics", "history", "num_silent_epochs",
    "setting",
}  # fmt: skip


def test_a_version_to_come_and_another_controllers_state_are_refused() -> None:
    state = state_after(1)
    loop = Loop()
    with pytest.raises(ValueError, match="version 4, expected 3"):
        loop.scheduler.load_state_dict(state | {"version": 4})
    with pytest.raises(ValueError, match="load the same controller"):
        Loop(controller=rule("another")).scheduler.load_state_dict(state)


def test_an_optimizer_that_was_not_loaded_is_noticed_before_its_first_step() -> None:
    state = state_after(4)
    loop = Loop()
    loop.scheduler.load_state_dict(state)
    with pytest.warns(UserWarning, match="load the optimizer's state too"):
        loop.optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loop.optimizer.step()


def test_another_budget_is_noticed() -> None:
    with pytest.warns(UserWarning, match="total_epochs=8, steps_per_epoch=1, and goes on with 16, 1"):
        Loop(total_epochs=16).scheduler.load_state_dict(state_after(1))
