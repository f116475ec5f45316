"""What a result says of where it comes from."""

import json
from pathlib import Path

import pytest
from training.tiny import TRAIN, job_of, tiny_spec, tiny_task

from metalr.config import ExperimentConfig, apply_overrides
from metalr.provenance import facts_of, hardware
from metalr.training import RunStore, train_run


def test_versions_and_hardware_are_those_that_the_runs_were_made_with(tmp_path: Path) -> None:
    spec = tiny_spec()
    train_run(job_of(spec, tmp_path), tiny_task(), None)
    path = RunStore(tmp_path).run_dir(spec.run_id) / "result.json"
    result = json.loads(path.read_text())
    assert "CPU" in result["hardware"]
    result["versions"] |= {"torch": "1.2.3+elsewhere"}
    result["hardware"] = "a GPU elsewhere"
    path.write_text(json.dumps(result))
    config = apply_overrides(ExperimentConfig(), {"store": str(tmp_path)})
    facts = facts_of(config, spec)
    assert facts["versions"]["torch"] == "1.2.3+elsewhere"
    assert facts["versions"]["python"] == result["versions"]["python"]
    assert "numpy" in facts["versions"]
    assert facts["hardware"] == "a GPU elsewhere"
    assert facts["device"] == TRAIN.device == "cpu"
    del result["hardware"]  # a record of before it was kept
    path.write_text(json.dumps(result))
    assert "CPU" in facts_of(config, spec)["hardware"]


def test_a_gpu_that_is_not_here_is_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert hardware("cuda") == "a GPU, not of this machine"
    assert "CPU" in hardware("cpu")
