"""An epoch's metrics out of skorch's history, for its `LRScheduler` with `MetaLROnPlateau`."""

from __future__ import annotations

from typing import Any

__all__ = ["epoch_metrics"]

COLUMNS = {
    "train_loss": "train/loss",
    "valid_loss": "inner_valid/loss",
    "valid_acc": "inner_valid/accuracy",
}


def epoch_metrics(net: Any) -> dict[str, float]:
    """What the last epoch of `net` showed, under metalr's names; give it as `monitor`.

    >>> LRScheduler(policy=MetaLROnPlateau, monitor=epoch_metrics, total_epochs=20)  # doctest: +SKIP
    """
    last = net.history[-1]
    return {ours: float(last[theirs]) for theirs, ours in COLUMNS.items() if theirs in last}
