"""Which weights train, at which LR and with which decay: parameter groups by depth, and what is frozen.

A part is a run of neighbouring named children of the network. The groups stand from the head to the
first layers, so that the first one, whose LR is logged, scheduled and controlled, has `train.lr` itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from metalr.config import ConfigError, DepthGroup, TrainConfig

__all__ = ["apply_freezing", "parameter_groups"]

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass
class _Part:
    """Neighbouring children of a network with the parameters that are theirs: each has one owner."""

    names: list[str] = field(default_factory=list)
    modules: list[nn.Module] = field(default_factory=list)
    parameters: list[nn.Parameter] = field(default_factory=list)


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """The groups an optimizer takes: `params`, `lr` and `weight_decay` of each, the head's first.

    ::

        model = torchvision.models.resnet18()
        config = TrainConfig(
            lr=0.01,
            decay_norms_and_biases=False,
            depth_groups=[{"lr_ratio": 0.01}, {"lr_ratio": 0.1}, {"lr_ratio": 1.0}],
        )
        optimizer = torch.optim.AdamW(parameter_groups(model, config))

    With `depth_groups`, the named children that have parameters are split, in order, into as many contiguous
    parts (numpy.array_split: longer ones first); a part's LR is `lr * lr_ratio`. Parameters of `model` itself
    go with the first part, and a parameter shared between parts with the first that has it. Without
    `decay_norms_and_biases` each group is two: first what decays, then, undecayed, the weights of
    normalisation layers and all biases. A group without parameters is left out.

    Raises:
        ConfigError: more groups than the network has children with parameters.
    """
    if config.depth_groups is None:
        return _by_decay(model, list(model.parameters()), config.lr, config)
    parts = _parts(model, len(config.depth_groups))
    pairs = zip(reversed(parts), reversed(config.depth_groups), strict=True)
    return [
        group
        for part, depth in pairs
        for group in _by_decay(model, part.parameters, config.lr * depth.lr_ratio, config)
    ]


def apply_freezing(model: nn.Module, config: TrainConfig, epoch: int) -> None:
    """Let the parts of `model` that are frozen in `epoch` (from 0) rest, and the others train.

    A frozen part is in evaluation mode and its parameters need no gradient, so that nothing in it changes,
    batch-norm statistics included. Depends on its arguments alone: what was frozen before does not matter.
    Without `depth_groups` nothing is touched.
    """
    if config.depth_groups is None:
        return
    model.train()
    for part, depth in zip(_parts(model, len(config.depth_groups)), config.depth_groups, strict=True):
        trains = _trains(depth, epoch)
        for module in part.modules:
            module.train(trains)
        for parameter in part.parameters:
            parameter.requires_grad_(trains)


def _trains(depth: DepthGroup, epoch: int) -> bool:
    return depth.unfreeze_epoch is not None and epoch >= depth.unfreeze_epoch


def _parts(model: nn.Module, count: int) -> list[_Part]:
    """The `count` parts from the first layer to the head. Raises ConfigError where children are too few."""
    units = _units(model)
    if count > len(units):
        names = ", ".join(name for unit in units for name in unit.names)
        raise ConfigError(
            [
                f"train.depth_groups: {count} groups, but the network has {len(units)} parts with parameters "
                f"({names}); give at most {len(units)}"
            ]
        )
    splits = np.array_split(np.arange(len(units)), count)
    parts = [_merged(units[index] for index in split) for split in splits]
    _give_owners(model, parts)
    return parts


def _units(model: nn.Module) -> list[_Part]:
    """A part for each child with parameters; one with buffers alone goes along with the child before it."""
    units: list[_Part] = []
    waiting: list[nn.Module] = []
    for name, child in model.named_children():
        if any(True for _ in child.parameters()):
            units.append(_Part([name], [*waiting, child]))
            waiting = []
        elif any(True for _ in child.buffers()):
            (units[-1].modules if units else waiting).append(child)
    return units


def _merged(units: Iterable[_Part]) -> _Part:
    part = _Part()
    for unit in units:
        part.names += unit.names
        part.modules += unit.modules
    return part


def _give_owners(model: nn.Module, parts: list[_Part]) -> None:
    owned: set[int] = set()
    for index, part in enumerate(parts):
        direct = list(model.parameters(recurse=False)) if index == 0 else []
        for parameter in [*direct, *(p for module in part.modules for p in module.parameters())]:
            if id(parameter) not in owned:
                owned.add(id(parameter))
                part.parameters.append(parameter)


def _by_decay(
    model: nn.Module, parameters: list[nn.Parameter], lr: float, config: TrainConfig
) -> list[dict[str, Any]]:
    """`parameters` as one group, or as two where some do not decay."""
    exempt = set() if config.decay_norms_and_biases else _undecayed(model)
    groups = [
        {"params": [p for p in parameters if id(p) not in exempt], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if id(p) in exempt], "weight_decay": 0.0},
    ]
    return [{"lr": lr} | group for group in groups if group["params"]]


def _undecayed(model: nn.Module) -> set[int]:
    """The ids of all biases and of the weights of normalisation layers.

    A layer of another library counts by its name, for its one-dimensional parameters.
    """
    return {
        id(parameter)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if "bias" in name or isinstance(module, NORMS) or _is_norm_by_name(module, parameter)
    }


def _is_norm_by_name(module: nn.Module, parameter: nn.Parameter) -> bool:
    return "norm" in type(module).__name__.lower() and parameter.ndim < 2
