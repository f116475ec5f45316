"""The probe on a user's own model, batches and loss, from `MetaLR`'s constructor."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from control.controllers import RuleController
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from metalr.config import ControlConfig, ProbeConfig
from metalr.control import FEATURE_NAMES, MetaLR, ProbeCurve, lr_range_test
from metalr.control.user_probe import probe_model

CONFIG = ProbeConfig(num_steps=12)


def problem() -> tuple[nn.Module, torch.optim.Optimizer, DataLoader]:
    torch.manual_seed(0)
    inputs = torch.randn(96, 4)
    labels = (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long()
    loader = DataLoader(
        TensorDataset(inputs, labels),
        batch_size=16,
        shuffle=True,
        generator=torch.Generator().manual_seed(1),
    )
    model = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))
    return model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9), loader


def everything(model: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader) -> list[Any]:
    return [
        copy.deepcopy(model.state_dict()),
        copy.deepcopy(optimizer.state_dict()),
        [p.grad for p in model.parameters()],
        model.training,
        torch.get_rng_state(),
        loader.generator.get_state(),
    ]


def test_the_curve_is_that_of_the_range_test_on_the_same_batches() -> None:
    model, optimizer, loader = problem()
    batches = list(loader)
    found = probe_model(model, optimizer, nn.CrossEntropyLoss(), batches, CONFIG)

    def loss_of(index: int) -> torch.Tensor:
        inputs, labels = batches[index % len(batches)]
        return nn.functional.cross_entropy(model(inputs), labels)

    expected = lr_range_test(
        model, optimizer, lambda step: loss_of(step + 1), CONFIG, measured_loss=lambda: loss_of(0)
    )
    assert found.curve == expected
    assert (found.batch_size, found.num_classes) == (16, 3)


@pytest.mark.parametrize("mode", [True, False])
def test_everything_is_put_back_bit_for_bit(mode: bool) -> None:
    model, optimizer, loader = problem()
    model.train(mode)
    before = everything(model, optimizer, loader)
    probe_model(model, optimizer, nn.CrossEntropyLoss(), loader, CONFIG)
    torch.testing.assert_close(everything(model, optimizer, loader), before, rtol=0, atol=0)


def test_a_loss_of_model_and_batch_is_known_by_its_first_parameter() -> None:
    model, optimizer, loader = problem()
    batches = [{"x": inputs, "y": labels} for inputs, labels in loader]

    def loss_of(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return nn.functional.cross_entropy(model(batch["x"]), batch["y"])

    found = probe_model(model, optimizer, loss_of, batches, CONFIG)
    pairs = [(batch["x"], batch["y"]) for batch in batches]
    assert found.curve == probe_model(model, optimizer, nn.functional.cross_entropy, pairs, CONFIG).curve
    assert (found.batch_size, found.num_classes) == (None, None)


def test_a_regression_has_no_classes() -> None:
    model, optimizer = nn.Linear(4, 2), None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [(torch.randn(8, 4), torch.randn(8, 2)) for _ in range(3)]
    found = probe_model(model, optimizer, nn.MSELoss(), batches, CONFIG)
    assert (found.batch_size, found.num_classes) == (8, None)
    assert found.curve.is_distance


def half_of_squares(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return 0.5 * (outputs - targets).square().sum(dim=1).mean()


@pytest.mark.parametrize(
    ("loss_fn", "is_distance"),
    [
        (nn.MSELoss(reduction="sum"), True),
        (half_of_squares, True),
        (nn.L1Loss(), True),
        (nn.HuberLoss(), True),
        (nn.SmoothL1Loss(beta=0.2), True),
        (lambda outputs, targets: (outputs - targets).square().mean() + 0.3, False),
        (lambda outputs, targets: (outputs - targets).abs().pow(3).mean(), False),
        (lambda outputs, targets: (outputs - targets).square().mean() - 9.0, False),
        (nn.BCEWithLogitsLoss(), False),
        (lambda outputs, targets: nn.functional.binary_cross_entropy(outputs.sigmoid(), targets), False),
        (lambda model, batch: nn.functional.mse_loss(model(batch[0]), batch[1]), False),  # not to be seen
    ],
)
def test_a_distance_is_known_by_its_shape(loss_fn: Any, is_distance: bool) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [(torch.randn(8, 4), torch.rand(8, 2).round()) for _ in range(3)]
    assert probe_model(model, optimizer, loss_fn, batches, CONFIG).curve.is_distance is is_distance


def test_a_loss_that_refuses_what_is_no_probability_is_left_in_peace() -> None:
    model = nn.Sequential(nn.Linear(4, 2), nn.Sigmoid())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [(torch.randn(8, 4), torch.rand(8, 2).round()) for _ in range(3)]
    assert not probe_model(model, optimizer, nn.BCELoss(), batches, CONFIG).curve.is_distance


def test_a_loss_that_is_no_scalar_is_told_of_also_where_targets_are_numbers() -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [(torch.randn(8, 4), torch.randn(8, 2)) for _ in range(3)]
    with pytest.raises(ValueError, match="not a scalar tensor: take its mean"):
        probe_model(model, optimizer, nn.MSELoss(reduction="none"), batches, CONFIG)


def test_classes_are_no_squared_error() -> None:
    model, optimizer, loader = problem()
    assert not probe_model(model, optimizer, nn.CrossEntropyLoss(), loader, CONFIG).curve.is_distance


def test_the_lr_scales_of_timm_are_those_of_training() -> None:
    """Scales of 1/2 everywhere are a ramp at half the LRs, told in unscaled ones."""
    model, optimizer, loader = problem()
    batches = list(loader)
    plain = probe_model(model, optimizer, nn.CrossEntropyLoss(), batches, CONFIG).curve
    optimizer.param_groups[0]["lr_scale"] = 0.5
    scaled = probe_model(model, optimizer, nn.CrossEntropyLoss(), batches, CONFIG).curve
    assert scaled.losses == plain.losses
    assert scaled.lrs == pytest.approx([2 * lr for lr in plain.lrs])
    assert optimizer.param_groups[0]["lr"] == 0.01


def test_metalr_starts_from_the_probe_whatever_the_users_lr() -> None:
    starts = []
    for lr in (1e-4, 1.0):
        model, optimizer, loader = problem()
        optimizer.param_groups[0]["lr"] = lr
        config = ControlConfig(probe=CONFIG)
        scheduler = MetaLR(
            optimizer, RuleController(lambda t, _: 2), total_epochs=3, model=model, batches=loader,
            loss_fn=nn.CrossEntropyLoss(), config=config,
        )  # fmt: skip
        state = scheduler.state_dict()
        assert state["reference_lr"] == state["probe"]["reference_lr"]
        assert "from the probe" in scheduler.explain()
        assert scheduler.last_decision.peak_lr == pytest.approx(state["reference_lr"])
        starts.append(scheduler.last_decision.peak_lr)
    assert starts[0] == pytest.approx(starts[1])


def test_a_probed_run_goes_on_without_probing_again() -> None:
    """What the probe's batches told of the task is in the state, and so is how many steps an epoch has."""

    class Listening(RuleController):
        heard: list[list[float]]

        def step(self, state: Any, features_F: Any) -> Any:
            self.heard.append(features_F.tolist())
            return super().step(state, features_F)

    heard = []
    for stops in (False, True):
        model, optimizer, loader = problem()
        rule = Listening(lambda t, _: 2)
        rule.heard = []
        known = {"total_epochs": 4, "model": model, "config": ControlConfig(probe=CONFIG)}
        scheduler = MetaLR(optimizer, rule, batches=loader, loss_fn=nn.CrossEntropyLoss(), **known)
        for epoch in range(3):
            if stops and epoch == 1:
                state = scheduler.state_dict()
                scheduler.close()
                scheduler = MetaLR(optimizer, rule, **known)
                rule.heard.pop()  # the first decision of the new one
                for group, lr in zip(optimizer.param_groups, state["last_lr"], strict=True):
                    group["lr"] = lr
                scheduler.load_state_dict(state)
            for inputs, labels in loader:
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs), labels).backward()
                optimizer.step()
            scheduler.step({"loss": 1.0 - 0.1 * epoch})
        heard.append(rule.heard)
    np.testing.assert_array_equal(heard[0], heard[1])
    named = dict(zip(FEATURE_NAMES, heard[0][0], strict=True))
    assert named["log_classes"] == pytest.approx(math.log(3))
    assert named["log_batch_size"] == pytest.approx(math.log(16))
    assert named["log_total_steps"] == pytest.approx(math.log(4 * 6))


