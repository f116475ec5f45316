"""What the stages share: where an experiment's artefacts lie, and the W&B run of a stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from metalr.config import ExperimentConfig, short_hash
from metalr.provenance import git_commit
from metalr.training import RunSpec, package_versions
from metalr.training.tracking import Tracker, start_tracking

__all__ = ["Folders", "folders_of", "start_stage_tracking"]


@dataclass(frozen=True)
class Folders:
    """Where an experiment's artefacts lie."""

    meta_dataset: Path
    controllers: Path
    results: Path


def folders_of(config: ExperimentConfig) -> Folders:
    """Where this experiment's artefacts lie."""
    store = Path(config.store)
    return Folders(
        meta_dataset=Path("meta_data") / config.name,
        controllers=store / "controllers" / config.name,
        results=Path("experiments") / "results" / config.name,
    )


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
