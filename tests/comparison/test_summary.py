from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

import pytest

from metalr.comparison import summarise
from metalr.comparison.wording import caveats, lead_controller, strengths_and_weaknesses, verdict
from metalr.config import ExperimentConfig
from metalr.training.records import RunRecord
from metalr.training.specs import RunSpec

Build = Callable[..., list[RunRecord]]
Configure = Callable[..., ExperimentConfig]
NOISE = [0.0, 0.31, -0.22, 0.13, -0.35, 0.27]
"""Of each seed, shared by all methods: pairing takes it out."""
OWN = {
    "constant": [0.02, -0.05, 0.04, 0.01, -0.03, 0.06],
    "metalr-mlp": [-0.04, 0.03, 0.05, -0.02, 0.01, 0.02],
}


def planted(spec: RunSpec, means: dict[str, float]) -> float:
    own = OWN.get(spec.method, [0.01, 0.04, -0.02, 0.05, -0.06, 0.0])
    return means[spec.method] + NOISE[spec.seed % 6] + own[spec.seed % 6]


def numbers_in(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for item in value.values() for number in numbers_in(item)]
    if isinstance(value, list):
        return [number for item in value for number in numbers_in(item)]
    return [value] if isinstance(value, float) else []


def test_a_better_method_is_found_better(build: Build, config_with: Configure) -> None:
    config = config_with(methods=["constant", "cosine", "metalr-mlp"], initial_lrs=[0.1])
    means = {"constant": 80.0, "cosine": 82.0, "metalr-mlp": 83.0}
    summary = summarise(build(config, lambda spec: planted(spec, means)), config, {})
    (cell,) = summary["cells"]
    assert cell["methods"]["metalr-mlp"]["regret_pp"]["mean"] == pytest.approx(-1.0, abs=0.02)
    assert cell["methods"]["metalr-mlp"]["regret_pp"]["judgement"] == "below"
    pair = cell["paired"]["metalr-mlp vs cosine"]
    assert pair["judgement"] == "above" and pair["best_at_this_lr"]
    assert not cell["paired"]["metalr-mlp vs constant"]["best_at_this_lr"]
    assert pair["p"] == 0.03125 and pair["p_holm"] == 0.0625 and not pair["significant"]
    assert summary["tuned"][0]["best"] == "cosine"
    assert "ends above the best tuned baseline (cosine at 0.1): +1.00 pp" in verdict(summary)
    found = re.search(r"interval ([+-][\d.]+) to ([+-][\d.]+); 6 seeds", verdict(summary))
    assert found is not None and 0.9 < float(found[1]) < 1.0 < float(found[2]) < 1.1
    assert summary["overall"]["metalr-mlp"]["mean_rank"] == 1.0


def test_more_seeds_reach_significance(build: Build, config_with: Configure) -> None:
    config = config_with(methods=["constant", "metalr-mlp"], initial_lrs=[0.1], seeds=list(range(10)))
    records = build(config, lambda spec: planted(spec, {"constant": 80.0, "metalr-mlp": 81.0}))
    pair = summarise(records, config, {})["cells"][0]["paired"]["metalr-mlp vs constant"]
    assert pair["p_holm"] == pytest.approx(2 / 2**10) and pair["significant"]


def test_equal_methods_are_not_told_apart(build: Build, config_with: Configure) -> None:
    config = config_with(methods=["constant", "metalr-mlp"], initial_lrs=[0.1])
    records = build(config, lambda spec: planted(spec, {"constant": 80.0, "metalr-mlp": 80.0}))
    summary = summarise(records, config, {})
    assert summary["cells"][0]["paired"]["metalr-mlp vs constant"]["judgement"] == "not told apart"
    assert "cannot be told apart from" in verdict(summary)


def test_identical_results_have_no_interval_and_no_claim(build: Build, config_with: Configure) -> None:
    config = config_with(methods=["constant", "metalr-mlp"], initial_lrs=[0.1])
    summary = summarise(build(config, lambda spec: 80.0), config, {})
    pair = summary["cells"][0]["paired"]["metalr-mlp vs constant"]
    assert pair["difference_pp"]["ci95"] is None and pair["p"] == 1.0
    assert "all 6 values are equal" in verdict(summary)


def test_a_worse_method_is_found_worse(build: Build, config_with: Configure) -> None:
    config = config_with(methods=["constant", "metalr-mlp"], initial_lrs=[0.1])
    records = build(config, lambda spec: planted(spec, {"constant": 80.0, "metalr-mlp": 79.0}))
    summary = summarise(records, config, {})
    assert "ends below the best tuned baseline" in verdict(summary)
    assert any("worse in 1" in sentence for sentence in strengths_and_weaknesses(summary))


