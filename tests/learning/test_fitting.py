import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from learning.planted import OFFSETS, TELLING, planted_examples

from metalr.config import MetaTrainConfig
from metalr.learning import fitting
from metalr.learning.controller import LearnedController
from metalr.learning.ensemble import train_ensemble
from metalr.learning.examples import regret_at
from metalr.learning.fitting import fit, num_passes
from metalr.learning.rules import regrets_by_rule
from metalr.learning.task_groups import fold_of_groups

CONFIG = MetaTrainConfig(
    epochs=50, hidden=32, ensemble=1, num_folds=2, mask_rate=0.0, lr=0.004, trust=1.0, unprobed=False
)


@pytest.mark.parametrize("name", ["mlp", "lstm"])
def test_a_planted_rule_is_learned_and_beats_every_trivial_one(name: str) -> None:
    figures = fit(planted_examples(num_groups=40), name, CONFIG).held_out
    trivial = [figures[rule] for rule in ("keep", "best_fixed_lr", "best_fixed_multiple", "greedy_label")]
    assert figures["learned"] < 0.5 * min(trivial)
    assert figures["num_forks"] == 320
    assert figures["num_groups"] == 40
    assert 0.0 < figures["learned_se"] < figures["learned"]


@pytest.mark.parametrize("diverged", [-1e24, 1e24, float("nan")])
def test_one_run_that_diverged_does_not_hide_a_feature_of_the_others(diverged: float) -> None:
    examples = planted_examples(num_groups=40)
    late = int(np.flatnonzero(examples.positions_E > 0)[0])
    examples.traces_ETF[late, 0, TELLING] = diverged
    figures = fit(examples, "mlp", CONFIG).held_out
    assert figures["learned"] < 0.5 * figures["best_fixed_multiple"]
    if math.isfinite(diverged):  # the negative control
        stretched = fit(examples, "mlp", CONFIG.model_copy(update={"scale_tail": 0.0})).held_out
        assert stretched["learned"] > 0.5 * stretched["best_fixed_multiple"]


def test_features_are_standardised_by_their_ordinary_values() -> None:
    examples = planted_examples()
    examples.traces_ETF[:, :, 3] = np.nan
    examples.traces_ETF[:, :, 4] = 7.0
    examples.traces_ETF[::2, :, 5] = np.nan
    (member,), _ = train_ensemble(
        examples, None, "mlp", CONFIG.model_copy(update={"epochs": 1}), lambda: None
    )
    mean_F, sd_F = member.mean_F.numpy(), member.sd_F.numpy()
    assert (mean_F[3], sd_F[3], mean_F[4], sd_F[4]) == (0.0, 1.0, 7.0, 1.0)
    ordinary = np.delete(np.arange(len(mean_F)), [3, 4, TELLING])
    assert np.abs(mean_F[ordinary]).max() < 0.2
    assert sd_F[ordinary] == pytest.approx(1.0, abs=0.12)


def test_where_the_state_tells_nothing_nothing_is_learned() -> None:
    """The negative control: without the telling feature no rule beats the best fixed multiple by much."""
    figures = fit(planted_examples(blind=True), "mlp", CONFIG).held_out
    assert figures["learned"] > 0.8 * figures["best_fixed_multiple"]


def test_the_greedy_label_learns_the_greedy_answer() -> None:
    greedy = CONFIG.model_copy(update={"label": "greedy"})
    result = fit(planted_examples(), "mlp", greedy)
    assert result.held_out["learned"] == pytest.approx(result.held_out["greedy_label"], rel=0.25)


def test_the_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    quick = CONFIG.model_copy(update={"epochs": 2})
    torch.manual_seed(5)
    first = fit(planted_examples(), "lstm", quick)
    torch.manual_seed(6)
    second = fit(planted_examples(), "lstm", quick)
    other = fit(planted_examples(), "lstm", quick.model_copy(update={"seed": 1}))
    assert first.history == second.history
    assert first.held_out == second.held_out
    assert first.history != other.history


def test_the_auxiliary_heads_weight_counts() -> None:
    quick = CONFIG.model_copy(update={"epochs": 2})
    without = quick.model_copy(update={"meta_loss_weight": 0.0})
    assert fit(planted_examples(), "mlp", quick).history != fit(planted_examples(), "mlp", without).history


