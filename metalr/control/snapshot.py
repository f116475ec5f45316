"""A training state held in memory: to probe and come back, to fork, to roll back."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["PROGRESS_SETTINGS", "Snapshot", "weights_are_finite"]

PROGRESS_SETTINGS = frozenset({"k", "weight_sum", "lr_max", "scheduled_lr", "train_mode", "num_averaged"})
"""Where averaging optimizers count steps and weights: state, though it lies among the groups' settings."""


@dataclass(frozen=True)
class Snapshot:
    """Weights, buffers and optimizer state at one instant; cloned, so that training on does not change it."""

    model_state: dict[str, Tensor]
    optimizer_state: dict[str, Any]

    @classmethod
    def take(cls, model: nn.Module, optimizer: torch.optim.Optimizer) -> Snapshot:
        """The present state of `model` and `optimizer`."""
        model_state = {name: value.detach().clone() for name, value in model.state_dict().items()}
        return cls(model_state, copy.deepcopy(optimizer.state_dict()))

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Put the state back, bit for bit; the snapshot stays good for another time.

        `optimizer` may be another one over the same parameters. Gradients are dropped.
        """
        model.load_state_dict(self.model_state)
        optimizer.load_state_dict(copy.deepcopy(self.optimizer_state))
        optimizer.zero_grad(set_to_none=True)

    def restore_keeping_lr(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """As `restore`, but every parameter group keeps its present settings, the LR among them.

        What counts the steps of an averaging optimizer (`PROGRESS_SETTINGS`) is put back with the rest.
        """
        dropped = PROGRESS_SETTINGS | {"params"}
        settings = [
            {key: value for key, value in group.items() if key not in dropped}
            for group in optimizer.param_groups
        ]
        self.restore(model, optimizer)
        for group, kept in zip(optimizer.param_groups, settings, strict=True):
            group.update(kept)


@torch.no_grad()
def weights_are_finite(model: nn.Module) -> bool:
    """Whether no parameter or floating-point buffer of `model` is infinite or not a number."""
    values = [value for value in model.state_dict().values() if value.is_floating_point()]
    if not values:
        return True
    return bool(torch.stack([value.isfinite().all() for value in values]).all())
