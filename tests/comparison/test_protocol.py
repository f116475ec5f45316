from __future__ import annotations

import pytest

from metalr.comparison import Cell, cell_of, cells_of, missing_peers, plan_runs, protocol
from metalr.config import ExperimentConfig, TaskConfig, apply_overrides


def plan_config() -> ExperimentConfig:
    return ExperimentConfig.model_validate(
        {
            "task": {"dataset": "cifar10", "image_size": 16, "network": "resnet18", "width": 8},
            "compare": {
                "methods": ["cosine", "metalr-mlp"],
                "initial_lrs": [0.01, 0.1],
                "budgets": [4, 8],
                "seeds": [0, 1, 2],
            },
        }
    )


def test_every_cell_method_and_seed_once() -> None:
    config = plan_config()
    specs = plan_runs(config, "digest", "cpu", {"mlp": "a" * 64})
    assert len(specs) == 2 * 2 * 2 * 3
    assert len({spec.run_id for spec in specs}) == len(specs)
    wanted = {
        (budget, lr, method, seed)
        for budget in (4, 8)
        for lr in (0.01, 0.1)
        for method in ("cosine", "metalr-mlp")
        for seed in (0, 1, 2)
    }
    assert {(s.train.epochs, s.train.lr, s.method, s.seed) for s in specs} == wanted
    assert all(s.evaluate_test and s.train.device == "cpu" and s.data_digest == "digest" for s in specs)


def test_only_controlled_runs_carry_control() -> None:
    config = plan_config()
    for spec in plan_runs(config, "digest", "cuda", {"mlp": "a" * 64}):
        controlled = spec.method == "metalr-mlp"
        assert (spec.control is not None) == controlled
        if spec.control is not None:
            left = {
                "anchor",
                "probe",
                "warmup_fraction",
                "rise",
            }  # resolved for the optimizer and the network
            assert spec.control.model_dump(exclude=left) == config.control.model_dump(exclude=left)
            assert spec.control.rise == 1.0  # an MLP, which does not normalise
        assert spec.controller_sha256 == ("a" * 64 if controlled else None)


def test_a_baseline_does_not_depend_on_the_controller() -> None:
    config = plan_config()
    ids = [
        [s.run_id for s in plan_runs(config, "digest", "cpu", {"mlp": sha}) if s.method == "cosine"]
        for sha in ("a" * 64, "c" * 64)
    ]
    assert ids[0] == ids[1]


def test_missing_controller_and_unresolved_device_are_named() -> None:
    with pytest.raises(ValueError, match=r"metalr-mlp needs a controller of learner 'mlp'.*lstm"):
        plan_runs(plan_config(), "digest", "cpu", {"lstm": "a" * 64})
    with pytest.raises(ValueError, match="device='auto'"):
        plan_runs(plan_config(), "digest", "auto", {"mlp": "a" * 64})


def test_null_lists_fall_back_to_the_train_section() -> None:
    config = ExperimentConfig.model_validate(
        {
            "train": {"epochs": 7, "lr": 0.02},
            "compare": {"initial_lrs": None, "methods": ["step"], "seeds": [3]},
        }
    )
    (spec,) = plan_runs(config, "digest", "cpu", {})
    assert cell_of(spec) == Cell("digits mlp w32", 7, 0.02)


def test_cell_label() -> None:
    specs = plan_runs(plan_config(), "digest", "cpu", {"mlp": "a" * 64})
    assert cell_of(specs[0]) == Cell("cifar10 16px resnet18 w8", 4, 0.01)
    noisy = specs[0].model_copy(update={"task": TaskConfig(label_noise=0.2)})
    assert cell_of(noisy).task == "digits mlp w32 noise 0.2"


def peer_config(**compare: object) -> ExperimentConfig:
    methods = ["cosine", "find", "schedule-free-sgd", "prodigy", "metalr-mlp"]
    lrs = {"initial_lrs": [0.01, 0.1], "tuning_lrs": [0.03, 0.1], "budgets": [4, 8], "seeds": [0, 1]}
    return ExperimentConfig.model_validate({"compare": {"methods": methods} | lrs | compare})


