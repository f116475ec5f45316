"""An ensemble at work: all members in one NumPy product a layer, for decisions in a tenth of a millisecond.

The arithmetic is that of `metalr.learning.learners`, member by member.

Legend: M members, F features, K candidates, S numbers of one member's memory, H hidden units.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
from torch import nn

from metalr.learning.learners import CLIP, Learner, LSTMLearner, MLPLearner

__all__ = ["Stacked", "stacked"]


class Stacked:
    """What both kinds share: weights stacked along a first axis, and the encoding of the features."""

    def __init__(self, members: Sequence[Learner]) -> None:
        self._num_members = len(members)
        self._mean_MF = _stack([member.mean_F for member in members])
        self._scale_MF = 1.0 / _stack([member.sd_F for member in members])

    def step(self, state: Sequence[float], features_F: np.ndarray) -> tuple[list[float], np.ndarray]:
        """The members' memories after one more observation, and the mean of their heads, (K + 1,)."""
        memory_MS = np.asarray(state, dtype=np.float32).reshape(self._num_members, -1)
        moved_MS, heads_MK = self._advance(memory_MS, self._encode(features_F))
        mean_K: np.ndarray = heads_MK.mean(axis=0)
        return moved_MS.ravel().tolist(), mean_K

    @abstractmethod
    def _advance(self, memory_MS: np.ndarray, encoded_ME: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The memories after one more encoded observation (M, 2F), and the heads (M, K + 1)."""

    def _encode(self, features_F: np.ndarray) -> np.ndarray:
        features_F = np.asarray(features_F, dtype=np.float32)
        missing_F = np.isnan(features_F)
        standardised_MF = np.clip((features_F - self._mean_MF) * self._scale_MF, -CLIP, CLIP)
        standardised_MF[:, missing_F] = 0.0
        present_MF = np.broadcast_to(~missing_F, standardised_MF.shape)
        return np.concatenate([standardised_MF, present_MF], axis=1, dtype=np.float32)


class _StackedMLP(Stacked):
    def __init__(self, members: Sequence[MLPLearner]) -> None:
        super().__init__(members)
        layers = [[layer for layer in member.layers if isinstance(layer, nn.Linear)] for member in members]
        self._layers = [_Affine(position) for position in zip(*layers, strict=True)]

    def _advance(self, memory_MS: np.ndarray, encoded_ME: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen_MS = np.concatenate([memory_MS, encoded_ME], axis=1)
        hidden = seen_MS
        for layer in self._layers[:-1]:
            hidden = np.maximum(layer(hidden), 0.0)
        return seen_MS[:, encoded_ME.shape[1] :], self._layers[-1](hidden)


class _StackedLSTM(Stacked):
    def __init__(self, members: Sequence[LSTMLearner]) -> None:
        super().__init__(members)
        cells = [member.lstm for member in members]
        from_input = _stack([cell.weight_ih_l0 for cell in cells])
        from_hidden = _stack([cell.weight_hh_l0 for cell in cells])
        self._gates = np.concatenate([from_input, from_hidden], axis=2)
        self._bias = _stack([cell.bias_ih_l0 for cell in cells]) + _stack([cell.bias_hh_l0 for cell in cells])
        self._heads = _Affine([member.heads for member in members])

    def _advance(self, memory_MS: np.ndarray, encoded_ME: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        hidden, cell = np.split(memory_MS, 2, axis=1)
        gates = _product(self._gates, np.concatenate([encoded_ME, hidden], axis=1)) + self._bias
        write, keep, candidate, read = np.split(gates, 4, axis=1)  # torch's order: i, f, g, o
        cell = _sigmoid(keep) * cell + _sigmoid(write) * np.tanh(candidate)
        hidden = _sigmoid(read) * np.tanh(cell)
        return np.concatenate([hidden, cell], axis=1), self._heads(hidden)


class _Affine:
    """A linear layer of every member."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        self._weights = _stack([layer.weight for layer in layers])
        self._bias = _stack([layer.bias for layer in layers])

    def __call__(self, inputs_MI: np.ndarray) -> np.ndarray:
        outputs_MO: np.ndarray = _product(self._weights, inputs_MI) + self._bias
        return outputs_MO


def _stack(tensors: Sequence[object]) -> np.ndarray:
    return np.stack([tensor.detach().numpy() for tensor in tensors]).astype(np.float32)  # type: ignore[attr-defined]


def _product(weights_MOI: np.ndarray, inputs_MI: np.ndarray) -> np.ndarray:
    product_MO: np.ndarray = np.matmul(weights_MOI, inputs_MI[:, :, None])[:, :, 0]
    return product_MO


def _sigmoid(values: np.ndarray) -> np.ndarray:
    # the logistic function by way of tanh, which no input overflows
    half: np.ndarray = 0.5 * np.tanh(0.5 * values) + 0.5
    return half


def stacked(members: Sequence[Learner]) -> Stacked:
    """The members, all of one kind, as one. Raises TypeError on a mixture, or on another kind."""
    if all(isinstance(member, MLPLearner) for member in members):
        return _StackedMLP([member for member in members if isinstance(member, MLPLearner)])
    if all(isinstance(member, LSTMLearner) for member in members):
        return _StackedLSTM([member for member in members if isinstance(member, LSTMLearner)])
    raise TypeError(
        f"an ensemble is of MLPs or of LSTMs, got {[type(member).__name__ for member in members]}"
    )
