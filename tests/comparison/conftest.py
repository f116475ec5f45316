"""Synthetic run records with planted outcomes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from metalr.comparison.protocol import plan_runs
from metalr.config import ExperimentConfig
from metalr.training.records import RunRecord
from metalr.training.specs import RunSpec

Accuracy = Callable[[RunSpec], float | None]
"""Final accuracy in percent; None for a run that diverges."""


def lr_at(spec: RunSpec, epoch: int) -> float:
    """The planted LR of an epoch, from 1 on."""
    progress = (epoch - 1) / spec.train.epochs
    anchors = {
        "constant": 1.0,
        "step": 0.1 ** math.floor(2 * progress),
        "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
        "linear": 1.0 - progress,
    }
    if spec.method in anchors:
        return spec.train.lr * anchors[spec.method]
    return 0.1 * (1.0 - progress) * (1.2 if spec.method == "metalr-lstm" else 1.0)


def record_of(spec: RunSpec, accuracy_pct: float | None, lrs: list[float] | None = None) -> RunRecord:
    """A finished (or, for None, diverged) run with the keys the training room writes."""
    lrs = lrs or [lr_at(spec, epoch) for epoch in range(1, spec.train.epochs + 1)]
    if accuracy_pct is None:
        lrs = lrs[: max(1, len(lrs) // 3)]
    final = 0.1 if accuracy_pct is None else accuracy_pct / 100.0
    rows: list[dict[str, Any]] = [{"epoch": 0, "probe": None, "observation": {}}]
    for epoch, lr in enumerate(lrs, start=1):
        share = 0.1 + (final - 0.1) * (1 - math.exp(-4 * epoch / spec.train.epochs))
        rows.append(_row(epoch, lr, share, spec.method.startswith("metalr")))
    control_s = 0.02 * len(lrs) if spec.method.startswith("metalr") else 0.0
    timing = {"train_s": 1.0 * len(lrs), "eval_s": 0.25 * len(lrs), "control_s": control_s}
    timing["wall_s"] = sum(timing.values())
    metrics = {} if accuracy_pct is None else _final(final)
    result = {
        "status": "diverged" if accuracy_pct is None else "done",
        "diverged_epoch": len(lrs) if accuracy_pct is None else None,
        "final": metrics,
        "timing": timing,
        "num_samples": 1000 * len(lrs),
        "versions": {"torch": "2.12.1"},
        "device": "cpu",
    }
    return RunRecord(spec.run_id, spec, rows, [], result)


def _row(epoch: int, lr: float, share: float, controlled: bool) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "lr": lr,
        "train/loss": 2.4 * (1 - share),
        "inner_valid/loss": 2.5 * (1 - share),
        "inner_valid/accuracy": share,
        "time/train_s": 1.0,
        "time/eval_s": 0.25,
        "time/control_s": 0.02 if controlled else 0.0,
        "observation": {},
        "decision": {"peak_lr": 0.1, "reason": "learned"} if controlled else None,
    }


def _final(share: float) -> dict[str, float]:
    splits = ("test", "outer_valid", "inner_valid")
    return {f"{s}/accuracy": share for s in splits} | {f"{s}/loss": 2.5 * (1 - share) for s in splits}


def make_config(**compare: Any) -> ExperimentConfig:
    """The default recipe with this comparison, and few resamples."""
    return ExperimentConfig.model_validate({"compare": {"num_resamples": 999, **compare}})


CONTROLLERS: Mapping[str, str] = {"mlp": "a" * 64, "lstm": "b" * 64}


def make_records(config: ExperimentConfig, accuracy: Accuracy) -> list[RunRecord]:
    """Every planned run with its planted accuracy."""
    return [record_of(spec, accuracy(spec)) for spec in plan_runs(config, "digest", "cpu", CONTROLLERS)]


@pytest.fixture(scope="session")
def build() -> Callable[..., list[RunRecord]]:
    """`make_records`."""
    return make_records


@pytest.fixture(scope="session")
def config_with() -> Callable[..., ExperimentConfig]:
    """`make_config`."""
    return make_config


@pytest.fixture(scope="session")
def record() -> Callable[..., RunRecord]:
    """`record_of`."""
    return record_of
