"""`MetaLR` in other people's loops. Nothing here is imported before it is used.

A loop that steps torch schedulers itself needs none of this: `observe(metrics)`, then `step()`. These
adapters are for loops that keep the scheduler, the metrics or the checkpoint to themselves:

`lightning`     a callback that decides after each validation
`transformers`  a callback that hands the Trainer's evaluations to a `waiting` scheduler
`accelerate`    the scheduler in `save_state` and `load_state`, unwrapped
`timm`          timm's own kind of scheduler
`plateau`       for code that only gives metrics to a `ReduceLROnPlateau` (skorch among it)
`skorch`        an epoch's metrics out of skorch's history
`fastai`        a callback over fastai's own optimizers, and torch's

Behind them: `waiting` (a `MetaLR` for frameworks that step it before they validate), `resuming` (go on from
a state) and `carried_state` (a state that travels in the optimizer's, where no scheduler is checkpointed).
"""

from __future__ import annotations

import importlib
from typing import Any

__all__ = [
    "FastaiMetaLR",
    "MetaLRCallback",
    "MetaLROnPlateau",
    "MetaLRTrainerCallback",
    "TimmMetaLR",
    "WaitingMetaLR",
    "epoch_metrics",
    "keep_with",
]

_HOMES = {
    "FastaiMetaLR": ("fastai", "fastai"),
    "MetaLRCallback": ("lightning", "lightning"),
    "MetaLROnPlateau": ("plateau", ""),
    "MetaLRTrainerCallback": ("transformers", "hf"),
    "TimmMetaLR": ("timm", "timm"),
    "WaitingMetaLR": ("waiting", ""),
    "epoch_metrics": ("skorch", ""),
    "keep_with": ("accelerate", ""),
}
"""Each public name: its module, and the extra that module needs."""


def __getattr__(name: str) -> Any:
    """The public name, imported at first use. Raises ImportError naming the extra that is missing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, extra = _HOMES[name]
    try:
        return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    except ModuleNotFoundError as error:
        raise ImportError(f"{name} needs {error.name}: pip install 'metalr[{extra}]'") from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