def test_respect_keeps_the_peak_near_the_users_own_lr() -> None:
    peaks = []
    for respect in (None, 4.0, 1.0):
        model, optimizer, loader = problem()
        optimizer.param_groups[0]["lr"] = 1e-5
        rule = RuleController(lambda t, _: 4 if t < 2 else 0)
        scheduler = MetaLR(
            optimizer, rule, total_epochs=12, model=model, batches=loader, loss_fn=nn.CrossEntropyLoss(),
            respect=respect, config=ControlConfig(probe=CONFIG),
        )  # fmt: skip
        seen = [scheduler.last_decision.peak_lr]
        for loss in [0.9, 0.8, 0.7, 0.6, math.nan, math.nan, math.nan]:
            optimizer.step()
            scheduler.step({"val_loss": loss})
            seen.append(scheduler.last_decision.peak_lr)
        peaks.append(seen)
    free, near, same = peaks
    assert max(free) > 10 * 4e-5
    assert max(near) == pytest.approx(4e-5) and min(near) >= 2.5e-6 * (1 - 1e-12)
    assert same == pytest.approx([1e-5] * 8)


def test_batches_that_end_too_soon_are_told_of() -> None:
    model, optimizer, loader = problem()
    with pytest.raises(ValueError, match="cannot be read again"):
        probe_model(model, optimizer, nn.CrossEntropyLoss(), iter(list(loader)), CONFIG)


def test_a_first_batch_of_small_loss_makes_no_explosion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets of 0.3 in the batch that the probe measures, of 1 in the others: 11 times its loss."""

    def num_rollbacks() -> int:
        torch.manual_seed(0)
        model = nn.Linear(4, 1)
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)
        sizes = [0.3] + [1.0] * 20
        batches = [(torch.randn(16, 4), size * torch.sign(torch.randn(16, 1))) for size in sizes]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scheduler = MetaLR(optimizer, total_epochs=4, model=model, batches=batches, loss_fn=nn.MSELoss())
        with torch.no_grad():
            epoch = sum(float(nn.functional.mse_loss(model(x), y)) for x, y in batches) / len(batches)
        for _ in range(3):
            optimizer.step()
            scheduler.step({"train/loss": epoch})
        scheduler.close()
        return scheduler.num_rollbacks

    assert num_rollbacks() == 0
    monkeypatch.setattr(ProbeCurve, "loss_before_training", property(lambda curve: curve.initial_loss))
    assert num_rollbacks() > 0  # negative control: what one batch tells
