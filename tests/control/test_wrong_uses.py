"""Wrong uses: one clear line each, and nothing lost by it."""

import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from control.controllers import RuleController
from torch import nn

from metalr.control import FEATURE_NAMES, MetaLR
from metalr.learning.controller import save_controller
from metalr.learning.learners import make_learner


def rule(name: str = "rule") -> RuleController:
    return RuleController(lambda t, _: 2 + t % 2, name)


def one_weight(lr: float = 0.1) -> tuple[nn.Linear, torch.optim.SGD]:
    model = nn.Linear(1, 1, bias=False)
    return model, torch.optim.SGD(model.parameters(), lr=lr)


def trained(epochs: int = 2, **kwargs: Any) -> tuple[torch.optim.Optimizer, MetaLR]:
    _, optimizer = one_weight()
    scheduler = MetaLR(optimizer, rule(), **({"total_epochs": 5} | kwargs))
    for epoch in range(epochs):
        optimizer.step()
        scheduler.step({"train_loss": 1.0 - 0.1 * epoch})
    return optimizer, scheduler


def line_of(error: pytest.ExceptionInfo[BaseException]) -> str:
    line = str(error.value)
    assert line and "\n" not in line
    return line


def test_1_the_optimizer_is_missing_or_something_else() -> None:
    with pytest.raises(TypeError) as error:
        MetaLR(total_epochs=3)  # type: ignore[call-arg]
    assert "'optimizer'" in line_of(error)
    with pytest.raises(TypeError) as error:
        MetaLR(nn.Linear(1, 1), rule(), total_epochs=3)  # type: ignore[arg-type]
    assert line_of(error) == "MetaLR needs a torch.optim.Optimizer first, got Linear"


def test_1_an_optimizer_that_needs_a_closure_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError) as error:
        MetaLR(torch.optim.LBFGS([nn.Parameter(torch.ones(1))]), rule(), total_epochs=3)
    assert "LBFGS" in line_of(error) and "several times a step" in line_of(error)

    class Searching(torch.optim.SGD):
        def step(self, closure: Any) -> Any:  # type: ignore[override]
            return super().step(closure)

    with pytest.raises(ValueError, match="Searching"):
        MetaLR(Searching([nn.Parameter(torch.ones(1))], lr=0.1), rule(), total_epochs=3)


def test_2_a_step_before_the_optimizers_is_warned_of() -> None:
    _, optimizer = one_weight()
    scheduler = MetaLR(optimizer, rule(), total_epochs=3)
    with pytest.warns(UserWarning, match=r"`lr_scheduler.step\(\)` before `optimizer.step\(\)`"):
        scheduler.step(1.0)
    assert optimizer.param_groups[0]["lr"] > 0.0


@pytest.mark.parametrize("metric", [math.nan, math.inf, torch.tensor(-math.inf)])
def test_3_a_metric_that_is_not_finite_is_an_exploded_epoch_and_no_error(metric: Any) -> None:
    optimizer, scheduler = trained()
    before = scheduler.last_decision.peak_lr
    optimizer.step()
    scheduler.step({"val_loss": metric})
    assert scheduler.last_decision.peak_lr == pytest.approx(before / 2)
    assert "loss exploded" in scheduler.explain()
    assert scheduler.history[-1]["decision"].startswith("loss exploded")


@pytest.mark.parametrize("metric", ["0.5", {"val_loss": "low"}, {"loss": [1.0]}, torch.zeros(2)])
def test_4_a_metric_that_is_no_number_is_refused_and_can_be_given_again(metric: Any) -> None:
    optimizer, scheduler = trained()
    before, lr = scheduler.state_dict(), optimizer.param_groups[0]["lr"]
    with pytest.raises(TypeError) as error:
        scheduler.step(metric)
    assert "must be a number" in line_of(error)
    assert scheduler.state_dict() == before
    assert optimizer.param_groups[0]["lr"] == lr
    scheduler.step({"val_loss": 0.5})
    assert len(scheduler.state_dict()["trace"]) == len(before["trace"]) + 1


def test_5_another_controllers_state() -> None:
    _, scheduler = trained()
    _, optimizer = one_weight()
    other = MetaLR(optimizer, rule("another"), total_epochs=5)
    before = other.state_dict()
    with pytest.raises(ValueError) as error:
        other.load_state_dict(scheduler.state_dict())
    assert "load the same controller to go on" in line_of(error)
    assert other.state_dict() == before


