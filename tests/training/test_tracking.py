"""What reaches the dashboard's file is what was said, row by row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from wandb_offline import clean_environment, items, of_kind, read_records, records_of, rows_of, start

from metalr.config import TaskConfig, TrainConfig, WandbConfig
from metalr.training.records import RunRecord
from metalr.training.specs import RunSpec
from metalr.training.tracking import log_run_record

NAN, INF = float("nan"), float("inf")
EPOCHS = [
    {"epoch": 1, "lr": 0.1, "train/loss": 2.25, "test/accuracy": 0.25, "note": "warm-up"},
    {"epoch": 2, "lr": 0.05, "train/loss": 0.5, "test/accuracy": 0.75, "note": "decay"},
    {"epoch": 3, "lr": 1e-7, "train/loss": 1.5, "test/accuracy": 0.5, "note": "end"},
]


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No W&B variable, no netrc file, and everything set in a test undone after it."""
    with clean_environment(tmp_path):
        yield


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[Any]]]:
    """The folder and records of a run to which everything has been said."""
    folder = tmp_path_factory.mktemp("wandb run ö")
    with clean_environment(folder):
        tracker = start(folder)
        for row in EPOCHS:
            tracker.log(row)
        dirty = {
            "epoch": 4,
            "lr": NAN,
            "a": INF,
            "b": -INF,
            "c": None,
            "observation": {"x": 1.0},
            "list": [1],
        }
        tracker.log(dirty | {"single": numpy.float32(0.5), "missing": numpy.float64(NAN), "flag": True})
        tracker.log_table(
            "comparison", ["method", "accuracy"], [["cosine", 0.5], ["constant", NAN], [3, None]]
        )
        (folder / "controller.bin").write_bytes(b"weights")
        (folder / "card.json").write_text("{}")
        files = [folder / "controller.bin", folder / "card.json"]
        tracker.log_artifact("controller mlp", "model", files, {"rows": 3, "loss": NAN})
        (folder / "controller.bin").write_bytes(b"overwritten")
        tracker.use_artifact("meta-dataset", "dataset")
        tracker.use_artifact("controller/mlp:v2", "model")
        tracker.summary({"regret": 0.01, "spread": NAN, "winner": "cosine"})
        tracker.finish()
        tracker.finish()
        tracker.log({"epoch": 5})
        yield folder, records_of(folder)


def test_rows_come_back_one_by_one(said: tuple[Path, list[Any]]) -> None:
    rows = [row for row in rows_of(said[1]) if "comparison._type" not in row]
    assert rows[:3] == EPOCHS
    assert len(rows) == 4, "nothing is written after finish()"


def test_what_no_chart_can_show_is_left_out(said: tuple[Path, list[Any]]) -> None:
    rows = [row for row in rows_of(said[1]) if "comparison._type" not in row]
    assert rows[3] == {"epoch": 4, "single": 0.5, "flag": True}


def test_table_comes_back(said: tuple[Path, list[Any]]) -> None:
    (row,) = [row for row in rows_of(said[1]) if "comparison._type" in row]
    (folder,) = said[0].glob("wandb/offline-run-*")
    table = json.loads((folder / "files" / row["comparison.path"]).read_text())
    assert table["columns"] == ["method", "accuracy"]
    assert table["data"] == [["cosine", 0.5], ["constant", None], [3, None]]


def test_artifact_keeps_a_copy_under_the_folder(said: tuple[Path, list[Any]]) -> None:
    (artifact,) = [item for item in of_kind(said[1], "artifact") if item.type == "model"]
    assert artifact.name == "controller-mlp"
    assert json.loads(artifact.metadata) == {"rows": 3, "loss": None}
    copies = {entry.path: Path(entry.local_path) for entry in artifact.manifest.contents}
    assert {name: copy.read_bytes() for name, copy in copies.items()} == {
        "controller.bin": b"weights",
        "card.json": b"{}",
    }
    assert all(copy.is_relative_to(said[0] / "wandb") for copy in copies.values())


def test_run_carries_its_identity(said: tuple[Path, list[Any]]) -> None:
    (run,) = of_kind(said[1], "run")
    assert (run.run_id, run.project, run.entity) == ("0123456789abcdef", "demo", "lab")
    assert (run.display_name, run.job_type, run.run_group) == ("cosine/seed0", "compare", "digits-0123")
    assert list(run.tags) == ["paper", "mlp", "digits"]
    config = items(run.config.update)
    config.pop("_wandb")
    assert config == {"commit": "abc", "train": {"lr": 0.1, "clip": None}, "store": "runs"}


def test_inputs_are_in_the_config_where_lineage_cannot_be(said: tuple[Path, list[Any]]) -> None:
    last = of_kind(said[1], "config")[-1]
    assert items(last.update)["used_artifacts"] == ["dataset:meta-dataset:latest", "model:controller-mlp:v2"]


