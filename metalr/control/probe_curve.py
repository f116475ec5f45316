"""What a probe measured, and what follows from it: the edge of stability and the reference LR."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

__all__ = ["ProbeCurve", "usual_lr"]

SMOOTHING_STEPS = 1.5
"""Standard deviation, in ramp steps, of the Gaussian that smooths the losses."""
EDGE_TOLERANCE = 0.1
"""By this part the loss must have climbed over its start for the edge: where a network hardly learns within a
ramp, the noise of its batches alone lifts the loss a little, at any LR. On 55 trunks of the harvest without
it, the edge lay at up to a thousandth of the best LR."""
PLAIN_HEAD_TOLERANCE = 0.03
"""By this part where a plain head stands behind normalisations: the loss climbs by a few hundredths there,
the head dies, and it is back at that of guessing. Of 5 such networks, 8 seeds each, the reference then varies
by 0.3 octaves from seed to seed instead of 0.6."""
LEAST_FALL = 0.01
"""A loss that fell by at least this part of its start has fallen, and is no noise."""
EDGE_OF_FALL = 0.5
"""Under an optimizer that scales gradients a network can die at the edge, its loss back at that of guessing
before it has climbed by `EDGE_TOLERANCE`: there a climb by this part of the fall before is enough."""
EDGE_FRACTION = 1 / 8
"""The best peak of SGD is about this fraction of the edge; see `experiments/results/NOTES.md`. Of a network
that normalises it is the edge itself: the best peak lay five times as high over the reference."""
PLAIN_HEAD_FACTOR = 0.5
"""On the reference where gradients are scaled and there is a plain head. Decisions for a CNN, a LeNet and a
VGG under AdamW then cost 1.5 points of accuracy instead of 3.4; see `experiments/results/NOTES.md`."""
SHALLOW_LAYERS = 4
"""A network of up to so many plain layers has the reference as it is; nearly all of the harvest's have."""
DEPTH_FACTOR = 2.5
"""On the reference of a deeper one, over the number of its plain layers, and at least `LEAST_DEPTH_FACTOR`:
see `experiments/results/NOTES.md`. Source: the best LR of a deep linear network falls with the number of its
layers (Saxe, McClelland and Ganguli, arXiv 1312.6120)."""
LEAST_DEPTH_FACTOR = 0.25
"""That of ten layers, the deepest that were measured."""
DISTANCE_FACTOR = 4.0
"""Under plain SGD, without normalisation, the best peak of a loss that is a distance lies so much higher over
the reference than that of a cross-entropy: see `experiments/results/NOTES.md`."""
NORMALISED_USUAL = 10 / 3
"""Under SGD a network that normalises is usually trained at a so much larger LR (0.1: He et al. 2015)."""


def usual_lr(
    scales_gradients: bool | None = None,
    averages_iterates: bool | None = None,
    momentum: float | None = None,
    normalises: bool | None = None,
) -> float:
    """The reference LR where no probe has told one: what people usually start from under such an optimizer.

    0.003 where gradients are scaled, 0.01 where iterates are averaged as well; for SGD 0.3 (1 - momentum),
    1 - momentum where the network normalises, and ten times as much where iterates are averaged.

    Args:
        scales_gradients: Whether the optimizer divides the gradient by its size; None: no.
        averages_iterates: Whether what one uses is an average of the trained weights; None: no.
        momentum: SGD's, in [0, 1); None: 0.9.
        normalises: Whether the network counts as one that normalises; None: no.

    >>> usual_lr(scales_gradients=True)
    0.003
    """
    if scales_gradients:
        return 0.01 if averages_iterates else 0.003
    lr = 0.3 * (1.0 - min(0.9 if momentum is None else momentum, 0.99))
    lr *= NORMALISED_USUAL if normalises else 1.0
    return 10.0 * lr if averages_iterates else lr


