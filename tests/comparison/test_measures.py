from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from metalr.comparison.measures import group_measures, lr_movement, outcome_of
from metalr.config import ExperimentConfig
from metalr.training.records import RunRecord


def test_lr_movement_by_hand() -> None:
    # log10: 0, -1, -2; mean -1; population sd sqrt(2/3); path 1 + 1.
    movement = lr_movement([1.0, 0.1, 0.01])
    assert movement is not None
    mean = 1.11 / 3
    assert movement.variance == pytest.approx(((1 - mean) ** 2 + (0.1 - mean) ** 2 + (0.01 - mean) ** 2) / 3)
    assert movement.log_sd_decades == pytest.approx((2 / 3) ** 0.5)
    assert movement.log_total_variation == pytest.approx(2.0)
    assert movement.num_clamped == 0


def test_path_counts_both_ways_and_deviation_does_not_see_order() -> None:
    up_down, down = lr_movement([0.1, 1.0, 0.1, 1.0]), lr_movement([1.0, 1.0, 0.1, 0.1])
    assert up_down is not None and down is not None
    assert (up_down.log_total_variation, down.log_total_variation) == pytest.approx((3.0, 1.0))
    assert up_down.log_sd_decades == pytest.approx(down.log_sd_decades) == pytest.approx(0.5)


def test_zero_lrs_are_clamped_and_counted() -> None:
    movement = lr_movement([0.1, 0.0])
    assert movement is not None
    assert movement.log_total_variation == pytest.approx(6.0)
    assert movement.num_clamped == 1
    assert lr_movement([0.0, 0.0]) is not None
    assert lr_movement([]) is None


def test_rounding_is_no_movement() -> None:
    movement = lr_movement([0.1, 0.1 + 1e-17, 0.3 - 0.2])
    assert movement is not None
    assert (movement.variance, movement.log_sd_decades, movement.log_total_variation) == (0.0, 0.0, 0.0)


def test_times_and_movement_are_those_of_finished_runs(
    build: Callable[..., list[RunRecord]], config_with: Callable[..., ExperimentConfig]
) -> None:
    config = config_with(methods=["step"], initial_lrs=[0.1], seeds=[0, 1, 2])
    records = build(config, lambda spec: None if spec.seed == 1 else 80.0)
    outcomes = [outcome_of(record, 10.0) for record in records]
    measures = group_measures(outcomes)
    assert measures["num_diverged"] == 1
    assert measures["train_time_s"] == pytest.approx(12.0)
    assert measures["wall_time_s"] == pytest.approx(15.0)
    assert measures["samples_per_s"] == pytest.approx(1000.0)
    assert measures["log_lr_sd_decades"] == pytest.approx(0.5)
    assert [outcome.test_accuracy_pct for outcome in outcomes] == [80.0, 10.0, 80.0]
    assert outcomes[1].test_loss is None


def test_guessing_explains_nothing_of_an_image(
    build: Callable[..., list[RunRecord]], config_with: Callable[..., ExperimentConfig]
) -> None:
    (record,) = build(config_with(methods=["step"], initial_lrs=[0.1], seeds=[0]), lambda spec: None)
    task = record.spec.task.model_copy(update={"objective": "reconstruct"})
    rebuilt = replace(record, spec=record.spec.model_copy(update={"task": task}))
    assert (outcome_of(record, 10.0).test_accuracy_pct, outcome_of(rebuilt, 10.0).test_accuracy_pct) == (
        10.0,
        0.0,
    )


def test_only_diverged_runs_leave_dashes(
    build: Callable[..., list[RunRecord]], config_with: Callable[..., ExperimentConfig]
) -> None:
    records = build(config_with(methods=["step"], initial_lrs=[0.1], seeds=[0]), lambda spec: None)
    measures = group_measures([outcome_of(record, 10.0) for record in records])
    assert measures["wall_time_s"] is None and measures["samples_per_s"] is None


def test_a_run_without_test_accuracy_is_named(
    build: Callable[..., list[RunRecord]], config_with: Callable[..., ExperimentConfig]
) -> None:
    (record,) = build(config_with(methods=["step"], initial_lrs=[0.1], seeds=[0]), lambda spec: 80.0)
    del record.result["final"]["test/accuracy"]
    with pytest.raises(ValueError, match=f"run {record.run_id} .* has no test/accuracy"):
        outcome_of(record, 10.0)
