"""Artifacts with their lineage, the comparison's table and figures, and the workspace that shows them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from learning.planted import planted_examples
from training.tiny import job_of, tiny_spec, tiny_task
from training.wandb_offline import clean_environment, complete_records, items, of_kind, rows_of

from metalr import dashboard as workspaces
from metalr.config import ConfigError, ExperimentConfig, apply_overrides, load_config
from metalr.dashboard import CONFIG_KEYS, ROW_KEYS, SUMMARY_KEYS, dashboard, logged_keys, used_keys, workspace
from metalr.display import Display
from metalr.learning.fitting import fit
from metalr.training import train_run
from metalr.wandb_push import push
from metalr.wandb_stages import COMPARISON_COLUMNS, comparison_figures, comparison_rows

ROOT = Path(__file__).parents[1]
NAME = "cifar10-small"


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The committed meta-dataset and results, with controllers that look like ones."""
    for part in ("meta_data", "experiments/results"):
        shutil.copytree(ROOT / part / NAME, tmp_path / part / NAME, ignore=shutil.ignore_patterns("figures"))
    controllers = tmp_path / "runs" / "controllers" / NAME
    controllers.mkdir(parents=True)
    for name in ("lstm", "mlp"):
        (controllers / f"{name}.safetensors").write_bytes(b"weights of " + name.encode())
        (controllers / f"{name}.json").write_text(json.dumps({"recipe": NAME}))
    monkeypatch.chdir(tmp_path)
    with clean_environment(tmp_path):
        yield tmp_path


def config_of(**wandb: Any) -> ExperimentConfig:
    return ExperimentConfig.model_validate(
        {"name": NAME, "store": "runs", "wandb": {"mode": "offline"} | wandb}
    )


def stages_of(study: Path) -> dict[str, list[Any]]:
    """Job type -> the records of its offline file."""
    found = {}
    for path in (study / "runs" / "wandb").glob("offline-run-*/run-*.wandb"):
        records = complete_records(path)
        (run,) = of_kind(records, "run")[:1]
        found[run.job_type] = records
    return found


def artifacts_of(records: list[Any]) -> set[str]:
    return {message.name for message in of_kind(records, "artifact")} | {
        message.log_artifact.artifact.name
        for message in of_kind(records, "request")
        if message.HasField("log_artifact")
    }


def used_by(records: list[Any]) -> list[str]:
    config: dict[str, Any] = {}
    for message in of_kind(records, "config"):
        config |= items(message.update)
    for message in of_kind(records, "run"):
        config |= items(message.config.update)
    used = config.get("used_artifacts", [])
    return list(used)


def test_a_push_sends_every_stage_once_with_its_lineage(study: Path) -> None:
    push(config_of(), Display())
    found = stages_of(study)
    assert set(found) == {"metadataset", "train-meta", "compare"}
    assert f"meta-dataset-{NAME}" in artifacts_of(found["metadataset"])
    assert {f"controller-{NAME}-{name}" for name in ("lstm", "mlp")} <= artifacts_of(found["train-meta"])
    assert f"comparison-{NAME}" in artifacts_of(found["compare"])
    assert used_by(found["metadataset"]) == []
    assert used_by(found["train-meta"]) == [f"dataset:meta-dataset-{NAME}:latest"]
    assert used_by(found["compare"]) == [f"model:controller-{NAME}-{n}:latest" for n in ("lstm", "mlp")]
    before = sorted((study / "runs" / "wandb").glob("offline-run-*"))
    push(config_of(), Display())
    assert sorted((study / "runs" / "wandb").glob("offline-run-*")) == before


def test_a_changed_comparison_is_sent_again_and_nothing_else(study: Path) -> None:
    push(config_of(), Display())
    path = study / "experiments" / "results" / NAME / "summary.json"
    path.write_text(path.read_text() + "\n")
    push(config_of(), Display())
    assert len(list((study / "runs" / "wandb").glob("offline-run-*"))) == 4


