"""Real SIGKILLs, at random instants, on a real run in a process of its own: the same bits as undisturbed."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from training.tiny import TRAIN, job_of, tiny_task, trunk_spec, without_times

from metalr.config import canonical_json
from metalr.harvest.branching import run_trunk
from metalr.training import RunSpec, RunStore


def longer_trunk() -> RunSpec:
    return trunk_spec(train=TRAIN.model_copy(update={"epochs": 30}))


def start(spec_file: Path, store: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "metalr", "run-one", "--spec", str(spec_file), "--store", str(store)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_storm_of_kills_changes_nothing(tmp_path: Path) -> None:
    spec = longer_trunk()
    expected = run_trunk(job_of(spec, tmp_path / "straight"), tiny_task())
    spec_file = tmp_path / "spec.json"
    spec_file.write_text(canonical_json(spec))
    store, instants, kills = RunStore(tmp_path / "killed"), random.Random(0), 0
    for _ in range(12):
        process = start(spec_file, store.root)
        metrics = store.run_dir(spec.run_id) / "metrics.jsonl"
        before = metrics.stat().st_mtime_ns if metrics.exists() else 0
        while process.poll() is None and (not metrics.exists() or metrics.stat().st_mtime_ns == before):
            time.sleep(0.002)  # until it trains: kills during the import would prove nothing
        time.sleep(instants.uniform(0.0, 0.25))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        _, errors = process.communicate(timeout=60)
        assert process.returncode in (0, -signal.SIGKILL), errors.decode()
        if store.is_finished(spec.run_id):
            break
    else:
        process = start(spec_file, store.root)
        process.communicate(timeout=300)
        assert process.returncode == 0
    record = store.load(spec.run_id)
    assert kills >= 3
    assert without_times(record.rows) == without_times(expected.rows)
    assert without_times(record.forks) == without_times(expected.forks)
    assert record.result["final"] == expected.result["final"]
    assert not list(store.run_dir(spec.run_id).glob(".*.tmp"))
