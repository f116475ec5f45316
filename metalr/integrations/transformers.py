"""`MetaLR` under the Hugging Face Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback

from metalr.control.scheduler import MetaLR
from metalr.integrations.stepping import step_to

__all__ = ["MetaLRTrainerCallback"]

NOTHING: Mapping[str, float] = {}
METRICS = {"eval_loss": "inner_valid/loss", "eval_accuracy": "inner_valid/accuracy"}


class MetaLRTrainerCallback(TrainerCallback):  # type: ignore[misc]
    """Hands each evaluation to the Trainer's `MetaLR`, which decides before the next optimizer step.

    The Trainer steps its scheduler after every optimizer step (not after one that overflowed), and before
    it evaluates. So the last of those steps is taken again with the metrics. A training loss logged at the
    same step as the evaluation is handed over too (`logging_strategy` like `eval_strategy`).

    >>> scheduler = MetaLR(optimizer, total_epochs=3, steps_per_epoch=steps)  # doctest: +SKIP
    >>> Trainer(..., optimizers=(optimizer, scheduler), callbacks=[MetaLRTrainerCallback()])  # doctest: +SKIP

    Args:
        metrics: Names of the evaluation, and what they are to the controller.

    Raises:
        ValueError: at the start of a training whose scheduler is none of `MetaLR`.
    """

    def __init__(self, metrics: Mapping[str, str] = METRICS) -> None:
        self._metrics = dict(metrics)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refuse a training whose LR another scheduler sets."""
        _scheduler(kwargs)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Mapping[str, float] = NOTHING, **kwargs: Any
    ) -> None:
        """Decide, and set the LR of the next optimizer step."""
        if state.global_step == 0 or kwargs.get("lr_scheduler") is None:  # before, or outside of, a training
            return
        found = {ours: metrics[theirs] for theirs, ours in self._metrics.items() if theirs in metrics}
        losses = [entry["loss"] for entry in state.log_history if _is_of(entry, state.global_step)]
        if losses:
            found["train/loss"] = losses[-1]
        scheduler = _scheduler(kwargs)
        step_to(scheduler, state.global_step, found or None)


def _is_of(entry: Mapping[str, Any], step: int) -> bool:
    return "loss" in entry and entry.get("step") == step


def _scheduler(kwargs: Mapping[str, Any]) -> MetaLR:
    scheduler = kwargs.get("lr_scheduler")
    scheduler = getattr(scheduler, "scheduler", scheduler)  # accelerate's wrapper
    if not isinstance(scheduler, MetaLR):
        raise ValueError(
            "MetaLRTrainerCallback needs a MetaLR as the Trainer's scheduler, got "
            f"{type(scheduler).__name__}: pass optimizers=(optimizer, MetaLR(optimizer, ...))"
        )
    return scheduler
