"""The probe: a learning-rate range test on the live model, after which nothing has changed.

Source: Smith, "Cyclical Learning Rates for Training Neural Networks", arXiv 1506.01186.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metalr.config import ProbeConfig
from metalr.control.snapshot import Snapshot

__all__ = ["ProbeCurve", "lr_range_test"]

SMOOTHING_STEPS = 1.5
"""Standard deviation, in ramp steps, of the Gaussian that smooths the losses."""
REFERENCE_FRACTION = 1 / 8
"""The reference LR is this fraction of the edge of stability. Over 8 tasks (digits and CIFAR-10; MLP, CNN,
ResNet-18; SGD of momentum 0.9; 4 seeds each) the edge varied by less than a factor of 3 between seeds, the LR
of the lowest loss by up to 10; see `experiments/results/NOTES.md`."""


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

    def smoothed(self) -> np.ndarray:
        """The losses, smoothed over neighbouring steps; shape (len(lrs),)."""
        steps = np.arange(len(self.losses))
        weights = np.exp(-0.5 * ((steps[:, None] - steps[None, :]) / SMOOTHING_STEPS) ** 2)
        smoothed: np.ndarray = (weights @ np.asarray(self.losses)) / weights.sum(axis=1)
        return smoothed

    @property
    def lowest_lr(self) -> float:
        """The LR at the lowest smoothed loss."""
        return self.lrs[int(np.argmin(self.smoothed()))]

    @property
    def edge_lr(self) -> float:
        """The edge of stability: the first LR past the lowest smoothed loss that is above the initial one.

        The last LR of the ramp where there is none.
        """
        smoothed = self.smoothed()
        lowest = int(np.argmin(smoothed))
        above = np.flatnonzero(smoothed[lowest:] > self.initial_loss)
        return self.lrs[lowest + int(above[0])] if len(above) else self.lrs[-1]

    @property
    def steepest_lr(self) -> float:
        """The LR up to the edge where the smoothed loss falls fastest in log LR."""
        end = self.lrs.index(self.edge_lr) + 1
        if end < 2:
            return self.lrs[0]
        return self.lrs[int(np.argmin(np.gradient(self.smoothed()[:end], np.log(self.lrs[:end]))))]

    @property
    def reference_lr(self) -> float:
        """What candidates and features are relative to: a guess at the best peak, good to a factor of ten."""
        return REFERENCE_FRACTION * self.edge_lr

    def loss_change_at(self, lr: float) -> float | None:
        """Smoothed loss minus the initial one, nats, interpolated in log LR.

        Below the ramp 0; above it None, or infinity where the ramp exploded before `lr`.
        """
        if lr < self.lrs[0]:
            return 0.0
        if lr > self.lrs[-1]:
            return math.inf if self.exploded else None
        return float(np.interp(math.log(lr), np.log(self.lrs), self.smoothed())) - self.initial_loss

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; `reference_lr` and what it is made from are added for readers."""
        values = asdict(self) | {"lrs": list(self.lrs), "losses": list(self.losses)}
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
        )


def lr_range_test(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of_step: Callable[[int], Tensor],
    config: ProbeConfig | None = None,
) -> ProbeCurve:
    """The loss on a ramp of LRs, exponential from `config.min_lr` to `config.max_lr`.

    Weights, buffers, optimizer state, LRs and torch's random state are put back afterwards, bit for
    bit. Every parameter group keeps its ratio to the first one.

    Args:
        model: Trained for `config.num_steps` steps, then restored.
        optimizer: Steps the model; its first group's LR is the one reported.
        loss_of_step: Maps a step number, from 0, to the scalar training loss of that step's batch. One batch
            for all steps gives the clearest curve: what the ramp measures is how steep the loss is, and
            another batch each step drowns that in noise.
        config: The ramp; None takes the defaults.

    Raises:
        ValueError: the loss is not finite before any update.
    """
    snapshot = Snapshot.take(model, optimizer)
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        try:
            return _ramp(optimizer, loss_of_step, config or ProbeConfig())
        finally:
            snapshot.restore(model, optimizer)


def _ramp(
    optimizer: torch.optim.Optimizer, loss_of_step: Callable[[int], Tensor], config: ProbeConfig
) -> ProbeCurve:
    ramp = np.geomspace(config.min_lr, config.max_lr, config.num_steps).tolist()
    ratios = [float(group["lr"]) / float(optimizer.param_groups[0]["lr"]) for group in optimizer.param_groups]
    losses: list[float] = []
    for step in range(config.num_steps + 1):
        loss = loss_of_step(step)
        losses.append(float(loss.detach()))
        if step == 0 and not math.isfinite(losses[0]):
            raise ValueError(f"the probe cannot start: the loss of the first batch is {losses[0]}")
        if not math.isfinite(losses[-1]) or losses[-1] > config.explode_factor * losses[0]:
            return _curve(ramp, losses[:-1], exploded=True, num_steps=step)
        if step < config.num_steps:
            for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
                _set_lr(group, ramp[step] * ratio)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return _curve(ramp, losses, exploded=False, num_steps=config.num_steps)


def _curve(ramp: list[float], losses: list[float], *, exploded: bool, num_steps: int) -> ProbeCurve:
    after_updates = losses[1:] or losses
    lrs = ramp[: len(after_updates)]
    return ProbeCurve(tuple(lrs), tuple(after_updates), losses[0], exploded, num_steps)


def _set_lr(group: dict[str, Any], lr: float) -> None:
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(lr)
    else:
        group["lr"] = lr
