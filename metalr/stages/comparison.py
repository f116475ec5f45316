"""The last stage: every method on every cell and seed, and the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from metalr.comparison import missing_peers, plan_runs, verdict, write_report
from metalr.config import ConfigError, ExperimentConfig
from metalr.config.controlled import CONTROLLED
from metalr.display import Display
from metalr.harvest.plan import resolved_device
from metalr.learning.controller import PRETRAINED, shipped_controllers
from metalr.provenance import provenance
from metalr.runs import data_digest, finish_runs, unfinished
from metalr.stages.meta_training import train_meta
from metalr.stages.shared import folders_of, start_stage_tracking
from metalr.training import ArtifactError, RunRecord, RunSpec, RunStore
from metalr.training.artifacts import read_json
from metalr.training.tracking import Tracker
from metalr.wandb_mirror import TrainingMirror
from metalr.wandb_stages import log_comparison

__all__ = ["compare", "comparison_specs", "controllers_of", "report"]


def compare(config: ExperimentConfig, display: Display) -> Path:
    """Run every method of the recipe on every cell and seed, and write the report; returns its path.

    A peer whose package is not installed is named and left out.
    """
    for name, reason in missing_peers(config.compare.methods).items():
        display.announce(f"Compare: {name} is left out: {reason}")
    controllers = controllers_of(config, display)
    specs = comparison_specs(config, controllers)
    folder = folders_of(config).results
    if not unfinished(config, specs) and _is_reported(folder, specs):
        display.announce(f"Compare: all {len(specs)} runs and their report are there already:")
        return folder / "report.html"
    tracker = start_stage_tracking(config, "compare")
    for name in controllers:
        tracker.use_artifact(f"controller-{config.name}-{name}", "model")
    mirror = TrainingMirror(config)
    finish_runs(config, specs, controllers, display, "Compare", lambda job: mirror.add(job.spec.run_id))
    mirror.close(display)
    return _write_report(config, specs, display, tracker)


def report(config: ExperimentConfig, display: Display) -> Path:
    """Write the report again from finished runs, training nothing; returns its path.

    Raises ArtifactError where a run of the comparison is not finished.
    """
    folder, learners = _controllers_folder(config), _needed_learners(config)
    missing = [name for name in learners if not (folder / f"{name}.safetensors").is_file()]
    if missing:
        raise ArtifactError(f"{folder}: no controller {', '.join(missing)}; run `metalr compare` first")
    specs = comparison_specs(config, {name: folder / f"{name}.safetensors" for name in learners})
    missing_runs = unfinished(config, specs)
    if missing_runs:
        raise ArtifactError(
            f"{len(missing_runs)} of {len(specs)} runs of this comparison are unfinished in {config.store}; "
            "run `metalr compare` with the same recipe to finish them"
        )
    return _write_report(config, specs, display, None)


def _controllers_folder(config: ExperimentConfig) -> Path:
    return PRETRAINED if config.meta.source == "shipped" else folders_of(config).controllers


def _needed_learners(config: ExperimentConfig) -> list[str]:
    methods = [method for method in config.compare.methods if method in CONTROLLED]
    return list(dict.fromkeys(CONTROLLED[method].learner for method in methods))


def controllers_of(config: ExperimentConfig, display: Display) -> dict[str, Path]:
    """The controllers the comparison needs, made where missing: learner name -> path of the weights."""
    learners = _needed_learners(config)
    if not learners:
        return {}
    if config.meta.source == "shipped":
        return {name: path for name, path in shipped_controllers().items() if name in learners}
    trained = config.meta.model_copy(update={"learners": sorted({*config.meta.learners, *learners})})
    paths = train_meta(config.model_copy(update={"meta": trained}), display)
    return {path.stem: path for path in paths if path.stem in learners}


def comparison_specs(config: ExperimentConfig, controllers: dict[str, Path]) -> list[RunSpec]:
    """The runs of the recipe's comparison; `controllers` as of `controllers_of`."""
    hashes = {name: read_json(path.with_suffix(".json"))["sha256"] for name, path in controllers.items()}
    device = resolved_device(config.train.device)
    missing = missing_peers(config.compare.methods)
    methods = [method for method in config.compare.methods if method not in missing]
    if not methods:
        raise ConfigError([f"compare.methods: {name}: {reason}" for name, reason in missing.items()])
    present = config.model_copy(update={"compare": config.compare.model_copy(update={"methods": methods})})
    return plan_runs(present, data_digest(config, config), device, hashes)


def _is_reported(folder: Path, specs: Sequence[RunSpec]) -> bool:
    manifest = folder / "manifest.json"
    if not manifest.is_file() or not (folder / "report.html").is_file():
        return False
    return sorted(read_json(manifest)["run_ids"]) == sorted(spec.run_id for spec in specs)


def _write_report(
    config: ExperimentConfig, specs: Sequence[RunSpec], display: Display, tracker: Tracker | None
) -> Path:
    folders, store = folders_of(config), RunStore(config.store)
    records: list[RunRecord] = [store.load(spec.run_id) for spec in specs]
    facts = provenance(config, specs[0], folders.meta_dataset, _controllers_folder(config))
    facts = {**facts, "skipped": missing_peers(config.compare.methods)}
    path = write_report(records, config, facts, folders.results)
    summary = read_json(folders.results / "summary.json")
    if tracker is not None:
        log_comparison(tracker, config, folders.results)
        tracker.finish()
    display.announce(f"\n{verdict(summary)}\n\nThe report:")
    return path
