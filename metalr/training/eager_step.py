"""The plain training step, whose forward and loss may be compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from metalr.config import TrainConfig
from metalr.training.recipe import training_loss

__all__ = ["EagerStep", "LossOf", "OnGradients", "Step", "compiled_loss"]

LossOf = Callable[[Tensor, Tensor], Tensor]
"""The scalar training loss of images (B, C, H, W) and labels (B,), with its autograd graph."""
OnGradients = Callable[[], None]
"""Called between backward and clipping, when every `parameter.grad` is that of the batch."""


class Step(Protocol):
    """Forward, backward, clipping and update of one batch, never waiting for the device."""

    def begin_epoch(self, optimizer: torch.optim.Optimizer) -> None:
        """Step `optimizer` from now on, and take note of which parts of the network train."""
        ...

    def __call__(
        self, images_BCHW: Tensor, labels_B: Tensor, on_gradients: OnGradients | None = None
    ) -> Tensor:
        """The batch's loss before the update, detached; good until the next call."""
        ...


class EagerStep:
    """One operation after the other.

    Args:
        model: What is trained.
        optimizer: Over parameters of `model`.
        config: Loss and clipping.
        loss_of: Another way to compute the same loss; None is the plain one.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: TrainConfig,
        loss_of: LossOf | None = None,
    ) -> None:
        self._model, self._optimizer, self._config = model, optimizer, config
        self._loss_of = loss_of or (
            lambda images_BCHW, labels_B: training_loss(model, images_BCHW, labels_B, config)
        )

    def begin_epoch(self, optimizer: torch.optim.Optimizer) -> None:
        """Step `optimizer` from now on."""
        self._optimizer = optimizer

    def __call__(
        self, images_BCHW: Tensor, labels_B: Tensor, on_gradients: OnGradients | None = None
    ) -> Tensor:
        """The batch's loss before the update, detached."""
        loss = self._loss_of(images_BCHW, labels_B)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if on_gradients is not None:
            on_gradients()
        if self._config.grad_clip is not None:
            nn.utils.clip_grad_norm_(self._model.parameters(), self._config.grad_clip)
        self._optimizer.step()
        return loss.detach()


def compiled_loss(model: nn.Module, config: TrainConfig) -> LossOf:
    """`training_loss` compiled by torch. The LR is no part of it, so no change of the LR compiles anew."""

    def loss_of(images_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        return training_loss(model, images_BCHW, labels_B, config)

    compiled = torch.compile(loss_of, mode="reduce-overhead", dynamic=False)

    def one_step(images_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        # The graphs inside may now overwrite what the step before returned: its loss and its gradients.
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return compiled(images_BCHW, labels_B)

    return one_step
