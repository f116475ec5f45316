"""Local records sent to W&B: every row of every finished run, once, also after a kill."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from training.tiny import TRAIN, job_of, rule_controller, tiny_spec, tiny_task, trunk_spec
from training.wandb_offline import clean_environment, complete_records, items, of_kind, rows_of

from metalr import wandb_send
from metalr.config import ConfigError, ExperimentConfig
from metalr.display import Display
from metalr.training import RunRecord, train_run
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


def config_of(tmp_path: Path, mode: str = "offline") -> ExperimentConfig:
    return ExperimentConfig.model_validate({"store": str(tmp_path / "runs"), "wandb": {"mode": mode}})


def sent(tmp_path: Path) -> dict[str, list[dict[str, Any]]]:
    """Run id -> the rows in its offline file."""
    files = sorted((tmp_path / "runs" / "wandb").glob("offline-run-*/run-*.wandb"))
    return {path.stem.removeprefix("run-"): rows_of(complete_records(path)) for path in files}


def test_every_row_of_every_run_arrives_once(records: list[RunRecord], tmp_path: Path) -> None:
    ledger = push(config_of(tmp_path), Display())
    found = sent(tmp_path)
    assert set(found) == {record.run_id for record in records}
    for record in records:
        rows = found[record.run_id]
        assert [row["epoch"] for row in rows] == [row["epoch"] for row in record.epochs]
        for row, local in zip(rows, record.epochs, strict=True):
            for key in ("lr", "train/loss", "inner_valid/accuracy", "time/train_s"):
                assert row[key] == local[key]
    (listed,) = json.loads(ledger.read_text()).values()
    assert sorted(listed) == sorted(found)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.wandb")}
    push(config_of(tmp_path), Display())
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.wandb")} == before


def scalars(values: dict[str, Any]) -> dict[str, Any]:
    """What a chart can show of a local row: no None, no sections."""
    return {key: value for key, value in values.items() if isinstance(value, int | float | str)}


@pytest.mark.parametrize("kind", ["baseline", "controller", "trunk", "diverged"])
def test_a_training_is_what_its_local_record_is(tmp_path: Path, kind: str) -> None:
    """Row by row and figure by figure, under its id, group, job type, tags, and with the epoch as x axis."""
    spec = {
        "baseline": tiny_spec(),
        "controller": tiny_spec("metalr-mlp"),
        "trunk": trunk_spec(),
        "diverged": tiny_spec("constant", train=TRAIN.model_copy(update={"lr": 1000.0})),
    }[kind]
    with clean_environment(tmp_path):
        controller = rule_controller() if kind == "controller" else None
        record = train_run(job_of(spec, tmp_path / "runs"), tiny_task(), controller)
        assert record.diverged == (kind == "diverged")
        push(config_of(tmp_path), Display())
        (path,) = (tmp_path / "runs" / "wandb").glob("offline-run-*/run-*.wandb")
        records = complete_records(path)
    (run, *_) = of_kind(records, "run")
    assert (run.run_id, run.run_group, run.project) == (record.run_id, "digits", "metalr")
    assert run.job_type == ("harvest-run" if kind == "trunk" else "run")
    label = "baseline" if kind == "diverged" else kind
    assert list(run.tags) == ["synthetic", "mlp", spec.method, label]
    assert run.display_name == f"{spec.method}/lr{spec.train.lr:g}/T4/seed3"
    metrics = {metric.name or metric.glob_name: metric.step_metric for metric in of_kind(records, "metric")}
    assert metrics["*"] == "epoch" and set(metrics.values()) <= {"", "epoch"}
    rows = rows_of(records)
    assert rows == [scalars(row) for row in record.epochs]
    summary: dict[str, Any] = {}
    for message in of_kind(records, "summary"):
        summary |= items(message.update)
    wanted = {"run_id": record.run_id, "status": record.result["status"]}
    for section in ("final", "timing"):
        wanted |= {f"{section}/{key}": value for key, value in record.result[section].items()}
    assert {key: summary[key] for key in wanted} == wanted
    settings: dict[str, Any] = {}
    for message in of_kind(records, "run"):
        settings |= items(message.config.update)
    assert (settings["method"], settings["initial_lr"], settings["seed"]) == (spec.method, spec.train.lr, 3)


def test_a_second_push_completes_one_that_was_killed(
    records: list[RunRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = wandb_send.write_json, []

    def die_after_one(path: Path, values: Any) -> None:
        if calls:
            raise KeyboardInterrupt
        calls.append(path)
        real(path, values)

    monkeypatch.setattr(wandb_send, "write_json", die_after_one)
    with pytest.raises(KeyboardInterrupt):
        push(config_of(tmp_path), Display())
    monkeypatch.setattr(wandb_send, "write_json", real)
    push(config_of(tmp_path), Display())
    files = list((tmp_path / "runs" / "wandb").glob("offline-run-*"))
    assert len(files) == len(records)  # the one that was not yet in the list was replaced
    assert {run: len(rows) for run, rows in sent(tmp_path).items()} == {
        record.run_id: len(record.epochs) for record in records
    }


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_push_that_is_killed_outright_is_completed_by_the_next(
    records: list[RunRecord], tmp_path: Path
) -> None:
    store = tmp_path / "runs"
    more = [train_run(job_of(tiny_spec(seed=seed), store), tiny_task()) for seed in range(2, 6)]
    command = [*(sys.executable, "-m", "metalr", "wandb", "push"), f"store={store}", "wandb.mode=offline"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120.0
    while not (store / "wandb" / "pushed.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)  # into the next run
    process.kill()
    process.wait()
    (listed,) = json.loads((store / "wandb" / "pushed.json").read_text()).values()
    assert 0 < len(listed) < 6
    push(config_of(tmp_path), Display())
    expected = {record.run_id: [row["lr"] for row in record.epochs] for record in [*records, *more]}
    assert {run: [row["lr"] for row in rows] for run, rows in sent(tmp_path).items()} == expected
    assert len(list((store / "wandb").glob("offline-run-*"))) == 6


def test_what_fails_is_not_counted_as_sent(
    records: list[RunRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError("planted")

    monkeypatch.setattr(wandb, "init", fail)
    with pytest.raises(ConfigError, match=f"run {min(r.run_id for r in records)} could not be sent"):
        push(config_of(tmp_path), Display())
    assert not (tmp_path / "runs" / "wandb" / "pushed.json").exists()


@pytest.mark.usefixtures("records")
def test_disabled_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="choose online or offline"):
        push(config_of(tmp_path, "disabled"), Display())
