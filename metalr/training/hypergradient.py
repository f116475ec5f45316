"""Hypergradient descent: SGD that moves its own LR along the gradient of the loss with respect to it.

Baydin et al., "Online Learning Rate Adaptation with Hypergradient Descent", arXiv 1703.04782: SGD-HD, here
with momentum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["HypergradientSGD"]


class HypergradientSGD(torch.optim.Optimizer):
    """SGD with heavy ball whose LR a follows a <- max(0, a + b * <gradient, last step's direction>).

    The LR lives in `group["adapted_lr"]`; `group["lr"]` is only where it starts, so that a schedule that
    writes `lr` does not undo it.

    Args:
        params: Parameters or parameter groups; each group has an LR of its own.
        lr: Where the LR starts.
        momentum: Heavy ball, in [0, 1).
        weight_decay: L2 coefficient.
        hyper_lr: b, the LR of the LR; the paper's 0.001.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        hyper_lr: float = 1e-3,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "hyper_lr": hyper_lr}
        super().__init__(params, defaults)
        for group in self.param_groups:
            group["adapted_lr"] = float(group["lr"])

    @property
    def effective_lr(self) -> float:
        """The LR of the last step, first parameter group."""
        return float(self.param_groups[0]["adapted_lr"])

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of the LR, and with it of the weights."""
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            gradients = {p: self._gradient(p, group) for p in group["params"] if p.grad is not None}
            slope = sum(
                float(torch.vdot(gradient.flatten(), self.state[p]["direction"].flatten()))
                for p, gradient in gradients.items()
                if "direction" in self.state[p]
            )
            group["adapted_lr"] = max(0.0, group["adapted_lr"] + group["hyper_lr"] * slope)
            for p, gradient in gradients.items():
                direction = self.state[p].setdefault("direction", torch.zeros_like(p))
                direction.mul_(group["momentum"]).add_(gradient)
                p.add_(direction, alpha=-group["adapted_lr"])
        return loss

    def _gradient(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        assert parameter.grad is not None
        return parameter.grad.add(parameter, alpha=group["weight_decay"])
