"""How things are measured: in interleaved rounds of one process, as medians and medians of paired ratios.

A ratio of two speeds taken one after the other measures what else the machine did meanwhile. Here each
round runs every subject once, forwards and backwards in turn, and a ratio is taken within a round.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

__all__ = ["Goal", "Measurement", "Rounds", "Row", "Subject", "measure", "order_of_round", "paired_ratio"]

Subject = Callable[[], Mapping[str, float] | None]
"""Does its work once; may return seconds of parts of it by name."""


@dataclass(frozen=True)
class Measurement:
    """One quantity, with every value that was measured of it, in the order of the rounds."""

    name: str
    unit: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle value. Raises ValueError where nothing was measured."""
        if not self.values:
            raise ValueError(f"{self.name}: nothing was measured")
        return float(np.median(self.values))

    @property
    def spread(self) -> tuple[float, float]:
        """The first and the third quartile."""
        low, high = np.percentile(self.values, [25, 75])
        return float(low), float(high)


@dataclass(frozen=True)
class Goal:
    """What a median is to reach."""

    kind: Literal["at least", "at most"]
    bound: float

    def is_reached(self, value: float) -> bool:
        """Whether `value` is on the right side of the bound, or on it."""
        return value >= self.bound if self.kind == "at least" else value <= self.bound

    def __str__(self) -> str:
        return f"{self.kind} {self.bound:g}"


@dataclass(frozen=True)
class Row:
    """A line of the table: what was measured, what it should reach, and what to know about it."""

    group: str
    measurement: Measurement
    goal: Goal | None = None
    note: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the median reaches the goal; None where there is none."""
        return None if self.goal is None else self.goal.is_reached(self.measurement.median)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON, every raw value among them."""
        found = self.measurement
        return {
            "group": self.group,
            "name": found.name,
            "unit": found.unit,
            "median": found.median,
            "quartiles": list(found.spread),
            "n": len(found.values),
            "values": list(found.values),
            "goal": str(self.goal) if self.goal else None,
            "reached": self.reached,
            "note": self.note,
        }


@dataclass(frozen=True)
class Rounds:
    """What `measure` found."""

    seconds: dict[str, tuple[float, ...]]
    """Label, or `label/part` -> seconds in each round that counts."""
    num_collections: int
    """Runs of the garbage collector inside timed work, all rounds together."""

    def per_second(self, label: str, amount: float, name: str, unit: str) -> Measurement:
        """How many of `amount` things a round `label` did in a second."""
        return Measurement(name, unit, tuple(amount / seconds for seconds in self.seconds[label]))


def paired_ratio(name: str, numerators: Iterable[float], denominators: Iterable[float]) -> Measurement:
    """The ratio of two quantities within each round; its median is the figure to quote.

    Raises ValueError where they were not measured equally often.
    """
    pairs = zip(tuple(numerators), tuple(denominators), strict=True)
    return Measurement(name, "ratio", tuple(above / below for above, below in pairs))


def order_of_round(labels: Sequence[str], index: int) -> list[str]:
    """The subjects in the order of round `index` (from 0): forwards, then backwards, and so on."""
    return list(labels) if index % 2 == 0 else list(reversed(labels))


def measure(
    subjects: Mapping[str, Subject],
    rounds: int,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> Rounds:
    """Every subject's seconds in each of `rounds` rounds, after `warmup` rounds that do not count.

    Garbage is collected before each subject, outside its time; the collector stays on inside, as in real
    life, and what it does there is counted.

    Args:
        subjects: Label -> work.
        rounds: At least 1.
        warmup: Rounds that are run and dropped.
        clock: Seconds, rising.

    Raises:
        ValueError: `rounds` is below 1.
    """
    if rounds < 1:
        raise ValueError(f"rounds={rounds} must be at least 1")
    seconds: dict[str, list[float]] = {}
    num_collections = 0
    for index in range(warmup + rounds):
        for label in order_of_round(list(subjects), index):
            gc.collect()
            before, started = _collections(), clock()
            parts = subjects[label]() or {}
            taken = clock() - started
            if index < warmup:
                continue
            num_collections += _collections() - before
            seconds.setdefault(label, []).append(taken)
            for part, value in parts.items():
                seconds.setdefault(f"{label}/{part}", []).append(value)
    return Rounds({label: tuple(values) for label, values in seconds.items()}, num_collections)


def _collections() -> int:
    return sum(int(generation["collections"]) for generation in gc.get_stats())
