"""Going on after a kill: checksummed checkpoints, two generations, plain values only."""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from typing import Any

import torch

from metalr.training.artifacts import write_atomically

__all__ = ["load_latest_checkpoint", "save_checkpoint"]

GENERATIONS = 2


def save_checkpoint(folder: Path, epoch: int, state: dict[str, Any]) -> None:
    """Put `state` at `folder/ckpt-<epoch>.pt` with its SHA-256 beside it, and drop all but the last two."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    path = folder / f"ckpt-{epoch}.pt"
    write_atomically(path, content)
    write_atomically(path.with_suffix(".sha256"), hashlib.sha256(content).hexdigest().encode())
    for old_epoch in _epochs(folder)[:-GENERATIONS]:
        remove_checkpoint(folder, old_epoch)


def load_latest_checkpoint(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """The newest undamaged checkpoint, or None. A damaged one is deleted and its predecessor taken."""
    for epoch in reversed(_epochs(folder)):
        path = folder / f"ckpt-{epoch}.pt"
        content = path.read_bytes()
        checksum = path.with_suffix(".sha256")
        if checksum.is_file() and checksum.read_bytes().decode(errors="replace") == _digest(content):
            state: dict[str, Any] = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
            return state
        remove_checkpoint(folder, epoch)
    return None


def remove_checkpoint(folder: Path, epoch: int) -> None:
    """Delete one checkpoint and its checksum."""
    path = folder / f"ckpt-{epoch}.pt"
    path.unlink(missing_ok=True)
    path.with_suffix(".sha256").unlink(missing_ok=True)


def remove_checkpoints(folder: Path) -> None:
    """Delete every checkpoint: the run is finished."""
    for epoch in _epochs(folder):
        remove_checkpoint(folder, epoch)


def _epochs(folder: Path) -> list[int]:
    found = (re.fullmatch(r"ckpt-(\d+)\.pt", path.name) for path in folder.glob("ckpt-*.pt"))
    return sorted(int(match.group(1)) for match in found if match)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
