"""The pipeline's verbs: each does its stage, and whatever is missing before it.

    metadataset -> train_meta -> compare -> report

What is done already is found by content (run ids, digests), never by time stamps, and not done again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from metalr.comparison import missing_peers, plan_runs, verdict, write_report
from metalr.config import ConfigError, ExperimentConfig, short_hash
from metalr.config.controlled import CONTROLLED
from metalr.control import FEATURE_NAMES
from metalr.display import Display
from metalr.harvest.meta_dataset import (
    MetaDataset,
    build_meta_dataset,
    join_meta_datasets,
    load_meta_dataset,
    save_meta_dataset,
)
from metalr.harvest.plan import plan_trunks, resolved_device
from metalr.harvest.refresh import refreshed
from metalr.learning.controller import (
    PRETRAINED,
    controller_path,
    load_controller,
    save_controller,
    shipped_controllers,
)
from metalr.learning.examples import Examples, make_examples
from metalr.learning.fitting import Fit, fit, num_passes
from metalr.learning.shipping import architecture, build_shipped
from metalr.provenance import git_commit, provenance
from metalr.runs import data_digest, finish_runs, unfinished
from metalr.training import (
    ArtifactError,
    RunRecord,
    RunSpec,
    RunStore,
    package_versions,
)
from metalr.training.artifacts import read_json
from metalr.training.tracking import Tracker, start_tracking
from metalr.wandb_mirror import TrainingMirror
from metalr.wandb_stages import log_comparison, log_controller, log_meta_dataset

__all__ = [
    "build_controllers",
    "compare",
    "comparison_specs",
    "controllers_of",
    "harvest_settings",
    "metadataset",
    "report",
    "start_stage_tracking",
    "train_meta",
]


@dataclass(frozen=True)
class _Folders:
    """Where an experiment's artefacts lie."""

    meta_dataset: Path
    controllers: Path
    results: Path


def _folders(config: ExperimentConfig) -> _Folders:
    store = Path(config.store)
    return _Folders(
        meta_dataset=Path("meta_data") / config.name,
        controllers=store / "controllers" / config.name,
        results=Path("experiments") / "results" / config.name,
    )


def metadataset(config: ExperimentConfig, display: Display, *, as_is: bool = False) -> Path:
    """Harvest the runs that are missing and write the meta-dataset; returns its card's path.

    With `as_is` nothing is trained: it is written from the runs that are finished, and its card names the
    others; such a meta-dataset then counts as there.

    Raises ArtifactError with `as_is` where no planned run is finished.
    """
    folder = _folders(config).meta_dataset
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


def _learned_from(config: ExperimentConfig) -> MetaDataset:
    """The recipe's own meta-dataset with those of `meta.also`."""
    own = _folders(config).meta_dataset
    names = [own.name, *config.meta.also]
    return join_meta_datasets([load_meta_dataset(own.parent / name) for name in names])


def train_meta(config: ExperimentConfig, display: Display) -> list[Path]:
    """Fit the recipe's learners on its meta-dataset and `meta.also`; returns the paths of their weights."""
    metadataset(config, display)
    folders = _folders(config)
    dataset = _learned_from(config)
    made_from = {
        "meta_dataset_digest": dataset.card["digest"],
        "meta": config.meta.model_dump(mode="json", exclude={"source"}),
    }
    paths = {name: folders.controllers / f"{name}.safetensors" for name in config.meta.learners}
    missing = [name for name, path in paths.items() if not _is_made_from(path, made_from)]
    for name in paths:
        if name not in missing:
            display.announce(f"Controller {name}: there already: {paths[name]}")
    if missing:
        examples = make_examples(dataset)
        tracker = start_stage_tracking(config, "train-meta")
        tracker.use_artifact(f"meta-dataset-{config.name}", "dataset")
        for name in missing:
            passes = num_passes(examples, config.meta)
            with display.track(f"Meta-train {name}", total=passes) as progress:
                result = fit(examples, name, config.meta, progress.advance)
            for row in result.history:
                tracker.log({key if key == "epoch" else f"{name}/{key}": v for key, v in row.items()})
            path = _save(config, name, result, examples, made_from)
            log_controller(tracker, config, path)
            _show_figures(display, name, result)
        tracker.finish()
    return list(paths.values())


