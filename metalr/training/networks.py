"""What is known of a network by its name alone."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import nn

from metalr.control import has_plain_head, normalises, num_attention_layers
from metalr.tasks import NETWORKS

__all__ = ["network_attention_layers", "network_has_plain_head", "network_normalises"]


@lru_cache
def network_normalises(name: str) -> bool:
    """Whether the network of this name in `metalr.tasks.NETWORKS` counts as one that normalises."""
    return normalises(_made(name))


@lru_cache
def network_has_plain_head(name: str) -> bool:
    """Whether a hidden linear layer stands behind the last norm of channels of the network of this name."""
    return has_plain_head(_made(name))


@lru_cache
def network_attention_layers(name: str) -> int:
    """How many layers of attention the network of this name has."""
    return num_attention_layers(_made(name))


@lru_cache(maxsize=1)
def _made(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        return NETWORKS[name](3, 10, 8, 8, 0.0)