def test_each_kind_of_method_runs_at_its_own_lrs() -> None:
    config = peer_config()
    specs = plan_runs(config, "digest", "cpu", {"mlp": "a" * 64})
    assert len({spec.run_id for spec in specs}) == len(specs)
    lrs = {m: sorted({s.train.lr for s in specs if s.method == m}) for m in config.compare.methods}
    assert lrs == {
        "cosine": [0.01, 0.03, 0.1],
        "find": [config.train.lr],
        "schedule-free-sgd": [0.1, 0.3, 1.0],
        "prodigy": [1.0],
        "metalr-mlp": [0.01, 0.1],
    }
    assert sum(spec.method == "prodigy" for spec in specs) == 2 * 2
    assert {s.train.optimizer for s in specs if s.method == "prodigy"} == {"prodigy"}


def test_a_run_stands_in_the_cell_it_was_planned_for() -> None:
    config = peer_config()
    specs = plan_runs(config, "digest", "cpu", {"mlp": "a" * 64})
    places = {(s.method, s.train.lr): [c.initial_lr for c in cells_of(s, config)] for s in specs}
    assert places["schedule-free-sgd", 0.3] == [0.03] and places["schedule-free-sgd", 1.0] == [0.1]
    assert places["prodigy", 1.0] == places["find", config.train.lr] == [0.01, 0.1]
    assert places["cosine", 0.03] == [0.03] and places["metalr-mlp", 0.1] == [0.1]


def test_tuning_lrs_add_runs_and_rename_none() -> None:
    hand = {"methods": ["cosine"], "tuning_lrs": None}
    before = {spec.run_id for spec in plan_runs(peer_config(**hand), "digest", "cpu", {})}
    after = {s.run_id for s in plan_runs(peer_config(methods=["cosine"]), "digest", "cpu", {})}
    assert before < after and len(after) == len(before) + 2 * 2


def test_tuning_lrs_can_be_for_some_methods_alone() -> None:
    config = peer_config(tuned_methods=["cosine", "metalr-mlp"])
    specs = plan_runs(config, "digest", "cpu", {"mlp": "a" * 64})
    lrs = {m: sorted({s.train.lr for s in specs if s.method == m}) for m in config.compare.methods}
    assert lrs["cosine"] == [0.01, 0.03, 0.1]
    assert lrs["schedule-free-sgd"] == [0.1, 1.0]
    assert lrs["metalr-mlp"] == [0.01, 0.1]  # never tuned
    places = {(s.method, s.train.lr): [c.initial_lr for c in cells_of(s, config)] for s in specs}
    assert places["cosine", 0.03] == [0.03] and places["schedule-free-sgd", 1.0] == [0.1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tuned_methods": ["adagrad"]}, "adagrad"),
        ({"tuned_methods": ["cosine", "cosine"]}, "holds a value twice"),
        ({"tuning_lrs": [0.1, 0.1]}, "holds a value twice"),
    ],
)
def test_what_cannot_be_tuned_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        peer_config(**changes)


def test_a_peer_without_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metalr.comparison.protocol.find_spec", lambda name: None)
    methods = ["cosine", "prodigy", "hypergradient-sgd"]
    assert missing_peers(methods) == {"prodigy": "the package prodigyopt is not installed"}


def test_a_controller_of_schedule_free_brings_its_optimizer_along() -> None:
    config = peer_config(methods=["metalr-lstm", "metalr-lstm-sf"])
    config = apply_overrides(config, {"train.nesterov": True})
    specs = plan_runs(config, "digest", "cpu", {"lstm": "b" * 64})
    found = {s.method: (s.train.optimizer, s.train.nesterov, s.controller_sha256) for s in specs}
    assert found == {
        "metalr-lstm": ("sgd", True, "b" * 64),
        "metalr-lstm-sf": ("schedule_free_adamw", False, "b" * 64),
    }
    assert {s.train.lr for s in specs} == {0.01, 0.1}
    controls = {s.method: s.control for s in specs}
    assert {method: control.anchor for method, control in controls.items() if control} == {
        "metalr-lstm": "hold",
        "metalr-lstm-sf": "constant",
    }


def test_a_controller_of_schedule_free_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "find_spec", lambda module: None)
    assert missing_peers(["metalr-lstm", "metalr-lstm-sf", "cosine"]) == {
        "metalr-lstm-sf": "the package schedulefree is not installed"
    }
