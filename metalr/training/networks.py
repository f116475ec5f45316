"""What is known of a network by its name alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

from metalr.control import has_plain_head, normalises, num_attention_layers, num_plain_layers
from metalr.tasks import NETWORKS

__all__ = ["NetworkTraits", "traits_of"]


@dataclass(frozen=True)
class NetworkTraits:
    """What the probe and the features say of a network."""

    normalises: bool
    """Whether it counts as one that normalises."""
    has_plain_head: bool
    """Whether a hidden linear layer stands behind its last norm of channels."""
    num_attention_layers: int
    num_plain_layers: int
    """Layers with weights that nothing normalises and no shortcut passes."""


@lru_cache
def traits_of(name: str) -> NetworkTraits:
    """The traits of the network of this name in `metalr.tasks.NETWORKS`; leaves the random state alone."""
    with torch.random.fork_rng(devices=[]):
        network = NETWORKS[name](3, 10, 8, 8, 0.0)
        logits = network(torch.zeros(2, 3, 8, 8))
    return NetworkTraits(
        normalises(network),
        has_plain_head(network),
        num_attention_layers(network),
        num_plain_layers(logits.sum()),
    )
