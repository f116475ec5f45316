"""A controller: the frozen ensemble that decides, with a card that says where it comes from.

On disk two files, never a pickle: `<name>.safetensors` (weights) and `<name>.json` (card, with the
weights' SHA-256).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from metalr.control import FEATURE_NAMES, Prediction
from metalr.learning.learners import Learner, make_learner
from metalr.learning.stacked import stacked
from metalr.training.artifacts import ArtifactError, read_json, sha256_of_file, write_atomically, write_json

__all__ = [
    "CARD_VERSION",
    "PRETRAINED",
    "REGISTRY",
    "LearnedController",
    "controller_path",
    "load_controller",
    "save_controller",
    "shipped_controllers",
]

CARD_VERSION = 1
PRETRAINED = Path(str(files("metalr.learning"))) / "pretrained"
"""Where the package keeps its controllers."""
REGISTRY = "registry.json"
"""In that folder: which controller `default` is."""
PROBED = FEATURE_NAMES.index("log_reference_lr")
"""The feature that is missing where there was no probe."""


class LearnedController:
    """An ensemble of learners whose predictions are averaged; see `metalr.control.Controller`.

    Args:
        members: The learners.
        log_offsets: Natural log of candidate over reference LR, rising.
        sha256: Identity of the weights.
        prior: The mean log regret of each candidate over the forks that were learned from: what is expected
            of a training of which nothing is known but its probe.
        seen: The lowest and the highest value of each feature in the runs that were learned from. One outside
            counts as the nearest inside: a training longer than any of them is decided like the longest, and
            not by what a network makes of a number that it has never met. None: every value counts as it is.
        trust: How far predictions count, 0 to 1: ``prior + trust * (prediction - prior)``. Without a probe
            there is no prior worth leaning on, and the prediction counts whole.
    """

    def __init__(
        self,
        members: Sequence[Learner],
        log_offsets: Sequence[float],
        sha256: str = "unsaved",
        prior: Sequence[float] | None = None,
        trust: float = 1.0,
        seen: tuple[Sequence[float], Sequence[float]] | None = None,
    ) -> None:
        self._initial_state = torch.cat([member.initial_state() for member in members]).tolist()
        self._stacked = stacked(members)
        self._log_offsets = tuple(log_offsets)
        self._sha256 = sha256
        self._prior = None if prior is None else np.array(prior, dtype=np.float32)
        self._trust = trust
        self._seen = None if seen is None else (np.array(seen[0]), np.array(seen[1]))

    @property
    def sha256(self) -> str:
        """Identity of the weights: the SHA-256 of the file they were loaded from."""
        return self._sha256

    @property
    def log_offsets(self) -> tuple[float, ...]:
        """The candidates: natural log of peak LR over reference LR, rising."""
        return self._log_offsets

    def initial_state(self) -> list[float]:
        """The members' memories, one behind the other."""
        return list(self._initial_state)

    def step(self, state: list[float], features_F: np.ndarray) -> tuple[list[float], Prediction]:
        """The memories after one more observation, and the members' mean prediction."""
        within_F = features_F if self._seen is None else np.clip(features_F, *self._seen)
        memory, heads_K = self._stacked.step(state, within_F)
        regrets_K = heads_K[:-1]
        if self._prior is not None and not np.isnan(features_F[PROBED]):
            regrets_K = self._prior + self._trust * (regrets_K - self._prior)
        return memory, Prediction(tuple(regrets_K.tolist()), float(heads_K[-1]))


def save_controller(
    folder: Path,
    name: str,
    members: Sequence[Learner],
    architecture: Mapping[str, Any],
    card: Mapping[str, Any],
) -> Path:
    """Write weights and card; returns the path of the weights.

    Args:
        folder: Made where missing.
        name: File name without ending.
        members: The trained ensemble.
        architecture: `learner`, `hidden`, `window`, `log_offsets`, `prior`, `trust`, `seen`: what is needed
            to build it again; without `prior` and `trust` its predictions count whole. `seen` is two lists
            with null where a feature was never seen; without it every value counts as it is.
        card: Whatever else the reader should know: data, figures, versions.
    """
    tensors = {
        f"{index}.{key}": value.contiguous()
        for index, member in enumerate(members)
        for key, value in member.state_dict().items()
    }
    path = folder / f"{name}.safetensors"
    write_atomically(path, safetensors.torch.save(tensors))
    described = {
        "card_version": CARD_VERSION,
        "name": name,
        "sha256": sha256_of_file(path),
        "num_members": len(members),
        "architecture": dict(architecture),
        "feature_names": list(FEATURE_NAMES),
        **card,
    }
    write_json(path.with_suffix(".json"), described)
    return path


def load_controller(source: str | Path) -> LearnedController:
    """The controller at a path (its `.safetensors` file), or shipped with the package under a name.

    Raises:
        ArtifactError: nothing there; weights that are not the card's; a card of another version, or one
            made for other features.
    """
    path = controller_path(source)
    card = read_json(path.with_suffix(".json"))
    if card.get("card_version") != CARD_VERSION:
        raise ArtifactError(
            f"{path}: card version {card.get('card_version')}, this metalr reads {CARD_VERSION}"
        )
    if sha256_of_file(path) != card["sha256"]:
        raise ArtifactError(
            f"{path}: damaged (its SHA-256 is not the card's); make it again with `metalr train-meta`"
        )
    if tuple(card["feature_names"]) != FEATURE_NAMES:
        raise ArtifactError(f"{path}: made for other features than this metalr computes; train it again")
    shape = card["architecture"]
    return LearnedController(
        _members(path, card),
        shape["log_offsets"],
        card["sha256"],
        shape.get("prior"),
        shape.get("trust", 1.0),
        _bounds(shape["seen"]) if "seen" in shape else None,
    )


def _bounds(seen: Sequence[Sequence[float | None]]) -> tuple[list[float], list[float]]:
    lowest, highest = seen
    return (
        [-math.inf if value is None else value for value in lowest],
        [math.inf if value is None else value for value in highest],
    )


def shipped_controllers() -> dict[str, Path]:
    """The controllers that come with the package, by name; `default` is the one taken where none is named."""
    paths = {path.stem: path for path in sorted(PRETRAINED.glob("*.safetensors"))}
    registry = PRETRAINED / REGISTRY
    default = read_json(registry).get("default") if registry.is_file() else None
    return ({"default": paths[default]} if default in paths else {}) | paths


def controller_path(source: str | Path) -> Path:
    """Where a controller's weights lie: the path itself, or that of the shipped one of this name.

    Raises ArtifactError where there is neither.
    """
    path = Path(source)
    if path.is_file():
        return path
    shipped = shipped_controllers()
    if str(source) in shipped:
        return shipped[str(source)]
    known = (
        f"shipped controllers: {', '.join(shipped)}"
        if shipped
        else "no controller is shipped with this version"
    )
    raise ArtifactError(f"no controller at {str(source)!r}: give the path of a .safetensors file ({known})")


def _members(path: Path, card: Mapping[str, Any]) -> list[Learner]:
    tensors = safetensors.torch.load_file(path)
    shape = card["architecture"]
    members = []
    for index in range(card["num_members"]):
        member = make_learner(
            shape["learner"], len(FEATURE_NAMES), len(shape["log_offsets"]), shape["hidden"], shape["window"]
        )
        prefix = f"{index}."
        member.load_state_dict(
            {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        )
        members.append(member)
    return members
