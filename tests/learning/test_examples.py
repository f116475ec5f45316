from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from learning.planted import OFFSETS, planted_examples

from metalr.control import FEATURE_GROUPS, FEATURE_NAMES
from metalr.harvest.meta_dataset import MetaDataset
from metalr.learning.examples import joined, make_examples
from metalr.learning.task_groups import group_of_runs
from metalr.learning.views import seen_range, unprobed

PEAK = FEATURE_NAMES.index("log_peak_over_reference")


def test_the_unprobed_twin_by_hand() -> None:
    examples = planted_examples(2, 2)
    for name, value in (
        ("scales_gradients", 0.0), ("averages_iterates", 0.0), ("log_one_minus_momentum", np.log(0.1)),
    ):  # fmt: skip
        examples.traces_ETF[:, :, FEATURE_NAMES.index(name)] = value
    spacing = OFFSETS[1] - OFFSETS[0]
    examples.log_reference_E[:] = np.log(0.03)
    examples.log_reference_E[0] -= 2 * spacing  # this probe's guess lay two candidates below the usual LR
    twin = unprobed(examples)
    np.testing.assert_allclose(twin.log_reference_E, np.log(0.03))
    np.testing.assert_allclose(twin.regrets_EK[0, :-2], examples.regrets_EK[0, 2:], atol=1e-12)
    assert np.isnan(twin.regrets_EK[0, -2:]).all()
    np.testing.assert_allclose(twin.regrets_EK[1:], examples.regrets_EK[1:])
    np.testing.assert_allclose(twin.traces_ETF[0, :, PEAK], examples.traces_ETF[0, :, PEAK] - 2 * spacing)
    unseen = [*FEATURE_GROUPS["probe"], *FEATURE_GROUPS["model"]]
    others = [index for index in range(len(FEATURE_NAMES)) if index not in {*unseen, PEAK}]
    assert np.isnan(twin.traces_ETF[:, :, unseen]).all()
    np.testing.assert_array_equal(twin.traces_ETF[:, :, others], examples.traces_ETF[:, :, others])
    assert not np.isnan(examples.traces_ETF[:, :, unseen]).any()  # the original is left as it was
    both = joined(examples, twin)
    assert len(both) == 8
    np.testing.assert_array_equal(both.groups_E[:4], both.groups_E[4:])


def test_the_range_that_was_seen_is_that_with_a_probe_and_without() -> None:
    examples = planted_examples(2, 2)
    for name, value in (
        ("scales_gradients", 0.0), ("averages_iterates", 0.0), ("log_one_minus_momentum", np.log(0.1)),
        ("normalises", 0.0),
    ):  # fmt: skip
        examples.traces_ETF[:, :, FEATURE_NAMES.index(name)] = value
    # The usual LR lies above the probe's: relative to it, peaks are lower.
    examples.log_reference_E[:] = np.log(0.03) - 1.0
    examples.traces_ETF[:, :, PEAK] = 0.25
    probed, never = FEATURE_GROUPS["probe"][0], FEATURE_GROUPS["probe"][1]
    examples.traces_ETF[0, 0, probed] = 9.0
    examples.traces_ETF[:, :, never] = np.nan
    lowest, highest = seen_range(examples)
    assert (lowest[PEAK], highest[PEAK]) == pytest.approx((-0.75, 0.25))
    assert highest[probed] == 9.0
    assert (lowest[never], highest[never]) == (-np.inf, np.inf)


def test_the_twin_whose_model_is_known_starts_from_the_lr_that_is_usual_with_it() -> None:
    examples = planted_examples(2, 2)
    for name, value in (
        ("scales_gradients", 0.0), ("averages_iterates", 0.0), ("log_one_minus_momentum", np.log(0.1)),
        ("normalises", 1.0),
    ):  # fmt: skip
        examples.traces_ETF[:, :, FEATURE_NAMES.index(name)] = value
    known, unknown = unprobed(examples, knows_model=True), unprobed(examples)
    np.testing.assert_allclose(known.log_reference_E, np.log(0.1))
    np.testing.assert_allclose(unknown.log_reference_E, np.log(0.03))
    assert (known.traces_ETF[:, :, FEATURE_NAMES.index("normalises")] == 1.0).all()


