"""The table on the screen and the file beside it: figures never without n, spread, hardware and versions."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.measurement import Row
from benchmarks.settings import Settings
from metalr.provenance import git_commit, hardware
from metalr.training import package_versions

__all__ = ["format_goals", "format_number", "format_table", "machine", "report_of", "unquiet"]

HEADINGS = ("what", "median", "quartiles", "n", "goal", "reached")
BUSY_LOAD = 0.5
"""Processes waiting for a core before the start, above which other work disturbs the figures."""


def format_number(value: float) -> str:
    """Three significant digits, four from 1,000 on; thousands set apart.

    >>> format_number(0.04567), format_number(12345.6)
    ('0.0457', '12,346')
    """
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"


def format_table(rows: Sequence[Row]) -> str:
    """The rows as aligned text, each group under its name, notes below their row."""
    lines: list[str] = []
    cells = [_cells(row) for row in rows]
    widths = [max(len(line[column]) for line in [HEADINGS, *cells]) for column in range(len(HEADINGS))]
    group = ""
    for row, texts in zip(rows, cells, strict=True):
        if row.group != group:
            group = row.group
            lines += ["", group, _aligned(HEADINGS, widths)]
        lines.append(_aligned(texts, widths))
        if row.note:
            lines.append(f"      {row.note}")
    return "\n".join(lines).strip("\n")


def _cells(row: Row) -> tuple[str, ...]:
    found = row.measurement
    low, high = found.spread
    return (
        found.name,
        f"{format_number(found.median)} {found.unit}",
        f"{format_number(low)} .. {format_number(high)}",
        str(len(found.values)),
        str(row.goal or ""),
        {True: "yes", False: "NO", None: ""}[row.reached],
    )


def _aligned(texts: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (text.ljust(width) for text, width in zip(texts, widths, strict=True))
    return "  ".join([f"  {first}", *others]).rstrip()


def format_goals(rows: Sequence[Row]) -> str:
    """How many rows are below their goal, then every row that has one, the missed ones first."""
    goals = sorted((row for row in rows if row.goal is not None), key=lambda row: row.reached is True)
    missed = sum(row.reached is False for row in goals)
    lines = [f"{len(rows)} rows, {missed} below their goal"]
    for row in goals:
        found = row.measurement
        figure = f"{format_number(found.median)} {found.unit}, {row.goal}"
        lines.append(f"  {'reached' if row.reached else 'MISSED '}  {row.group}: {found.name}: {figure}")
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """What the figures were measured on: processor, cores, load, commit, versions, time."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git_commit(),
        "versions": package_versions() | _version_of("numpy", "torchvision"),
        "hardware": hardware("cpu"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cuda": torch.version.cuda,
        "processor": _processor(),
        "system": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_1_min": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "torch_threads": torch.get_num_threads(),
    }


def _version_of(*names: str) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    """The processor's name as Linux tells it, else what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def unquiet(facts: dict[str, Any]) -> str | None:
    """A warning where other work kept the cores busy when the benchmarks began; None on a quiet machine."""
    load = facts["load_1_min"]
    if load is None or load <= BUSY_LOAD:
        return None
    return f"The machine was busy before this began (load {load:.2f}): do not trust these times."


def report_of(
    rows: Sequence[Row], facts: dict[str, Any], settings: Settings, extras: dict[str, Any]
) -> dict[str, Any]:
    """Everything as plain values for JSON: facts, settings, every row with its raw values, and `extras`."""
    return {
        "machine": facts,
        "settings": asdict(settings),
        "rows": [row.to_dict() for row in rows],
        **extras,
    }
