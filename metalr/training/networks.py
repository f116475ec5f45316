"""What is known of a network by its name alone."""

from __future__ import annotations

from functools import lru_cache

import torch

from metalr.control import normalises
from metalr.tasks import NETWORKS

__all__ = ["network_normalises"]


@lru_cache
def network_normalises(name: str) -> bool:
    """Whether the network of this name in `metalr.tasks.NETWORKS` has normalisation layers."""
    with torch.random.fork_rng(devices=[]):
        return normalises(NETWORKS[name](3, 10, 8, 8, 0.0))
