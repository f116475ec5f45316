"""The peers: optimizers that claim to need no schedule, or no learning rate, each with its authors' best practice.

A peer is a method of a comparison like any schedule: an optimizer with the schedule its authors recommend, at
an LR that is a multiple of the cell's initial LR, or at its own where it needs none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

__all__ = [
    "AVERAGING_OPTIMIZERS",
    "GRADIENT_SCALING_OPTIMIZERS",
    "PEERS",
    "RECORDED_OPTIMIZERS",
    "OptimizerName",
    "Peer",
    "PeerName",
]

PeerName = Literal[
    "schedule-free-sgd", "schedule-free-adamw", "prodigy", "dadapt-sgd", "dog", "mechanic-sgd", "hypergradient-sgd",
]  # fmt: skip
"""Methods that are an optimizer of their own."""

OptimizerName = Literal[
    "sgd", "adamw", "adam",
    "schedule_free_sgd", "schedule_free_adamw", "prodigy", "dadapt_sgd", "dog", "mechanic_sgd", "hypergradient_sgd",
]  # fmt: skip
"""What `train.optimizer` may name."""

AVERAGING_OPTIMIZERS: frozenset[OptimizerName] = frozenset(
    {"schedule_free_sgd", "schedule_free_adamw", "dog"}
)
"""Those whose model is an average of the weights that they train."""
GRADIENT_SCALING_OPTIMIZERS: frozenset[OptimizerName] = frozenset(
    {"adamw", "adam", "schedule_free_adamw", "prodigy"}
)
"""Those that divide the gradient by a running size of it: their LRs are some hundredths of SGD's."""
RECORDED_OPTIMIZERS: frozenset[OptimizerName] = frozenset({"sgd", "adamw", "adam"})
"""torch's own, whose step on a GPU can be recorded and replayed."""


@dataclass(frozen=True)
class Peer:
    """What a peer needs to be at its best, as its authors say."""

    optimizer: OptimizerName
    schedule: Literal["constant", "cosine"]
    """What moves the LR it is given."""
    package: str | None
    """The package on the index it comes from; None: ours, after the paper."""
    module: str | None
    """The module to import."""
    lr_factor: float | None
    """Its LR as a multiple of the cell's initial LR; None: it finds its LR itself, and runs at `lr`."""
    lr: float
    """The LR it runs at where `lr_factor` is None, else the one its authors start from."""
    source: str
    """Paper."""


PEERS: Mapping[str, Peer] = MappingProxyType(
    {
        # Its README: an LR 10 to 50 times that of a schedule; warm-up; batch norm recalibrated.
        "schedule-free-sgd": Peer(
            "schedule_free_sgd", "constant", "schedulefree", "schedulefree", 10.0, 1.0, "arXiv 2405.15682"
        ),
        # Its README: 1 to 10 times the LR of a schedule for AdamW, which is some hundredths of SGD's.
        "schedule-free-adamw": Peer(
            "schedule_free_adamw", "constant", "schedulefree", "schedulefree", 0.1, 0.0025, "arXiv 2405.15682"
        ),
        "prodigy": Peer("prodigy", "cosine", "prodigyopt", "prodigyopt", None, 1.0, "arXiv 2306.06101"),
        "dadapt-sgd": Peer(
            "dadapt_sgd", "cosine", "dadaptation", "dadaptation", None, 1.0, "arXiv 2301.07733"
        ),
        "dog": Peer("dog", "constant", "dog-optimizer", "dog", None, 1.0, "arXiv 2302.12022"),
        "mechanic-sgd": Peer(
            "mechanic_sgd", "cosine", "mechanic-pytorch", "mechanic_pytorch", None, 1.0, "arXiv 2306.00144"
        ),
        "hypergradient-sgd": Peer("hypergradient_sgd", "constant", None, None, 1.0, 0.01, "arXiv 1703.04782"),
    }
)
"""By method name, in the order of every table."""
