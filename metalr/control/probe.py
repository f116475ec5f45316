"""The probe: a learning-rate range test on the live model, after which nothing has changed.

Source: Smith, "Cyclical Learning Rates for Training Neural Networks", arXiv 1506.01186.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from metalr.config import ProbeConfig
from metalr.control.anchor import averages_iterates, scales_gradients
from metalr.control.attention import num_attention_layers
from metalr.control.depth import num_plain_layers
from metalr.control.normalisation import has_plain_head, normalises
from metalr.control.probe_curve import ProbeCurve
from metalr.control.ramp import run_ramp
from metalr.control.undo import undone

__all__ = ["lr_range_test"]

FIRST_PART = 4
"""A ramp spends the first of so many parts at LRs that hardly move the weights: up to 0.007 under SGD."""


def lr_range_test(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of_step: Callable[[int], Tensor],
    config: ProbeConfig | None = None,
    *,
    measured_loss: Callable[[], Tensor] | None = None,
    is_distance: bool = False,
) -> ProbeCurve:
    """The loss on a ramp of LRs, exponential over `config.lrs`.

    Everything is put back afterwards, bit for bit: see `metalr.control.undo`. Every parameter group keeps
    its ratio to the first one.

    Args:
        model: Trained for `config.num_steps` steps, then restored.
        optimizer: Steps the model; its first group's LR is the one reported.
        loss_of_step: Maps a step number, from 0, to the scalar training loss of that step's batch.
        config: The ramp; None takes the defaults.
        measured_loss: The loss of one batch that stays the same, at the present weights: the curve is made of
            this one. None takes the losses of the steps; then give every step the same batch, since another
            one each step drowns the curve in noise. Steps on fresh batches beside one that is measured are
            better where a network soon fits a whole batch, whose loss then hides the edge.
        is_distance: Whether the loss measures a distance from the targets; kept with the curve.

    Raises:
        ValueError: the loss is not finite before any update, or the first group's LR is 0.
    """
    config = config or ProbeConfig()
    scaled = scales_gradients(optimizer)
    ramp = np.geomspace(*config.lrs(scales_gradients=scaled), config.num_steps).tolist()
    counted = _CountedLoss(loss_of_step)
    with undone(model, optimizer):
        outcome = run_ramp(optimizer, counted, ramp, config.explode_factor, measured_loss=measured_loss)
    if not math.isfinite(outcome.initial_loss):
        raise ValueError(f"the probe cannot start: the loss of the first batch is {outcome.initial_loss}")
    losses = outcome.losses or (outcome.initial_loss,)
    return ProbeCurve(
        tuple(ramp[: len(losses)]),
        losses,
        outcome.initial_loss,
        outcome.exploded,
        outcome.num_steps,
        scaled,
        averages_iterates(optimizer),
        optimizer.param_groups[0].get("momentum"),
        normalises(model),
        is_distance,
        num_attention_layers(model),
        tuple(filter(math.isfinite, outcome.step_losses[: config.num_steps // FIRST_PART])),
        has_plain_head(model),
        counted.num_plain_layers,
    )


class _CountedLoss:
    """The losses of the steps, the first of which also tells how deep the network is."""

    def __init__(self, loss_of_step: Callable[[int], Tensor]) -> None:
        self._loss_of_step = loss_of_step
        self.num_plain_layers = 0

    def __call__(self, step: int) -> Tensor:
        loss = self._loss_of_step(step)
        if step == 0:
            self.num_plain_layers = num_plain_layers(loss)
        return loss
