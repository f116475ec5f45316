"""The worker's side of the conversation with its driver."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from training.tiny import TRAIN, job_of, tiny_spec, trunk_spec

from metalr.training import RunStore
from metalr.worker import serve


def events_of(lines: list[str]) -> list[dict[str, Any]]:
    answers = io.StringIO()
    serve(lines, answers)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def test_a_job_is_answered_with_its_epochs_and_done(tmp_path: Path) -> None:
    plain, trunk = tiny_spec(), trunk_spec()
    events = events_of([job_of(spec, tmp_path).model_dump_json() for spec in (plain, trunk)])
    assert [event for event in events if event["event"] == "done"] == [
        {"event": "done", "run_id": plain.run_id},
        {"event": "done", "run_id": trunk.run_id},
    ]
    assert sum(event.get("epochs", 0) for event in events) == 4 + (4 + 3 * 4 + 3 * 2)
    assert all(RunStore(tmp_path).is_finished(spec.run_id) for spec in (plain, trunk))


def test_what_cannot_be_done_is_one_line_and_the_next_job_is_done(tmp_path: Path) -> None:
    wrong = tiny_spec(data_digest="0" * 64)
    right = tiny_spec()
    lines = ["{nonsense", *(job_of(spec, tmp_path).model_dump_json() for spec in (wrong, right))]
    events = [event for event in events_of(lines) if event["event"] != "epoch"]
    assert [event["event"] for event in events] == ["failed", "failed", "done"]
    assert "the data changed" in events[1]["error"]
    assert events[1]["run_id"] == wrong.run_id
    assert not any(event["retry"] or "\n" in event["error"] for event in events[:2])


def test_a_worker_ends_in_the_middle_of_a_job_when_its_driver_is_gone(tmp_path: Path) -> None:
    endless = tiny_spec(train=TRAIN.model_copy(update={"epochs": 10_000}))
    worker = subprocess.Popen(
        [sys.executable, "-m", "metalr.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(job_of(endless, tmp_path).model_dump_json() + "\n")
    worker.stdin.flush()
    assert json.loads(worker.stdout.readline())["event"] == "epoch"  # it is in the middle
    worker.stdin.close()
    assert worker.wait(timeout=20) == 0  # ten thousand epochs take minutes
    worker.stdout.close()
    assert not RunStore(tmp_path).is_finished(endless.run_id)


def test_a_run_of_an_absent_gpu_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    spec = tiny_spec(train=TRAIN.model_copy(update={"device": "cuda"}))
    (event,) = events_of([job_of(spec, tmp_path).model_dump_json()])
    assert event["event"] == "failed"
    assert event["error"] == "train.device: cuda is asked for, but torch sees no GPU; use auto or cpu"
    assert not RunStore(tmp_path).is_finished(spec.run_id)
