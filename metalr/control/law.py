"""The control law: from a state and an observation to the next state, pure; `MetaLR` is the shell around."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from metalr.config import ControlConfig
from metalr.control.decision import Controller, Decision, Prediction, best_offset, predicted_gain
from metalr.control.envelope import bounded_peak, decay_ceiling, has_exploded, has_lost_ground, has_stalled
from metalr.control.features import before_training, feature_row, reference_lr
from metalr.control.observation import Observation, Setting
from metalr.control.probe_curve import ProbeCurve

__all__ = ["LAW_FIELDS", "ControlLaw", "LawState"]

MAX_STALLS = 3
"""Rollbacks of epochs that learned nothing; what still learns nothing then may be slow, or unlearnable."""
MAX_IN_A_ROW = 3
"""Backoffs in a row after which a loss that stays high is taken for the new level."""
FIRST_RISES = 2
"""The first decision after the user's own LR may rise as far as so many later ones, unless that exploded."""
LAW_FIELDS = (
    "reference_lr", "probe", "trace", "memory", "peak", "first_peak", "scale", "num_rollbacks", "num_stalls",
    "num_holds", "num_in_a_row", "decision",
)  # fmt: skip
"""The keys of `LawState.to_dict`."""


@dataclass(frozen=True)
class LawState:
    """All that a decision depends on besides the observation, the setting and the controller."""

    reference_lr: float
    """What the candidates are multiples of."""
    probe: ProbeCurve | None
    memory: list[float]
    """The controller's own."""
    trace: tuple[Observation, ...] = ()
    """The observations so far, without those of undone epochs."""
    peak: float | None = None
    """The equivalent peak in force; None before the first decision."""
    first_peak: float | None = None
    """The controller's first; later ones may leave it only so far."""
    scale: float = 1.0
    """Product of all backoffs."""
    num_rollbacks: int = 0
    num_stalls: int = 0
    num_holds: int = 0
    """How often the controller's wish was no positive finite number."""
    num_in_a_row: int = 0
    """Backoffs since the last epoch that was kept."""
    decision: Decision | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        assert self.decision is not None
        return {
            "reference_lr": self.reference_lr,
            "probe": self.probe.to_dict() if self.probe else None,
            "trace": [observation.to_dict() for observation in self.trace],
            "memory": list(self.memory),
            "peak": self.peak,
            "first_peak": self.first_peak,
            "scale": self.scale,
            "num_rollbacks": self.num_rollbacks,
            "num_stalls": self.num_stalls,
            "num_holds": self.num_holds,
            "num_in_a_row": self.num_in_a_row,
            "decision": self.decision.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LawState:
        """The inverse of `to_dict`; keys that are not the law's are left alone."""
        return cls(
            reference_lr=values["reference_lr"],
            probe=ProbeCurve.from_dict(values["probe"]) if values["probe"] else None,
            memory=list(values["memory"]),
            trace=tuple(Observation.from_dict(row) for row in values["trace"]),
            peak=values["peak"],
            first_peak=values["first_peak"],
            scale=values["scale"],
            num_rollbacks=values["num_rollbacks"],
            num_stalls=values["num_stalls"],
            num_holds=values["num_holds"],
            num_in_a_row=values["num_in_a_row"],
            decision=Decision(**values["decision"]),
        )


@dataclass(frozen=True)
class ControlLaw:
    """Correct within the envelope, or take an epoch back."""

    controller: Controller
    config: ControlConfig
    """Its `min_lr` and `max_lr` bound the equivalent peak."""
    rise: float = 1.0
    """What a peak is of the LR that training starts with; the decision before training is for that LR."""

    def start(self, own_lr: float, probe: ProbeCurve | None, setting: Setting) -> LawState:
        """The state with the decision before the first epoch: the controller's, or without a probe `own_lr`.

        Without a probe the controller knows nothing yet; what it first wishes after an epoch takes the place
        of the first decision that later ones are held near.
        """
        state = LawState(reference_lr(setting, probe), probe, self.controller.initial_state())
        decided = self.decide(state, before_training(setting, probe), setting, can_restore=False)
        if probe is not None:
            return decided
        peak = min(max(own_lr * self.rise, self.config.min_lr), self.config.max_lr)
        decision = Decision(0, None, peak, "the optimizer's own LR")
        return replace(decided, peak=peak, first_peak=None, num_holds=0, decision=decision)

    def decide(
        self, state: LawState, observation: Observation, setting: Setting, *, can_restore: bool
    ) -> LawState:
        """The state after `observation`; `num_rollbacks` rose where its epoch is to be undone.

        Args:
            state: Not changed.
            observation: What the epoch just ended showed.
            setting: What is known of the training by now.
            can_restore: Whether weights can be put back, which only the reason tells.
        """
        config = self.config
        if has_exploded(state.trace, observation, config, state.probe):
            if not observation.is_finite and can_restore:
                # Every such epoch is lost whole, so the second and third in a row take larger steps down.
                factor = config.backoff ** min(1 + state.num_in_a_row, MAX_IN_A_ROW)
                return self._back_off(state, observation, "loss exploded", factor, can_restore)
            if state.num_in_a_row < MAX_IN_A_ROW:
                return self._back_off(state, observation, "loss exploded", config.backoff, can_restore)
            if not observation.is_finite:
                return self._lost(state, observation)
            # Smaller LRs did not bring the loss down: it is the new level until it comes down by itself.
            return replace(self._correct(state, observation, setting), num_in_a_row=state.num_in_a_row)
        is_last = setting.total_epochs is not None and observation.epoch >= setting.total_epochs
        may_stall = state.num_stalls < MAX_STALLS and not is_last
        if may_stall and has_stalled(observation, config, state.peak, state.probe):
            stalled = replace(state, num_stalls=state.num_stalls + 1)
            factor = config.backoff**2
            return self._back_off(stalled, observation, "nothing was learned", factor, can_restore)
        if state.num_stalls == MAX_STALLS and state.num_in_a_row == MAX_STALLS:
            # Three smaller LRs taught it nothing either: it was not the LR.
            back = config.backoff ** (2 * MAX_STALLS)
            state = replace(state, scale=state.scale / back, peak=state.peak and state.peak / back)
        return self._correct(state, observation, setting)

    def _lost(self, state: LawState, observation: Observation) -> LawState:
        """Nothing that an LR could mend: the weights are no numbers any more, and there are no others."""
        if state.num_in_a_row == MAX_IN_A_ROW:
            logging.getLogger(__name__).warning(
                "the loss stays infinite or NaN, and only MetaLR(model=...) could have put the weights back"
            )
        decision = Decision(
            observation.epoch, None, state.peak or self.config.min_lr, "held: loss not finite"
        )
        return replace(state, num_in_a_row=state.num_in_a_row + 1, decision=decision)

    def _correct(self, state: LawState, observation: Observation, setting: Setting) -> LawState:
        trace = (*state.trace, observation)
        features = feature_row(trace, setting, state.probe)
        memory, prediction = self.controller.step(state.memory, features)
        offset = best_offset(self.controller.log_offsets, prediction.log_regrets)
        proposed = state.reference_lr * math.exp(offset) * state.scale
        ceiling = decay_ceiling(setting)
        if state.peak is None:
            proposed *= self.rise
        elif state.peak <= ceiling and self._gains_little(state, state.peak, prediction):
            own = state.peak / state.scale if state.first_peak is None else state.first_peak
            decision = Decision(observation.epoch, proposed, state.peak, "kept: little to gain")
            kept_state = replace(state, trace=trace, memory=memory, first_peak=own)
            return replace(kept_state, num_in_a_row=0, decision=decision)
        first = None if state.first_peak is None else state.first_peak * state.scale
        # The user's own LR may be far too low, and an epoch lost at every small step away from it.
        is_first = first is None and state.num_rollbacks == 0
        num_rises = FIRST_RISES if is_first else 1
        has_lost = has_lost_ground(observation, self.config, state.probe)
        ground = state.reference_lr * state.scale if has_lost else math.inf
        peak, bound = bounded_peak(
            proposed, state.peak, first, self.config, num_rises=num_rises, ground=ground, ceiling=ceiling
        )
        is_held = not math.isfinite(proposed)
        if is_held and state.num_holds == 0:
            logging.getLogger(__name__).warning("the controller proposed %s; the LR is held", proposed)
        kept = None if is_held else proposed
        first_peak = state.first_peak
        if first_peak is None:
            # Rising slowly from the optimizer's own LR must not tie the later peaks to it.
            wish = peak if is_held else bounded_peak(proposed, None, None, self.config, ceiling=ceiling)[0]
            first_peak = peak if state.peak is None else wish / state.scale
        return replace(
            state,
            trace=trace,
            num_in_a_row=0,
            memory=memory,
            peak=peak,
            first_peak=first_peak,
            num_holds=state.num_holds + is_held,
            decision=Decision(observation.epoch, kept, peak, bound or "controller"),
        )

    def _gains_little(self, state: LawState, peak: float, prediction: Prediction) -> bool:
        """Whether the best candidate is hardly better than the peak in force: noise must not move it."""
        present = math.log(peak / (state.reference_lr * state.scale))
        gain = predicted_gain(self.controller.log_offsets, prediction.log_regrets, present)
        return gain < self.config.least_gain

    def _back_off(
        self, state: LawState, observation: Observation, problem: str, factor: float, can_restore: bool
    ) -> LawState:
        lowest = self.config.min_lr
        peak = max(state.peak * factor, lowest) if state.peak else lowest
        reason = f"{problem}: LR x {factor:g}"
        if can_restore:
            reason += ", rolled back to the last good epoch"
        # Where the controller has decided nothing yet, it was not its LR that exploded.
        is_own = state.first_peak is not None
        return replace(
            state,
            scale=state.scale * factor if is_own else state.scale,
            num_rollbacks=state.num_rollbacks + 1,
            num_in_a_row=state.num_in_a_row + 1,
            peak=peak,
            decision=Decision(observation.epoch, None, peak, reason),
        )
