"""A network on a split, and after which epochs that is looked at."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from metalr.config import TrainConfig
from metalr.tasks import Task

__all__ = ["Evaluation", "evaluate", "last_evaluated"]

EVAL_BATCH = 1000


@dataclass(frozen=True)
class Evaluation:
    """A network on a split."""

    loss: float
    """Mean cross-entropy, nats; or the mean squared error."""
    accuracy: float
    """Fraction of images told right, 0 to 1; where they are reconstructed, of their variance."""


@torch.no_grad()
def evaluate(model: nn.Module, task: Task, split: str, config: TrainConfig) -> Evaluation:
    """Mean loss and accuracy on a split, in evaluation mode; every module's mode is put back."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    total = len(task.splits[split].labels_B)
    loss = torch.zeros((), dtype=torch.float64, device=task.splits[split].labels_B.device)
    correct = torch.zeros_like(loss)
    for start in range(0, total, EVAL_BATCH):
        images_BCHW, targets_B = task.eval_batch(split, start, min(start + EVAL_BATCH, total))
        if config.channels_last is True:
            images_BCHW = images_BCHW.contiguous(memory_format=torch.channels_last)
        with torch.autocast(images_BCHW.device.type, torch.bfloat16, enabled=config.dtype == "bfloat16"):
            outputs = model(images_BCHW).float()
        if targets_B.is_floating_point():
            loss += functional.mse_loss(outputs, targets_B, reduction="sum").double() / task.num_outputs
            targets_B = targets_B.argmax(dim=1)
        else:
            loss += functional.cross_entropy(outputs, targets_B, reduction="sum").double()
        correct += (outputs.argmax(dim=1) == targets_B).sum()
    for module in training:
        module.training = True
    mean, accuracy = float(loss) / total, float(correct) / total
    if task.config.objective == "reconstruct":
        accuracy = max(0.0, 1.0 - mean / task.loss_of_guessing)
    return Evaluation(mean, accuracy)


def last_evaluated(config: TrainConfig, epoch: int) -> int:
    """The last of `epoch` completed epochs after which the inner validation split was read; 0 for none."""
    return epoch if epoch >= config.epochs else epoch - epoch % config.evaluate_every
