"""The first stage: harvest the runs that are missing, and write the meta-dataset."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from metalr.config import ExperimentConfig, short_hash
from metalr.control import FEATURE_NAMES
from metalr.display import Display
from metalr.harvest.meta_dataset import MetaDataset, build_meta_dataset, save_meta_dataset
from metalr.harvest.plan import plan_trunks
from metalr.harvest.refresh import refreshed
from metalr.learning.controller import controller_path, load_controller
from metalr.runs import data_digest, finish_runs
from metalr.stages.shared import folders_of, start_stage_tracking
from metalr.training import ArtifactError, RunSpec, RunStore
from metalr.training.artifacts import read_json
from metalr.wandb_mirror import TrainingMirror
from metalr.wandb_stages import log_meta_dataset

__all__ = ["harvest_settings", "metadataset"]


def metadataset(config: ExperimentConfig, display: Display, *, as_is: bool = False) -> Path:
    """Harvest the runs that are missing and write the meta-dataset; returns its card's path.

    With `as_is` nothing is trained: it is written from the runs that are finished, and its card names the
    others; such a meta-dataset then counts as there.

    Raises ArtifactError with `as_is` where no planned run is finished.
    """
    folder = folders_of(config).meta_dataset
    controllers = _harvest_controllers(config)
    hashes = {name: load_controller(controllers[name]).sha256 for name in config.harvest.controllers}
    specs = plan_trunks(config, partial(data_digest, config), hashes)
    settings = harvest_settings(config, specs)
    card = folder / "card.json"
    if not as_is and card.is_file() and _without_unfinished(read_json(card).get("settings")) == settings:
        display.announce(
            f"Meta-dataset: {_planned(read_json(card)['settings'], specs)}, there already: {folder}"
        )
        return card
    tracker = start_stage_tracking(config, "metadataset")
    store, mirror = RunStore(config.store), TrainingMirror(config)
    if as_is:
        left = [spec for spec in specs if not store.is_finished(spec.run_id)]
        if len(left) == len(specs):
            raise ArtifactError(f"none of the {len(specs)} planned runs is finished in {config.store}")
        settings |= {"unfinished": sorted(spec.run_id for spec in left)} if left else {}
        specs = [spec for spec in specs if spec not in left]
    finish_runs(config, specs, controllers, display, "Harvest", lambda job: mirror.add(job.spec.run_id))
    mirror.close(display)
    records = [refreshed(store.load(spec.run_id)) for spec in specs]
    dataset = build_meta_dataset(records, FEATURE_NAMES, settings)
    card = save_meta_dataset(dataset, folder)
    log_meta_dataset(tracker, config, folder)
    tracker.finish()
    display.announce(f"Meta-dataset: {_counts(dataset)}: {folder}")
    return card


def _harvest_controllers(config: ExperimentConfig) -> dict[str, Path]:
    """Where each of `harvest.controllers` lies; ArtifactError where one is missing or of another kind."""
    paths: dict[str, Path] = {}
    for name, source in config.harvest.controllers.items():
        paths[name] = controller_path(source)
        learner = read_json(paths[name].with_suffix(".json"))["architecture"]["learner"]
        if learner != name:
            raise ArtifactError(f"harvest.controllers.{name}: {paths[name]} is of kind {learner}, not {name}")
    return paths


def _without_unfinished(settings: dict[str, Any] | None) -> dict[str, Any]:
    return {key: value for key, value in (settings or {}).items() if key != "unfinished"}


def _planned(settings: dict[str, Any], specs: Sequence[RunSpec]) -> str:
    unfinished_runs = len(settings.get("unfinished", []))
    if not unfinished_runs:
        return f"{len(specs)} runs"
    return f"{len(specs) - unfinished_runs} of {len(specs)} planned runs (the others were left out)"


_SHAPES_BRANCHES = {"probe", "anchor", "warmup_fraction", "decay_fraction"}
"""What of the control law can change a branch."""


def harvest_settings(config: ExperimentConfig, specs: Sequence[RunSpec]) -> dict[str, Any]:
    """What a meta-dataset is made from, as its card states it; `specs` are the planned trunks."""
    return {
        "name": config.name,
        # Whether forks train together is part of every run's id, and so of the plan.
        "harvest": config.harvest.model_dump(mode="json", exclude={"together"}),
        # The rest of the control law matters only to trunks under a controller, and so to the plan.
        "control": config.control.model_dump(
            mode="json", include=_SHAPES_BRANCHES, exclude={"probe": {"paid"}}
        ),
        "plan": short_hash(sorted(spec.run_id for spec in specs)),
    }


def _counts(dataset: MetaDataset) -> str:
    counts = dataset.card["counts"]
    return f"{counts['runs']} runs, {counts['forks']} forks, {counts['candidates']} labelled candidates"