def test_no_group_is_in_two_folds_and_all_are_in_one() -> None:
    groups = np.array([f"g{index % 7}" for index in range(50)])
    folds = fold_of_groups(groups, 3, seed=1)
    members = [set(groups[folds == fold]) for fold in range(3)]
    assert sorted(len(names) for names in members) == [2, 2, 3]
    assert set.union(*members) == set(groups)
    assert sum(len(names) for names in members) == 7
    assert (fold_of_groups(groups, 3, seed=1) == folds).all()
    assert (fold_of_groups(groups, 3, seed=2) != folds).any()
    assert sorted(set(fold_of_groups(np.array(["a", "b"]), 5, 0))) == [0, 1]
    with pytest.raises(ValueError, match="at least two task groups"):
        fold_of_groups(np.array(["a", "a"]), 2, 0)


def test_no_fork_is_judged_by_an_ensemble_that_saw_its_group(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[set[str], set[str]]] = []
    original = fitting.train_ensemble

    def spy(inside: Any, outside: Any, *rest: Any) -> Any:
        seen.append((set(inside.groups_E), set(outside.groups_E) if outside is not None else set()))
        return original(inside, outside, *rest)

    monkeypatch.setattr(fitting, "train_ensemble", spy)
    quick = CONFIG.model_copy(update={"epochs": 1, "num_folds": 3})
    calls: list[int] = []
    fit(planted_examples(6, 2), "mlp", quick, lambda: calls.append(1))
    assert len(seen) == 4
    assert all(not inside & outside for inside, outside in seen)
    assert set.union(*(outside for _, outside in seen)) == seen[-1][0]  # the last one trains on all
    assert len(calls) == num_passes(planted_examples(6, 2), quick)


def test_regret_between_and_beyond_candidates_by_hand() -> None:
    examples = planted_examples(1, 2)
    at_second = examples.log_reference_E + OFFSETS[1]
    np.testing.assert_allclose(regret_at(examples, at_second), examples.regrets_EK[:, 1])
    between = examples.log_reference_E + (OFFSETS[1] + OFFSETS[2]) / 2
    np.testing.assert_allclose(regret_at(examples, between), examples.regrets_EK[:, 1:3].mean(axis=1))
    np.testing.assert_allclose(regret_at(examples, at_second + 99), examples.regrets_EK[:, -1])


def test_the_trivial_rules_against_a_slow_reference() -> None:
    examples = planted_examples(8, 4)
    mask = fold_of_groups(examples.groups_E, 4, 0) == 0
    inside, outside = examples.subset(~mask), examples.subset(mask)
    members = fit(examples, "mlp", CONFIG.model_copy(update={"epochs": 1})).members
    rules = regrets_by_rule(LearnedController(members, OFFSETS), inside, outside)
    figures = {rule: values.mean() for rule, values in rules.items()}
    keep, greedy = [], []
    for row in range(len(outside)):
        offset = outside.log_current_E[row] - outside.log_reference_E[row]
        keep.append(np.interp(offset, OFFSETS, outside.regrets_EK[row]))
        greedy.append(outside.regrets_EK[row][outside.next_regrets_EK[row].argmin()])
    assert figures["keep"] == pytest.approx(np.mean(keep))
    assert figures["greedy_label"] == pytest.approx(np.mean(greedy))
    means = inside.regrets_EK.mean(axis=0)
    assert figures["best_fixed_multiple"] == pytest.approx(outside.regrets_EK[:, means.argmin()].mean())


def test_the_greedy_rule_takes_a_candidate_that_was_tried() -> None:
    """A fork may lack candidates; what is not known is not the best."""
    examples = planted_examples(2, 2)
    lacking = examples.next_regrets_EK.copy()
    lacking[:, 0] = np.nan
    outside = replace(examples, next_regrets_EK=lacking)
    idle = LearnedController(train_ensemble(examples, None, "mlp", CONFIG, lambda: None)[0], OFFSETS)
    found = regrets_by_rule(idle, examples, outside)["greedy_label"]
    second = np.argmin(lacking[:, 1:], axis=1) + 1
    np.testing.assert_allclose(found, examples.regrets_EK[np.arange(4), second])
