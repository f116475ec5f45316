"""One factor for all parameter groups, and optimizers of every kind, under `MetaLR`."""

import copy
import math
import pickle
import warnings
from typing import Any

import pytest
import torch
from control.controllers import RuleController
from torch import nn

from metalr.config import ControlConfig
from metalr.control import MetaLR, Setting

FLAT = ControlConfig(anchor="constant", warmup_fraction=0.0, max_rise=100.0, correction_bound=100.0)


def rule() -> RuleController:
    return RuleController(lambda t, _: [2, 3, 4, 1, 0][t % 5])  # 1, 2, 4, 1/2, 1/4 of the reference


def groups_at(*lrs: float) -> torch.optim.Optimizer:
    groups = [{"params": [nn.Parameter(torch.ones(1))], "lr": lr} for lr in lrs]
    return torch.optim.SGD(groups, lr=1.0, momentum=2 / 3)  # whose usual LR is 0.1


def lrs_of(optimizer: torch.optim.Optimizer) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


def test_the_largest_group_is_kept_below_the_bound_by_the_factor_of_all() -> None:
    optimizer = groups_at(0.1, 0.4, 0.01)
    config = FLAT.model_copy(update={"max_lr": 1.0})
    scheduler = MetaLR(optimizer, rule(), total_epochs=9, config=config)
    seen = []
    for _ in range(4):
        seen.append(lrs_of(optimizer))
        optimizer.step()
        scheduler.step(1.0)
    # peaks 0.1, 0.2, 0.4, 0.05; above 0.25 the second group would be past 1
    assert [lrs[0] for lrs in seen] == pytest.approx([0.1, 0.2, 0.25, 0.05])
    for lrs in seen:
        assert lrs[1] == pytest.approx(4 * lrs[0], rel=1e-12)
        assert lrs[2] == pytest.approx(0.1 * lrs[0], rel=1e-12)
        assert max(lrs) <= 1.0 + 1e-12


def test_groups_that_are_frozen_by_an_lr_of_zero_stay_so_even_the_first() -> None:
    optimizer = groups_at(0.0, 0.1, 0.02)
    scheduler = MetaLR(optimizer, rule(), total_epochs=9, config=FLAT)
    optimizer.step()
    scheduler.step(1.0)
    assert lrs_of(optimizer) == pytest.approx([0.0, 0.2, 0.04])


def test_the_lr_scales_of_timm_come_on_top() -> None:
    optimizer = groups_at(0.1, 0.1, 0.1)
    for group, scale in zip(optimizer.param_groups, (0.25, 0.5, 1.0), strict=True):
        group["lr_scale"] = scale
    scheduler = MetaLR(optimizer, rule(), total_epochs=9, config=FLAT)
    assert lrs_of(optimizer) == pytest.approx([0.025, 0.05, 0.1])
    for expected in (0.2, 0.4):
        optimizer.step()
        scheduler.step(1.0)
        assert lrs_of(optimizer) == pytest.approx([0.25 * expected, 0.5 * expected, expected])


@pytest.mark.parametrize("lr", [0.01, None])
def test_a_group_added_later_joins_at_the_next_step_and_keeps_its_ratio(lr: float | None) -> None:
    optimizer = groups_at(0.1)
    optimizer.defaults["lr"] = 0.1
    scheduler = MetaLR(optimizer, rule(), total_epochs=9, config=FLAT)
    optimizer.step()
    scheduler.step(1.0)
    optimizer.add_param_group(
        {"params": [nn.Parameter(torch.ones(1))]} | ({"lr": lr} if lr is not None else {})
    )
    ratio = 1.0 if lr is None else 0.1
    for expected in (0.4, 0.05, 0.025):
        optimizer.step()
        scheduler.step(1.0)
        assert lrs_of(optimizer) == pytest.approx([expected, ratio * expected])
    assert len(scheduler.get_last_lr()) == len(scheduler.state_dict()["base_lrs"]) == 2


def test_a_group_taken_away_leaves_the_others_right() -> None:
    optimizer = groups_at(0.1, 0.5, 0.01)
    scheduler = MetaLR(optimizer, rule(), total_epochs=9, config=FLAT)
    del optimizer.param_groups[1]
    optimizer.step()
    scheduler.step(1.0)
    assert lrs_of(optimizer) == pytest.approx([0.2, 0.02])


def parameters() -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4, 4))]


OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    "sgd foreach": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True, foreach=True),
    "sgd fused": lambda p: torch.optim.SGD(p, lr=0.01, fused=True),
    "sgd tensor": lambda p: torch.optim.SGD(p, lr=torch.tensor(0.01)),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "adamw foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "adamw fused tensor": lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.01), fused=True),
    "adamw capturable tensor": lambda p: torch.optim.AdamW(
        p, lr=torch.tensor(0.01), capturable=True, foreach=False
    ),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
}
if hasattr(torch.optim, "Muon"):
    OPTIMIZERS["muon"] = lambda p: torch.optim.Muon(p, lr=0.01)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_trains_under_it_and_is_measured(name: str) -> None:
    if "capturable" in name and not torch.cuda.is_available():
        pytest.skip("capturable optimizers step on a CUDA device only")
    weights = parameters()
    optimizer = OPTIMIZERS[name](weights)
    held = optimizer.param_groups[0]["lr"]
    setting = Setting(6, momentum=29 / 30)  # of which 0.01 is the usual LR
    scheduler = MetaLR(optimizer, rule(), total_epochs=6, setting=setting, config=FLAT)
    lrs = []
    for epoch in range(5):
        lrs.append(float(optimizer.param_groups[0]["lr"]))
        for _ in range(3):
            optimizer.zero_grad()
            loss = (weights[0] @ weights[1]).square().mean()
            loss.backward()
            optimizer.step()
        scheduler.step({"train_loss": 1.0 - 0.1 * epoch, "val_loss": loss if loss < 1.0 else 1.0})
    assert lrs == pytest.approx([0.01, 0.02, 0.04, 0.005, 0.0025], rel=1e-6)
    if isinstance(held, torch.Tensor):
        assert optimizer.param_groups[0]["lr"] is held
        assert all(lr is not held for lr in scheduler.get_last_lr())
    seen = scheduler.state_dict()["trace"][-1]
    assert math.isfinite(seen["grad_norm"]) and seen["update_norm"] > 0.0
    assert seen["lr"] == pytest.approx(0.0025, rel=1e-6)
    assert seen["peak_lr"] == pytest.approx(0.0025, rel=1e-6)


def test_optimizers_copy_and_pickle_with_a_scheduler_on_them() -> None:
    weights = parameters()
    optimizer = torch.optim.SGD(weights, lr=0.01)
    scheduler = MetaLR(optimizer, rule(), total_epochs=6)
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        other.step()
        assert not other._optimizer_step_pre_hooks
    scheduler.close()
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
    optimizer.step()
    scheduler.step(1.0)


def test_a_loop_that_observes_by_itself_gets_no_hooks() -> None:
    optimizer = groups_at(0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler = MetaLR(optimizer, rule(), total_epochs=20, gather=False)
        assert not optimizer._optimizer_step_pre_hooks
        for _ in range(10):
            optimizer.step()
            scheduler.step()


def test_no_random_number_is_drawn() -> None:
    optimizer = groups_at(0.1)
    before = torch.get_rng_state()
    scheduler = MetaLR(optimizer, rule(), total_epochs=3)
    optimizer.step()
    scheduler.step({"train_loss": 1.0, "val_loss": 2.0})
    assert torch.equal(torch.get_rng_state(), before)
