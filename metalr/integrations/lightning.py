"""`MetaLR` as a Lightning callback."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from metalr.control.decision import Controller
from metalr.control.scheduler import MetaLR
from metalr.integrations.resuming import continue_from

__all__ = ["MetaLRCallback"]

METRICS = {"val_loss": "inner_valid/loss"}


class MetaLRCallback(Callback):  # type: ignore[misc]
    """Decides after each validation, and is in the Trainer's checkpoints.

    `configure_optimizers` returns one optimizer and no scheduler. A scheduler given there would be stepped
    before the validation, or lose a decision at a resume; so this one is the callback's own.

    >>> Trainer(max_epochs=20, callbacks=[MetaLRCallback()])  # doctest: +SKIP

    Args:
        controller: As in `MetaLR`.
        total_epochs: Number of validations in the training; worked out from the Trainer where not given.
        metrics: Names logged by the module, and what they are to the controller (`inner_valid/loss`,
            `inner_valid/accuracy`). Metrics of the training step are not ready when validation ends.
        settings: The rest of `MetaLR`'s arguments.
    """

    def __init__(
        self,
        controller: Controller | str | Path = "default",
        *,
        total_epochs: int | None = None,
        metrics: Mapping[str, str] = METRICS,
        **settings: Any,
    ) -> None:
        super().__init__()
        self._controller = controller
        self._total_epochs = total_epochs
        self._metrics = dict(metrics)
        self._settings = settings
        self._loaded: dict[str, Any] | None = None
        self.scheduler: MetaLR | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Build the scheduler on the Trainer's optimizer, after a checkpoint was loaded into that."""
        self.scheduler = MetaLR(
            _only_optimizer(trainer),
            self._controller,
            total_epochs=self._total_epochs or _num_validations(trainer),
            **self._settings,
        )
        if self._loaded is not None:
            continue_from(self.scheduler, self._loaded)
            self._loaded = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hand over what was logged, and set the LR."""
        if trainer.sanity_checking or self.scheduler is None or trainer.state.fn != "fit":
            return
        found = {
            ours: float(trainer.callback_metrics[theirs])
            for theirs, ours in self._metrics.items()
            if theirs in trainer.callback_metrics
        }
        self.scheduler.step(found or None)

    def state_dict(self) -> dict[str, Any]:
        """The scheduler's state."""
        return self.scheduler.state_dict() if self.scheduler is not None else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the scheduler is built."""
        self._loaded = state_dict or None


def _only_optimizer(trainer: Trainer) -> Optimizer:
    if len(trainer.optimizers) != 1 or trainer.lr_scheduler_configs:
        raise ValueError(
            f"MetaLRCallback sets the LR of one optimizer; configure_optimizers returned "
            f"{len(trainer.optimizers)} and {len(trainer.lr_scheduler_configs)} LR schedulers: "
            "return one optimizer alone"
        )
    optimizer: Optimizer = trainer.optimizers[0]
    return optimizer


def _num_validations(trainer: Trainer) -> int:
    """How many validations the training has: the Trainer's epochs, or its steps where those end it."""
    per_epoch = (
        max(1, trainer.num_training_batches // trainer.val_check_batch) if _is_in_epochs(trainer) else 0
    )
    every = trainer.check_val_every_n_epoch
    if per_epoch == 0 or every is None or (trainer.max_epochs or -1) < 1:
        raise ValueError(
            "MetaLRCallback cannot tell how many validations this training has; give it total_epochs"
        )
    by_epochs = per_epoch * math.ceil(trainer.max_epochs / every)
    if trainer.max_steps < 1:
        return int(by_epochs)
    steps = trainer.val_check_batch / trainer.accumulate_grad_batches
    return int(min(by_epochs, max(1, math.ceil(trainer.max_steps / (steps * every)))))


def _is_in_epochs(trainer: Trainer) -> bool:
    return math.isfinite(trainer.num_training_batches) and math.isfinite(trainer.val_check_batch)
