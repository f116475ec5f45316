import numpy as np
import pytest
import torch
from learning.planted import OFFSETS, planted_examples

from metalr.config import MetaTrainConfig
from metalr.learning.controller import LearnedController
from metalr.learning.examples import regret_at, split_groups
from metalr.learning.fitting import fit, held_out_figures

CONFIG = MetaTrainConfig(epochs=60, hidden=32, ensemble=2, mask_rate=0.0, lr=0.003)


@pytest.mark.parametrize("name", ["mlp", "lstm"])
def test_a_planted_rule_is_learned_and_beats_every_trivial_one(name: str) -> None:
    figures = fit(planted_examples(num_groups=40), name, CONFIG).held_out
    trivial = [figures[rule] for rule in ("keep", "best_fixed_lr", "best_fixed_multiple", "greedy_label")]
    assert figures["learned"] < 0.5 * min(trivial)
    assert figures["num_forks"] == 80
    assert figures["num_groups"] == 10


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


def test_no_group_is_on_both_sides_of_the_split() -> None:
    groups = np.array([f"g{index % 7}" for index in range(50)])
    held_out = split_groups(groups, 0.3, seed=1)
    assert not set(groups[held_out]) & set(groups[~held_out])
    assert len(set(groups[held_out])) == 2
    assert (split_groups(groups, 0.3, seed=1) == held_out).all()
    assert 0 < split_groups(np.array(["a", "b"]), 0.01, 0).sum() < 2
    with pytest.raises(ValueError, match="at least two run groups"):
        split_groups(np.array(["a", "a"]), 0.3, 0)


def test_regret_between_and_beyond_candidates_by_hand() -> None:
    examples = planted_examples(1, 2)
    at_second = examples.log_reference_E + OFFSETS[1]
    np.testing.assert_allclose(regret_at(examples, at_second), examples.regrets_EK[:, 1])
    between = examples.log_reference_E + (OFFSETS[1] + OFFSETS[2]) / 2
    np.testing.assert_allclose(regret_at(examples, between), examples.regrets_EK[:, 1:3].mean(axis=1))
    np.testing.assert_allclose(regret_at(examples, at_second + 99), examples.regrets_EK[:, -1])


def test_the_trivial_rules_against_a_slow_reference() -> None:
    examples = planted_examples(8, 4)
    mask = split_groups(examples.groups_E, 0.25, 0)
    inside, outside = examples.subset(~mask), examples.subset(mask)
    controller = LearnedController(
        fit(examples, "mlp", CONFIG.model_copy(update={"epochs": 1})).members, OFFSETS
    )
    figures = held_out_figures(controller, inside, outside)
    keep, greedy = [], []
    for row in range(len(outside)):
        offset = outside.log_current_E[row] - outside.log_reference_E[row]
        keep.append(np.interp(offset, OFFSETS, outside.regrets_EK[row]))
        greedy.append(outside.regrets_EK[row][outside.next_regrets_EK[row].argmin()])
    assert figures["keep"] == pytest.approx(np.mean(keep))
    assert figures["greedy_label"] == pytest.approx(np.mean(greedy))
    means = inside.regrets_EK.mean(axis=0)
    assert figures["best_fixed_multiple"] == pytest.approx(outside.regrets_EK[:, means.argmin()].mean())
