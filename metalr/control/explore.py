"""Random LR paths for the harvest: states that no sensible schedule ever visits are worth knowing too."""

from __future__ import annotations

import hashlib
import math
import random
from bisect import bisect_right
from dataclasses import dataclass

from metalr.config.schedules import ExploreConfig

__all__ = ["ExplorePath", "explore_path"]


@dataclass(frozen=True)
class ExplorePath:
    """Straight pieces in log LR over a run."""

    edges: list[float]
    """Where pieces begin and end, as progress from 0 to 1 in rising order; one more than there are pieces."""
    ends: list[tuple[float, float]]
    """Log multiple of the recipe's LR at the start and the end of each piece."""
    span: float
    """The multiple stays within 1 / span and span."""

    def multiple(self, progress: float) -> float:
        """What the recipe's LR is multiplied by at `progress`, in [0, 1]; the last piece's end beyond 1."""
        piece = min(bisect_right(self.edges, progress), len(self.ends)) - 1
        left, right = self.edges[piece], self.edges[piece + 1]
        first, last = self.ends[piece]
        part = min(1.0, (progress - left) / (right - left)) if right > left else 1.0
        # exp(log(span)) may miss the bound by the last bit.
        return min(max(math.exp(first + (last - first) * part), 1.0 / self.span), self.span)


def explore_path(config: ExploreConfig, seed: int) -> ExplorePath:
    """The path of a seed: the same on every machine, whatever else draws random numbers.

    Cuts between pieces are uniform over the run, and the log multiple at a piece's end is uniform within the
    span. A piece begins where the one before ended or, with the probability of a jump, anywhere.
    """
    digest = hashlib.sha256(f"explore/{seed}".encode()).digest()
    draw = random.Random(int.from_bytes(digest[:8]))
    bound = math.log(config.span)
    cuts = sorted(draw.random() for _ in range(config.pieces - 1))
    ends: list[tuple[float, float]] = []
    height = draw.uniform(-bound, bound)
    for piece in range(config.pieces):
        if piece > 0 and draw.random() < config.jump_probability:
            height = draw.uniform(-bound, bound)
        last = draw.uniform(-bound, bound)
        ends.append((height, last))
        height = last
    return ExplorePath([0.0, *cuts, 1.0], ends, config.span)