def test_epoch_is_the_axis_and_summaries_keep_the_best(said: tuple[Path, list[Any]]) -> None:
    metrics = {metric.name or metric.glob_name: metric for metric in of_kind(said[1], "metric")}
    assert metrics.keys() == {"epoch", "*", "train/loss", "test/accuracy"}
    assert metrics["*"].step_metric == metrics["train/loss"].step_metric == "epoch"
    updates: dict[str, Any] = {}
    for summary in of_kind(said[1], "summary"):
        updates |= items(summary.update)
    assert updates["train/loss"] == {"min": 0.5, "last": 1.5}
    assert updates["test/accuracy"] == {"max": 0.75, "last": 0.5}
    assert (updates["regret"], updates["winner"]) == (0.01, "cosine")
    assert "spread" not in updates


def test_reader_tolerates_a_torn_tail_and_nothing_else(said: tuple[Path, list[Any]], tmp_path: Path) -> None:
    (file,) = said[0].glob("wandb/offline-run-*/run-*.wandb")
    whole = file.read_bytes()
    count = len(said[1])
    torn = tmp_path / "torn.wandb"
    for removed, kept in ((0, count), (1, count - 1), (7, count - 1)):
        torn.write_bytes(whole[: len(whole) - removed])
        assert len(list(read_records(torn))) == kept
    torn.write_bytes(whole[:10])
    assert list(read_records(torn)) == []
    torn.write_bytes(whole[:40] + bytes([whole[40] ^ 1]) + whole[41:])
    with pytest.raises(ValueError, match="damaged at byte 7"):
        list(read_records(torn))
    torn.write_bytes(b"junk" + whole)
    with pytest.raises(ValueError, match=r"not a \.wandb file"):
        list(read_records(torn))


def test_two_runs_of_one_process_do_not_mix(tmp_path: Path) -> None:
    first = start(tmp_path / "a", run_id="a")
    second = start(tmp_path / "b", run_id="b")
    for epoch in (1, 2):
        first.log({"epoch": epoch, "x": 1})
        second.log({"epoch": epoch, "x": 2})
    first.finish()
    second.finish()
    assert rows_of(records_of(tmp_path / "a")) == [{"epoch": 1, "x": 1}, {"epoch": 2, "x": 1}]
    assert rows_of(records_of(tmp_path / "b")) == [{"epoch": 1, "x": 2}, {"epoch": 2, "x": 2}]


def test_tags_are_unique_and_short(tmp_path: Path) -> None:
    """W&B refuses a run with a tag of more than 64 characters."""
    tracker = start(tmp_path, tags=["t" * 70, "", "t" * 70, "u"], config=WandbConfig(mode="offline"))
    tracker.finish()
    (run,) = of_kind(records_of(tmp_path), "run")
    assert list(run.tags) == ["t" * 64, "u"]


def test_records_of_many_blocks_and_a_replayed_run(tmp_path: Path) -> None:
    """A row of 40,000 characters spans blocks of the file; the replay of a run is its epochs and figures."""
    spec = RunSpec(task=TaskConfig(), train=TrainConfig(), method="cosine", seed=0, data_digest="d")
    rows: list[dict[str, Any]] = [
        {"epoch": 0, "probe": {"lr": [0.1]}, "observation": {}},
        *({**row, "time/train_s": 0.5, "observation": {"a": 1.0}, "decision": None} for row in EPOCHS),
    ]
    result = {"status": "done", "final": {"test/accuracy": 0.5, "test/loss": None}}
    tracker = start(tmp_path, name="replay", job_type="train", run_id=None)
    tracker.log({"epoch": 0, "long": "x" * 40_000})
    log_run_record(tracker, RunRecord("run0", spec, rows, [], result), "cosine/0.1/seed0")
    log_run_record(tracker, RunRecord("run1", spec, rows[:2], [], {"status": "diverged"}), "")
    tracker.finish()
    records = records_of(tmp_path)
    long, *replayed, bare = rows_of(records)
    assert long == {"epoch": 0, "long": "x" * 40_000}
    expected = [row | {"time/train_s": 0.5} for row in EPOCHS]
    prefixed = [
        {k if k == "epoch" else f"cosine/0.1/seed0/{k}": v for k, v in row.items()} for row in expected
    ]
    assert replayed == prefixed
    assert bare == expected[0]
    summary = {
        key: value for part in of_kind(records, "summary") for key, value in items(part.update).items()
    }
    start_ = "cosine/0.1/seed0/"
    assert (summary[f"{start_}run_id"], summary[f"{start_}status"]) == ("run0", "done")
    assert summary[f"{start_}final/test/accuracy"] == 0.5
    assert f"{start_}final/test/loss" not in summary
    assert (summary["run_id"], summary["status"]) == ("run1", "diverged")
