"""Controllers written by hand, for tests."""

import hashlib
from collections.abc import Callable

import numpy as np

from metalr.control import FEATURE_NAMES, Prediction


class RuleController:
    """Chooses the candidate that `rule` says, from the number of observations seen and the features."""

    def __init__(self, rule: Callable[[int, np.ndarray], int], name: str = "rule") -> None:
        self._rule = rule
        self.sha256 = hashlib.sha256(name.encode()).hexdigest()
        self.log_offsets = tuple(np.log([0.25, 0.5, 1.0, 2.0, 4.0]).tolist())

    def initial_state(self) -> list[float]:
        return [0.0]

    def step(self, state: list[float], features_F: np.ndarray) -> tuple[list[float], Prediction]:
        assert features_F.shape == (len(FEATURE_NAMES),)
        chosen = self._rule(int(state[0]), features_F)
        regrets = tuple(float(abs(k - chosen)) for k in range(5))
        return [state[0] + 1.0], Prediction(regrets, 0.0)


class BrokenController(RuleController):
    """Predicts NaN from its second decision on."""

    def step(self, state: list[float], features_F: np.ndarray) -> tuple[list[float], Prediction]:
        new_state, prediction = super().step(state, features_F)
        if state[0] >= 1.0:
            prediction = Prediction((float("nan"),) * 5, 0.0)
        return new_state, prediction