def test_the_comparison_table_and_figures_against_the_summary(study: Path) -> None:
    summary = json.loads((study / "experiments" / "results" / NAME / "summary.json").read_text())
    rows = [dict(zip(COMPARISON_COLUMNS, row, strict=True)) for row in comparison_rows(summary)]
    assert len(rows) == sum(len(cell["methods"]) for cell in summary["cells"])
    for row in rows:
        (cell,) = (
            cell
            for cell in summary["cells"]
            if (cell["budget_epochs"], cell["initial_lr"]) == (row["budget_epochs"], row["initial_lr"])
        )
        figures = cell["methods"][row["method"]]
        assert row["test_accuracy_pct"] == figures["test_accuracy_pct"]["mean"]
        assert [row["ci95_low"], row["ci95_high"]] == figures["test_accuracy_pct"]["ci95"]
        assert row["regret_pp"] == (figures["regret_pp"] or {}).get("mean")
        assert row["lr_variance"] == figures["lr_variance"]
    figures = comparison_figures(summary)
    push(config_of(), Display())
    (table,) = (study / "runs" / "wandb").glob("offline-run-*/files/media/table/comparison_*.table.json")
    read_back = json.loads(table.read_text())
    assert read_back["columns"] == list(COMPARISON_COLUMNS)
    assert read_back["data"] == comparison_rows(summary)
    assert figures["mean_regret_pp/cosine"] == summary["overall"]["cosine"]["mean_regret_pp"]
    found: dict[str, Any] = {}
    for message in of_kind(stages_of(study)["compare"], "summary"):
        found |= items(message.update)
    assert {key: found[key] for key in figures} == figures


def test_what_a_training_logs_is_what_the_dashboard_knows(tmp_path: Path) -> None:
    with clean_environment(tmp_path):
        record = train_run(job_of(tiny_spec(), tmp_path / "runs"), tiny_task())
        config = config_of().model_copy(update={"store": str(tmp_path / "runs")})
        push(config, Display())
        (path,) = (tmp_path / "runs" / "wandb").glob(f"offline-run-*/run-{record.run_id}.wandb")
        records = complete_records(path)
    assert {key for row in rows_of(records) for key in row} == set(ROW_KEYS)
    summary = {key for message in of_kind(records, "summary") for key in items(message.update)}
    assert {key for key in summary if key.startswith(("final/", "timing/", "run_id", "status"))} == set(
        SUMMARY_KEYS
    )
    settings = {key for message in of_kind(records, "run") for key in items(message.config.update)}
    assert set(CONFIG_KEYS) <= settings


def test_without_a_login_the_workspace_is_checked_and_written(study: Path) -> None:
    path = dashboard(config_of(), Display())
    definition = json.loads(Path(path).read_text())
    sections = definition["spec"]["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections] == [
        "Learning rate", "Accuracy and loss", "Final figures", "Regret", "Comparison", "Time",
    ]  # fmt: skip
    assert f"metalr {NAME}" == definition["displayName"]
    assert "lr" in used_keys(workspace(config_of()))


def test_a_panel_on_a_key_that_nothing_logs_is_refused(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = logged_keys(config_of()) - {"inner_valid/loss"}
    monkeypatch.setattr(workspaces, "logged_keys", lambda config: keys)
    with pytest.raises(ConfigError, match="nothing logs inner_valid/loss"):
        dashboard(config_of(), Display())


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb_workspaces.workspaces", None)
    with pytest.raises(ConfigError, match=r"pip install 'metalr\[dashboard\]'"):
        workspace(config_of())


def test_every_parameter_of_the_sweep_is_a_setting_and_its_metric_is_logged() -> None:
    sweep = yaml.safe_load((ROOT / "experiments" / "wandb_sweep.yaml").read_text())
    _, program, verb, recipe, arguments = sweep["command"]
    assert (program, verb, arguments) == ("${program}", "train-meta", "${args_no_hyphens}")
    config = load_config(str(ROOT / "experiments" / f"{recipe}.yaml"))
    for name, values in sweep["parameters"].items():
        for value in values.get("values", [values.get("min"), values.get("max")]):
            apply_overrides(config, {name: value})
    examples = planted_examples(num_groups=4)
    learner, _, key = sweep["metric"]["name"].partition("/")
    assert learner in config.meta.learners
    quick = config.meta.model_copy(update={"epochs": 1, "ensemble": 1})
    assert key in fit(examples, learner, quick).history[0]
