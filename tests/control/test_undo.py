"""What `undone` puts back: one row a thing, with its negative control: the same change stays without it."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from metalr.control.undo import generators_of, undone


class Counting(nn.Module):
    """A buffer outside the state dict, one that starts as None, and extra state."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(2), persistent=False)
        self.register_buffer("late", None)
        self.seen = [1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls = self.calls + 1  # another tensor, as much of the world's code does it
        return x

    def get_extra_state(self) -> Any:
        return {"seen": self.seen}

    def set_extra_state(self, state: Any) -> None:
        self.seen = state["seen"]


@dataclass
class World:
    """A network and its optimizer in the middle of a training."""

    model: nn.Sequential
    optimizer: torch.optim.Optimizer
    generator: torch.Generator = field(default_factory=torch.Generator)

    def train(self, steps: int) -> None:
        for _ in range(steps):
            self.optimizer.zero_grad()
            self.loss().backward()
            self.optimizer.step()

    def loss(self) -> torch.Tensor:
        inputs = torch.linspace(-1, 1, 32).reshape(8, 4)
        return nn.functional.cross_entropy(self.model(inputs), torch.arange(8) % 3)

    def state(self) -> dict[str, Any]:
        """All of it as plain values, read without the code under test."""
        held = [self.optimizer.state[p] for p in self.model.parameters() if p in self.optimizer.state]
        plain = {k: v for k, v in vars(self.optimizer).items() if isinstance(v, bool | int | str)}
        return {
            "parameters": [p.tolist() for p in self.model.parameters()],
            "buffers": [(n, b.tolist()) for n, b in self.model.named_buffers()],
            "extra": list(self.model[1].seen),
            "modes": [m.training for m in self.model.modules()],
            "gradients": [None if p.grad is None else p.grad.tolist() for p in self.model.parameters()],
            "momenta": [{k: torch.as_tensor(v).tolist() for k, v in one.items()} for one in held],
            "groups": [
                {k: float(v) if isinstance(v, torch.Tensor) else v for k, v in g.items() if k != "params"}
                for g in self.optimizer.param_groups
            ],
            "attributes": plain,
            "torch": torch.get_rng_state().numpy().tobytes(),
            "python": random.getstate(),
            "numpy": str(np.random.get_state(legacy=False)["state"]),  # noqa: NPY002
            "generator": self.generator.get_state().numpy().tobytes(),
        }


def world(kind: str = "sgd") -> World:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), Counting(), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    groups = [
        {"params": [*model[0].parameters()]},
        {"params": [*model[2].parameters(), *model[4].parameters()]},
    ]
    optimizer: torch.optim.Optimizer
    if kind == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=torch.tensor(0.01))
    else:
        optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    made = World(model, optimizer)
    made.train(3)
    _set(optimizer, "num_calls", 3)
    return made


def _set(target: Any, name: str, value: Any) -> None:
    setattr(target, name, value)


def _none_the_gradients(w: World) -> None:
    for p in w.model.parameters():
        p.grad = None


CHANGES: dict[str, tuple[str, Callable[[World], Any]]] = {
    "weights": ("parameters", lambda w: w.model[0].weight.data.mul_(2)),
    "batch norm": ("buffers", lambda w: w.model[2](torch.ones(2, 8) * torch.tensor([[1.0], [5.0]]))),
    "non-persistent buffer": ("buffers", lambda w: w.model[1](torch.zeros(1))),
    "a buffer that was None": ("buffers", lambda w: _set(w.model[1], "late", torch.ones(1))),
    "a new buffer": ("buffers", lambda w: w.model[1].register_buffer("more", torch.ones(1))),
    "extra state": ("extra", lambda w: w.model[1].seen.append(2)),
    "evaluation mode": ("modes", lambda w: w.model.eval()),
    "one module's mode": ("modes", lambda w: w.model[3].eval()),
    "gradients dropped": ("gradients", _none_the_gradients),
    "other gradients": ("gradients", lambda w: w.loss().backward()),
    "momenta": ("momenta", lambda w: w.train(1)),
    "state cleared": ("momenta", lambda w: w.optimizer.state.clear()),
    "LR": ("groups", lambda w: w.optimizer.param_groups[1].update(lr=3.0)),
    "momentum": ("groups", lambda w: w.optimizer.param_groups[0].update(momentum=0.5, betas=(0.1, 0.2))),
    "a new setting": ("groups", lambda w: w.optimizer.param_groups[0].update(k=1)),
    "a new attribute": ("attributes", lambda w: _set(w.optimizer, "num_more", 1)),
    "an attribute": ("attributes", lambda w: _set(w.optimizer, "num_calls", 4)),
    "torch's random numbers": ("torch", lambda w: torch.rand(1)),
    "Python's random numbers": ("python", lambda w: random.random()),
    "NumPy's random numbers": ("numpy", lambda w: np.random.rand()),  # noqa: NPY002
    "a generator": ("generator", lambda w: torch.rand(1, generator=w.generator)),
}


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("name", CHANGES)
def test_it_is_put_back_and_stays_changed_without(name: str, kind: str) -> None:
    part, change = CHANGES[name]
    w = world(kind)
    before = copy.deepcopy(w.state())
    with undone(w.model, w.optimizer, [w.generator]):
        change(w)
    assert w.state() == before
    change(w)
    assert w.state()[part] != before[part]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_it_is_put_back_after_an_exception_too(error: type[BaseException]) -> None:
    w = world()
    before = copy.deepcopy(w.state())
    with pytest.raises(error), undone(w.model, w.optimizer, [w.generator]):
        w.train(2)
        w.model[3].eval()
        raise error
    assert w.state() == before


