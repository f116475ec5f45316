"""Undoing a trial: whatever a few training steps change is put back, bit for bit, also after an exception."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["generators_of", "undone"]

_PLAIN = (bool, int, float, str, type(None))
_GENERATOR_HOLDERS = ("", "sampler", "batch_sampler", "batch_sampler.sampler")
"""Where a DataLoader keeps a generator, from the loader itself on."""


@contextmanager
def undone(
    model: nn.Module, optimizer: torch.optim.Optimizer, generators: Iterable[torch.Generator] = ()
) -> Iterator[None]:
    """A block after which model, optimizer and random numbers are as before it, however it is left.

    Put back, as the same objects with the same bits: parameters, buffers (those outside the state dict too),
    extra state, every module's training mode, gradients, the optimizer's state and group settings (a tensor
    LR is filled in place), its plain attributes (the mark by which torch knows that it has stepped); torch's
    random state on the CPU and, where CUDA is in use, on its devices, Python's and NumPy's global ones,
    `generators`. Inside the block gradients start out empty. Not put back: plain Python attributes of
    modules, what hooks keep elsewhere, and how far an iterator of the caller's has been read.

    Args:
        model: Whose parameters may change inside the block.
        optimizer: Its parameters need not be the model's.
        generators: Further generators that the block may draw from.
    """
    modules = [_ModuleState.take(module) for module in model.modules()]
    parameters = {id(p): p for p in model.parameters()}
    parameters |= {id(p): p for group in optimizer.param_groups for p in group["params"]}
    gradients = [(p, p.grad) for p in parameters.values()]
    kept = [_Kept.take(value) for value in (*parameters.values(), *model.buffers())]
    optimizer_state = _OptimizerState.take(optimizer)
    random_state = _RandomState.take(generators)
    try:
        for parameter, _ in gradients:
            parameter.grad = None
        yield
    finally:
        for state in modules:
            state.restore()
        for value in kept:
            value.restore()
        for parameter, gradient in gradients:
            parameter.grad = gradient
        optimizer_state.restore()
        random_state.restore()


def generators_of(batches: object) -> list[torch.Generator]:
    """The torch generators that a DataLoader, or something built like one, draws from; else none."""
    found: dict[int, torch.Generator] = {}
    for path in _GENERATOR_HOLDERS:
        holder: Any = batches
        for name in filter(None, path.split(".")):
            holder = getattr(holder, name, None)
        generator = getattr(holder, "generator", None)
        if isinstance(generator, torch.Generator):
            found[id(generator)] = generator
    return list(found.values())


@dataclass(frozen=True)
class _Kept:
    """A tensor object and its bits."""

    tensor: Tensor
    bits: Tensor

    @classmethod
    def take(cls, tensor: Tensor) -> _Kept:
        if nn.parameter.is_lazy(tensor):
            raise ValueError(
                "a lazy module has no weights yet: pass one batch through the model before this test"
            )
        return cls(tensor, tensor.detach().clone())

    @torch.no_grad()
    def restore(self) -> Tensor:
        self.tensor.detach().copy_(self.bits)
        return self.tensor


def _keep(value: Any) -> Any:
    """`value` as `_put_back` can return it: tensors as objects with their bits, anything else copied."""
    return _Kept.take(value) if isinstance(value, Tensor) else copy.deepcopy(value)


def _put_back(kept: Any) -> Any:
    return kept.restore() if isinstance(kept, _Kept) else kept


@dataclass(frozen=True)
class _ModuleState:
    """Which tensors a module holds under which names, its mode, and its extra state."""

    module: nn.Module
    training: bool
    parameters: dict[str, Any]
    buffers: dict[str, Any]
    extra: Any

    @classmethod
    def take(cls, module: nn.Module) -> _ModuleState:
        has_extra = type(module).get_extra_state is not nn.Module.get_extra_state
        extra = copy.deepcopy(module.get_extra_state()) if has_extra else None
        return cls(module, module.training, dict(module._parameters), dict(module._buffers), extra)

    def restore(self) -> None:
        self.module.training = self.training
        for held, before in (
            (self.module._parameters, self.parameters),
            (self.module._buffers, self.buffers),
        ):
            held.clear()
            held.update(before)
        if self.extra is not None:
            self.module.set_extra_state(self.extra)


@dataclass(frozen=True)
class _OptimizerState:
    """An optimizer's state, the settings of its groups, and its plain attributes."""

    optimizer: torch.optim.Optimizer
    state: list[tuple[Any, dict[str, Any], dict[str, Any]]]
    groups: list[tuple[dict[str, Any], list[Any], dict[str, Any]]]
    containers: tuple[Any, list[dict[str, Any]]]
    """The optimizer's own `state` and `param_groups`: loading a state makes others."""
    attributes: dict[str, Any]

    @classmethod
    def take(cls, optimizer: torch.optim.Optimizer) -> _OptimizerState:
        state = [
            (parameter, held, {key: _keep(value) for key, value in held.items()})
            for parameter, held in optimizer.state.items()
        ]
        groups = [
            (
                group,
                list(group["params"]),
                {key: _keep(value) for key, value in group.items() if key != "params"},
            )
            for group in optimizer.param_groups
        ]
        attributes = {name: value for name, value in vars(optimizer).items() if isinstance(value, _PLAIN)}
        return cls(optimizer, state, groups, (optimizer.state, optimizer.param_groups), attributes)

    def restore(self) -> None:
        self.optimizer.state, self.optimizer.param_groups = self.containers
        self.optimizer.state.clear()
        for parameter, held, before in self.state:
            held.clear()
            held.update({key: _put_back(value) for key, value in before.items()})
            self.optimizer.state[parameter] = held
        self.optimizer.param_groups[:] = [group for group, _, _ in self.groups]
        for group, parameters, settings in self.groups:
            group.clear()
            group["params"] = parameters
            group.update({key: _put_back(value) for key, value in settings.items()})
        for name in [name for name, value in vars(self.optimizer).items() if isinstance(value, _PLAIN)]:
            if name not in self.attributes:
                delattr(self.optimizer, name)
        vars(self.optimizer).update(self.attributes)


@dataclass(frozen=True)
class _RandomState:
    """The states of the global random streams, and of given generators."""

    cpu: Tensor
    cuda: list[Tensor]
    python: Any
    numpy: Any
    generators: list[tuple[torch.Generator, Tensor]]

    @classmethod
    def take(cls, generators: Iterable[torch.Generator]) -> _RandomState:
        in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        cuda = torch.cuda.get_rng_state_all() if in_use else []
        legacy = np.random.get_state()  # noqa: NPY002 (other people's augmentations draw from it)
        states = [(generator, generator.get_state()) for generator in generators]
        return cls(torch.get_rng_state(), cuda, random.getstate(), legacy, states)

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002
        for generator, state in self.generators:
            generator.set_state(state)
