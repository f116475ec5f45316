"""The study `experiments/studies/other_loops.py`: its loops, its methods, and how it judges them."""

from __future__ import annotations

import json
import math
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from control.controllers import RuleController

from metalr.comparison.statistics import estimate_mean

STUDIES = Path(__file__).parent.parent / "experiments" / "studies"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(STUDIES))
    return import_module("other_loops")


@pytest.fixture
def methods(study: ModuleType) -> ModuleType:
    return import_module("other_loops_methods")


@pytest.fixture
def reporting(study: ModuleType) -> ModuleType:
    return import_module("other_loops_report")


def _controller() -> RuleController:
    return RuleController(lambda seen, features_F: 2)


def _row(method: str, lr: float, seed: int, *, test: float, outer_valid: float = 1.0) -> dict[str, Any]:
    before = {split: {"loss": 2.0, "accuracy": 0.1} for split in ("outer_valid", "test")}
    after = {
        "outer_valid": {"loss": outer_valid, "accuracy": 0.6},
        "test": {"loss": test, "accuracy": 0.5},
    }
    return {
        "loop": "tabular", "optimizer": "sgd", "method": method, "lr": lr, "seed": seed, "before": before,
        "after": after, "num_rollbacks": 0, "warnings": [], "wall_time_s": 1.0, "lrs": [lr],
    }  # fmt: skip


def test_every_loop_trains_and_so_does_every_method(study: ModuleType, methods: ModuleType) -> None:
    for name, loop in study.LOOPS.items():
        for method in methods.METHODS if name == "regression" else ("MetaLR, probe",):
            lost = methods.probe_epochs(loop) if method == "MetaLR, probe" else 0
            row = methods.train(study.Cell(name, "sgd", method, 0.01, 0, lost + 1), loop, _controller())
            assert len(row["lrs"]) == len(row["train_losses"]) == row["epochs_trained"] == 1
            # An epoch that learned nothing is undone, so that not every loss has fallen.
            assert row["after"]["test"]["loss"] <= row["before"]["test"]["loss"], (name, method)
            assert row["warnings"] == []


def test_the_same_cell_gives_the_same_bits(study: ModuleType, methods: ModuleType) -> None:
    cell, loop = study.Cell("tabular", "sgd", "MetaLR, probe", 0.03, 1, 3), study.LOOPS["tabular"]
    first, second = (methods.train(cell, loop, _controller()) for _ in range(2))
    assert first | {"wall_time_s": 0} == second | {"wall_time_s": 0}
    other = methods.train(study.Cell("tabular", "sgd", "MetaLR, probe", 0.03, 2, 3), loop, _controller())
    assert other["before"] != first["before"]


def test_a_probe_forgets_the_users_lr_and_three_lines_start_from_it(
    study: ModuleType, methods: ModuleType
) -> None:
    loop = study.LOOPS["fine-tuning"]
    peaks = {
        (method, lr): max(
            methods.train(study.Cell("fine-tuning", "sgd", method, lr, 0, 4), loop, _controller())["lrs"][:1]
        )
        for method in ("MetaLR, probe", "MetaLR")
        for lr in (0.001, 0.03)
    }
    assert peaks["MetaLR, probe", 0.001] == pytest.approx(peaks["MetaLR, probe", 0.03], rel=0.01)
    assert peaks["MetaLR", 0.03] == pytest.approx(30 * peaks["MetaLR", 0.001])


def test_fine_tuning_freezes_the_first_layer_and_keeps_its_ratios(study: ModuleType) -> None:
    loop = study.LOOPS["fine-tuning"]
    model = loop.make_model()
    groups = loop.make_groups(model, 0.5)
    assert [group["lr"] for group in groups] == pytest.approx([0.5, 0.05, 0.005])
    trained = {id(parameter) for group in groups for parameter in group["params"]}
    assert {id(p) for p in model.parameters() if p.requires_grad} == trained
    assert not model[1].weight.requires_grad


def test_splits_share_no_example(study: ModuleType) -> None:
    for name in ("tabular", "regression", "plain-cnn"):
        splits = study.LOOPS[name].load().splits
        rows = [tuple(row) for inputs, _ in splits.values() for row in inputs.flatten(1).tolist()]
        # Some of scikit-learn's rows are equal: no more of them than in the set itself.
        assert len(rows) - len(set(rows)) <= 1, name


