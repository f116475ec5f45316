from collections import Counter

import pytest

from metalr.config import ConfigError, ExperimentConfig, apply_overrides
from metalr.harvest.plan import candidate_factors, check_device, epochs_of, plan_trunks, resolved_device


def plan(**harvest: object) -> list:
    changes = {f"harvest.{name}": value for name, value in harvest.items()}
    config = apply_overrides(ExperimentConfig(), {"train.device": "cpu", **changes})
    return plan_trunks(config, lambda recipe: "0" * 64)


SMALL = {
    "mixture": [{}, {"task.network": "cnn"}],
    "schedules": ["constant", "cosine"],
    "initial_lrs": [0.01, 0.1],
    "budgets": [4],
    "seeds": [7],
    "max_runs": None,
    "fork_fractions": [0.0, 0.5],
}


def test_the_product_with_one_fork_before_training_for_each_start() -> None:
    specs = plan(**SMALL)
    assert len(specs) == 8
    assert (
        Counter((spec.task.network, spec.method, spec.train.lr) for spec in specs).most_common(1)[0][1] == 1
    )
    at_start = [spec for spec in specs if 0 in spec.forks.epochs]
    assert sorted(spec.task.network for spec in at_start) == ["cnn", "mlp"]
    assert all(2 in spec.forks.epochs for spec in specs)


def test_a_thinned_plan_keeps_every_value_about_equally_often() -> None:
    specs = plan(max_runs=24, seeds=[1, 2, 3], budgets=[4, 8])
    assert len(specs) == 24
    for counts in (
        Counter(spec.method for spec in specs),
        Counter(spec.train.lr for spec in specs),
        Counter(spec.train.epochs for spec in specs),
        Counter(spec.seed for spec in specs),
    ):
        assert max(counts.values()) - min(counts.values()) <= 2
    assert [spec.run_id for spec in specs] == [
        spec.run_id for spec in plan(max_runs=24, seeds=[1, 2, 3], budgets=[4, 8])
    ]


def test_epochs_with_branches_by_hand() -> None:
    spec = next(spec for spec in plan(**SMALL, num_candidates=5) if 0 in spec.forks.epochs)
    assert epochs_of(spec) == 4 + 5 * 4 + 5 * 2


def test_candidates_are_evenly_spaced_in_log() -> None:
    config = apply_overrides(
        ExperimentConfig(), {"harvest.num_candidates": 5, "harvest.candidate_span": [0.25, 4.0]}
    )
    assert candidate_factors(config) == pytest.approx([0.25, 0.5, 1.0, 2.0, 4.0])


def test_a_wrong_mixture_entry_is_refused_with_its_path() -> None:
    with pytest.raises(ConfigError, match=r"task\.netwrk"):
        plan(mixture=[{"task.netwrk": "cnn"}])


def test_control_settings_that_cannot_change_a_trunk_do_not_change_its_id() -> None:
    def ids(**control: object) -> list[str]:
        changes = {f"control.{name}": value for name, value in control.items()}
        config = apply_overrides(ExperimentConfig(), {"train.device": "cpu", **changes})
        return [spec.run_id for spec in plan_trunks(config, lambda recipe: "0" * 64)]

    assert ids(backoff=0.3) == ids()
    assert ids(warmup_fraction=0.2) != ids()


def test_a_trunk_never_stops_early() -> None:
    config = apply_overrides(
        ExperimentConfig(), {"train.device": "cpu", "train.early_stopping": {"patience": 3}}
    )
    assert config.train.early_stopping is not None
    stopping = plan_trunks(config, lambda recipe: "0" * 64)
    assert {spec.train.early_stopping for spec in stopping} == {None}
    assert [spec.run_id for spec in stopping] == [spec.run_id for spec in plan()]


