"""The LR finder: the range test on anyone's model and batches, with suggestions and their reasons.

    result = find_lr(model, optimizer, torch.nn.CrossEntropyLoss(), train_loader)
    print(result.lr, result.reason)

Source: Smith, "Cyclical Learning Rates for Training Neural Networks", arXiv 1506.01186.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from metalr.config import FinderConfig
from metalr.control.finder_rules import NUM_START, FinderCurve, Suggestion, choose, suggestions_of
from metalr.control.ramp import run_ramp
from metalr.control.trial_batches import BatchStream, forward_pair, scalar_loss
from metalr.control.undo import generators_of, undone

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Forward", "LRFinderResult", "find_lr"]

Forward = Callable[[nn.Module, Any], tuple[Any, Any]]
"""Maps a model and a batch as it comes to the outputs and the targets that the loss takes."""
PATIENCE = 2
"""Two losses in succession must be too large: one alone may be a hard batch."""


@dataclass(frozen=True)
class LRFinderResult:
    """What the finder saw, and what follows from it."""

    curve: FinderCurve
    suggestions: dict[str, Suggestion]
    """By rule: `valley`, `steepest`, `minimum`."""
    rule: str
    """Which of them is asked for."""

    @property
    def lr(self) -> float | None:
        """The LR for the first parameter group: the asked rule's, or another's in the order of `suggestions`.

        None where no rule has one; `reason` says why.
        """
        return choose(self.suggestions, self.rule).lr

    @property
    def reason(self) -> str:
        """Where `lr` comes from, or why there is none."""
        return choose(self.suggestions, self.rule).reason

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        suggestions = {
            rule: {"lr": suggestion.lr, "reason": suggestion.reason}
            for rule, suggestion in self.suggestions.items()
        }
        return {
            "lr": self.lr,
            "reason": self.reason,
            "rule": self.rule,
            "suggestions": suggestions,
            "curve": self.curve.to_dict(),
        }

    def plot(self, path: str | Path | None = None) -> Figure:
        """The curve with the suggestions marked; saved where `path` is given (.svg, .png).

        Raises:
            ValueError: a suffix that matplotlib cannot write.
        """
        from metalr.control.finder_plot import draw_finder

        return draw_finder(self.curve, self.suggestions, path)


def find_lr(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[Any, Any], Tensor],
    batches: Iterable[Any],
    *,
    config: FinderConfig | None = None,
    forward: Forward | None = None,
) -> LRFinderResult:
    """The LRs that a range test suggests; model, optimizer and random numbers are as before it, bit for bit.

    `config.num_steps` training steps on a rising LR, each on the next batch, until the loss exploded. Then,
    also after an exception or Ctrl-C, all of it is undone (`metalr.control.undo.undone` lists what); an LR
    scheduler attached to the optimizer is not stepped. A model in evaluation mode is put into training mode
    for the test; one in training mode keeps the modes of its modules.

    Args:
        model: Any module, on any device.
        optimizer: Over its parameters, with all settings but the LR as in training. Groups keep their ratios.
        loss: Maps outputs and targets to a scalar: `torch.nn.CrossEntropyLoss()`, or any function.
        batches: Pairs (inputs, targets), moved to the model's device: a DataLoader, a list, read from the
            start again where it ends. An iterator stays where the test left it.
        config: The ramp and the rule; None takes the defaults.
        forward: Replaces `model(inputs)` and the move to the device, for batches of any other kind.

    Raises:
        ValueError: a batch that is no pair, a loss that is no scalar or has no gradient, an optimizer that
            searches its own steps (L-BFGS) or holds none of the model's parameters, an LR of 0, or `batches`
            that end before the ramp and cannot be read again. No result is made of what came: the LRs that
            matter lie at the end of the ramp, so that one cut short would suggest too low an LR.
    """
    config = config or FinderConfig()
    _check(model, optimizer)
    stream = BatchStream(batches, config.num_steps + 1)
    lrs = _lrs(config)
    with undone(model, optimizer, generators_of(batches)), torch.enable_grad():
        if not model.training:
            model.train()
        try:
            outcome = run_ramp(
                optimizer,
                lambda step: scalar_loss(loss(*(forward or forward_pair)(model, next(stream)))),
                lrs,
                config.explode_factor,
                num_start=NUM_START,
                patience=PATIENCE,
            )
        finally:
            stream.close()
    tested = tuple(lrs[: len(outcome.losses)])
    curve = FinderCurve(tested, outcome.losses, outcome.initial_loss, outcome.exploded, outcome.num_steps)
    return LRFinderResult(curve, suggestions_of(curve), config.rule)


def _lrs(config: FinderConfig) -> list[float]:
    space = np.geomspace if config.spacing == "exponential" else np.linspace
    lrs: list[float] = space(config.min_lr, config.max_lr, config.num_steps).tolist()
    return lrs


def _check(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError("L-BFGS searches its own step sizes: an LR range test says nothing about it")
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(id(p) in held for p in model.parameters()):
        raise ValueError(
            "the optimizer holds none of the model's parameters: make it from model.parameters()"
        )