def test_a_diverged_run_counts_as_chance(build: Build, config_with: Configure) -> None:
    config = config_with(methods=["constant", "cosine"], initial_lrs=[0.1, 1.0])

    def accuracy(spec: RunSpec) -> float | None:
        return None if spec.method == "cosine" and spec.train.lr == 1.0 and spec.seed < 3 else 70.0

    summary = summarise(build(config, accuracy), config, {"num_classes": 5})
    entry = summary["cells"][1]["methods"]["cosine"]
    assert entry["num_diverged"] == 3
    assert entry["test_accuracy_pct"]["mean"] == pytest.approx((3 * 20 + 3 * 70) / 6)
    assert entry["test_loss"]["n"] == 3 and entry["test_loss"]["mean"] == pytest.approx(2.5 * 0.3)
    assert entry["wall_time_s"] == pytest.approx(15.0)
    assert any("3 runs of 24 diverged" in sentence for sentence in caveats(summary))


def test_tuning_reads_outer_valid_and_never_test(build: Build, config_with: Configure) -> None:
    config = config_with(methods=["constant", "metalr-mlp"], initial_lrs=[0.01, 0.1, 1.0], seeds=[0, 1])
    records = build(config, lambda spec: 60.0)
    for record in records:
        lr = record.spec.train.lr
        record.result["final"]["outer_valid/accuracy"] = {0.01: 0.5, 0.1: 0.9, 1.0: 0.7}[lr]
        record.result["final"]["test/accuracy"] = {0.01: 0.95, 0.1: 0.8, 1.0: 0.7}[lr]
    summary = summarise(records, config, {})
    constant = summary["tuned"][0]["methods"]["constant"]
    assert constant["lr"] == 0.1 and not constant["at_grid_edge"]
    assert constant["test_accuracy_pct"]["mean"] == pytest.approx(80.0)
    assert summary["cells"][0]["methods"]["metalr-mlp"]["regret_pp"]["mean"] == pytest.approx(-15.0)


def test_ties_in_tuning_go_to_the_lower_loss_then_the_lower_lr(build: Build, config_with: Configure) -> None:
    config = config_with(methods=["constant"], initial_lrs=[0.01, 0.1, 1.0], seeds=[0])
    records = build(config, lambda spec: 60.0)
    assert summarise(records, config, {})["tuned"][0]["methods"]["constant"]["lr"] == 0.01
    for record in records:
        record.result["final"]["outer_valid/loss"] = 1.0 / record.spec.train.lr
    constant = summarise(records, config, {})["tuned"][0]["methods"]["constant"]
    assert constant["lr"] == 1.0 and constant["at_grid_edge"]


def test_efficiency_sensitivity_and_overhead_by_hand(build: Build, config_with: Configure) -> None:
    config = config_with(methods=["constant", "step", "metalr-mlp"], initial_lrs=[0.1, 1.0], seeds=[0, 1])
    base = {"constant": 70.0, "step": 73.0, "metalr-mlp": 75.0}
    records = build(config, lambda spec: base[spec.method] + (4.0 if spec.train.lr == 1.0 else 0.0))
    summary = summarise(records, config, {})
    methods = summary["cells"][0]["methods"]
    assert methods["step"]["log_lr_sd_decades"] == pytest.approx(0.5)
    assert methods["step"]["schedule_efficiency"] == pytest.approx(3.0 / 0.5)
    assert methods["constant"]["schedule_efficiency"] is None
    assert methods["constant"]["lr_variance"] == 0.0
    assert summary["overall"]["step"]["sensitivity_pp"] == pytest.approx(2.0)
    assert summary["overall"]["metalr-mlp"]["overhead_pct"] == pytest.approx(100 * 0.24 / 15.24)
    # The reference is step at 1.0: 77 %.
    assert summary["overall"]["metalr-mlp"]["mean_regret_pp"] == pytest.approx((2.0 - 2.0) / 2)
    assert summary["overall"]["metalr-mlp"]["worst_cell_regret_pp"] == pytest.approx(2.0)


def test_missing_seeds_pair_on_the_intersection(build: Build, config_with: Configure) -> None:
    config = config_with(methods=["constant", "metalr-mlp"], initial_lrs=[0.1])
    records = build(config, lambda spec: 70.0 + spec.seed + (1.0 if spec.method == "metalr-mlp" else 0.0))
    kept = [r for r in records if not (r.spec.method == "constant" and r.spec.seed in (0, 5))]
    summary = summarise(kept, config, {})
    pair = summary["cells"][0]["paired"]["metalr-mlp vs constant"]
    assert pair["num_pairs"] == 4 and pair["difference_pp"]["mean"] == pytest.approx(1.0)
    assert pair["p"] is None and "no significance is claimed" in pair["note"]


