"""What a set of runs will cost: counted by hand at a planted pace."""

import pytest
from training.tiny import TRAIN, tiny_spec, tiny_task, trunk_spec

from metalr.harvest import cost
from metalr.harvest.cost import _Pace, estimate_cost


def test_the_estimate_counts_runs_and_epochs() -> None:
    specs = [trunk_spec(), trunk_spec("constant")]
    estimate = estimate_cost(specs, lambda spec: tiny_task(), 2)
    assert (estimate.num_runs, estimate.num_epochs) == (2, 2 * (4 + 3 * 4 + 3 * 2))
    assert estimate.wall_time_s > 0.0


@pytest.mark.parametrize("num_workers", [1, 2])
def test_steps_and_evaluated_images_are_counted(monkeypatch: pytest.MonkeyPatch, num_workers: int) -> None:
    monkeypatch.setattr(cost, "_pace_of", lambda spec, task: _Pace(step_s=1.0, image_s=0.001))

    def seconds(spec: object) -> float:
        return estimate_cost([spec], lambda spec: tiny_task(), num_workers).wall_time_s * num_workers

    # 128 images in batches of 16: 8 steps an epoch, 4 epochs; 32 images in every validation split and in test
    assert seconds(tiny_spec()) == pytest.approx(32 + 0.032 * (4 + 1 + 1 + 1))
    # a probe of 8 steps, each measured for a third more, comes out of the budget: 5 steps are left an epoch
    assert seconds(tiny_spec("metalr-mlp")) == pytest.approx(20 + 11 + 0.032 * 7)
    # 3 candidates before training and after 2 of 4 epochs: 4 + 12 + 6 epochs, two evaluations a branch
    assert seconds(trunk_spec()) == pytest.approx(22 * 5 + 11 + 0.032 * (4 + 1 + 1 + 4 + 12))


def test_each_kind_of_training_is_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = []
    monkeypatch.setattr(cost, "_pace_of", lambda spec, task: timed.append(spec) or _Pace(1.0, 0.0))
    longer = TRAIN.model_copy(update={"epochs": 9, "lr": 0.3})
    adam = TRAIN.model_copy(update={"optimizer": "adam"})
    specs = [tiny_spec(), tiny_spec("linear", seed=5), tiny_spec(train=longer), tiny_spec(train=adam)]
    estimate_cost(specs, lambda spec: tiny_task(), 1)
    assert [spec.train.optimizer for spec in timed] == ["sgd", "adam"]
