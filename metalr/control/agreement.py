"""Distributed runs: rank 0 decides, the others follow."""

from __future__ import annotations

from typing import Any

import torch.distributed as distributed
from torch import Tensor

__all__ = ["decided_by_rank_0", "is_distributed", "mean_over_ranks", "rank"]


def is_distributed() -> bool:
    """Whether this process is one of several that train together."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def rank() -> int:
    """This process's number, 0 where it is alone."""
    return distributed.get_rank() if is_distributed() else 0


def decided_by_rank_0(value: dict[str, Any]) -> dict[str, Any]:
    """Rank 0's `value`, on every rank; plain values. All ranks must call it."""
    box: list[Any] = [value if rank() == 0 else None]
    distributed.broadcast_object_list(box, src=0)
    received: dict[str, Any] = box[0]
    return received


def mean_over_ranks(loss: Tensor) -> Tensor:
    """`loss` with the mean over all ranks as its value and its own gradient. All ranks must call it."""
    mean = loss.detach().clone()
    distributed.all_reduce(mean)
    return loss + (mean / distributed.get_world_size() - loss.detach())
