"""The weights one uses, where they are not the weights one trains: averages, with batch norm recalibrated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import torch
from torch import Tensor, nn

from metalr.config import TrainConfig

__all__ = ["NUM_BATCHES", "is_averaged", "used_weights"]

NUM_BATCHES = 50
"""Training batches that batch norm is recalibrated on (schedule_free's README); an epoch may have fewer."""


def is_averaged(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the model one uses is an average of the weights that `optimizer` trains."""
    return hasattr(optimizer, "put_average")


@contextmanager
def used_weights(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[tuple[Tensor, Tensor]],
    config: TrainConfig,
) -> Iterator[None]:
    """Within it, `model` is the one that is used; afterwards the one that is trained, bit for bit.

    For an averaging optimizer the average takes the place of the weights, and the running statistics of
    batch norm, which belong to other weights, are measured anew over at most `NUM_BATCHES` of `batches`
    (images (B, C, H, W), labels). For any other optimizer nothing happens.
    """
    if not is_averaged(optimizer):
        yield
        return
    kept = {name: value.detach().clone() for name, value in model.state_dict().items()}
    try:
        optimizer.put_average()  # type: ignore[attr-defined]
        torch.optim.swa_utils.update_bn(_images(batches, config), model)
        yield
    finally:
        with torch.no_grad():
            model.load_state_dict(kept)


def _images(batches: Iterator[tuple[Tensor, Tensor]], config: TrainConfig) -> Iterator[Tensor]:
    layout = torch.channels_last if config.channels_last is True else torch.preserve_format
    for images_BCHW, _ in islice(batches, NUM_BATCHES):
        yield images_BCHW.contiguous(memory_format=layout)
