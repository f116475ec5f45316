"""`MetaLR` under the Hugging Face Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback

from metalr.integrations.waiting import WaitingMetaLR

__all__ = ["MetaLRTrainerCallback"]

NOTHING: Mapping[str, float] = {}
METRICS = {"eval_loss": "inner_valid/loss", "eval_accuracy": "inner_valid/accuracy"}


class MetaLRTrainerCallback(TrainerCallback):  # type: ignore[misc]
    """Hands each evaluation to the Trainer's `WaitingMetaLR`, which decides before the next optimizer step.

    The Trainer steps its scheduler after every optimizer step, and before it evaluates. So the step that ends
    an epoch waits for the evaluation. One in the middle of an epoch is decided on after the next optimizer
    step. A training loss logged at the same step as the evaluation is handed over too
    (`logging_strategy` like `eval_strategy`). A step that overflowed counts as one.

    >>> scheduler = WaitingMetaLR(optimizer, total_epochs=3, steps_per_epoch=steps)  # doctest: +SKIP
    >>> Trainer(..., optimizers=(optimizer, scheduler), callbacks=[MetaLRTrainerCallback()])  # doctest: +SKIP

    Args:
        metrics: Names of the evaluation, and what they are to the controller.

    Raises:
        ValueError: at the start of a training whose scheduler is none of `WaitingMetaLR`.
    """

    def __init__(self, metrics: Mapping[str, str] = METRICS) -> None:
        self._metrics = dict(metrics)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refuse a training whose LR another scheduler sets."""
        _scheduler(kwargs)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End an epoch that no evaluation followed."""
        _scheduler(kwargs).end_epoch()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count the steps that overflowed, which the Trainer does not."""
        scheduler = _scheduler(kwargs)
        while scheduler.num_units < state.global_step and scheduler.num_units > 0:  # at 0 torch would warn
            scheduler.step()

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
        if found:
            scheduler.observe(found)
        scheduler.end_epoch()


def _is_of(entry: Mapping[str, Any], step: int) -> bool:
    return "loss" in entry and entry.get("step") == step


def _scheduler(kwargs: Mapping[str, Any]) -> WaitingMetaLR:
    scheduler = kwargs.get("lr_scheduler")
    scheduler = getattr(scheduler, "scheduler", scheduler)  # accelerate's wrapper
    if not isinstance(scheduler, WaitingMetaLR):
        raise ValueError(
            "MetaLRTrainerCallback needs a WaitingMetaLR as the Trainer's scheduler, got "
            f"{type(scheduler).__name__}: pass optimizers=(optimizer, WaitingMetaLR(optimizer, ...))"
        )
    return scheduler
