"""A trunk whose branches train as one network: its rows, its identity, its refusals, a kill in between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from training.tiny import TRAIN, job_of, tiny_task, trunk_spec, without_times

from metalr.config import ConfigError, ExperimentConfig, TrainConfig, load_config
from metalr.harvest import branching
from metalr.harvest.branching import resolved_together, run_trunk
from metalr.training import RunSpec
from metalr.training.artifacts import write_json_lines


def test_a_harvest_together_equals_one_after_another(tmp_path: Path) -> None:
    told: list[int] = []
    plain = run_trunk(job_of(trunk_spec("one_cycle"), tmp_path), tiny_task())
    spec = trunk_spec("one_cycle", forks_together=True)
    assert spec.run_id != plain.run_id
    record = run_trunk(job_of(spec, tmp_path), tiny_task(), told.append)
    assert without_times(record.rows) == without_times(plain.rows)
    assert record.result["final"] == plain.result["final"]
    assert sum(told) == 4 + 3 * 4 + 3 * 2
    for found, expected in zip(record.forks, plain.forks, strict=True):
        assert found.keys() == expected.keys()
        for name in ("epoch", "candidate", "factor", "peak_lr"):
            assert found[name] == expected[name]
        for name in ("next_loss", "final_loss"):
            assert found[name] == pytest.approx(expected[name], rel=1e-5)


def test_a_fork_with_a_missing_row_trains_all_again_and_writes_that_one(tmp_path: Path) -> None:
    spec = trunk_spec(forks_together=True)
    straight = run_trunk(job_of(spec, tmp_path / "straight"), tiny_task())
    folder = tmp_path / "killed" / spec.run_id
    folder.mkdir(parents=True)
    write_json_lines(folder / "forks.jsonl", straight.forks[:2])
    killed = run_trunk(job_of(spec, tmp_path / "killed"), tiny_task())
    assert without_times(killed.forks) == without_times(straight.forks)


def test_branches_that_cannot_train_together_train_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = TRAIN.model_copy(update={"optimizer": "adamw", "lr": 0.01})
    plain = run_trunk(job_of(trunk_spec(train=train), tmp_path), tiny_task())
    monkeypatch.setattr(branching, "branches_together", None)
    with pytest.warns(UserWarning, match=r"one after another: train\.optimizer=adamw"):
        record = run_trunk(job_of(trunk_spec(train=train, forks_together=True), tmp_path), tiny_task())
    assert without_times(record.forks) == without_times(plain.forks)


def test_who_trains_together() -> None:
    def wanted(value: Any, **changes: Any) -> bool:
        return resolved_together(value, TrainConfig.model_validate(TRAIN.model_dump() | changes))

    assert [wanted(value) for value in ("auto", True, False)] == [False, True, False]
    assert [wanted(value, device="cuda") for value in ("auto", True, False)] == [False, True, False]
    assert not wanted("auto", device="cuda", optimizer="adamw")
    with pytest.warns(UserWarning, match=r"harvest\.together=true is ignored: train\.optimizer=adamw"):
        assert not wanted(True, optimizer="adamw")


def test_the_setting() -> None:
    assert ExperimentConfig().harvest.together == "auto"
    found = [
        load_config(None, [f"harvest.together={text}"]).harvest.together for text in ("true", "false", "auto")
    ]
    assert found == [True, False, "auto"]
    with pytest.raises(ConfigError, match=r"harvest\.together"):
        load_config(None, ["harvest.together=maybe"])


def test_one_after_another_is_no_part_of_the_id() -> None:
    spec = trunk_spec()
    assert spec.run_id == RunSpec.model_validate(spec.model_dump(exclude={"forks_together"})).run_id
