"""Trunks read with today's eyes: what was observed stays, what follows from it is computed anew.

So a mended feature, or another rule for the probe's reference LR, needs no new harvest.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from metalr.control import Observation, ProbeCurve, Setting, feature_rows
from metalr.training.networks import traits_of
from metalr.training.records import RunRecord

__all__ = ["refreshed"]


def refreshed(record: RunRecord) -> RunRecord:
    """The record of a trunk with the probe's figures and the features that follow from it by today's rules.

    A fork's factor becomes its peak over today's reference LR. A record without its setting, from before that
    was kept, is returned as it is.
    """
    setting = record.rows[0].get("setting")
    if setting is None:
        return record
    traits = traits_of(record.spec.task.network)
    probe = replace(
        ProbeCurve.from_dict(record.rows[0]["probe"]),
        normalises=traits.normalises,
        is_distance=not record.spec.task.classifies,
        num_attention_layers=traits.num_attention_layers,
        has_plain_head=traits.has_plain_head,
        num_plain_layers=traits.num_plain_layers,
    )
    trace = [Observation.from_dict(row["observation"]) for row in record.rows]
    features = feature_rows(trace, Setting(**setting | {"normalises": traits.normalises}), probe)
    rows: list[dict[str, Any]] = [
        row | {"features": [None if math.isnan(value) else float(value) for value in values]}
        for row, values in zip(record.rows, features, strict=True)
    ]
    rows[0]["probe"] = probe.to_dict()
    forks = [fork | {"factor": _factor(fork, probe.reference_lr)} for fork in record.forks]
    return replace(record, rows=rows, forks=forks)


def _factor(fork: dict[str, Any], reference_lr: float) -> float:
    """The planned factor where it still holds, to its last bit."""
    factor = fork["peak_lr"] / reference_lr
    return float(fork["factor"] if math.isclose(factor, fork["factor"], rel_tol=1e-9) else factor)