def test_6_changed_parameter_groups_are_told_and_taken() -> None:
    _, scheduler = trained()
    first, second = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([{"params": [first]}, {"params": [second], "lr": 0.01}], lr=0.1)
    resumed = MetaLR(optimizer, rule(), total_epochs=5)
    resumed.load_state_dict(scheduler.state_dict())
    with pytest.warns(UserWarning, match="has 2 parameter groups, the loaded MetaLR state 1"):
        optimizer.step()
    resumed.step({"train_loss": 0.7})
    first_lr, second_lr = (group["lr"] for group in optimizer.param_groups)
    assert second_lr == pytest.approx(first_lr / 10)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"total_epochs": 0}, "MetaLR needs total_epochs=0 and steps_per_epoch=1 of at least 1"),
        ({"total_epochs": -3}, "MetaLR needs total_epochs=-3 and steps_per_epoch=1 of at least 1"),
        (
            {"total_epochs": 3, "steps_per_epoch": 0},
            "MetaLR needs total_epochs=3 and steps_per_epoch=0 of at least 1",
        ),
        ({"total_epochs": 3, "respect": 0.5}, "respect is a factor of at least 1, got respect=0.5"),
        (
            {"total_epochs": 3, "batches": []},
            "to probe, MetaLR needs all three of model=, batches= and loss_fn=",
        ),
    ],
)
def test_7_a_budget_of_no_epochs_and_other_arguments_that_cannot_be(
    arguments: dict[str, Any], line: str
) -> None:
    _, optimizer = one_weight()
    with pytest.raises(ValueError) as error:
        MetaLR(optimizer, rule(), **arguments)
    assert line_of(error) == line
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert not optimizer._optimizer_step_pre_hooks


def test_7_an_lr_of_zero() -> None:
    _, optimizer = one_weight(0.0)
    with pytest.raises(ValueError, match="needs an initial LR above 0"):
        MetaLR(optimizer, rule(), total_epochs=3)


def test_8_steps_past_the_end_warn_once_and_keep_the_lr() -> None:
    optimizer, scheduler = trained(5)
    last = optimizer.param_groups[0]["lr"]
    peak = scheduler.last_decision.peak_lr
    optimizer.step()
    with pytest.warns(UserWarning, match="past its budget of 5; the LR stays at its last value") as caught:
        scheduler.step(9.0)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for loss in (math.nan, 0.1):
            optimizer.step()
            scheduler.step(loss)
    assert optimizer.param_groups[0]["lr"] == last
    assert scheduler.last_decision.peak_lr == peak


def test_9_an_unknown_controller_name() -> None:
    _, optimizer = one_weight()
    with pytest.raises(ValueError) as error:
        MetaLR(optimizer, "no-such-controller", total_epochs=3)
    assert "no controller at 'no-such-controller'" in line_of(error)
    assert optimizer.param_groups[0]["lr"] == 0.1


def saved(folder: Path) -> Path:
    torch.manual_seed(0)
    shape = {"learner": "mlp", "hidden": 8, "window": 2, "log_offsets": [-1.0, 0.0, 1.0]}
    return save_controller(folder, "small", [make_learner("mlp", len(FEATURE_NAMES), 3, 8, 2)], shape, {})


def test_10_a_controller_file_that_is_whole_is_taken_by_path(tmp_path: Path) -> None:
    _, optimizer = one_weight()
    scheduler = MetaLR(optimizer, saved(tmp_path), total_epochs=3)
    optimizer.step()
    scheduler.step({"train_loss": 1.0})
    assert math.isfinite(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize("damage", ["a flipped bit", "cut short", "a card cut short", "no card"])
def test_10_a_damaged_controller_file_is_named(tmp_path: Path, damage: str) -> None:
    path = saved(tmp_path)
    content = bytearray(path.read_bytes())
    card = path.with_suffix(".json")
    if damage == "a flipped bit":
        content[-1] ^= 1
        path.write_bytes(content)
    elif damage == "cut short":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "a card cut short":
        card.write_text(card.read_text()[:40])
    else:
        card.unlink()
    _, optimizer = one_weight()
    with pytest.raises(ValueError) as error:
        MetaLR(optimizer, path, total_epochs=3)
    assert "small." in line_of(error)
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_a_forgotten_metric_is_told_of_once() -> None:
    _, optimizer = one_weight()
    scheduler = MetaLR(optimizer, rule(), total_epochs=20)
    with pytest.warns(UserWarning, match="has seen no metric in 5 epochs") as caught:
        for _ in range(12):
            optimizer.step()
            scheduler.step()
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_a_metric_that_comes_at_times_is_not_a_forgotten_one() -> None:
    optimizer, scheduler = trained(1, total_epochs=20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(12):
            optimizer.step()
            scheduler.step()
    assert [row["decision"] for row in scheduler.history[1:]] == ["held: nothing was observed"] * 12


def test_a_name_that_is_not_known_is_told_at_the_users_line() -> None:
    optimizer, scheduler = trained()
    optimizer.step()
    with pytest.warns(UserWarning, match="ignores 'perplexity'") as caught:
        scheduler.step({"perplexity": 12.0, "val_loss": 1.0})
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="from 0 to 1") as caught:
        scheduler.step({"accuracy": 88.0})
    assert caught[0].filename == __file__
