"""The probe on anyone's model, batches and loss: `lr_range_test` with everything put back afterwards."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from metalr.config import ProbeConfig
from metalr.control.agreement import mean_over_ranks
from metalr.control.observation import Setting
from metalr.control.probe import lr_range_test
from metalr.control.probe_curve import ProbeCurve
from metalr.control.trial_batches import BatchStream, forward_pair, scalar_loss
from metalr.control.undo import generators_of, undone

__all__ = ["UserProbe", "probe_model"]

LossFunction = Callable[[Any, Any], Tensor]
"""Maps (outputs, targets) to a scalar, or (model, batch) where its first parameter is called `model`."""
TOLERANCE = 1.01
"""How far ratios of losses may be off, for losses in 16 bits."""
_MODEL_NAMES = frozenset({"model", "net", "network", "module"})


@dataclass(frozen=True)
class UserProbe:
    """The curve, and what its first batch told of the task; None: not to be seen."""

    curve: ProbeCurve
    batch_size: int | None
    num_classes: int | None
    num_batches: int | None

    def described(self, setting: Setting) -> Setting:
        """`setting` with what was seen; a DataLoader is taken for an epoch."""
        return replace(
            setting,
            steps_per_epoch=setting.steps_per_epoch or self.num_batches,
            batch_size=self.batch_size,
            num_classes=self.num_classes,
        )


def probe_model(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_fn: LossFunction,
    batches: Iterable[Any],
    config: ProbeConfig | None = None,
    *,
    is_shared: bool = False,
) -> UserProbe:
    """The LR range test on a ramp of training steps, each on the next batch, measured on the first one.

    Model, optimizer, random numbers and a DataLoader's generators are as before it, bit for bit; an iterator
    stays where the test left it. A model in evaluation mode is put into training mode for the test. LRs are
    those of a group without timm's `lr_scale`.

    Args:
        model: Any module, on any device.
        optimizer: Over its parameters. Groups keep their ratios.
        loss_fn: A loss of (outputs, targets) for batches (inputs, targets), as in `metalr.find_lr`; or a
            function (model, batch) of any other batch, known by the name `model` of its first parameter.
        batches: A DataLoader or list, read from the start again where it ends, or a long enough iterator.
        config: The ramp; None takes the defaults.
        is_shared: Whether the ranks of a distributed run probe together: each sees the mean of their losses.

    Raises:
        ValueError: a batch that is no pair, a loss that is no scalar, batches that end before the ramp.
    """
    config = config or ProbeConfig()
    stream = BatchStream(batches, config.num_steps + 1)
    task = _Task(model, loss_fn)

    def loss_of(batch: Any) -> Tensor:
        loss = task.loss_of(batch)
        return mean_over_ranks(loss) if is_shared else loss

    with undone(model, optimizer, generators_of(batches)), torch.enable_grad():
        if not model.training:
            model.train()
        scale = _apply_lr_scales(optimizer)
        try:
            fixed = next(stream)
            curve = lr_range_test(
                model,
                optimizer,
                lambda step: loss_of(next(stream)),
                config,
                measured_loss=lambda: loss_of(fixed),
            )
        finally:
            stream.close()
    if scale != 1.0:
        curve = replace(curve, lrs=tuple(lr / scale for lr in curve.lrs))
    curve = replace(curve, is_distance=task.is_distance)
    return UserProbe(curve, task.batch_size, task.num_classes, _length(batches))


class _Task:
    """Losses of batches, and what the first of them tells."""

    def __init__(self, model: nn.Module, loss_fn: LossFunction) -> None:
        self._model, self._loss_fn = model, loss_fn
        self._takes_model = _takes_model(loss_fn)
        self.batch_size: int | None = None
        self.num_classes: int | None = None
        self.is_distance = False

    def loss_of(self, batch: Any) -> Tensor:
        """The scalar training loss of one batch."""
        if self._takes_model:
            return scalar_loss(self._loss_fn(self._model, batch))
        outputs, targets = forward_pair(self._model, batch)
        if self.batch_size is None and isinstance(targets, Tensor) and targets.dim():
            self.batch_size = len(targets)
            if isinstance(outputs, Tensor) and targets.dtype == torch.int64:
                self.num_classes = _num_classes(outputs, targets)
            else:
                self.is_distance = _is_distance(self._loss_fn, outputs, targets)
        return scalar_loss(self._loss_fn(outputs, targets))


def _num_classes(outputs: Tensor, targets: Tensor) -> int | None:
    """The size of the axis that `outputs` have and `targets` lack: the second, or of sequences the last."""
    if outputs.dim() < 2:
        return None
    shape, wanted = tuple(outputs.shape), tuple(targets.shape)
    for axis in (1, outputs.dim() - 1):
        if shape[:axis] + shape[axis + 1 :] == wanted:
            return shape[axis] if shape[axis] >= 2 else None
    return None


def _is_distance(loss_fn: LossFunction, outputs: Any, targets: Tensor) -> bool:
    """Whether the loss measures a distance from the targets: squared error, Huber, absolute error.

    Halving a distance quarters or halves such a loss, or something between, and less the nearer it is; of a
    cross-entropy of probabilities it takes more. Half, not twice: that one refuses what lies outside 0..1.
    """
    if not isinstance(outputs, Tensor) or outputs.shape != targets.shape or not targets.is_floating_point():
        return False
    with torch.no_grad():
        nearer = [targets + part * (outputs - targets) for part in (1.0, 0.5, 0.25)]
        parts = [float(scalar_loss(loss_fn(seen, targets))) for seen in nearer]
    if min(parts) <= 0.0:
        return False
    first, second = parts[1] / parts[0], parts[2] / parts[1]
    return 0.25 / TOLERANCE < second < first * TOLERANCE < 0.5 * TOLERANCE**2


def _length(batches: Iterable[Any]) -> int | None:
    """The batches of an epoch, where a DataLoader knows them."""
    if not isinstance(batches, DataLoader) or isinstance(batches.dataset, IterableDataset):
        return None
    return len(batches)


def _takes_model(loss_fn: LossFunction) -> bool:
    if isinstance(loss_fn, nn.Module):
        return False
    try:
        names = list(inspect.signature(loss_fn).parameters)
    except (TypeError, ValueError):
        return False
    return bool(names) and names[0] in _MODEL_NAMES


def _apply_lr_scales(optimizer: torch.optim.Optimizer) -> float:
    """Give every group the LR that timm's `lr_scale` means it to have; returns the first group's scale."""
    for group in optimizer.param_groups:
        if "lr_scale" in group:
            if isinstance(group["lr"], Tensor):
                group["lr"].mul_(group["lr_scale"])
            else:
                group["lr"] = group["lr"] * group["lr_scale"]
    return float(optimizer.param_groups[0].get("lr_scale", 1.0))
