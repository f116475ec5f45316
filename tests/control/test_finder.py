from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, TensorDataset

import metalr
from metalr.config import FinderConfig, ProbeConfig
from metalr.control.finder import LRFinderResult, find_lr
from metalr.control.probe import lr_range_test

CRITERION = nn.CrossEntropyLoss()
SHORT = FinderConfig(num_steps=12, max_lr=10.0)


class Jittered(TensorDataset):
    """Images with noise of their own, from every global stream there is."""

    def __getitem__(self, index: int) -> Any:
        image, label = super().__getitem__(index)
        scale = random.random() + np.random.rand()  # noqa: NPY002
        return image + 0.01 * scale * torch.randn(image.shape), label


def loader(*, own_generator: bool = True) -> DataLoader[Any]:
    labels = torch.arange(64) % 3
    images = torch.eye(3)[labels] @ torch.ones(3, 6).tril() + torch.linspace(-1, 1, 64)[:, None]
    generator = torch.Generator().manual_seed(5) if own_generator else None
    return DataLoader(Jittered(images, labels), batch_size=16, shuffle=True, generator=generator)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))


def optimizer_of(model: nn.Module, kind: str) -> torch.optim.Optimizer:
    if kind == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=torch.tensor(0.01))
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)


def trained(kind: str, *, find: str | None, own_generator: bool = True) -> dict[str, Any]:
    """Five epochs under one-cycle; in the middle of the third the finder, which may be interrupted."""
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    model, batches = network(), loader(own_generator=own_generator)
    optimizer = optimizer_of(model, kind)
    schedule = OneCycleLR(optimizer, 0.1, total_steps=20)
    losses, lrs = [], []
    for epoch in range(5):
        for step, (images, labels) in enumerate(batches):
            optimizer.zero_grad()
            loss = CRITERION(model(images), labels)
            loss.backward()
            if find and (epoch, step) == (2, 1):  # gradients are there, and an iterator is under way
                _find(find, model, optimizer, batches)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            lrs.append(float(optimizer.param_groups[0]["lr"]))
    weights = [value.tolist() for value in model.state_dict().values()]
    drawn = [torch.rand(1).item(), random.random(), np.random.rand()]  # noqa: NPY002
    return {"losses": losses, "lrs": lrs, "weights": weights, "drawn": drawn}