def test_the_cosine_is_tuned_on_outer_valid_and_test_has_no_say(reporting: ModuleType) -> None:
    rows = [_row("cosine", 0.1, seed, test=0.9, outer_valid=0.5) for seed in range(6)]
    rows += [_row("cosine", 0.3, seed, test=0.1, outer_valid=0.7) for seed in range(6)]
    rows += [_row("constant", 0.1, seed, test=1.0) for seed in range(6)]
    tuned = reporting._judged(rows)["tuned"]
    assert (tuned["lr"], tuned["mean"]) == (0.1, pytest.approx(0.9))


@pytest.mark.parametrize("loss", [math.nan, math.inf, 1e9, 2.0])
def test_a_failure_counts_as_the_untrained_network(reporting: ModuleType, loss: float) -> None:
    row = _row("cosine", 0.1, 0, test=loss)
    assert reporting.has_failed(row)
    assert reporting.outcome(row, "test", "loss") == 2.0
    assert reporting.outcome(row, "test", "accuracy") == 0.1
    fine = _row("cosine", 0.1, 0, test=1.9)
    assert not reporting.has_failed(fine)
    assert reporting.outcome(fine, "test", "accuracy") == 0.5


def test_differences_are_paired_by_seed(reporting: ModuleType) -> None:
    offsets = [0.20, 0.21, 0.19, 0.22, 0.18, 0.20]
    rows = [_row("cosine", 0.1, seed, test=0.1 * seed) for seed in range(6)]
    rows += [_row("MetaLR", 0.1, seed, test=0.1 * seed + offsets[seed]) for seed in reversed(range(6))]
    rows += [_row("constant", 0.1, seed, test=0.1 * seed - offsets[seed]) for seed in range(6)]
    cells = {cell["method"]: cell for cell in reporting._judged(rows)["cells"]}
    assert cells["MetaLR"]["verdict"] == "worse"
    assert cells["constant"]["verdict"] == "better"
    assert cells["cosine"]["verdict"] == "not judged"  # equal to itself: no interval
    assert cells["MetaLR"]["difference"]["mean"] == pytest.approx(estimate_mean(offsets).mean)


def test_a_torn_line_is_trained_again(study: ModuleType, tmp_path: Path) -> None:
    kept = tmp_path / "cells.jsonl"
    kept.write_text(json.dumps({"key": "a", "lr": 1.0}) + '\n{"key": "b", "l\n' + json.dumps({"key": "c"}))
    cell = study.Cell("tabular", "sgd", "cosine", 0.1, 0, 4)
    assert study._finished(kept, {"a": cell, "b": cell}) == {"a": {"key": "a", "lr": 1.0}}
    assert study._finished(tmp_path / "none", {"a": cell}) == {}


def test_only_metalr_depends_on_the_controller(study: ModuleType) -> None:
    cosine = study.Cell("tabular", "sgd", "cosine", 0.1, 0, 4)
    learned = study.Cell("tabular", "sgd", "MetaLR", 0.1, 0, 4)
    assert study._key(cosine, "one") == study._key(cosine, "other")
    assert study._key(learned, "one") != study._key(learned, "other")


def test_the_study_asks_for_every_pair_once(study: ModuleType) -> None:
    asked = list(study.cells(range(6)))
    assert len(asked) == len(set(asked)) == 6 * (len(study.LOOPS) * 2 * (7 + 5 * 3) + 4)


def test_report_and_figure_of_a_small_study(study: ModuleType, reporting: ModuleType) -> None:
    rows = [_row(method, 0.03, seed, test=0.5) for method in study.METHODS for seed in range(2)]
    rows[-1]["warnings"] = ["something"]
    settings = {
        "controller": {"name": "rule", "sha256": "0"}, "seeds": [0, 1], "grids": {"sgd": [0.03]},
        "longer_grids": {}, "starts": {"sgd": [0.03]}, "loops": {"tabular": study._described("tabular")},
        "commit": None, "versions": {"torch": torch.__version__}, "hardware": "none",
    }  # fmt: skip
    summary = reporting.summary_of(settings, rows)
    assert json.loads(json.dumps(summary, allow_nan=False))["n"] == 2
    text = reporting.report(summary)
    assert "| MetaLR | usual | 0 | 0 | 0 | 1 |" in text
    assert "1 trainings: MetaLR, train loss only: something" in text
    svg = study.draw("tabular", summary, rows)
    assert "MetaLR, unknown total" in svg
