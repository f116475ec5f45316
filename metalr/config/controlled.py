"""The controlled methods: which meta-learner sets the learning rate, and of which optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from metalr.config.peers import PEERS, OptimizerName, Peer

__all__ = ["CONTROLLED", "Controlled", "ControlledName", "LearnerName", "optimizer_of", "peer_of"]

LearnerName = Literal["mlp", "lstm"]
ControlledName = Literal["metalr-mlp", "metalr-lstm", "metalr-mlp-sf", "metalr-lstm-sf"]
"""Methods under a learned controller; `-sf` is that of Schedule-Free AdamW."""


@dataclass(frozen=True)
class Controlled:
    """What a controlled method is made of."""

    learner: LearnerName
    """Whose controller it is."""
    optimizer: OptimizerName | None = None
    """The optimizer it is the controller of; None: the recipe's."""


CONTROLLED: Mapping[str, Controlled] = MappingProxyType(
    {
        "metalr-mlp": Controlled("mlp"),
        "metalr-lstm": Controlled("lstm"),
        "metalr-mlp-sf": Controlled("mlp", "schedule_free_adamw"),
        "metalr-lstm-sf": Controlled("lstm", "schedule_free_adamw"),
    }
)
"""By method name, in the order of every table."""


def optimizer_of(method: str) -> OptimizerName | None:
    """The optimizer that `method` brings along; None: it runs under the recipe's."""
    if method in PEERS:
        return PEERS[method].optimizer
    return CONTROLLED[method].optimizer if method in CONTROLLED else None


def peer_of(method: str) -> Peer | None:
    """The peer whose optimizer `method` needs, itself where it is one; None: it needs none."""
    optimizer = optimizer_of(method)
    return next((peer for peer in PEERS.values() if peer.optimizer == optimizer), None)
