"""What summary.json says about where its numbers come from, and what JSON can hold of a caller's values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from metalr.comparison.definitions import definitions_of
from metalr.comparison.pairing import Results
from metalr.config import ExperimentConfig

__all__ = ["context", "plain_values"]


def context(results: Results, config: ExperimentConfig, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The part of summary.json that is no arithmetic; what the caller does not know is null."""
    # A run that stands in several cells counts once.
    diverged = {o.run_id: o.diverged for runs in results.values() for o in runs.values()}
    return {
        "recipe": config.name,
        "dataset": config.task.dataset,
        "objective": config.task.objective,
        "dataset_label": provenance.get("dataset_label"),
        "device": provenance.get("device") or config.train.device,
        "hardware": provenance.get("hardware"),
        "commit": provenance.get("commit"),
        "versions": provenance.get("versions") or {},
        "harvest": provenance.get("harvest"),
        "meta_training": provenance.get("meta_training") or {},
        "command": provenance.get("command"),
        "confidence": config.compare.confidence,
        "num_resamples": config.compare.num_resamples,
        "seeds": sorted({seed for runs in results.values() for seed in runs}),
        "num_runs": len(diverged),
        "num_diverged": sum(diverged.values()),
        "skipped": dict(provenance.get("skipped") or {}),
        "definitions": definitions_of(config.task.objective),
    }


def plain_values(value: Any) -> Any:
    """`value` as JSON holds it: string keys, lists, and null for what is not a finite number."""
    if isinstance(value, Mapping):
        return {str(key): plain_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_values(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)