def test_disjoint_seeds_compare_nothing(build: Build, config_with: Configure) -> None:
    config = config_with(methods=["constant", "metalr-mlp"], initial_lrs=[0.1])
    records = build(config, lambda spec: 70.0 + spec.seed)
    kept = [r for r in records if (r.spec.method == "constant") == (r.spec.seed < 3)]
    summary = summarise(kept, config, {})
    assert summary["cells"][0]["methods"]["metalr-mlp"]["regret_pp"]["mean"] is None
    assert "shares no seed" in verdict(summary)


@pytest.mark.parametrize("methods", [["metalr-mlp"], ["cosine"], ["constant", "metalr-lstm"]])
@pytest.mark.parametrize("diverges", [False, True])
def test_one_seed_one_lr_few_methods(
    build: Build, config_with: Configure, methods: list[str], diverges: bool
) -> None:
    config = config_with(methods=methods, initial_lrs=[0.1], seeds=[0], budgets=[1])
    records = build(config, lambda spec: None if diverges else 50.0)
    summary = summarise(records, config, {"versions": {"torch": math.nan}})
    text = json.dumps(summary, allow_nan=False)
    assert "NaN" not in text and all(math.isfinite(number) for number in numbers_in(summary))
    sentences = [verdict(summary), *caveats(summary), *strengths_and_weaknesses(summary)]
    assert not any("nan" in sentence or "None" in sentence for sentence in sentences)


def test_order_of_records_makes_no_difference(build: Build, config_with: Configure) -> None:
    config = config_with(methods=["constant", "cosine", "metalr-mlp"], initial_lrs=[0.1, 1.0])
    means = {"constant": 80.0, "cosine": 82.0, "metalr-mlp": 83.0}
    for accuracy in (lambda spec: planted(spec, means), lambda spec: 80.0):  # the second one is all ties
        records = build(config, accuracy)
        forward, backward = (summarise(order, config, {}) for order in (records, records[::-1]))
        assert json.dumps(forward) == json.dumps(backward)


def test_runs_of_other_settings_are_refused(build: Build, config_with: Configure) -> None:
    config = config_with(methods=["constant"], initial_lrs=[0.1], seeds=[0])
    other = config.model_copy(update={"train": config.train.model_copy(update={"batch_size": 64})})
    records = build(config, lambda spec: 80.0) + build(other, lambda spec: 80.0)
    with pytest.raises(ValueError, match="both constant, seed 0"):
        summarise(records, config, {})
    assert summarise(records[:1] * 2, config, {})["num_runs"] == 1


def test_no_runs_is_said(config_with: Configure) -> None:
    with pytest.raises(ValueError, match="no finished runs"):
        summarise([], config_with(), {})


def test_the_lead_controller_is_chosen_on_outer_valid(build: Build, config_with: Configure) -> None:
    config = config_with(methods=["constant", "metalr-mlp", "metalr-lstm"], initial_lrs=[0.1], seeds=[0])
    records = build(config, lambda spec: 80.0)
    for record in records:
        is_mlp = record.spec.method == "metalr-mlp"
        record.result["final"]["outer_valid/accuracy"] = 0.9 if is_mlp else 0.8
        record.result["final"]["test/accuracy"] = 0.8 if is_mlp else 0.9
    assert lead_controller(summarise(records, config, {})) == "metalr-mlp"


def test_schema_of_the_overall_section(build: Build, config_with: Configure) -> None:
    config = config_with(methods=["constant", "metalr-mlp"], initial_lrs=[0.1], seeds=[0, 1])
    summary = summarise(build(config, lambda spec: 70.0 + spec.seed), config, {"commit": "abc"})
    assert {"recipe", "dataset", "device", "commit", "versions", "tuning_grid_lr", "definitions"} <= set(
        summary
    )
    assert set(summary["overall"]["constant"]) >= {
        "mean_test_accuracy_pct", "mean_regret_pp", "ci95", "worst_cell_regret_pp", "sensitivity_pp",
        "mean_rank", "overhead_pct",
    }  # fmt: skip
    assert set(summary["cells"][0]["methods"]["constant"]) >= {
        "test_accuracy_pct", "test_loss", "wall_time_s", "train_time_s", "control_time_s", "eval_time_s",
        "samples_per_s", "lr_variance", "log_lr_sd_decades", "total_variation_log_lr",
        "schedule_efficiency", "regret_pp", "num_diverged",
    }  # fmt: skip


def test_tuned_methods_are_a_family_of_their_own(build: Build, config_with: Configure) -> None:
    config = config_with(methods=["constant", "cosine", "metalr-mlp"], initial_lrs=[0.1])
    means = {"constant": 80.0, "cosine": 82.0, "metalr-mlp": 83.0}
    summary = summarise(build(config, lambda spec: planted(spec, means)), config, {})
    assert summary["families"]["tuned"]["num_tests"] == 1
    entry = summary["tuned"][0]["methods"]["constant"]["against_reference"]
    assert entry["p_holm"] == entry["p"] == pytest.approx(2 / 64)
