"""Rules that hold between values of one section."""

import pytest
from pydantic import ValidationError

from metalr.config import CompareConfig, ExperimentConfig, ProbeConfig, TaskConfig, TrainConfig


@pytest.mark.parametrize(
    "twice",
    [
        {"seeds": [1, 2, 1]},
        {"initial_lrs": [0.1, 0.1]},
        {"budgets": [4, 4]},
        {"methods": ["cosine", "cosine"]},
    ],
)
def test_a_value_twice_is_refused(twice: dict) -> None:
    with pytest.raises(ValidationError, match="holds a value twice"):
        CompareConfig(**twice)


def test_only_classes_are_smoothed() -> None:
    with pytest.raises(ValidationError, match="label_smoothing: must be 0 where task"):
        ExperimentConfig(task=TaskConfig(objective="regress"), train=TrainConfig(label_smoothing=0.1))
    ExperimentConfig(task=TaskConfig(objective="regress"))
    ExperimentConfig(train=TrainConfig(label_smoothing=0.1))


def test_nesterov_without_momentum_and_a_flat_ramp_are_refused() -> None:
    with pytest.raises(ValidationError, match="nesterov=true needs momentum"):
        TrainConfig(nesterov=True, momentum=0.0)
    with pytest.raises(ValidationError, match="must be at least 10 x min_lr"):
        ProbeConfig(min_lr=0.1, max_lr=0.5)


def test_a_configuration_never_changes() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        ExperimentConfig().train.lr = 0.5  # type: ignore[misc]
