"""The meta-learners: networks from a trace of training states to what to expect of each candidate LR.

Each reads a whole trace at once (`forward`) or one observation at a time (`step`), with equal results.

Legend: B traces, T observations, F features, K candidates, H hidden units.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

__all__ = ["LSTMLearner", "Learner", "MLPLearner", "make_learner"]

CLIP = 5.0
"""Standardised features are clipped to plus and minus this many standard deviations."""


class Learner(nn.Module):
    """What both learners share: standardised inputs with missing ones marked, and two heads.

    Head one is the predicted log regret of each candidate, head two the predicted log final loss.
    """

    mean_F: Tensor
    sd_F: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.register_buffer("mean_F", torch.zeros(num_features))
        self.register_buffer("sd_F", torch.ones(num_features))

    def encode(self, features_F: Tensor) -> Tensor:
        """Standardised features, missing (NaN) ones at zero, and a mark for each present one; (..., 2F)."""
        present = ~features_F.isnan()
        standardised = ((features_F - self.mean_F) / self.sd_F).clamp(-CLIP, CLIP)
        return torch.cat([standardised.nan_to_num(0.0), present.to(features_F.dtype)], dim=-1)

    @abstractmethod
    def forward(self, features_BTF: Tensor) -> Tensor:
        """Both heads after each observation; (B, T, K + 1), the last column the log final loss."""

    @abstractmethod
    def initial_state(self) -> Tensor:
        """The memory before the first observation, flat."""

    @abstractmethod
    def step(self, state: Tensor, features_F: Tensor) -> tuple[Tensor, Tensor]:
        """The memory after one more observation, and both heads; (K + 1,)."""


class MLPLearner(Learner):
    """Two hidden layers over the last `window` observations; earlier than the first counts as missing."""

    def __init__(self, num_features: int, num_candidates: int, hidden: int, window: int) -> None:
        super().__init__(num_features)
        self.window = window
        self.layers = nn.Sequential(
            nn.Linear(2 * num_features * window, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, num_candidates + 1),
        )

    def forward(self, features_BTF: Tensor) -> Tensor:
        """Both heads after each observation; (B, T, K + 1)."""
        encoded = self.encode(features_BTF)
        padded = nn.functional.pad(encoded, (0, 0, self.window - 1, 0))
        length = encoded.shape[1]
        shifted = [padded[:, start : start + length] for start in range(self.window)]
        heads: Tensor = self.layers(torch.cat(shifted, dim=-1))
        return heads

    def initial_state(self) -> Tensor:
        """The encoded observations of the window but the newest, all missing."""
        return torch.zeros((self.window - 1) * 2 * len(self.mean_F))

    def step(self, state: Tensor, features_F: Tensor) -> tuple[Tensor, Tensor]:
        """The window moved on by one observation, and both heads."""
        seen = torch.cat([state, self.encode(features_F)])
        return seen[2 * len(self.mean_F) :], self.layers(seen)


class LSTMLearner(Learner):
    """One LSTM layer over the whole run (Hochreiter and Schmidhuber, 1997)."""

    def __init__(self, num_features: int, num_candidates: int, hidden: int) -> None:
        super().__init__(num_features)
        self.hidden = hidden
        self.lstm = nn.LSTM(2 * num_features, hidden, batch_first=True)
        self.heads = nn.Linear(hidden, num_candidates + 1)

    def forward(self, features_BTF: Tensor) -> Tensor:
        """Both heads after each observation; (B, T, K + 1)."""
        states_BTH, _ = self.lstm(self.encode(features_BTF))
        heads: Tensor = self.heads(states_BTH)
        return heads

    def initial_state(self) -> Tensor:
        """Hidden and cell state, zero."""
        return torch.zeros(2 * self.hidden)

    def step(self, state: Tensor, features_F: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden and cell state after one more observation, and both heads."""
        hidden, cell = state.view(2, 1, self.hidden)
        _, (hidden, cell) = self.lstm(self.encode(features_F)[None], (hidden, cell))
        return torch.cat([hidden[0], cell[0]]), self.heads(hidden[0])


def make_learner(name: str, num_features: int, num_candidates: int, hidden: int, window: int) -> Learner:
    """An untrained learner: `mlp` or `lstm`. Raises ValueError on another name."""
    if name == "mlp":
        return MLPLearner(num_features, num_candidates, hidden, window)
    if name == "lstm":
        return LSTMLearner(num_features, num_candidates, hidden)
    raise ValueError(f"unknown learner {name!r}; known: mlp, lstm")