@pytest.mark.parametrize(("networks", "groups"), [(["mlp", "mlp", "cnn"], 2), (["mlp"] * 3, 3)])
def test_runs_of_one_task_are_held_out_together_where_there_are_several(
    networks: list[str], groups: int
) -> None:
    runs = pd.DataFrame({"run_id": ["a", "b", "c"], "network": networks, "group": ["1", "2", "3"]})
    found = group_of_runs(pd.concat([runs, runs]))
    assert len(set(found.values())) == groups
    assert list(found) == ["a", "b", "c"]


def _meta_dataset(curves: dict[str, tuple[list[float], list[float]]]) -> MetaDataset:
    """One fork before training a run: its factors, and the final loss of each; the reference LR is 1."""
    features = {f"feature/{name}": [0.0] for name in FEATURE_NAMES} | {"feature/log_classes": [2.3]}
    transitions = [
        pd.DataFrame({"run_id": [run], "group": [run], "network": [run], "epoch": [0], **features})
        for run in curves
    ]
    forks = [
        pd.DataFrame(
            {
                "run_id": run,
                "epoch": 0,
                "candidate": range(len(factors)),
                "factor": factors,
                "peak_lr": factors,
                "current_peak_lr": 1.0,
                "final_loss": losses,
                "regret": np.array(losses) - min(losses),
                "next_loss": losses,
                "next_regret": np.array(losses) - min(losses),
            }
        )
        for run, (factors, losses) in curves.items()
    ]
    return MetaDataset(pd.concat(transitions), pd.concat(forks, ignore_index=True), {})


def test_forks_of_harvests_with_other_candidates_are_read_at_those_that_most_have() -> None:
    usual, losses = [0.25, 0.5, 1.0, 2.0, 4.0], [1.4, 1.2, 1.0, 1.1, 1.5]
    fewer = ([0.5, 1.0, 2.0], [1.3, 1.0, 1.2])
    finer = ([0.25, 2**-1.5, 0.5, 2**-0.5, 1.0, 2**0.5, 2.0, 4.0], [2.0, 1.5, 1.4, 1.2, 1.0, 1.1, 1.3, 1.6])
    apart = ([10.0, 20.0, 40.0, 80.0], [1.0, 1.1, 1.2, 1.3])
    examples = make_examples(
        _meta_dataset({"a": (usual, losses), "b": (usual, losses), "c": fewer, "d": finer, "e": apart})
    )
    np.testing.assert_allclose(examples.log_offsets_K, np.log(usual))
    assert examples.run_ids_E.tolist() == ["a", "b", "c", "d"]
    nan = np.nan
    expected = [
        [0.4, 0.2, 0.0, 0.1, 0.5],
        [0.4, 0.2, 0.0, 0.1, 0.5],
        [nan, 0.3, 0.0, 0.2, nan],
        [1.0, 0.4, 0.0, 0.3, 0.6],
    ]  # and the last fork has nothing in common with the others
    np.testing.assert_allclose(examples.regrets_EK, expected, atol=1e-12)
    np.testing.assert_allclose(examples.log_reference_E, 0.0, atol=1e-12)


def test_a_loss_without_classes_counts_up_to_log_10_and_tells_no_accuracy() -> None:
    curve = ([0.5, 1.0, 2.0], [1.0, 0.5, 9.0])
    dataset = _meta_dataset({"a": curve, "b": curve})
    squared = dataset.transitions["run_id"] == "a"
    dataset.transitions["feature/inner_valid_accuracy"] = 0.7
    dataset.transitions.loc[squared, "feature/log_classes"] = np.nan
    examples = make_examples(dataset)
    np.testing.assert_allclose(examples.regrets_EK, [[0.5, 0.0, np.log(10) - 0.5], [0.5, 0.0, 1.8]])
    np.testing.assert_allclose(examples.log_best_loss_E, np.log([0.5 / np.log(10), 0.5 / 2.3]))
    accuracies_E = examples.traces_ETF[:, 0, FEATURE_NAMES.index("inner_valid_accuracy")]
    np.testing.assert_equal(accuracies_E, [np.nan, 0.7])
