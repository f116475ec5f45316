from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from training.tiny import job_of, tiny_spec, tiny_task

from metalr.config import ControlConfig, ProbeConfig
from metalr.control import FEATURE_NAMES, features, probe_curve
from metalr.harvest.branching import run_trunk
from metalr.harvest.refresh import refreshed
from metalr.harvest.rows import fork_rows, transition_rows
from metalr.training import ForkPlan, RunRecord, RunStore

FACTORS = [0.25, 1.0, 4.0]


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    store: Path = tmp_path_factory.mktemp("store")
    control = ControlConfig(probe=ProbeConfig(num_steps=8), stall_factor=None)
    forks = ForkPlan(epochs=[0, 2], peak_factors=FACTORS)
    spec = tiny_spec("constant", control=control, forks=forks, evaluate_test=False)
    run_trunk(job_of(spec, store), tiny_task())
    return RunStore(store).load(spec.run_id)


def test_a_fresh_trunk_is_what_it_was(record: RunRecord) -> None:
    again = refreshed(record)
    assert again.rows[0]["setting"]["num_classes"] == 4
    assert again.forks == record.forks
    for new, old in zip(again.rows, record.rows, strict=True):
        assert new["features"] == pytest.approx(old["features"], nan_ok=True)
        assert {k: v for k, v in new.items() if k != "features"} == {
            k: v for k, v in old.items() if k != "features"
        }


def test_another_rule_moves_reference_factors_and_features_and_nothing_that_was_observed(
    record: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = record.rows[0]["probe"]["reference_lr"]
    monkeypatch.setattr(probe_curve, "EDGE_FRACTION", probe_curve.EDGE_FRACTION * 4)  # twice the reference
    again = refreshed(record)
    assert again.rows[0]["probe"]["reference_lr"] == pytest.approx(2 * before)
    assert [fork["factor"] for fork in again.forks] == pytest.approx([f / 2 for f in FACTORS] * 2)
    assert [fork["peak_lr"] for fork in again.forks] == [fork["peak_lr"] for fork in record.forks]
    position = FEATURE_NAMES.index("log_peak_over_reference")
    moved = again.rows[1]["features"][position] - record.rows[1]["features"][position]
    assert moved == pytest.approx(-0.6931, abs=1e-4)
    assert len(fork_rows(again)) == 6
    assert transition_rows(again, FEATURE_NAMES)[0]["reference_lr"] == pytest.approx(2 * before)


def test_a_record_from_before_normalisation_was_told_has_it_from_its_network(record: RunRecord) -> None:
    def told(network: str) -> RunRecord:
        first = record.rows[0] | {
            key: {name: value for name, value in record.rows[0][key].items() if name != "normalises"}
            for key in ("setting", "probe")
        }
        spec = record.spec.model_copy(
            update={"task": record.spec.task.model_copy(update={"network": network})}
        )
        return refreshed(replace(record, spec=spec, rows=[first, *record.rows[1:]]))

    position = FEATURE_NAMES.index("normalises")
    for network, expected in (("mlp", False), ("mlp_ln", True), ("resnet18", True)):
        again = told(network)
        assert again.rows[0]["probe"]["normalises"] is expected
        assert {row["features"][position] for row in again.rows} == {float(expected)}
    assert told("resnet18").rows[0]["probe"]["reference_lr"] > told("mlp").rows[0]["probe"]["reference_lr"]


def test_a_record_from_before_squared_errors_were_told_apart_has_it_from_its_objective(
    record: RunRecord,
) -> None:
    task = record.spec.task.model_copy(update={"objective": "regress"})
    again = refreshed(replace(record, spec=record.spec.model_copy(update={"task": task})))
    before = record.rows[0]["probe"]["reference_lr"]
    assert again.rows[0]["probe"]["reference_lr"] == pytest.approx(4 * before)
    assert [fork["factor"] for fork in again.forks] == pytest.approx([f / 4 for f in FACTORS] * 2)


def test_a_record_from_before_settings_were_kept_stays(
    record: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = replace(
        record, rows=[{k: v for k, v in record.rows[0].items() if k != "setting"}, *record.rows[1:]]
    )
    monkeypatch.setattr(features, "feature_row", None)
    assert refreshed(old) is old