def build_controllers(config: ExperimentConfig, display: Display) -> list[Path]:
    """Fit the package's own controllers on the recipe's meta-datasets; returns the paths of their weights.

    No image is read and no run is trained. Raises ArtifactError where a meta-dataset is missing or damaged,
    or where a controller does not pass the gate.
    """
    dataset = _learned_from(config)
    passes = num_passes(make_examples(dataset), config.meta) * len(config.meta.learners)
    with display.track("Build controllers", total=passes) as progress:
        return build_shipped(dataset, config.meta, on_pass=progress.advance)


def _save(
    config: ExperimentConfig, name: str, result: Fit, examples: Examples, made_from: dict[str, Any]
) -> Path:
    shape = architecture(name, config.meta, examples)
    card = made_from | {
        "recipe": config.name,
        "held_out": result.held_out,
        "history": result.history,
        "wall_time_s": round(result.wall_time_s, 3),
        "commit": git_commit(),
        "versions": package_versions(),
    }
    return save_controller(_folders(config).controllers, name, result.members, shape, card)


def compare(config: ExperimentConfig, display: Display) -> Path:
    """Run every method of the recipe on every cell and seed, and write the report; returns its path.

    A peer whose package is not installed is named and left out.
    """
    for name, reason in missing_peers(config.compare.methods).items():
        display.announce(f"Compare: {name} is left out: {reason}")
    controllers = controllers_of(config, display)
    specs = comparison_specs(config, controllers)
    folder = _folders(config).results
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
    return PRETRAINED if config.meta.source == "shipped" else _folders(config).controllers


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


def _is_made_from(path: Path, made_from: dict[str, Any]) -> bool:
    card = path.with_suffix(".json")
    if not path.is_file() or not card.is_file():
        return False
    found = read_json(card)
    wanted = made_from | {"meta": _without_learners(made_from["meta"])}
    same_data = bool(found.get("meta_dataset_digest") == wanted["meta_dataset_digest"])
    return same_data and _without_learners(found.get("meta", {})) == wanted["meta"]


def _without_learners(meta: dict[str, Any]) -> dict[str, Any]:
    """Which other learners were trained does not change this one."""
    return {key: value for key, value in meta.items() if key != "learners"}


def _counts(dataset: MetaDataset) -> str:
    counts = dataset.card["counts"]
    return f"{counts['runs']} runs, {counts['forks']} forks, {counts['candidates']} labelled candidates"


def _show_figures(display: Display, name: str, result: Fit) -> None:
    figures = dict(result.held_out)
    error, gain, low = (
        figures.pop(name) for name in ("learned_se", "gain_over_anchor", "gain_over_anchor_low")
    )
    forks, groups, folds = (int(figures.pop(f"num_{what}")) for what in ("forks", "groups", "folds"))
    rows = [[rule.replace("_", " "), f"{regret:.4f}"] for rule, regret in figures.items()]
    rows[0][1] += f" +- {error:.4f}"
    display.announce(
        f"{name}: mean extra final loss (nats) by decision rule, on {forks} forks of {groups} held-out "
        f"tasks in {folds} folds; +- is the standard error over tasks"
    )
    display.table("", ["decision rule", "regret"], rows)
    display.announce(f"{name}: gain over the anchor alone {gain:.4f} nats, 95 % from {low:.4f}")


def _write_report(
    config: ExperimentConfig, specs: Sequence[RunSpec], display: Display, tracker: Tracker | None
) -> Path:
    folders, store = _folders(config), RunStore(config.store)
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


def start_stage_tracking(config: ExperimentConfig, job_type: str, spec: RunSpec | None = None) -> Tracker:
    """The W&B run of a stage, or of the one run `spec`."""
    settings = config.model_dump(mode="json", exclude={"data", "wandb", "store"})
    tags = [config.task.dataset, config.task.network, job_type, f"settings-{short_hash(settings)[:8]}"]
    return start_tracking(
        config.wandb,
        name=f"{config.name}/{spec.method}/seed{spec.seed}" if spec else f"{config.name}/{job_type}",
        job_type=job_type,
        group=config.name,
        tags=tags,
        run_config=settings | {"commit": git_commit(), "versions": package_versions()},
        folder=Path(config.store),
        run_id=spec.run_id if spec else None,
    )
