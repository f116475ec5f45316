"""Where a result comes from: commit, versions, hardware, and what its controllers cost to make."""

from __future__ import annotations

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from metalr.config import ExperimentConfig
from metalr.harvest.meta_dataset import load_meta_dataset
from metalr.harvest.plan import epochs_of
from metalr.training import RunSpec, RunStore, hardware, package_versions
from metalr.training.artifacts import read_json

__all__ = ["facts_of", "git_commit", "hardware", "provenance"]

REPORTED_PACKAGES = ("torchvision", "numpy", "pandas", "pyarrow", "scikit-learn", "scipy", "wandb")


def git_commit() -> str | None:
    """The commit of the working directory, marked `-dirty` where tracked files differ; None outside git."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def facts_of(config: ExperimentConfig, spec: RunSpec) -> dict[str, Any]:
    """What any result states: commit, versions, device, hardware, and what its data are called.

    metalr, torch, Python and the hardware are those that the run `spec`, a finished one, was made with, here
    or elsewhere; runs of before hardware was recorded count as of this machine.
    """
    result = RunStore(config.store).load(spec.run_id).result
    return {
        "commit": git_commit(),
        "versions": package_versions() | _versions() | result.get("versions", {}),
        "device": spec.train.device,
        "hardware": result.get("hardware") or hardware(spec.train.device),
        "dataset_label": config.data.label or config.task.dataset,
    }


def provenance(
    config: ExperimentConfig, spec: RunSpec, meta_dataset: Path, controllers: Path
) -> dict[str, Any]:
    """The facts a report states beside its numbers.

    Args:
        config: The recipe.
        spec: Any run of the comparison: gives the device.
        meta_dataset: Folder of the meta-dataset.
        controllers: Folder of the controllers.
    """
    return facts_of(config, spec) | {
        "command": f"metalr compare {config.name}",
        "harvest": _harvest_cost(meta_dataset, RunStore(config.store)),
        "meta_training": _meta_training(controllers),
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in REPORTED_PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _harvest_cost(meta_dataset: Path, store: RunStore) -> dict[str, Any] | None:
    """Runs and forks of the harvest; epochs and worker seconds too, where all its runs are in the store."""
    if not (meta_dataset / "card.json").is_file():
        return None
    dataset = load_meta_dataset(meta_dataset)
    counts = dataset.card["counts"]
    identities = [str(identity) for identity in dataset.transitions["run_id"].unique()]
    records = [store.load(identity) for identity in identities if store.is_finished(identity)]
    if len(records) < len(identities):  # a meta-dataset that was handed over, not harvested here
        return {"num_runs": counts["runs"], "num_forks": counts["forks"]}
    branch_s = sum(row["time/branch_s"] for record in records for row in record.forks)
    return {
        "num_runs": counts["runs"],
        "num_forks": counts["forks"],
        "num_epochs": sum(epochs_of(record.spec) for record in records),
        "wall_s": branch_s + sum(record.result["timing"]["wall_s"] for record in records),
    }


def _meta_training(controllers: Path) -> dict[str, Any] | None:
    cards = [read_json(path.with_suffix(".json")) for path in sorted(controllers.glob("*.safetensors"))]
    return {
        card["name"]: {"held_out": card["held_out"], "wall_s": card.get("wall_time_s")} for card in cards
    } or None
