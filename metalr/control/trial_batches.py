"""Batches for trial steps: one after the other, moved to the model, and their losses checked."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

__all__ = ["BatchStream", "forward_pair", "scalar_loss"]


class BatchStream:
    """Batches one after the other, from the start again where they end."""

    def __init__(self, batches: Iterable[Any], num_needed: int) -> None:
        # A copied loader has workers of its own: the random state of persistent ones cannot be put back.
        self._batches = copy.copy(batches) if isinstance(batches, DataLoader) else batches
        if isinstance(self._batches, DataLoader):
            self._batches._iterator = None
        self._num_needed = num_needed
        self._num_read = 0
        self._iterator: Iterator[Any] | None = None

    def __next__(self) -> Any:
        for _ in range(2):
            if self._iterator is None:
                self._iterator = iter(self._batches)
            for batch in self._iterator:
                self._num_read += 1
                return batch
            self._iterator = None
        raise ValueError(self._shortage())

    def close(self) -> None:
        """Let go of the iterator, and of a loader's workers with it."""
        self._iterator = None
        self._batches = ()

    def _shortage(self) -> str:
        if self._num_read == 0:
            return "batches holds no batch: pass a DataLoader, or a list of (inputs, targets)"
        return (
            f"batches ended after {self._num_read} of {self._num_needed} and cannot be read again: pass the "
            f"DataLoader or a list instead of an iterator, or set num_steps={self._num_read - 1}"
        )


def forward_pair(model: nn.Module, batch: Any) -> tuple[Any, Any]:
    """Outputs and targets of a pair (inputs, targets), on the model's device. Raises ValueError on others."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        kind = (
            f"{type(batch).__name__} of {len(batch)}" if hasattr(batch, "__len__") else type(batch).__name__
        )
        raise ValueError(
            f"a batch is a {kind}, not a pair (inputs, targets): give forward=, a function of (model, batch) "
            "that returns (outputs, targets)"
        )
    device = next(model.parameters()).device
    inputs, targets = (_moved(part, device) for part in batch)
    return model(inputs), targets


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: _moved(part, device) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [_moved(part, device) for part in value]
    return value


def scalar_loss(loss: Any) -> Tensor:
    """`loss` without dimensions. Raises ValueError where it is no scalar, or trains nothing."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"the loss is {got}, not a scalar tensor: take its mean")
    if torch.is_grad_enabled() and not loss.requires_grad and math.isfinite(float(loss)):
        raise ValueError(
            "the loss does not depend on any trainable parameter: is it detached, or all frozen?"
        )
    return loss.squeeze()
