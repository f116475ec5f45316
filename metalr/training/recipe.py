"""The recipe's arithmetic: the loss of a batch, and the optimizer that follows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from metalr.config import TrainConfig
from metalr.training.param_groups import parameter_groups
from metalr.training.peer_optimizers import PEER_OPTIMIZERS, make_peer_optimizer

__all__ = ["make_optimizer", "training_loss"]


def make_optimizer(model: nn.Module, config: TrainConfig, budget_steps: int = 0) -> torch.optim.Optimizer:
    """The optimizer that `config` names, at its initial LR, over the model's `parameter_groups`.

    On a GPU torch's fused kernels do the update, but for `eager` steps, which keep torch's
    default. `budget_steps`, the steps of the whole run, are for the warm-up of Schedule-Free; 0 is none.
    Raises ConfigError where the network has too few parts for `depth_groups`, or a package is missing.
    """
    groups = parameter_groups(model, config)
    if config.optimizer in PEER_OPTIMIZERS:
        normalised = any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in model.modules())
        return make_peer_optimizer(groups, config, budget_steps, normalised)
    on_gpu = next(model.parameters()).device.type == "cuda"
    fused = True if on_gpu and config.step != "eager" else None
    if config.optimizer == "sgd":
        momentum, nesterov = config.momentum, config.nesterov
        return torch.optim.SGD(groups, lr=config.lr, momentum=momentum, nesterov=nesterov, fused=fused)
    adam = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return adam(groups, lr=config.lr, betas=(config.momentum, config.beta2), fused=fused)


def training_loss(
    model: Callable[[Tensor], Any], images_BCHW: Tensor, targets_B: Tensor, config: TrainConfig
) -> Tensor:
    """The scalar training loss of a batch, in the recipe's arithmetic.

    Cross-entropy with label smoothing where the targets are classes (int64), nats; the mean squared error
    where they are numbers, of shape (B, outputs).
    """
    if config.channels_last is True:
        images_BCHW = images_BCHW.contiguous(memory_format=torch.channels_last)
    with torch.autocast(images_BCHW.device.type, torch.bfloat16, enabled=config.dtype == "bfloat16"):
        outputs = model(images_BCHW)
    if targets_B.is_floating_point():
        return functional.mse_loss(outputs.float(), targets_B)
    return functional.cross_entropy(outputs.float(), targets_B, label_smoothing=config.label_smoothing)
