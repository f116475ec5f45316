"""Trying what may not work here: what fails says why, and what is left is measured."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from benchmarks.measurement import Row, Subject

__all__ = ["Attempts", "Maker", "attempt", "reason_of", "synchronise", "with_remarks"]

Maker = Callable[[], Subject]
"""Makes what is to be measured; this and its first run may raise anything."""
NOT_RECORDED = "train.step=cuda_graph: not recorded"
"""What metalr warns of where it goes on with plain steps: their figure would stand under a wrong name."""


@dataclass(frozen=True)
class Attempts:
    """What came of trying."""

    subjects: dict[str, Subject]
    """Those that work, by label; each has been run once."""
    warned: dict[str, str]
    """Label -> what a working one warned of."""
    failed: dict[str, str]
    """Label -> why the others do not work."""


def attempt(makers: Mapping[str, Maker], device: str, *, needed: bool = True) -> Attempts:
    """Make and run everything once, in order; what raises is told on the error stream and left out.

    Raises RuntimeError where nothing works, though some is `needed`.
    """
    found = Attempts({}, {}, {})
    for label, make in makers.items():
        try:
            subject, warned = _first_run(make, device)
        except Exception as error:  # a compiler, a driver, a recording: they raise anything
            found.failed[label] = f"does not work here ({reason_of(error)})"
            print(f"{label}: {found.failed[label]}", file=sys.stderr, flush=True)
        else:
            found.subjects[label] = subject
            if warned:
                found.warned[label] = warned
    if needed and not found.subjects:
        raise RuntimeError("; ".join(f"{label}: {reason}" for label, reason in found.failed.items()))
    return found


def _first_run(make: Maker, device: str) -> tuple[Subject, str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        subject = make()
        subject()
        synchronise(device)
    texts = list(dict.fromkeys(_line(str(warning.message)) for warning in caught))
    for text in texts:
        if text.startswith(NOT_RECORDED):
            raise RuntimeError(text)
    return subject, "; ".join(texts)


def with_remarks(rows: Sequence[Row], failed: Mapping[str, str]) -> list[Row]:
    """The rows, the last one with the reasons of what could not be measured in its note."""
    remarks = [f"{label}: {reason}" for label, reason in failed.items()]
    note = "; ".join(filter(None, [rows[-1].note, *remarks]))
    return [*rows[:-1], replace(rows[-1], note=note)]


def synchronise(device: str) -> None:
    """Wait until the device (`cpu` or `cuda`) has done all it was given: a clock may be read after."""
    if device == "cuda":
        torch.cuda.synchronize()


def reason_of(error: BaseException) -> str:
    """What went wrong in one line of at most 160 characters."""
    return f"{type(error).__name__}: {_line(str(error)) or 'no message'}"[:160]


def _line(text: str) -> str:
    return " ".join(text.split())[:160]
