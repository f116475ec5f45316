"""The memory layout of images and convolution weights: `train.channels_last` made into yes or no."""

from __future__ import annotations

from typing import Literal

from metalr.config import TaskConfig

__all__ = ["resolved_layout"]

WIDE = 16
"""Channels of the first stage from which two threads gain by channels_last; at 8 they lose 12 to 22 %."""


def resolved_layout(setting: bool | Literal["auto"], task: TaskConfig, device: str, threads: int) -> bool:
    """Whether images and weights lie channels_last: what `setting` says, else what measurement favours.

    On the CPU (`make bench BENCH=floor`; ResNet-18 at width 8 and 16, 16 and 32 px, batch 128) one thread
    gains 24 to 45 %, two threads gain at width 16 and lose at width 8; the plain CNN gains 12 to 84 % on
    one thread; a network without convolutions has nothing to lay out. On a GPU nothing has been measured
    yet: there `auto` is torch's own layout.

    Args:
        setting: `train.channels_last`.
        task: The network and its width.
        device: `cpu` or `cuda`.
        threads: CPU threads of the run.
    """
    if setting != "auto":
        return setting
    convolutional = task.network != "mlp"
    return device == "cpu" and convolutional and (threads == 1 or task.width >= WIDE)
