"""Where the time of an epoch goes: torch's profiler over one epoch, by operator."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.cases import Case, cases_of, live_run, synthetic_task
from benchmarks.settings import Settings
from metalr.training import train_epoch

__all__ = ["Operator", "format_operators", "profile_epochs", "shares_of"]

NUM_SHOWN = 15


@dataclass(frozen=True)
class Operator:
    """An operator of torch in one epoch."""

    name: str
    calls: int
    self_ms: float
    """Milliseconds in itself, without the operators it called."""
    share_pct: float
    """Of the self time of all operators."""


def shares_of(times: Sequence[tuple[str, int, float]]) -> list[Operator]:
    """The operators from (name, calls, milliseconds), the dearest first."""
    total = sum(self_ms for _, _, self_ms in times) or 1.0
    ranked = sorted(times, key=lambda entry: -entry[2])
    return [Operator(name, calls, self_ms, 100 * self_ms / total) for name, calls, self_ms in ranked]


def profile_epochs(settings: Settings) -> dict[str, list[dict[str, Any]]]:
    """Case -> its operators as plain values, from one epoch after one that warms up."""
    return {str(case): [asdict(found) for found in _profile(case)] for case in cases_of(settings)}


def _profile(case: Case) -> list[Operator]:
    with tempfile.TemporaryDirectory() as folder:
        training = live_run(case, synthetic_task(case), Path(folder), channels_last=True).training
    torch.set_num_threads(case.threads)
    train_epoch(training)
    on_gpu = case.device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities, acc_events=True) as profiler:
        train_epoch(training)
    times = [
        (str(event.key), int(event.count), float(_self_us(event, on_gpu)) / 1e3)
        for event in profiler.key_averages()
    ]
    return shares_of(times)


def _self_us(event: Any, on_gpu: bool) -> float:
    return float(event.self_device_time_total if on_gpu else event.self_cpu_time_total)


def format_operators(found: dict[str, list[dict[str, Any]]]) -> str:
    """The dearest operators of each case as aligned text."""
    lines = []
    for case, operators in found.items():
        lines += ["", f"Where an epoch's time goes: {case} (self time; the profiler adds some of its own)"]
        for row in operators[:NUM_SHOWN]:
            cost = f"{row['self_ms']:>10,.1f} ms {row['share_pct']:>5.1f} %"
            lines.append(f"  {row['name']:<52.52} {cost} {row['calls']:>7,} calls")
    return "\n".join(lines).strip("\n")
