"""What `MetaLR` keeps between steps and writes into its state: checks of it, and of earlier versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from metalr.control.law import LAW_FIELDS
from metalr.control.observation import Observation

__all__ = ["STATE_VERSION", "LRWindow", "checked_state", "history_row"]

STATE_VERSION = 3
_FIELDS = frozenset(
    {
        "version", "controller_sha256", "last_epoch", "step_count", "last_lr", "base_lrs", "pending",
        "pending_is_observation", "total_epochs", "steps_per_epoch", "window", "carried", "statistics",
        "history", "num_silent_epochs", "setting", *LAW_FIELDS,
    }
)  # fmt: skip


@dataclass
class LRWindow:
    """The LRs of the units since the epoch began."""

    lr_sum: float = 0.0
    height_sum: float = 0.0
    num_units: int = 0

    def add(self, lr: float, height: float) -> None:
        """One more unit, trained at `lr` where the anchor stood at `height`."""
        self.lr_sum += lr
        self.height_sum += height
        self.num_units += 1

    def measurements(self) -> dict[str, float]:
        """Mean LR and its equivalent peak, by field of `Observation`."""
        if not self.num_units or not self.height_sum > 0.0:
            return {}
        return {"lr": self.lr_sum / self.num_units, "peak_lr": self.lr_sum / self.height_sum}

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def history_row(observation: Observation | None, epoch: int, window: LRWindow, reason: str) -> dict[str, Any]:
    """An epoch for people: its mean LR, its losses where observed, and what was decided after it."""
    row: dict[str, Any] = {"epoch": epoch, "lr": window.measurements().get("lr")}
    for name in ("train_loss", "inner_valid_loss", "inner_valid_accuracy"):
        row[name] = getattr(observation, name) if observation else None
    return row | {"decision": reason}


def checked_state(state: Mapping[str, Any], controller_sha256: str) -> dict[str, Any]:
    """`state` as this version writes it.

    Raises:
        ValueError: another version than can be read, a field missing, or another controller's state.
    """
    version = state.get("version")
    if version not in (1, 2, STATE_VERSION):
        raise ValueError(f"MetaLR state has version {version}, expected {STATE_VERSION} (or 1, 2)")
    found = _from_version_1(state) if version == 1 else dict(state)
    if version != STATE_VERSION:
        found.setdefault("carried", {})
    missing = sorted(_FIELDS - set(found))
    if missing:
        raise ValueError(f"MetaLR state lacks {', '.join(missing)}: it is damaged; load another checkpoint")
    if found["controller_sha256"] != controller_sha256:
        raise ValueError(
            f"this MetaLR state was made by controller {found['controller_sha256'][:12]}, "
            f"but {controller_sha256[:12]} is loaded; load the same controller to go on"
        )
    return found


def _from_version_1(state: Mapping[str, Any]) -> dict[str, Any]:
    """Version 1 had no hooks, no history and no budget in it; its first writings had no count of stalls."""
    added: dict[str, Any] = {
        "num_stalls": 0,
        "total_epochs": None,
        "steps_per_epoch": None,
        "window": LRWindow().to_dict(),
        "statistics": None,
        "history": [],
        "num_silent_epochs": 0,
        "setting": None,
    }
    return added | dict(state)
