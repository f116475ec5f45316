"""From what an epoch showed to the peak LR of the next: `MetaLR` without the optimizer's LRs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import nn
from torch.optim import Optimizer

from metalr.control.agreement import decided_by_rank_0
from metalr.control.anytime import Course
from metalr.control.decision import Decision
from metalr.control.law import ControlLaw, LawState
from metalr.control.metrics import MetricReader
from metalr.control.observation import Observation, Setting
from metalr.control.rollback import Rollback
from metalr.control.scheduler_state import LRWindow, history_row
from metalr.control.step_statistics import StepStatistics

__all__ = ["Autopilot", "Surroundings"]

BLOWN_UP = 100.0
"""Weights that move so many times their norm within the first epoch are lost, though the loss be a number."""
SILENT_EPOCHS = 5
"""So many epochs without any observation, from the start, look like a metric that was forgotten."""


@dataclass(frozen=True)
class Surroundings:
    """What a training is, and what of it may be touched. Nothing here changes while it trains."""

    course: Course
    steps_per_epoch: int
    """Units an epoch."""
    optimizer: Optimizer
    model: nn.Module | None
    """Rolled back where an epoch is undone."""
    statistics: StepStatistics | None
    is_described: bool
    """Whether the user gave the setting; else it is part of the state, and steps are counted."""
    is_shared: bool
    """Whether rank 0 decides for all."""
    warns_of_silence: bool


@dataclass
class Autopilot:
    """The law's state with what is gathered for its next decision."""

    law: ControlLaw
    around: Surroundings
    setting: Setting
    state: LawState
    pending: dict[str, float] | Observation = field(default_factory=dict)
    """What was offered since the last decision."""
    window: LRWindow = field(default_factory=LRWindow)
    carried: dict[str, float] = field(default_factory=dict)
    """What was measured in an epoch that ended without metrics: they may come after its last step."""
    history: list[dict[str, Any]] = field(default_factory=list)
    num_silent_epochs: int = 0
    reader: MetricReader = field(default_factory=MetricReader)
    rollback: Rollback = field(init=False)

    def __post_init__(self) -> None:
        around = self.around
        if around.is_shared:
            self.state = LawState.from_dict(decided_by_rank_0(self.state.to_dict()))
        self.rollback = Rollback(
            around.optimizer, around.model, around.statistics, is_shared=around.is_shared
        )

    def begin(self) -> None:
        """The training under control begins now, after epochs under another schedule."""
        self.pending, self.window, self.carried = {}, LRWindow(), {}
        if self.around.statistics is not None:
            self.around.statistics.reset(is_whole_epoch=False)
        self.rollback.remember()

    @property
    def decision(self) -> Decision:
        """The one in force."""
        assert self.state.decision is not None
        return self.state.decision

    @property
    def is_at_own_lr(self) -> bool:
        """Whether the controller has decided nothing yet: the LR is the user's."""
        return self.state.first_peak is None and not self.num_silent_epochs

    def begin_again(self, factor: float, why: str) -> bool:
        """Take back the first epoch's steps so far, and lower the peak; False where it is at its lowest."""
        before, statistics = self.decision.peak_lr, self.around.statistics
        peak = max(before * factor, self.law.config.min_lr)
        if peak == before or statistics is None or not self.rollback.undo_steps():
            return False
        statistics.reset(is_whole_epoch=False)
        self.pending, self.window = {}, LRWindow()
        num_rollbacks = self.state.num_rollbacks + 1
        decision = Decision(0, None, peak, why)
        self.state = replace(self.state, peak=peak, decision=decision, num_rollbacks=num_rollbacks)
        return True

    def lr(self, unit: int) -> float:
        """The LR of unit `unit`, from 0, before any bound on LRs."""
        assert self.state.peak is not None
        return self.state.peak * self.around.course.height(unit)

    def explain(self, unit: int, lr: float) -> str:
        """Why the LR of the unit is what it is, in three lines."""
        decision, course = self.decision, self.around.course
        wish = decision.proposed_peak_lr
        why = decision.reason if wish is None else f"{decision.reason}; the controller asked for {wish:.3g}"
        source = "from the probe" if self.state.probe else "usual for this optimizer"
        return (
            f"LR {lr:.3g}: peak LR {decision.peak_lr:.3g} x height {course.height(unit):.3g} of the "
            f"{course.shape} anchor\n"
            f"peak decided after epoch {decision.epoch}: {why}\n"
            f"reference LR {self.state.reference_lr:.3g} ({source}); epochs undone: "
            f"{self.state.num_rollbacks}; unusable proposals: {self.state.num_holds}"
        )

    def observe(self, metrics: Any) -> None:
        """Keep metrics, or a whole Observation, for the next decision. Raises TypeError on a wrong one."""
        if isinstance(metrics, Observation):
            self.pending = metrics
            return
        known = self.reader.read(metrics)
        before = {} if isinstance(self.pending, Observation) else self.pending
        self.pending = before | known

    def end_unit(self, unit: int, lr: float) -> None:
        """Unit `unit` was trained at `lr`: decide, where there is something to decide on."""
        total = self.around.course.total_units
        if total is not None and unit >= total:
            self.pending = {}
            if unit == total:
                warnings.warn(
                    f"MetaLR was stepped past its budget of {total}; the LR stays at its last value",
                    UserWarning,
                    stacklevel=3,
                )
            return
        self.window.add(lr, self.around.course.height(unit))
        is_epoch_end = (unit + 1) % self.around.steps_per_epoch == 0
        if self.around.is_shared and not is_epoch_end:
            return
        epoch = (unit + 1) // self.around.steps_per_epoch
        observation = self._observation(epoch, is_epoch_end) if self.pending else None
        self.pending = {}
        is_decided = self._decide(observation)
        if is_epoch_end or is_decided:
            self._begin_epoch(observation, epoch, is_decided, is_epoch_end)

    def _observation(self, epoch: int, is_epoch_end: bool) -> Observation:
        if isinstance(self.pending, Observation):
            return self.pending
        measured = self._measured() if is_epoch_end or not self.carried else self.carried
        return Observation.from_measurements(epoch, measured | self.pending)

    def _measured(self) -> dict[str, float]:
        gathered = self.around.statistics.read() if self.around.statistics else {}
        return gathered | self.window.measurements()

    def _decide(self, observation: Observation | None) -> bool:
        """Whether a decision was made, here or by rank 0."""
        before = self.state
        after = before
        if observation is not None and self._has_blown_up(observation):
            observation = replace(observation, is_finite=False)
        if observation is not None:
            can_restore = self.rollback.is_possible(observation)
            after = self.law.decide(before, observation, self._setting_now(), can_restore=can_restore)
        if self.around.is_shared:
            agreed = decided_by_rank_0({"is_decided": after is not before, **after.to_dict()})
            after = LawState.from_dict(agreed) if agreed["is_decided"] else before
        self.state = after
        if after is before:
            return False
        if after.num_rollbacks == before.num_rollbacks:
            self.rollback.remember()
        else:
            self.rollback.undo(observation)
        return True

    def _has_blown_up(self, observation: Observation) -> bool:
        """Whether the weights tell of an explosion that no loss could: there was none before it."""
        statistics, moved = self.around.statistics, observation.update_norm
        losses = (loss for row in self.state.trace for loss in (row.train_loss, row.inner_valid_loss))
        if statistics is None or moved is None or any(loss is not None for loss in losses):
            return False
        start = statistics.start_norm
        return start is not None and 0.0 < BLOWN_UP * start < moved

    def _setting_now(self) -> Setting:
        statistics = self.around.statistics
        num_steps = statistics.steps_per_epoch if statistics else None
        if num_steps is None or self.around.is_described or self.around.steps_per_epoch > 1:
            return self.setting
        return replace(self.setting, steps_per_epoch=num_steps)

    def _begin_epoch(
        self, observation: Observation | None, epoch: int, is_decided: bool, is_epoch_end: bool
    ) -> None:
        self.carried = self._measured() if not is_decided and self.around.steps_per_epoch > 1 else {}
        reason = self.decision.reason if is_decided else "held: nothing was observed"
        self.history.append(history_row(observation, epoch, self.window, reason))
        if self.around.statistics is not None:
            self.around.statistics.reset(is_whole_epoch=is_epoch_end)
        self.window = LRWindow()
        self.num_silent_epochs = 0 if is_decided else self.num_silent_epochs + is_epoch_end
        if (
            self.around.warns_of_silence
            and self.num_silent_epochs == SILENT_EPOCHS
            and self.decision.epoch == 0
        ):
            warnings.warn(
                f"MetaLR has seen no metric in {SILENT_EPOCHS} epochs and only follows its anchor: "
                "give step() the epoch's losses",
                UserWarning,
                stacklevel=4,
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values to go on from; without the snapshot, which at an epoch's end equals the model."""
        is_whole = isinstance(self.pending, Observation)
        statistics = self.around.statistics
        return {
            **self.state.to_dict(),
            "setting": asdict(self.setting),
            "pending": self.pending.to_dict()
            if isinstance(self.pending, Observation)
            else dict(self.pending),
            "pending_is_observation": is_whole,
            "window": self.window.to_dict(),
            "carried": dict(self.carried),
            "statistics": statistics.state_dict() if statistics else None,
            "history": [dict(row) for row in self.history],
            "num_silent_epochs": self.num_silent_epochs,
        }

    def load(self, values: Mapping[str, Any]) -> None:
        """Go on from `to_dict`; all or nothing."""
        state = LawState.from_dict(values)
        pending = values["pending"]
        whole = Observation.from_dict(pending) if values["pending_is_observation"] else dict(pending)
        window = LRWindow(**values["window"])
        if values["setting"] is not None and not self.around.is_described:
            self.setting = Setting(**values["setting"])
        self.state, self.pending, self.window = state, whole, window
        self.carried = dict(values["carried"])
        self.history = [dict(row) for row in values["history"]]
        self.num_silent_epochs = values["num_silent_epochs"]
        if self.around.statistics is not None and values["statistics"] is not None:
            self.around.statistics.load_state_dict(values["statistics"])
        self.rollback.remember()
