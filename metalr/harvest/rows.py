"""A trunk's record as rows of the two tables."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

from metalr.config import short_hash
from metalr.config.identity import without_added
from metalr.training.artifacts import ArtifactError
from metalr.training.records import RunRecord
from metalr.training.specs import ADDED_SETTINGS, RunSpec

__all__ = ["fork_rows", "group_of", "transition_rows"]

TRAIN_COLUMNS = ("optimizer", "batch_size", "momentum", "nesterov", "weight_decay", "label_smoothing")
"""Settings of `train` that are columns of their own."""


def group_of(spec: RunSpec) -> str:
    """The identity, 16 hexadecimal digits, shared by all trunks that start from the same state."""
    train = spec.train.model_dump(mode="json", exclude={"lr"})
    settings = {"task": spec.task.model_dump(mode="json"), "train": train, "seed": spec.seed}
    return short_hash(without_added(settings, ADDED_SETTINGS))


def transition_rows(record: RunRecord, feature_names: Sequence[str]) -> list[dict[str, Any]]:
    """One row of `transitions` per epoch of the trunk. Raises ArtifactError where it is none."""
    with _naming(record):
        run = _run_values(record)
        return [run | _epoch_values(row, feature_names) for row in record.rows]


def fork_rows(record: RunRecord) -> list[dict[str, Any]]:
    """One row of `forks` per candidate, but for the regrets. Raises ArtifactError where one is amiss."""
    with _naming(record):
        _check_plan(record)
        peaks = {row["epoch"]: row["observation"].get("peak_lr") for row in record.rows}
        peaks[0] = record.spec.train.lr
        rows = [_fork_values(record, fork, peaks[fork["epoch"]]) for fork in record.forks]
        return sorted(rows, key=lambda row: (row["epoch"], row["candidate"]))


@contextlib.contextmanager
def _naming(record: RunRecord) -> Iterator[None]:
    """Whatever the record lacks is reported with the run's id."""
    try:
        yield
    except (ArtifactError, KeyError, IndexError, TypeError, AttributeError) as error:
        own = isinstance(error, ArtifactError)
        problem = str(error) if own else f"its record is not that of a trunk ({error!r})"
        raise ArtifactError(
            f"run {record.run_id}: {problem}; delete its directory in the store and harvest again"
        ) from None


def _run_values(record: RunRecord) -> dict[str, Any]:
    task, train = record.spec.task, record.spec.train
    final_loss = record.result["final"].get("outer_valid/loss")
    return {
        "run_id": record.run_id,
        "group": group_of(record.spec),
        **{
            name: getattr(task, name) for name in ("dataset", "network", "width", "image_size", "label_noise")
        },
        **{name: getattr(train, name) for name in TRAIN_COLUMNS},
        "budget_epochs": train.epochs,
        "seed": record.spec.seed,
        "schedule": record.spec.method,
        "initial_lr": train.lr,
        "reference_lr": record.rows[0]["probe"]["reference_lr"],
        "final_outer_valid_loss": final_loss,
        "diverged": final_loss is None,
    }


def _epoch_values(row: dict[str, Any], feature_names: Sequence[str]) -> dict[str, Any]:
    features = row["features"]
    if len(features) != len(feature_names):
        raise ArtifactError(f"{len(features)} features instead of {len(feature_names)}")
    return {
        "epoch": row["epoch"],
        "lr": row.get("lr"),
        "peak_lr": row["observation"].get("peak_lr"),
        "inner_valid_loss": row.get("inner_valid/loss"),
        "outer_valid_loss": row.get("outer_valid/loss"),
        **{f"feature/{name}": value for name, value in zip(feature_names, features, strict=True)},
    }


def _fork_values(record: RunRecord, fork: dict[str, Any], current_peak_lr: float | None) -> dict[str, Any]:
    recorded = ("epoch", "candidate", "factor", "peak_lr", "next_loss", "final_loss")
    return {
        "run_id": record.run_id,
        "group": group_of(record.spec),
        **{name: fork[name] for name in recorded},
        "current_peak_lr": current_peak_lr,
        "diverged": fork["final_loss"] is None,
    }


def _check_plan(record: RunRecord) -> None:
    """Refuse forks that are not exactly the planned ones, up to where the trunk diverged."""
    plan, end = record.spec.forks, record.result.get("diverged_epoch")
    planned = [
        (epoch, candidate)
        for epoch in (plan.epochs if plan else [])
        for candidate in range(len(plan.peak_factors) if plan else 0)
        if end is None or epoch < end
    ]
    done = [(fork["epoch"], fork["candidate"]) for fork in record.forks]
    if sorted(done) != sorted(planned):
        raise ArtifactError(f"its forks are not those of its plan ({len(done)} of {len(planned)} candidates)")
    reference = record.rows[0]["probe"]["reference_lr"]
    for fork in record.forks:
        if not math.isclose(fork["factor"] * reference, fork["peak_lr"], rel_tol=1e-6):
            raise ArtifactError(
                f"factor {fork['factor']} of candidate {fork['candidate']} is not its peak over the reference"
            )
