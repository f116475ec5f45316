"""The whole way on tiny real input: harvest, meta-train, compare; then again, doing nothing."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from comparison.test_reference import load_reference
from training.wandb_offline import clean_environment, complete_records, items, of_kind, rows_of

from metalr import ExperimentConfig, runs, stages
from metalr.config import apply_overrides, load_config
from metalr.display import SilentDisplay
from metalr.harvest.execution import JobFailed
from metalr.harvest.meta_dataset import load_meta_dataset
from metalr.stages import meta_training
from metalr.training import ArtifactError, RunStore
from metalr.training.archive import pack_runs, run_ids_of_manifest, unpack_runs

RECIPES = Path(__file__).parents[1] / "experiments"


def smoke(**changes: Any) -> ExperimentConfig:
    settings = {"workers": 0, "wandb.mode": "disabled", "train.device": "cpu", "compare.seeds": [0, 1]}
    config = load_config(str(RECIPES / "smoke.yaml"))
    return apply_overrides(config, settings | changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        stages.compare(smoke(), SilentDisplay())
    return folder


@pytest.fixture
def inside(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(finished)
    return finished


def nothing_may_train(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError("something was trained again")

    monkeypatch.setattr(runs, "execute", refuse)
    monkeypatch.setattr(meta_training, "fit", refuse)


def test_every_stage_leaves_what_it_should(inside: Path) -> None:
    dataset = load_meta_dataset(inside / "meta_data" / "smoke")
    assert dataset.card["counts"]["runs"] == 8
    assert (dataset.forks.groupby(["run_id", "epoch"]).size() == 4).all()
    results = inside / "experiments" / "results" / "smoke"
    summary = json.loads((results / "summary.json").read_text())
    assert {cell["initial_lr"] for cell in summary["cells"]} == {0.01, 0.1}
    for cell in summary["cells"]:
        for method in ("constant", "step", "cosine", "metalr-mlp", "metalr-lstm"):
            measured = cell["methods"][method]
            assert 25.0 < measured["test_accuracy_pct"]["mean"] <= 100.0, method
            assert measured["test_accuracy_pct"]["n"] == 2
            assert measured["wall_time_s"] >= measured["train_time_s"] > 0.0
    manifest = json.loads((results / "manifest.json").read_text())
    store = RunStore(inside / "runs")
    assert len(manifest["run_ids"]) == 2 * 5 * 2
    assert all(store.is_finished(identity) for identity in manifest["run_ids"])


def test_a_learned_run_is_controlled_by_the_saved_controller(inside: Path) -> None:
    card = json.loads((inside / "runs" / "controllers" / "smoke" / "mlp.json").read_text())
    store = RunStore(inside / "runs")
    manifest = json.loads((inside / "experiments" / "results" / "smoke" / "manifest.json").read_text())
    learned = [store.load(identity) for identity in manifest["run_ids"]]
    learned = [record for record in learned if record.spec.method == "metalr-mlp"]
    assert {record.spec.controller_sha256 for record in learned} == {card["sha256"]}
    for record in learned:
        peaks = [row["decision"]["peak_lr"] for row in record.rows[:-1]]
        assert [row["observation"]["peak_lr"] for row in record.epochs] == pytest.approx(peaks, rel=1e-9)


def test_a_second_call_trains_nothing(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing_may_train(monkeypatch)
    report = inside / "experiments" / "results" / "smoke" / "report.html"
    before = report.stat().st_mtime_ns
    assert stages.compare(smoke(), SilentDisplay()).resolve() == report.resolve()
    assert report.stat().st_mtime_ns == before
    with pytest.raises(JobFailed, match="trained again"):  # negative control: another recipe does train
        stages.compare(smoke(**{"compare.seeds": [0, 1, 2]}), SilentDisplay())


def test_another_learner_setting_trains_that_learner_and_harvests_nothing(
    inside: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(runs, "execute", None)
    fitted: list[str] = []
    original = meta_training.fit

    def counted(examples: Any, name: str, *rest: Any) -> Any:
        fitted.append(name)
        return original(examples, name, *rest)

    monkeypatch.setattr(meta_training, "fit", counted)
    stages.train_meta(smoke(**{"meta.learners": ["mlp"]}), SilentDisplay())
    assert fitted == []
    stages.train_meta(smoke(**{"meta.learners": ["mlp"], "meta.seed": 7}), SilentDisplay())
    assert fitted == ["mlp"]
    stages.train_meta(smoke(**{"meta.learners": ["mlp"]}), SilentDisplay())  # as it was, bit for bit
    assert stages.compare(smoke(), SilentDisplay()).is_file()


def test_other_meta_datasets_are_learned_from_beside_the_recipes_own(
    inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing_may_train(monkeypatch)
    with pytest.raises(ArtifactError, match=r"nowhere.card\.json: no such file; make the meta-dataset again"):
        stages.train_meta(smoke(**{"meta.also": ["nowhere"]}), SilentDisplay())
    shutil.copytree(inside / "meta_data" / "smoke", inside / "meta_data" / "other")
    seen: list[int] = []
    monkeypatch.setattr(meta_training, "num_passes", lambda examples, config: seen.append(len(examples)) or 1)
    with pytest.raises(AssertionError, match="something was trained again"):  # another digest: fitted anew
        stages.train_meta(smoke(**{"meta.also": ["other"]}), SilentDisplay())
    forks = load_meta_dataset(inside / "meta_data" / "smoke").card["counts"]["forks"]
    assert seen == [forks]  # the same runs, each once


def test_the_report_can_be_written_again_but_not_without_its_runs(
    inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing_may_train(monkeypatch)
    report = stages.report(smoke(), SilentDisplay()).resolve()
    expected = report.read_bytes()
    report.unlink()
    stages.report(smoke(), SilentDisplay())
    assert report.read_bytes() == expected
    with pytest.raises(ArtifactError, match="10 of 30 runs of this comparison are unfinished"):
        stages.report(smoke(**{"compare.seeds": [0, 1, 2]}), SilentDisplay())
    with pytest.raises(ArtifactError, match="run `metalr compare` first"):
        stages.report(smoke(name="other"), SilentDisplay())


def test_packed_runs_give_every_number_again(inside: Path, tmp_path: Path) -> None:
    results = shutil.copytree(inside / "experiments" / "results" / "smoke", tmp_path / "results")
    archive = tmp_path / "runs.jsonl.xz"
    pack_runs(RunStore(inside / "runs"), run_ids_of_manifest(results / "manifest.json"), archive)
    store = RunStore(tmp_path / "runs")
    assert len(unpack_runs(archive, store).written) == 20
    assert load_reference().main(results / "summary.json", store) == 0
    check = json.loads((results / "reference_check.json").read_text())
    assert check["differences"] == {} and check["num_compared"] > 300
    summary = json.loads((results / "summary.json").read_text())
    summary["overall"]["cosine"]["sensitivity_pp"] += 0.01  # negative control
    (results / "summary.json").write_text(json.dumps(summary))
    assert load_reference().main(results / "summary.json", store) == 1


@pytest.mark.slow
def test_workers_make_the_same_bits_as_this_process(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stages.metadataset(smoke(workers=2), SilentDisplay())
    tables = sorted((finished / "meta_data" / "smoke").glob("*.parquet"))
    assert len(tables) == 2
    for table in tables:
        assert (tmp_path / "meta_data" / "smoke" / table.name).read_bytes() == table.read_bytes()


@pytest.mark.timeout(300)
def test_every_stage_and_training_speaks_to_wandb_and_the_local_records_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    short = {"harvest.max_runs": 4, "compare.seeds": [0], "compare.initial_lrs": [0.1]}
    with clean_environment(tmp_path):
        stages.compare(smoke(**{"wandb.mode": "offline", "wandb.trainings": True, **short}), SilentDisplay())
    store, trainings, by_job = RunStore(tmp_path / "runs"), {}, {}
    for file in (tmp_path / "runs" / "wandb").glob("offline-run-*/run-*.wandb"):
        records = complete_records(file)
        (run, *_) = of_kind(records, "run")
        assert run.run_group == "smoke" and {"synthetic", "mlp"} <= set(run.tags)
        if store.is_finished(run.run_id):
            trainings[run.run_id] = rows_of(records)
        else:
            by_job[run.job_type] = records
    assert set(by_job) == {"metadataset", "train-meta", "compare"}
    manifest = json.loads((tmp_path / "experiments" / "results" / "smoke" / "manifest.json").read_text())
    assert set(manifest["run_ids"]) < set(trainings) and len(trainings) == len(manifest["run_ids"]) + 4
    for identity, rows in trainings.items():
        local = store.load(identity).epochs
        for key in ("epoch", "lr", "inner_valid/accuracy"):
            assert [row[key] for row in rows] == [row[key] for row in local]
    inputs: dict[str, list[str]] = {}
    for job, records in by_job.items():
        settings = [items(m.config.update) for m in of_kind(records, "run")]
        settings += [items(m.update) for m in of_kind(records, "config")]
        inputs[job] = [name for values in settings for name in values.get("used_artifacts", [])]
    assert set(inputs["train-meta"]) == {"dataset:meta-dataset-smoke:latest"}
    assert set(inputs["compare"]) == {f"model:controller-smoke-{name}:latest" for name in ("mlp", "lstm")}


def test_a_controller_of_the_other_kind_is_refused_before_anything_is_trained() -> None:
    with pytest.raises(ArtifactError, match=r"harvest\.controllers\.mlp: .* is of kind lstm"):
        stages.metadataset(smoke(**{"harvest.controllers": {"mlp": "lstm"}}), SilentDisplay())
