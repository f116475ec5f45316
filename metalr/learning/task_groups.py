"""Task groups: which runs are of one task, and so are held out together.

Legend: E examples (forks).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from metalr.training.artifacts import ArtifactError

__all__ = ["TASK_COLUMNS", "fold_of_groups", "group_of_runs"]

TASK_COLUMNS = (
    "dataset", "network", "width", "image_size", "label_noise", "optimizer", "batch_size", "momentum",
    "nesterov", "weight_decay", "label_smoothing",
)  # fmt: skip
"""What makes a task: runs that differ only in budget, seed, schedule or LR are of one task group."""


def group_of_runs(transitions: pd.DataFrame) -> dict[str, str]:
    """The task group of every run, as the settings that make it; the run group where all are of one task."""
    runs = transitions.drop_duplicates("run_id").set_index("run_id")
    tasks = {
        str(run): ", ".join(f"{name}={row[name]}" for name in TASK_COLUMNS if name in runs.columns)
        for run, row in runs.iterrows()
    }
    if len(set(tasks.values())) > 1:
        return tasks
    return {str(run): str(group) for run, group in runs["group"].items()}


def fold_of_groups(groups_E: np.ndarray, num_folds: int, seed: int) -> np.ndarray:
    """The fold (E,) in which each example is held out: whole groups, as evenly as they go.

    No group has examples in two folds. With fewer groups than folds there is one fold a group.

    Raises:
        ArtifactError: fewer than two groups.
    """
    groups = np.unique(groups_E)
    if len(groups) < 2:
        raise ArtifactError(
            f"held-out figures need at least two task groups, the meta-dataset has "
            f"{len(groups)}; harvest from more tasks"
        )
    shuffled = np.random.default_rng(seed).permutation(groups)
    folds = {group: position % min(num_folds, len(groups)) for position, group in enumerate(shuffled)}
    return np.array([folds[group] for group in groups_E])