def _find(how: str, model: nn.Module, optimizer: torch.optim.Optimizer, batches: DataLoader[Any]) -> None:
    if how == "whole":
        find_lr(model, optimizer, CRITERION, batches, config=SHORT)
        return
    calls = 0

    def interrupted(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 7:
            raise KeyboardInterrupt if how == "interrupted" else RuntimeError
        return CRITERION(outputs, targets)

    with pytest.raises((KeyboardInterrupt, RuntimeError)):
        find_lr(model, optimizer, interrupted, batches, config=SHORT)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("find", ["whole", "interrupted", "failed"])
@pytest.mark.parametrize("own_generator", [True, False])
def test_a_training_with_the_finder_in_the_middle_is_the_one_without(
    kind: str, find: str, own_generator: bool
) -> None:
    straight = trained(kind, find=None, own_generator=own_generator)
    assert trained(kind, find=find, own_generator=own_generator) == straight


def test_without_the_undoing_that_training_is_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import nullcontext

    straight = trained("sgd", find=None)
    monkeypatch.setattr("metalr.control.finder.undone", lambda *args: nullcontext())
    other = trained("sgd", find="whole")
    assert all(other[part] != straight[part] for part in straight if part != "lrs")


def test_a_loader_with_workers_that_live_on_keeps_their_random_state() -> None:
    def second_epoch(*, find: bool) -> list[Any]:
        torch.manual_seed(3)
        whole = loader()
        batches = DataLoader(whole.dataset, batch_size=32, num_workers=1, persistent_workers=True)
        first = [images.tolist() for images, _ in batches]
        if find:
            model = network()
            workers = batches._iterator
            find_lr(model, optimizer_of(model, "sgd"), CRITERION, batches, config=SHORT)
            assert batches._iterator is workers
        return first + [images.tolist() for images, _ in batches]

    assert second_epoch(find=True) == second_epoch(find=False)


def test_the_curve_of_the_probe_where_all_batches_are_the_same() -> None:
    """One ramp engine: on one fixed batch both see the same losses."""
    torch.manual_seed(0)
    model = nn.Linear(6, 3)
    optimizer = optimizer_of(model, "sgd")
    images, labels = torch.randn(32, 6), torch.arange(32) % 3
    config = FinderConfig(num_steps=20, min_lr=1e-3, max_lr=10.0)
    found = find_lr(model, optimizer, CRITERION, [(images, labels)], config=config).curve
    probe = lr_range_test(model, optimizer, lambda step: CRITERION(model(images), labels), ProbeConfig())
    num = min(len(found.losses), len(probe.losses))
    assert found.initial_loss == probe.initial_loss
    assert found.losses[:num] == probe.losses[:num]
    assert found.lrs[:num] == probe.lrs[:num]


@pytest.mark.parametrize("spacing", ["exponential", "linear"])
def test_the_ramp_against_the_closed_form(spacing: str) -> None:
    """loss = w ** 2 / 2 from w = 1: every step multiplies w by 1 - lr."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    config = FinderConfig.model_validate({"num_steps": 9, "min_lr": 1e-4, "max_lr": 1.0, "spacing": spacing})
    result = find_lr(
        model,
        torch.optim.SGD(model.parameters(), lr=0.5),
        lambda out, _: out.square().sum() / 2,
        [(torch.ones(1, 1), None)],
        config=config,
    )
    linear = [1e-4 + (1 - 1e-4) * step / 8 for step in range(9)]
    lrs = [10 ** (-4 + step / 2) for step in range(9)] if spacing == "exponential" else linear
    assert result.curve.lrs == pytest.approx(lrs)
    weights = np.cumprod([1 - lr for lr in lrs])
    assert result.curve.losses == pytest.approx(weights**2 / 2, rel=1e-5, abs=1e-12)
    assert model.weight.item() == 1.0


def test_a_suggestion_for_a_real_problem_trains_well() -> None:
    torch.manual_seed(0)
    model, batches = network(), loader()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)
    result = metalr.find_lr(model, optimizer, CRITERION, batches)
    assert isinstance(result, LRFinderResult)
    assert result.lr is not None and 1e-4 < result.lr < 1.0
    optimizer.param_groups[0]["lr"] = result.lr
    for _ in range(5):
        for images, labels in batches:
            optimizer.zero_grad()
            loss = CRITERION(model(images), labels)
            loss.backward()
            optimizer.step()
    assert loss.item() < 0.5 * result.curve.initial_loss
    values = json.loads(json.dumps(result.to_dict()))
    assert values["lr"] == result.lr and values["rule"] == "valley"
    assert values["suggestions"]["valley"]["reason"] in result.reason


def counted(num: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for _ in range(num):
        yield torch.ones(4, 6), torch.tensor([0, 1, 2, 0])


def test_an_iterator_that_ends_early_is_one_clear_error() -> None:
    model = nn.Linear(6, 3)
    before = model.weight.detach().clone()
    optimizer = optimizer_of(model, "sgd")
    with pytest.raises(ValueError, match=r"ended after 10 of 13 .* or set num_steps=9"):
        find_lr(model, optimizer, CRITERION, counted(10), config=SHORT)
    assert torch.equal(model.weight, before)
    with pytest.raises(ValueError, match="holds no batch"):
        find_lr(model, optimizer, CRITERION, [], config=SHORT)
    assert find_lr(model, optimizer, CRITERION, counted(13), config=SHORT).curve.num_steps == 12
    assert find_lr(model, optimizer, CRITERION, list(counted(2)), config=SHORT).curve.num_steps == 12


def test_bad_input_is_named() -> None:
    model = nn.Linear(6, 3)
    optimizer, batch = optimizer_of(model, "sgd"), (torch.ones(4, 6), torch.zeros(4, dtype=torch.long))
    for bad, words in [
        ({"images": 1, "labels": 2, "ids": 3}, "a dict of 3, not a pair"),
        ((1, 2, 3), "tuple of 3, not a pair"),
        (torch.ones(4, 6), "Tensor of 4"),
    ]:
        with pytest.raises(ValueError, match=words):
            find_lr(model, optimizer, CRITERION, [bad])
    with pytest.raises(ValueError, match=r"tensor of shape \(4,\), not a scalar"):
        find_lr(model, optimizer, nn.CrossEntropyLoss(reduction="none"), [batch])
    with pytest.raises(ValueError, match="loss is float"):
        find_lr(model, optimizer, lambda out, _: 1.0, [batch])
    with pytest.raises(ValueError, match="does not depend on any trainable"):
        find_lr(model, optimizer, lambda out, targets: CRITERION(out.detach(), targets), [batch])
    with pytest.raises(ValueError, match="none of the model's parameters"):
        find_lr(model, torch.optim.SGD(nn.Linear(1, 1).parameters()), CRITERION, [batch])
    with pytest.raises(ValueError, match="L-BFGS"):
        find_lr(model, torch.optim.LBFGS(model.parameters()), CRITERION, [batch])
    with pytest.raises(ValueError, match="LR is 0"):
        find_lr(model, torch.optim.SGD(model.parameters(), lr=0.0), CRITERION, [batch])


def test_a_forward_of_ones_own_and_nested_inputs() -> None:
    model = nn.Linear(6, 3)
    optimizer = optimizer_of(model, "sgd")
    images, labels = torch.randn(8, 6), torch.arange(8) % 3
    own = find_lr(
        model,
        optimizer,
        CRITERION,
        [{"x": images, "y": labels}],
        config=SHORT,
        forward=lambda net, batch: (net(batch["x"]), batch["y"]),
    )
    assert own.curve == find_lr(model, optimizer, CRITERION, [(images, labels)], config=SHORT).curve

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, inputs: dict[str, list[torch.Tensor]]) -> torch.Tensor:
            out: torch.Tensor = self.inner(inputs["x"][0])
            return out

    nested = find_lr(Named(), optimizer, CRITERION, [({"x": [images]}, labels)], config=SHORT)
    assert nested.curve == own.curve


def test_a_loss_that_is_not_finite_has_a_reason_and_no_lr() -> None:
    model = nn.Linear(6, 3)
    result = find_lr(
        model,
        optimizer_of(model, "sgd"),
        lambda out, targets: CRITERION(out, targets) * math.nan,
        list(counted(1)),
    )
    assert result.lr is None
    assert "nan before any update" in result.reason
    json.dumps(result.to_dict(), allow_nan=False)


def test_evaluation_mode_and_no_grad_are_left_for_the_test() -> None:
    model = network().eval()
    optimizer = optimizer_of(model, "sgd")
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        result = find_lr(model, optimizer, CRITERION, loader(), config=SHORT)
        assert not torch.is_grad_enabled()
    assert result.curve.num_steps == 12 and not model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_module_frozen_in_evaluation_mode_stays_so() -> None:
    model = network()
    model[1].eval()
    modes: list[bool] = []
    model[1].register_forward_hook(lambda module, args, output: modes.append(module.training))
    find_lr(model, optimizer_of(model, "sgd"), CRITERION, loader(), config=SHORT)
    assert modes == [False] * 13
    assert model.training and not model[1].training