def test_the_objects_are_the_same_ones() -> None:
    w = world("adamw")
    lr = w.optimizer.param_groups[0]["lr"]
    group, weight = w.optimizer.param_groups[0], w.model[0].weight
    held, calls, gradient = w.optimizer.state[weight], w.model[1].calls, weight.grad
    average, groups, state = held["exp_avg"], w.optimizer.param_groups, w.optimizer.state
    with undone(w.model, w.optimizer):
        lr.fill_(5.0)
        w.train(2)
        group["lr"] = 0.5
        w.optimizer.load_state_dict(w.optimizer.state_dict())  # makes other groups and other state
    assert w.optimizer.param_groups[0]["lr"] is lr
    assert w.optimizer.param_groups is groups and w.optimizer.state is state
    assert lr.item() == pytest.approx(0.01)
    assert w.model[0].weight is weight and weight.grad is gradient
    assert w.optimizer.state[weight] is held and held["exp_avg"] is average
    assert w.model[1].calls is calls


@pytest.mark.filterwarnings("ignore:Detected call of")
def test_a_scheduler_made_before_the_first_step_is_not_told_of_steps() -> None:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = StepLR(optimizer, 2, 0.5)
    before = (scheduler.state_dict(), dict(optimizer.param_groups[0]), hasattr(optimizer, "_opt_called"))
    with undone(model, optimizer):
        model(torch.ones(1, 1)).sum().backward()
        optimizer.step()
        assert optimizer._opt_called  # the mark is made
    after = (scheduler.state_dict(), dict(optimizer.param_groups[0]), hasattr(optimizer, "_opt_called"))
    assert after == before
    with pytest.warns(UserWarning, match=r"before `optimizer.step\(\)`"):  # as if nothing had stepped
        scheduler.step()


def test_gradients_start_out_empty_inside() -> None:
    w = world()
    with undone(w.model, w.optimizer):
        assert all(p.grad is None for p in w.model.parameters())


def test_parameters_that_only_the_optimizer_holds() -> None:
    model, scale = nn.Linear(1, 1), nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([*model.parameters(), scale], lr=0.1)
    with undone(model, optimizer):
        (scale * model(torch.ones(1, 1))).sum().backward()
        optimizer.step()
        assert scale.item() != 1.0
    assert scale.item() == 1.0 and scale.grad is None


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_a_lazy_module_is_refused_before_anything_changes() -> None:
    model = nn.LazyLinear(1)
    with (
        pytest.raises(ValueError, match="pass one batch"),
        undone(model, torch.optim.SGD(model.parameters())),
    ):
        pass


def test_the_generators_of_a_loader() -> None:
    data, first, second = TensorDataset(torch.zeros(4)), torch.Generator(), torch.Generator()
    sampler = RandomSampler(data, generator=second)
    assert generators_of(DataLoader(data, generator=first, sampler=sampler)) == [first, second]
    assert generators_of(DataLoader(data, shuffle=True, generator=first)) == [first]
    batches = torch.utils.data.BatchSampler(sampler, 2, False)
    assert generators_of(DataLoader(data, batch_sampler=batches)) == [second]
    assert generators_of([1, 2]) == []


@pytest.mark.gpu
def test_the_random_numbers_of_a_gpu() -> None:
    w = world()
    before = torch.cuda.get_rng_state()
    with undone(w.model, w.optimizer):
        torch.rand(1, device="cuda")
    assert torch.equal(torch.cuda.get_rng_state(), before)
    torch.rand(1, device="cuda")
    assert not torch.equal(torch.cuda.get_rng_state(), before)
