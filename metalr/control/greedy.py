"""GreedyLR: the LR rises while the loss falls, and falls while it does not (after arXiv 2512.14527)."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from metalr.config.schedules import GreedyConfig
from metalr.control.observation import Observation

__all__ = ["GreedyLR"]


class GreedyLR(LRScheduler):
    """Moves every group's LR by one common multiple of its initial LR, driven by the inner validation loss.

    An epoch is good where its loss is below the best so far, else bad. After `patience + 1` epochs of one
    kind in a row the LR is divided (good) or multiplied (bad) by `factor`, within the bounds, and the count
    starts anew. The first loss is only what the next one is compared with, and an epoch without a loss
    decides nothing. Against the published scheduler: no smoothing, no warm-up or cool-down after a move, no
    reset, and the first epoch does not count as good.

    Call `observe` with the epoch's observation, then `step`, once an epoch.
    """

    def __init__(self, optimizer: Optimizer, config: GreedyConfig | None = None) -> None:
        self.config = config or GreedyConfig()
        self.multiple = 1.0
        self.best_loss = math.inf
        self.num_good = 0
        self.num_bad = 0
        super().__init__(optimizer)

    def observe(self, observation: Observation) -> None:
        """Decide the LR of the next epoch; `step` sets it."""
        loss = observation.inner_valid_loss
        if loss is None:
            return
        if self.best_loss == math.inf:
            self.best_loss = loss
        elif loss < self.best_loss:
            self.best_loss = loss
            self.num_good, self.num_bad = self.num_good + 1, 0
        else:
            self.num_good, self.num_bad = 0, self.num_bad + 1
        if self.num_good > self.config.patience:
            self.multiple = min(self.multiple / self.config.factor, self.config.max_factor)
            self.num_good = 0
        if self.num_bad > self.config.patience:
            self.multiple = max(self.multiple * self.config.factor, self.config.min_factor)
            self.num_bad = 0

    def get_lr(self) -> list[float | Tensor]:
        """The LR of each group: its initial one times the common multiple."""
        return [base_lr * self.multiple for base_lr in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, as plain values; the settings are the constructor's."""
        return {key: value for key, value in super().state_dict().items() if key != "config"}
