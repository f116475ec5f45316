"""`MetaLR` under accelerate: in its checkpoints, and outside of its wrapper."""

from __future__ import annotations

from typing import Any

from metalr.control.scheduler import MetaLR

__all__ = ["keep_with"]


def keep_with(accelerator: Any, scheduler: MetaLR) -> MetaLR:
    """The scheduler itself, now part of `accelerator.save_state` and `load_state`.

    Build it on the optimizer before `accelerator.prepare`, and leave it out of `prepare`: the wrapper that
    comes from there hides `observe`, and steps once a process, which would end the budget early.

    >>> scheduler = keep_with(accelerator, MetaLR(optimizer, total_epochs=20))  # doctest: +SKIP
    """
    accelerator.register_for_checkpointing(scheduler)
    return scheduler
