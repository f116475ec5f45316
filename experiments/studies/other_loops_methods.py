"""The loop itself, and who sets its LR: cosine, a constant, or `MetaLR` used in four ways."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from other_loops_tasks import Loop
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, TensorDataset

from metalr import MetaLR
from metalr.config import ProbeConfig

__all__ = ["METALR_METHODS", "METHODS", "Cell", "probe_epochs", "train"]

METALR_METHODS = {
    "MetaLR, probe": "with `model=`, `batches=` and `loss_fn=`",
    "MetaLR": "three lines: optimizer, budget, both losses at every epoch's end; starts from the user's LR",
    "MetaLR, unknown total": "three lines with `total_epochs=None`",
    "MetaLR, train loss only": "three lines without a validation loss",
}
METHODS = ("cosine", "constant", *METALR_METHODS)
MEASURED_COST = 1 / 3
"""Of a training step: what the probe's forward pass on its fixed batch costs after each of its steps."""


@dataclass(frozen=True)
class Cell:
    """One training."""

    loop: str
    optimizer: str
    method: str
    lr: float
    """The user's."""
    seed: int
    epochs: int


@dataclass(frozen=True)
class Strategy:
    """Who sets the LR, for how many epochs."""

    epochs: int
    after_step: Callable[[], None] = lambda: None
    after_epoch: Callable[[dict[str, float]], None] = lambda metrics: None
    scheduler: MetaLR | None = None


def probe_epochs(loop: Loop) -> int:
    """Epochs that the probe's work takes out of the budget, rounded up."""
    steps = ProbeConfig().num_steps * (1.0 + MEASURED_COST)
    return math.ceil(steps / loop.steps_per_epoch())


def train(cell: Cell, loop: Loop, controller: Any) -> dict[str, Any]:
    """The cell's training as plain values: losses and accuracies before and after, LRs, failures."""
    torch.manual_seed(cell.seed)
    model = loop.make_model()
    optimizer = _optimizer(cell, loop, model)
    before = _evaluated(model, loop)
    started = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        strategy = _strategy(cell, loop, model, optimizer, controller)
        lrs, curve = _trained(cell, loop, model, optimizer, strategy)
    return {
        **asdict(cell),
        "epochs_trained": strategy.epochs,
        "before": before,
        "after": _evaluated(model, loop),
        "lrs": lrs,
        "train_losses": curve,
        "num_rollbacks": strategy.scheduler.num_rollbacks if strategy.scheduler else 0,
        "warnings": sorted({str(warning.message) for warning in caught}),
        "wall_time_s": round(time.perf_counter() - started, 3),
    }


def _optimizer(cell: Cell, loop: Loop, model: nn.Module) -> Optimizer:
    """As torch's defaults have it, beside the momentum."""
    groups = loop.make_groups(model, cell.lr)
    return SGD(groups, lr=cell.lr, momentum=0.9) if cell.optimizer == "sgd" else AdamW(groups, lr=cell.lr)


def _strategy(cell: Cell, loop: Loop, model: nn.Module, optimizer: Optimizer, controller: Any) -> Strategy:
    if cell.method == "constant":
        return Strategy(cell.epochs)
    if cell.method == "cosine":
        cosine = CosineAnnealingLR(optimizer, T_max=cell.epochs * loop.steps_per_epoch())
        return Strategy(cell.epochs, after_step=cosine.step)
    return _metalr(cell, loop, model, optimizer, controller)


def _metalr(cell: Cell, loop: Loop, model: nn.Module, optimizer: Optimizer, controller: Any) -> Strategy:
    epochs, probing = cell.epochs, {}
    if cell.method == "MetaLR, probe":
        epochs = max(1, epochs - probe_epochs(loop))
        probing = {"model": model, "batches": _loader(loop, cell.seed), "loss_fn": loop.loss_fn}
    total = None if cell.method == "MetaLR, unknown total" else epochs
    scheduler = MetaLR(optimizer, controller, total_epochs=total, **probing)

    def after_epoch(metrics: Mapping[str, float]) -> None:
        shown = {"train/loss"} if cell.method == "MetaLR, train loss only" else metrics.keys()
        scheduler.step({name: value for name, value in metrics.items() if name in shown})

    return Strategy(epochs, after_epoch=after_epoch, scheduler=scheduler)


def _loader(loop: Loop, seed: int) -> DataLoader[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(
        TensorDataset(*loop.load().splits["train"]), loop.batch_size, shuffle=True, generator=generator
    )


def _trained(
    cell: Cell, loop: Loop, model: nn.Module, optimizer: Optimizer, strategy: Strategy
) -> tuple[list[float], list[float]]:
    """Mean LR and training loss of every epoch."""
    order = torch.Generator().manual_seed(cell.seed)
    num_examples = len(loop.load().splits["train"][0])
    lrs: list[float] = []
    losses: list[float] = []
    for _ in range(strategy.epochs):
        model.train()
        steps: list[tuple[float, float]] = []
        for inputs, targets in loop.batches(torch.randperm(num_examples, generator=order)):
            optimizer.zero_grad()
            loss = loop.loss_fn(model(inputs), targets)
            loss.backward()
            optimizer.step()
            steps.append((float(optimizer.param_groups[0]["lr"]), loss.item()))
            strategy.after_step()
        lr, train_loss = (sum(column) / len(steps) for column in zip(*steps, strict=True))
        lrs.append(lr)
        losses.append(train_loss)
        valid_loss = _measured(model, loop, "inner_valid")["loss"]
        strategy.after_epoch({"train/loss": train_loss, "inner_valid/loss": valid_loss})
    if strategy.scheduler is not None:
        strategy.scheduler.close()
    return lrs, losses


def _evaluated(model: nn.Module, loop: Loop) -> dict[str, dict[str, float | None]]:
    return {split: _measured(model, loop, split) for split in ("outer_valid", "test")}


@torch.no_grad()
def _measured(model: nn.Module, loop: Loop, split: str) -> dict[str, Any]:
    model.eval()
    inputs, targets = loop.load().splits[split]
    outputs = model(inputs)
    accuracy = None if loop.accuracy_fn is None else float(loop.accuracy_fn(outputs, targets))
    return {"loss": float(loop.loss_fn(outputs, targets)), "accuracy": accuracy}