def test_runs_of_a_gpu_are_planned_anywhere_and_an_absent_one_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert [resolved_device(name) for name in ("cpu", "cuda")] == ["cpu", "cuda"]
    check_device("cpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert resolved_device("auto") == "cuda"
    check_device("cuda")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert resolved_device("auto") == "cpu"
    with pytest.raises(ConfigError, match=r"train\.device: cuda is asked for, but torch sees no GPU"):
        check_device("cuda")
    config = apply_overrides(ExperimentConfig(), {"train.device": "cuda"})
    trunks = plan_trunks(config, lambda recipe: "0" * 64)
    assert {(spec.train.device, spec.train.step) for spec in trunks} == {("cuda", "cuda_graph")}


def test_a_task_may_have_budgets_and_lrs_of_its_own() -> None:
    averaged = {"train.optimizer": "schedule_free_sgd", "harvest.initial_lrs": [3.0], "harvest.budgets": [2]}
    specs = plan(mixture=[{}, averaged], budgets=[4, 8], initial_lrs=[0.1], max_runs=None)
    found = {(spec.train.optimizer, spec.train.epochs, spec.train.lr) for spec in specs}
    assert found == {("sgd", 4, 0.1), ("sgd", 8, 0.1), ("schedule_free_sgd", 2, 3.0)}


def test_the_tasks_of_a_mixture_need_not_go_with_each_other() -> None:
    entries = [{"train.nesterov": True}, {"train.optimizer": "schedule_free_sgd"}]
    assert {spec.train.optimizer for spec in plan(mixture=entries)} == {"sgd", "schedule_free_sgd"}


def test_thinning_keeps_tasks_even_and_does_not_favour_what_few_of_them_have() -> None:
    mixture = [{}, {"task.label_noise": 0.1}, {"task.label_noise": 0.2, "harvest.budgets": [4, 8, 16]}]
    specs = plan(mixture=mixture, budgets=[4, 8], seeds=list(range(1, 9)), max_runs=30)
    assert Counter(spec.task.label_noise for spec in specs) == {0.0: 10, 0.1: 10, 0.2: 10}
    assert 3 <= sum(spec.train.epochs == 16 for spec in specs) <= 4  # a seventh of the cells


CONTROLLERS = {"mlp": "mlp.safetensors", "lstm": "lstm.safetensors"}
HASHES = {"mlp": "a" * 64, "lstm": "b" * 64}


def controlled(**changes: object) -> list:
    values = {f"harvest.{name}": value for name, value in (SMALL | {"controllers": CONTROLLERS}).items()}
    config = apply_overrides(ExperimentConfig(), {"train.device": "cpu", **values, **changes})
    return plan_trunks(config, lambda recipe: "0" * 64, HASHES)


def test_trunks_under_controllers_stand_beside_the_scheduled_ones_once_a_task() -> None:
    specs = controlled()
    learned = [spec for spec in specs if spec.controller_sha256 is not None]
    assert sorted((spec.task.network, spec.method, spec.controller_sha256) for spec in learned) == [
        (network, f"metalr-{name}", HASHES[name]) for network in ("cnn", "mlp") for name in ("lstm", "mlp")
    ]
    # The others are those of a harvest without controllers, but for who has the fork before training.
    hands = {spec.run_id for spec in plan(**SMALL)}
    assert len(hands & {spec.run_id for spec in specs}) >= 6
    assert sum(0 in spec.forks.epochs for spec in specs) == 2


def test_all_of_the_control_law_counts_for_a_trunk_under_a_controller() -> None:
    def ids(**changes: object) -> tuple[set[str], set[str]]:
        specs = controlled(**changes)
        learned = {spec.run_id for spec in specs if spec.controller_sha256}
        return learned, {spec.run_id for spec in specs} - learned

    (learned, scheduled), (others, same) = ids(), ids(**{"control.backoff": 0.3})
    assert scheduled == same
    assert not learned & others


def test_branches_may_have_a_warm_up_of_their_own() -> None:
    for spec in controlled(**{"harvest.warmup_fraction": 0.02, "control.warmup_fraction": 0.1}):
        assert spec.control.warmup_fraction == 0.02
    for spec in controlled(**{"control.warmup_fraction": 0.1}):
        assert spec.control.warmup_fraction == 0.1


def test_no_trunk_rises_since_a_candidate_is_the_lr_to_start_with() -> None:
    assert {spec.control.rise for spec in controlled(**{"control.rise": 2.0})} == {1.0}
