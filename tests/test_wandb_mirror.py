"""Trainings sent to W&B while others train: every row once, or a hint; never in the way of the stage."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from training.tiny import job_of, tiny_spec, tiny_task
from training.wandb_offline import clean_environment, complete_records, rows_of

from metalr.config import ExperimentConfig
from metalr.display import Display
from metalr.training import RunRecord, train_run
from metalr.wandb_mirror import TrainingMirror
from metalr.wandb_push import push


@pytest.fixture
def records(tmp_path: Path) -> Iterator[list[RunRecord]]:
    task = tiny_task()
    with clean_environment(tmp_path):
        yield [train_run(job_of(tiny_spec(seed=seed), tmp_path / "runs"), task) for seed in (0, 1)]


@pytest.fixture(autouse=True)
def _away_from_what_was_made_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A push also sends what `make compare` left of the recipe in the working directory."""
    monkeypatch.chdir(tmp_path)


def config_of(tmp_path: Path, trainings: bool | str) -> ExperimentConfig:
    wandb = {"mode": "offline", "trainings": trainings}
    return ExperimentConfig.model_validate({"store": str(tmp_path / "runs"), "wandb": wandb})


def files_of(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "runs" / "wandb").glob("offline-run-*/run-*.wandb"))


def mirrored(config: ExperimentConfig, records: list[RunRecord]) -> TrainingMirror:
    mirror = TrainingMirror(config)
    for record in records:
        mirror.add(record.run_id)
    mirror.close(Display())
    return mirror


def test_every_training_is_a_run_of_its_own_and_a_push_has_nothing_left(
    records: list[RunRecord], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(tmp_path, True)
    mirrored(config, records)
    assert "wandb push" not in capsys.readouterr().out
    found = {path.stem.removeprefix("run-"): rows_of(complete_records(path)) for path in files_of(tmp_path)}
    assert {run: [row["lr"] for row in rows] for run, rows in found.items()} == {
        record.run_id: [row["lr"] for row in record.epochs] for record in records
    }
    push(config, Display())
    assert len(files_of(tmp_path)) == len(records)


def test_offline_they_are_left_to_a_push_which_is_named(
    records: list[RunRecord], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not mirrored(config_of(tmp_path, "auto"), records).is_on
    assert files_of(tmp_path) == []
    assert "2 of 2 trainings are not there; `metalr wandb push` sends them" in capsys.readouterr().out


def test_a_failure_is_one_warning_and_the_rest_stays_for_a_push(
    records: list[RunRecord],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import wandb

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError("planted")

    monkeypatch.setattr(wandb, "init", fail)
    with caplog.at_level(logging.WARNING):
        mirrored(config_of(tmp_path, True), records)
    assert sum("no longer sent" in message for message in caplog.messages) == 1
    assert "2 of 2 trainings" in capsys.readouterr().out
    assert not (tmp_path / "runs" / "wandb" / "pushed.json").exists()


def test_what_takes_too_long_is_left_to_a_push(
    records: list[RunRecord],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("metalr.wandb_mirror.send_run", lambda record, config: time.sleep(0.5))
    mirror = TrainingMirror(config_of(tmp_path, True))
    for record in records:
        mirror.add(record.run_id)
    mirror.close(Display(), limit_s=0.01)
    assert "2 of 2 trainings" in capsys.readouterr().out


def test_the_list_is_kept_by_project_and_mode(records: list[RunRecord], tmp_path: Path) -> None:
    mirrored(config_of(tmp_path, True), records)
    listed = json.loads((tmp_path / "runs" / "wandb" / "pushed.json").read_text())
    assert list(listed) == ["offline default/metalr"]
