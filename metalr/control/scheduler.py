"""MetaLR: the learned controller as a torch scheduler. Probe -> anchor -> correct -> envelope.

The LR of unit k (see `anchor`) is ``peak * anchor``. The peak is decided before the first epoch from
the probe, and again after every observation; it is never computed from the LR last set, so errors
do not add up. `step()` without a fresh observation only moves along the anchor.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from metalr.config import ControlConfig
from metalr.control.anchor import anchor_for, averages_iterates, scales_gradients
from metalr.control.decision import Controller, Decision, best_offset
from metalr.control.envelope import bounded_peak, has_exploded, has_stalled
from metalr.control.features import feature_row
from metalr.control.observation import Observation, Setting
from metalr.control.probe import ProbeCurve
from metalr.control.schedules import initial_lr_of
from metalr.control.snapshot import Snapshot

__all__ = ["MetaLR"]

STATE_VERSION = 1
MAX_STALLS = 3
"""Rollbacks of epochs that learned nothing; what still learns nothing then may be unlearnable."""
METRIC_FIELDS = {
    "train/loss": "train_loss",
    "inner_valid/loss": "inner_valid_loss",
    "inner_valid/accuracy": "inner_valid_accuracy",
}


class MetaLR(LRScheduler):
    """Sets the LR of every parameter group by a learned controller, once an epoch or once a step.

    Call `step` after `optimizer.step()`: once an epoch with the epoch's metrics, or, with
    `steps_per_epoch` given, once a step, with `observe(metrics)` before an epoch's last `step()`.

    Args:
        optimizer: Its groups keep the ratios that their LRs have now.
        controller: A loaded controller, or the path or name of one.
        total_epochs: Budget T, at least 1.
        steps_per_epoch: How many times `step` is called an epoch.
        setting: What else is known of the training; made from `total_epochs`, `steps_per_epoch` and the
            optimizer where not given.
        probe: Curve of an LR range test on this model (`metalr.control.probe.lr_range_test`). Without it
            the initial LR is the reference that candidates are relative to.
        model: Where given, an exploded epoch is rolled back: weights, buffers and optimizer state return
            to the last good observation.
        config: Anchor, bounds and envelope.
        last_epoch: torch's own; -1 starts.

    Raises:
        ValueError: a budget below 1, or an initial LR of zero.

    Source: the law is described in the README; bounded residuals on an anchor after arXiv 2609.34681.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        controller: Controller | str | Path,
        *,
        total_epochs: int,
        steps_per_epoch: int = 1,
        setting: Setting | None = None,
        probe: ProbeCurve | None = None,
        model: nn.Module | None = None,
        config: ControlConfig | None = None,
        last_epoch: int = -1,
    ) -> None:
        if total_epochs < 1 or steps_per_epoch < 1:
            raise ValueError(f"MetaLR needs {total_epochs=} and {steps_per_epoch=} of at least 1")
        initial_lr = initial_lr_of(optimizer.param_groups[0])
        if not initial_lr > 0.0:
            raise ValueError(
                f"MetaLR needs an initial LR above 0 in the first parameter group, got {initial_lr}"
            )
        self._controller = _resolve(controller)
        self._config = config or ControlConfig()
        self._anchor = anchor_for(optimizer, self._config)
        self._setting = setting or _setting_of(optimizer, total_epochs, steps_per_epoch)
        self._steps_per_epoch = steps_per_epoch
        self._total_units = total_epochs * steps_per_epoch
        self._probe = probe
        self._reference_lr = probe.reference_lr if probe else initial_lr
        self._model = model
        self._snapshot = Snapshot.take(model, optimizer) if model is not None else None
        self._trace: list[Observation] = []
        self._memory = self._controller.initial_state()
        self._peak: float | None = None
        self._first_peak: float | None = None
        self._scale = 1.0
        self._num_rollbacks = 0
        self._num_stalls = 0
        self._num_holds = 0
        self._pending: dict[str, float] | Observation = {}
        self._decision: Decision | None = None
        self._decide(Observation(epoch=0, train_loss=probe.initial_loss if probe else None))
        super().__init__(optimizer, last_epoch)

    @property
    def last_decision(self) -> Decision:
        """The decision in force."""
        assert self._decision is not None
        return self._decision

    @property
    def num_rollbacks(self) -> int:
        """Epochs undone so far."""
        return self._num_rollbacks

    def explain(self) -> str:
        """Why the LR is what it is, in one line."""
        decision = self.last_decision
        return (
            f"epoch {decision.epoch}: peak LR {decision.peak_lr:.3g} ({decision.reason}), "
            f"reference {self._reference_lr:.3g}, {self._anchor.shape} anchor"
        )

    def observe(self, metrics: Observation | Mapping[str, float] | float | None = None) -> None:
        """Offer what the ending epoch showed; the next `step()` decides on it.

        Later values replace earlier ones.

        Args:
            metrics: The inner validation loss, or a mapping of `train/loss`, `inner_valid/loss` and
                `inner_valid/accuracy` (other keys are ignored), or a whole `Observation`.

        Raises:
            TypeError: a metric that is not a number.
        """
        if metrics is None or isinstance(metrics, Observation):
            self._pending = metrics or self._pending
            return
        values = metrics if isinstance(metrics, Mapping) else {"inner_valid/loss": metrics}
        known = {
            METRIC_FIELDS[key]: _number(key, value) for key, value in values.items() if key in METRIC_FIELDS
        }
        before = {} if isinstance(self._pending, Observation) else self._pending
        self._pending = before | known

    def step(  # type: ignore[override]  # a metric first, as in ReduceLROnPlateau
        self, metrics: Any = None, epoch: int | None = None
    ) -> None:
        """Decide, where something new was observed, and set the LR of the next unit."""
        if metrics is not None:
            self.observe(metrics)
        if self._pending:
            self._decide(self._observation())
            self._pending = {}
        super().step()

    def get_lr(self) -> list[float | Tensor]:
        """The LR of each parameter group for the present unit."""
        if self.last_epoch == self._total_units + 1:
            warnings.warn("MetaLR was stepped past its budget; the LR stays at its last value", stacklevel=3)
        factor = self._current_lr() / initial_lr_of(self.optimizer.param_groups[0])
        return [initial_lr_of(group) * factor for group in self.optimizer.param_groups]

    def _current_lr(self) -> float:
        assert self._peak is not None
        unit = min(max(self.last_epoch, 0), self._total_units - 1)
        height = self._anchor.height((unit + 0.5) / self._total_units)
        return min(self._peak * height, self._config.max_lr)

    def _observation(self) -> Observation:
        if isinstance(self._pending, Observation):
            return self._pending
        epoch = (self.last_epoch + 1) // self._steps_per_epoch
        return Observation.from_measurements(epoch, self._pending)

    def _decide(self, observation: Observation) -> None:
        if has_exploded(self._trace, observation, self._config):
            self._roll_back(observation, "loss exploded", self._config.backoff)
            return
        if self._num_stalls < MAX_STALLS and has_stalled(self._trace, observation, self._config):
            self._num_stalls += 1
            self._roll_back(observation, "nothing was learned", self._config.backoff**2)
            return
        self._trace.append(observation)
        features = feature_row(self._trace, self._setting, self._probe)
        self._memory, prediction = self._controller.step(self._memory, features)
        offset = best_offset(self._controller.log_offsets, prediction.log_regrets)
        proposed = self._reference_lr * math.exp(offset) * self._scale
        first = None if self._first_peak is None else self._first_peak * self._scale
        peak, bound = bounded_peak(proposed, self._peak, first, self._config)
        self._num_holds += not math.isfinite(proposed)
        self._peak = peak
        self._first_peak = peak if self._first_peak is None else self._first_peak
        kept = proposed if math.isfinite(proposed) else None
        self._decision = Decision(observation.epoch, kept, peak, bound or "controller")
        if self._model is not None and observation.epoch > 0:
            self._snapshot = Snapshot.take(self._model, self.optimizer)

    def _roll_back(self, observation: Observation, problem: str, backoff: float) -> None:
        self._num_rollbacks += 1
        self._scale *= backoff
        self._peak = max(self._peak * backoff, self._config.min_lr) if self._peak else self._config.min_lr
        reason = f"{problem}: LR x {backoff:g}"
        if self._model is not None and self._snapshot is not None:
            self._snapshot.restore_keeping_lr(self._model, self.optimizer)
            reason += ", rolled back to the last good epoch"
        self._decision = Decision(observation.epoch, None, self._peak, reason)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on exactly, as plain values that load with `weights_only=True`.

        The snapshot for a rollback is not in it: at the end of an epoch it equals the model.
        """
        pending = self._pending.to_dict() if isinstance(self._pending, Observation) else dict(self._pending)
        return {
            "version": STATE_VERSION,
            "controller_sha256": self._controller.sha256,
            "last_epoch": self.last_epoch,
            "step_count": self._step_count,
            "last_lr": [float(lr) for lr in self._last_lr],
            "base_lrs": [float(lr) for lr in self.base_lrs],
            "reference_lr": self._reference_lr,
            "probe": self._probe.to_dict() if self._probe else None,
            "trace": [observation.to_dict() for observation in self._trace],
            "memory": list(self._memory),
            "peak": self._peak,
            "first_peak": self._first_peak,
            "scale": self._scale,
            "num_rollbacks": self._num_rollbacks,
            "num_stalls": self._num_stalls,
            "num_holds": self._num_holds,
            "pending": pending,
            "pending_is_observation": isinstance(self._pending, Observation),
            "decision": self.last_decision.to_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict`. Load model and optimizer first: the rollback snapshot is taken from them.

        Raises:
            ValueError: a state of another version, or of another controller.
        """
        if state_dict.get("version") != STATE_VERSION:
            raise ValueError(
                f"MetaLR state has version {state_dict.get('version')}, expected {STATE_VERSION}"
            )
        if state_dict["controller_sha256"] != self._controller.sha256:
            raise ValueError(
                f"this MetaLR state was made by controller {state_dict['controller_sha256'][:12]}, "
                f"but {self._controller.sha256[:12]} is loaded; load the same controller to go on"
            )
        self.last_epoch, self._step_count = state_dict["last_epoch"], state_dict["step_count"]
        self._last_lr, self.base_lrs = list(state_dict["last_lr"]), list(state_dict["base_lrs"])
        self._reference_lr = state_dict["reference_lr"]
        self._probe = ProbeCurve.from_dict(state_dict["probe"]) if state_dict["probe"] else None
        self._trace = [Observation.from_dict(values) for values in state_dict["trace"]]
        self._memory = list(state_dict["memory"])
        self._peak, self._first_peak = state_dict["peak"], state_dict["first_peak"]
        self._scale = state_dict["scale"]
        self._num_rollbacks, self._num_holds = state_dict["num_rollbacks"], state_dict["num_holds"]
        self._num_stalls = state_dict.get("num_stalls", 0)
        pending = state_dict["pending"]
        self._pending = (
            Observation.from_dict(pending) if state_dict["pending_is_observation"] else dict(pending)
        )
        self._decision = Decision(**state_dict["decision"])
        if self._model is not None:
            self._snapshot = Snapshot.take(self._model, self.optimizer)


def _resolve(controller: Controller | str | Path) -> Controller:
    if not isinstance(controller, str | Path):
        return controller
    # Loading files is the learning room's business, which stands below this one: bound late, by name.
    loaded: Controller = import_module("metalr.learning.controller").load_controller(controller)
    return loaded


def _setting_of(optimizer: Optimizer, total_epochs: int, steps_per_epoch: int) -> Setting:
    group = optimizer.param_groups[0]
    return Setting(
        total_epochs,
        steps_per_epoch,
        momentum=group["betas"][0] if "betas" in group else group.get("momentum"),
        weight_decay=group.get("weight_decay"),
        averages_iterates=averages_iterates(optimizer),
        scales_gradients=scales_gradients(optimizer),
    )


def _number(key: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"metric {key!r} must be a number, got {value!r}") from None
