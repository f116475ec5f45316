"""What every example here trains: scikit-learn's digits, a small network, and what is shown of a training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

EPOCHS = 6
BATCH_SIZE = 32
LR = 0.1

IMAGES, LABELS = load_digits(return_X_y=True)
IMAGES, LABELS = torch.tensor(IMAGES, dtype=torch.float32) / 16, torch.tensor(LABELS)
TRAIN = slice(0, 1408)  # 44 batches
VALID = slice(1408, None)
STEPS_PER_EPOCH = 44


@dataclass
class Training:
    """What one call of an example did: a training from its start, or from a checkpoint."""

    state: dict[str, Any]
    """The scheduler's state at the end."""
    explanation: str
    """Why its last LR was chosen."""
    weights: dict[str, Tensor]
    lrs: list[float]
    """The LR of every optimizer step."""
    observations: int
    """How often the scheduler was shown a validation."""
    first_epoch: int = 0


def make_model() -> nn.Sequential:
    """The network, the same each time."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def batches() -> list[tuple[Tensor, Tensor]]:
    """The training set in batches, in the same order each epoch."""
    images, labels = IMAGES[TRAIN], LABELS[TRAIN]
    return list(zip(images.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True))


def validation_loss(model: nn.Module) -> float:
    """Mean cross-entropy on what was not trained on, in nats."""
    model.eval()
    with torch.no_grad():
        loss = cross_entropy(model(IMAGES[VALID]), LABELS[VALID]).item()
    model.train()
    return loss


def log_lrs(optimizer: torch.optim.Optimizer) -> list[float]:
    """A list that gets the LR of each step of `optimizer` from now on."""
    lrs: list[float] = []
    optimizer.register_step_pre_hook(lambda *_: lrs.append(float(optimizer.param_groups[0]["lr"])))
    return lrs


def report(training: Training) -> None:
    """Print the LR that each epoch began with, and why the last was chosen."""
    stride = max(1, len(training.lrs) // (EPOCHS - training.first_epoch))
    print("LR by epoch:", ", ".join(f"{lr:.3g}" for lr in training.lrs[::stride]))
    print(training.explanation)


def run(train: Callable[[Path], Training]) -> None:
    """What each example does when it is run: train in a folder that is gone afterwards."""
    with TemporaryDirectory() as folder:
        report(train(Path(folder)))
