"""The second stage: fit controllers on the meta-dataset, the recipe's own or those that ship."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from metalr.config import ExperimentConfig
from metalr.display import Display
from metalr.harvest.meta_dataset import MetaDataset, join_meta_datasets, load_meta_dataset
from metalr.learning.controller import save_controller
from metalr.learning.examples import Examples, make_examples
from metalr.learning.fitting import Fit, fit, num_passes
from metalr.learning.shipping import architecture, build_shipped
from metalr.provenance import git_commit
from metalr.stages.harvest import metadataset
from metalr.stages.shared import folders_of, start_stage_tracking
from metalr.training import package_versions
from metalr.training.artifacts import read_json
from metalr.wandb_stages import log_controller

__all__ = ["build_controllers", "train_meta"]


def _learned_from(config: ExperimentConfig) -> MetaDataset:
    """The recipe's own meta-dataset with those of `meta.also`."""
    own = folders_of(config).meta_dataset
    names = [own.name, *config.meta.also]
    return join_meta_datasets([load_meta_dataset(own.parent / name) for name in names])


def train_meta(config: ExperimentConfig, display: Display) -> list[Path]:
    """Fit the recipe's learners on its meta-dataset and `meta.also`; returns the paths of their weights."""
    metadataset(config, display)
    folders = folders_of(config)
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
    return save_controller(folders_of(config).controllers, name, result.members, shape, card)


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
