"""What `MetaLR` makes of its arguments, and what it says where they cannot be."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import LBFGS, Optimizer

from metalr.config import ControlConfig
from metalr.control.anchor import averages_iterates, scales_gradients
from metalr.control.decision import Controller
from metalr.control.normalisation import normalises
from metalr.control.observation import Setting
from metalr.control.schedules import initial_lr_of

__all__ = [
    "check_arguments",
    "check_optimizer",
    "lead_group",
    "resolved_controller",
    "respecting",
    "setting_of",
    "warn_of_other_budget",
    "warn_of_other_lrs",
]

SAME_LR = 1e-5
"""Relative difference between LRs that rounding to a tensor's precision may make."""


def check_optimizer(optimizer: Any) -> None:
    """Raises TypeError on what is no optimizer, ValueError on one that needs a closure."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"MetaLR needs a torch.optim.Optimizer first, got {type(optimizer).__name__}")
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if isinstance(optimizer, LBFGS) or (closure is not None and closure.default is inspect.Parameter.empty):
        raise ValueError(
            f"MetaLR cannot control {type(optimizer).__name__}: it evaluates the loss several times a step "
            "and searches its own step size; take an optimizer that steps without a closure"
        )


def check_arguments(
    total_epochs: int | None,
    steps_per_epoch: int,
    respect: float | None,
    model: nn.Module | None,
    batches: Iterable[Any] | None,
    loss_fn: Callable[..., Any] | None,
) -> None:
    """Raises ValueError naming what cannot be."""
    if (total_epochs is not None and total_epochs < 1) or steps_per_epoch < 1:
        raise ValueError(f"MetaLR needs {total_epochs=} and {steps_per_epoch=} of at least 1")
    if respect is not None and not (math.isfinite(respect) and respect >= 1.0):
        raise ValueError(f"respect is a factor of at least 1, got {respect=}")
    if (batches is None) != (loss_fn is None) or (batches is not None and model is None):
        raise ValueError("to probe, MetaLR needs all three of model=, batches= and loss_fn=")


def resolved_controller(controller: Controller | str | Path) -> Controller:
    """The controller itself, or the one of this name or path. Raises ValueError as loading does."""
    if not isinstance(controller, str | Path):
        return controller
    # Loading files is the learning room's business, which stands below this one: bound late, by name.
    loaded: Controller = import_module("metalr.learning.controller").load_controller(controller)
    return loaded


def lead_group(optimizer: Optimizer) -> int:
    """The group that LRs are told for: the first with an LR above 0. Raises ValueError where none has."""
    lrs = [initial_lr_of(group) for group in optimizer.param_groups]
    lead = next((index for index, lr in enumerate(lrs) if math.isfinite(lr) and lr > 0.0), None)
    if lead is None:
        raise ValueError(f"MetaLR needs an initial LR above 0 in some parameter group, got {lrs}")
    return lead


def respecting(config: ControlConfig, own_lr: float, respect: float | None) -> ControlConfig:
    """`config` with bounds on the peak within the factor `respect` of the user's own LR."""
    if respect is None:
        return config
    low, high = max(config.min_lr, own_lr / respect), min(config.max_lr, own_lr * respect)
    return config.model_copy(update={"min_lr": min(low, high), "max_lr": high})


def setting_of(
    optimizer: Optimizer, total_epochs: int | None, steps_per_epoch: int, model: nn.Module | None
) -> Setting:
    """What optimizer and model tell of the training. Stepped once an epoch, its steps are not known."""
    group = optimizer.param_groups[0]
    return Setting(
        total_epochs,
        steps_per_epoch if steps_per_epoch > 1 else None,
        momentum=_number(group["betas"][0] if "betas" in group else group.get("momentum")),
        weight_decay=_number(group.get("weight_decay")),
        averages_iterates=averages_iterates(optimizer),
        scales_gradients=scales_gradients(optimizer),
        normalises=None if model is None else normalises(model),
    )


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def warn_of_other_budget(state: Mapping[str, Any], total_epochs: int | None, steps_per_epoch: int) -> None:
    """Warn where a state was saved under another budget: the anchor is another one then."""
    saved = state["total_epochs"], state["steps_per_epoch"]
    if saved[1] is not None and saved != (total_epochs, steps_per_epoch):
        warnings.warn(
            f"this MetaLR state was saved with total_epochs={saved[0]}, steps_per_epoch={saved[1]}, and goes "
            f"on with {total_epochs}, {steps_per_epoch}: the LRs will be other ones",
            UserWarning,
            stacklevel=3,
        )


def warn_of_other_lrs(optimizer: Optimizer, last_lrs: Sequence[float]) -> None:
    """Warn where the optimizer's LRs are not those that the loaded scheduler had set."""
    lrs = [float(group["lr"]) for group in optimizer.param_groups]
    if len(lrs) != len(last_lrs):
        warnings.warn(
            f"the optimizer has {len(lrs)} parameter groups, the loaded MetaLR state {len(last_lrs)}",
            UserWarning,
            stacklevel=5,
        )
    elif any(abs(lr - last) > SAME_LR * abs(last) for lr, last in zip(lrs, last_lrs, strict=True)):
        warnings.warn(
            f"the optimizer's LRs {lrs} are not those of the loaded MetaLR state {list(last_lrs)}: load the "
            "optimizer's state too",
            UserWarning,
            stacklevel=5,
        )
