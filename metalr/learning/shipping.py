"""The controllers that come with the package: built from a meta-dataset alone, and gated before they ship.

metalr/learning/pretrained/<learner>.safetensors   weights
                           <learner>.json          card
                           registry.json           which of them `default` is
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from metalr.config import MetaTrainConfig
from metalr.harvest.meta_dataset import MetaDataset
from metalr.learning.controller import PRETRAINED, REGISTRY, save_controller
from metalr.learning.examples import REGRET_FLOOR, Examples, make_examples
from metalr.learning.fitting import Fit, fit
from metalr.learning.views import seen_range
from metalr.training.artifacts import ArtifactError, write_json

__all__ = ["architecture", "build_shipped", "gate"]

LIMITS = (
    "Budgets of 4 to 64 epochs, networks of 8 to 512 units or channels with and without batch or layer norm, "
    "SGD, AdamW and their Schedule-Free kinds, batches of 8 to 512; anything else is a guess within the "
    "envelope.",
    "Labels come from one continuation per candidate and one seed per state.",
    "The anchor: a hold and a fall over the last fifth of the budget, no fall where iterates are averaged.",
)


def gate(result: Fit) -> str | None:
    """Why a fit must not ship, or None: on held-out task groups it must gain over the anchor alone.

    The anchor alone is the best fixed multiple of the probe's reference LR. The mean gain over task groups
    must be above zero, and the lower end of its 95 % interval above minus the noise of the labels
    (`REGRET_FLOOR`).
    """
    low, gain = result.held_out["gain_over_anchor_low"], result.held_out["gain_over_anchor"]
    if gain > 0.0 and low > -REGRET_FLOOR:
        return None
    return f"its gain over the anchor alone on held-out tasks is {gain:.4f} nats, 95 % from {low:.4f}"


def build_shipped(
    dataset: MetaDataset,
    config: MetaTrainConfig,
    folder: Path = PRETRAINED,
    on_pass: Callable[[], None] | None = None,
) -> list[Path]:
    """Fit every learner of `config` on `dataset`, write it into `folder`; returns the paths of the weights.

    `default` becomes the one with the smallest regret on held-out task groups. Same meta-dataset, settings,
    versions and kind of CPU: same bytes.

    Raises:
        ArtifactError: a learner does not pass the `gate`; nothing is written then.
    """
    examples = make_examples(dataset)
    fits = {name: fit(examples, name, config, on_pass) for name in config.learners}
    for name, result in fits.items():
        reason = gate(result)
        if reason is not None:
            raise ArtifactError(f"controller {name} must not ship: {reason}; harvest more, or other tasks")
    paths = [
        save_controller(
            folder,
            name,
            result.members,
            architecture(name, config, examples),
            _card(dataset, examples, config, result),
        )
        for name, result in fits.items()
    ]
    best = min(fits, key=lambda name: fits[name].held_out["learned"])
    write_json(folder / REGISTRY, {"default": best, "controllers": sorted(fits)})
    return paths


def architecture(name: str, config: MetaTrainConfig, examples: Examples) -> dict[str, Any]:
    """What `save_controller` needs to know to build the learner again."""
    return {
        "learner": name,
        "hidden": config.hidden,
        "window": config.window,
        "log_offsets": examples.log_offsets_K.tolist(),
        "prior": examples.prior_K(config.label).tolist(),
        "trust": config.trust,
        "seen": [
            [value if math.isfinite(value) else None for value in bound] for bound in seen_range(examples)
        ],
    }


def _card(dataset: MetaDataset, examples: Examples, config: MetaTrainConfig, result: Fit) -> dict[str, Any]:
    """Neither time nor commit: the same data and settings give the same card."""
    return {
        "meta_datasets": dataset.card.get("parts")
        or {dataset.card["settings"]["name"]: dataset.card["digest"]},
        "meta_dataset_digest": dataset.card["digest"],
        "counts": dataset.card["counts"],
        "task_groups": sorted(set(examples.groups_E.tolist())),
        "meta": config.model_dump(mode="json", exclude={"source"}),
        "held_out": result.held_out,
        "limits": list(LIMITS),
    }