@dataclass(frozen=True)
class ProbeCurve:
    """The losses met on a rising LR: `losses[i]`, in nats, was measured after the update at `lrs[i]`."""

    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    initial_loss: float
    """Loss of the untrained state, nats."""
    exploded: bool
    """Whether the ramp ended early, at a loss too large or not finite (which is left out)."""
    num_steps: int
    """Optimizer steps spent, the exploding one included."""
    scales_gradients: bool = False
    """Whether the optimizer divides the gradient by its size, as Adam does."""
    averages_iterates: bool = False
    """Whether what one uses is an average of the trained weights."""
    momentum: float | None = None
    """SGD's momentum; None: not known."""
    normalises: bool = False
    """Whether the network counts as one that normalises, see `metalr.control.normalises`."""
    is_distance: bool = False
    """Whether the loss measures a distance between outputs and targets, as a squared error does."""
    num_attention_layers: int = 0
    """How deep the network is, if it is a transformer."""
    first_losses: tuple[float, ...] = ()
    """Losses of the first steps' own batches, nats, at LRs that hardly move the weights; none where every
    step had the batch that is measured."""
    has_plain_head: bool = False
    """Whether a hidden linear layer stands behind the last of the network's norms of channels."""
    num_plain_layers: int = 0
    """Layers with weights that nothing normalises and no shortcut passes; see `metalr.control.depth`."""

    def smoothed(self) -> np.ndarray:
        """The losses, smoothed over neighbouring steps; shape (len(lrs),)."""
        steps = np.arange(len(self.losses))
        weights = np.exp(-0.5 * ((steps[:, None] - steps[None, :]) / SMOOTHING_STEPS) ** 2)
        smoothed: np.ndarray = (weights @ np.asarray(self.losses)) / weights.sum(axis=1)
        return smoothed

    @property
    def loss_before_training(self) -> float:
        """The mean loss of the untrained network over the batches that are known, nats.

        One small batch of a regression may lie at half of that: by it neither explosion nor death is told.
        """
        return statistics.fmean((self.initial_loss, *self.first_losses))

    @cached_property
    def _smooth(self) -> np.ndarray:
        # A curve never changes, and a decision reads it some twenty times.
        smoothed = self.smoothed()
        smoothed.setflags(write=False)
        return smoothed

    @cached_property
    def lowest_lr(self) -> float:
        """The LR at the lowest smoothed loss."""
        return self.lrs[int(np.argmin(self._smooth))]

    @cached_property
    def edge_lr(self) -> float:
        """The edge of stability: the first LR past the lowest smoothed loss, with one well above the initial.

        Well: by `EDGE_TOLERANCE` of it, `PLAIN_HEAD_TOLERANCE` where there is a plain head; where there is
        none such and gradients are scaled, by `EDGE_OF_FALL` of how far the loss had fallen, if it had
        (`LEAST_FALL`). Else the last LR of the ramp.
        """
        size, fall = abs(self.initial_loss), self.initial_loss - float(self._smooth.min())
        edge = self._first_above((PLAIN_HEAD_TOLERANCE if self.has_plain_head else EDGE_TOLERANCE) * size)
        if edge is None and self.scales_gradients and fall > LEAST_FALL * size:
            edge = self._first_above(EDGE_OF_FALL * fall)
        return self.lrs[-1] if edge is None else edge

    def _first_above(self, climb: float) -> float | None:
        """The first LR past the lowest smoothed loss, with one so many nats above the initial."""
        lowest = int(np.argmin(self._smooth))
        above = np.flatnonzero(self._smooth[lowest:] > self.initial_loss + climb)
        return self.lrs[lowest + int(above[0])] if len(above) else None

    @cached_property
    def steepest_lr(self) -> float:
        """The LR up to the edge where the smoothed loss falls fastest in log LR."""
        end = self.lrs.index(self.edge_lr) + 1
        if end < 2:
            return self.lrs[0]
        return self.lrs[int(np.argmin(np.gradient(self._smooth[:end], np.log(self.lrs[:end]))))]

    @cached_property
    def reference_lr(self) -> float:
        """What candidates and features are relative to: a guess at the best peak, good to a factor of ten.

        The geometric mean of the usual LR and of one that follows the edge: an eighth of it under plain SGD,
        the edge itself where gradients are scaled, iterates averaged, or the network normalises. Over 46
        trunks the best peak moved with about the root of the edge, or less. Where SGD's loss falls up to the
        end of the ramp, the usual LR says nothing. Four times that for a loss that is a distance,
        where nothing scales gradients, averages or normalises. Where gradients are scaled, less by the root
        of the number of attention layers, and half of it where there is a plain head. Less by the number of
        plain layers where there are more than `SHALLOW_LAYERS`, nothing normalises or averages, and the loss
        is no distance.
        """
        plain = not (self.scales_gradients or self.averages_iterates)
        factor = DISTANCE_FACTOR if plain and self.is_distance and not self.normalises else 1.0
        if self.scales_gradients and self.num_attention_layers > 1:
            factor /= math.sqrt(self.num_attention_layers)
        if self.scales_gradients and self.has_plain_head:
            factor *= PLAIN_HEAD_FACTOR
        if self.num_plain_layers > SHALLOW_LAYERS and not (
            self.normalises or self.averages_iterates or self.is_distance
        ):
            factor *= max(LEAST_DEPTH_FACTOR, DEPTH_FACTOR / self.num_plain_layers)
        following = self.edge_lr * (EDGE_FRACTION if plain and not self.normalises else 1.0)
        if plain and self.lowest_lr == self.edge_lr == self.lrs[-1] and not self.exploded:
            return factor * following  # still falling at the ramp's end: no loss of a usual size
        usual = usual_lr(self.scales_gradients, self.averages_iterates, self.momentum, self.normalises)
        return factor * math.sqrt(following * usual)

    def loss_change_at(self, lr: float) -> float | None:
        """Smoothed loss minus the initial one, nats, interpolated in log LR.

        Below the ramp 0; above it None, or infinity where the ramp exploded before `lr`.
        """
        if lr < self.lrs[0]:
            return 0.0
        if lr > self.lrs[-1]:
            return math.inf if self.exploded else None
        return float(np.interp(math.log(lr), np.log(self.lrs), self._smooth)) - self.initial_loss

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; `reference_lr` and what it is made from are added for readers."""
        values = asdict(self) | {
            name: list(getattr(self, name)) for name in ("lrs", "losses", "first_losses")
        }
        return values | {
            "reference_lr": self.reference_lr,
            "edge_lr": self.edge_lr,
            "lowest_lr": self.lowest_lr,
            "steepest_lr": self.steepest_lr,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ProbeCurve:
        """The inverse of `to_dict`."""
        return cls(
            lrs=tuple(values["lrs"]),
            losses=tuple(values["losses"]),
            initial_loss=values["initial_loss"],
            exploded=values["exploded"],
            num_steps=values["num_steps"],
            scales_gradients=values.get("scales_gradients", False),
            averages_iterates=values.get("averages_iterates", False),
            momentum=values.get("momentum"),
            normalises=values.get("normalises", False),
            is_distance=values.get("is_distance", False),
            num_attention_layers=values.get("num_attention_layers", 0),
            first_losses=tuple(values.get("first_losses", ())),
            has_plain_head=values.get("has_plain_head", False),
            num_plain_layers=values.get("num_plain_layers", 0),
        )
