"""MetaLR: the learned controller as a torch scheduler. Probe -> anchor -> correct -> envelope.

The LR of unit k (see `anchor`) is ``peak * anchor``. The peak is decided before the first epoch from
the probe, and again after every observation; it is never computed from the LR last set, so errors
do not add up. `step()` without a fresh observation only moves along the anchor.

`autopilot` observes and decides (by `law`, `metrics`, `step_statistics`, `agreement`), `user_probe` probes;
this module alone sets LRs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from metalr.config import ControlConfig
from metalr.control.agreement import is_distributed, rank
from metalr.control.anytime import course_for
from metalr.control.autopilot import Autopilot, Surroundings
from metalr.control.decision import Controller, Decision
from metalr.control.group_lrs import GroupLRs, initial_lrs, lr_scales
from metalr.control.law import ControlLaw
from metalr.control.observation import Observation, Setting
from metalr.control.probe_curve import ProbeCurve
from metalr.control.scheduler_checks import (
    check_arguments,
    check_optimizer,
    lead_group,
    resolved_controller,
    respecting,
    setting_of,
    warn_of_other_budget,
    warn_of_other_lrs,
)
from metalr.control.scheduler_state import STATE_VERSION, checked_state
from metalr.control.schedules import initial_lr_of
from metalr.control.start_guard import StartGuard
from metalr.control.step_statistics import StepStatistics
from metalr.control.user_probe import probe_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["MetaLR"]


class MetaLR(LRScheduler):
    """Sets the LR of every parameter group by a learned controller, once an epoch or once a step.

    Call `step` after `optimizer.step()`: once an epoch with the epoch's metrics, or, with
    `steps_per_epoch` given, once a step, with `observe(metrics)` before an epoch's last `step()`.

    One factor scales all groups, so that they keep the ratios they start with; it is small enough to keep
    every group below `config.max_lr`. timm's `lr_scale` of a group comes on top. A tensor LR is filled in
    place. Groups added later join at the next `step`: the LR they bring counts as an initial one.

    Args:
        optimizer: Any torch optimizer but those that need a closure.
        controller: A loaded controller, or the path or name of one.
        total_epochs: Budget T, at least 1; None where it is not known: the LR then falls slowly, for ever
            (`metalr.control.anytime`).
        steps_per_epoch: How many times `step` is called an epoch.
        setting: What else is known of the training; made from the other arguments where not given.
        probe: Curve of an LR range test on this model (`metalr.control.probe.lr_range_test`). Without it
            training starts from the optimizer's own LR, at a quarter of it again wherever its first steps
            throw the weights far off (`metalr.control.start_guard`; in one process, with `gather`).
        model: Where given, an exploded epoch is rolled back: weights, buffers and optimizer state return
            to the last good observation.
        batches: With it and `loss_fn`, `model` is probed now (`metalr.control.user_probe.probe_model`); leave
            it out where a state is loaded afterwards.
        loss_fn: A loss of (outputs, targets) for batches (inputs, targets), or a function of (model, batch),
            which tells neither the number of classes nor whether it is a distance, such as a squared error.
        respect: Where given, at least 1: the peak LR stays within this factor of the optimizer's own LR.
        gather: Whether hooks on the optimizer measure gradients, weights and steps, and a forgotten metric is
            warned of. False for a loop that hands over whole Observations.
        is_shared: Whether, where torch.distributed runs, rank 0 decides for all: at every epoch's end, when
            all ranks must call `step`; what was observed within an epoch waits for its end. False where the
            ranks train models of their own.
        config: Anchor, bounds and envelope.
        last_epoch: torch's own; -1 starts.

    Raises:
        TypeError: no optimizer.
        ValueError: a budget below 1, no LR above 0, an optimizer that needs a closure, arguments that lack
            each other, a controller that is not there, damaged, or made for other features.

    Source: the law is described in the README; bounded residuals on an anchor after arXiv 2609.34681.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        controller: Controller | str | Path = "default",
        *,
        total_epochs: int | None,
        steps_per_epoch: int = 1,
        setting: Setting | None = None,
        probe: ProbeCurve | None = None,
        model: nn.Module | None = None,
        batches: Iterable[Any] | None = None,
        loss_fn: Callable[[Any, Any], Tensor] | None = None,
        respect: float | None = None,
        gather: bool = True,
        is_shared: bool = True,
        config: ControlConfig | None = None,
        last_epoch: int = -1,
    ) -> None:
        check_optimizer(optimizer)
        check_arguments(total_epochs, steps_per_epoch, respect, model, batches, loss_fn)
        controller = resolved_controller(controller)
        self._lead = lead_group(optimizer)
        own_lr = initial_lr_of(optimizer.param_groups[self._lead])
        self._config = config or ControlConfig()
        self._total_epochs, self._steps_per_epoch = total_epochs, steps_per_epoch
        is_shared = is_shared and is_distributed()
        described = setting or setting_of(optimizer, total_epochs, steps_per_epoch, model)
        if probe is None and model is not None and batches is not None and loss_fn is not None:
            seen = probe_model(model, optimizer, loss_fn, batches, self._config.probe, is_shared=is_shared)
            probe = seen.curve
            described = setting or seen.described(described)
        course = course_for(optimizer, self._config, total_epochs, steps_per_epoch, described.normalises)
        law = ControlLaw(controller, respecting(self._config, own_lr, respect), course.rise)
        around = Surroundings(
            course=course,
            steps_per_epoch=steps_per_epoch,
            optimizer=optimizer,
            model=model,
            statistics=StepStatistics(optimizer, model) if gather and not (is_shared and rank()) else None,
            is_described=setting is not None,
            is_shared=is_shared,
            warns_of_silence=gather,
        )
        start = law.start(own_lr, probe, described)
        self._autopilot = Autopilot(law, around, described, start)
        super().__init__(optimizer, last_epoch)
        if probe is None and around.statistics is not None and not is_shared and last_epoch == -1:
            StartGuard(around.statistics, self._is_at_own_lr, self._begin_again)

    @property
    def last_decision(self) -> Decision:
        """The decision in force."""
        return self._autopilot.decision

    @property
    def num_rollbacks(self) -> int:
        """Epochs undone so far; those of which only the beginning was are among them."""
        return self._autopilot.state.num_rollbacks

    @property
    def history(self) -> list[dict[str, Any]]:
        """A row for every epoch so far: `epoch` (completed ones), its mean `lr`, losses, the `decision`."""
        return [dict(row) for row in self._autopilot.history]

    def explain(self) -> str:
        """Why the LR is what it is, in three lines."""
        return self._autopilot.explain(self.last_epoch, self._lead_lr())

    def plot(self, path: str | Path | None = None) -> Figure:
        """The LR and the losses of the epochs so far; saved where `path` is given (.svg, .png).

        Raises:
            ValueError: a suffix that matplotlib cannot write.
        """
        from metalr.control.scheduler_plot import draw_history

        return draw_history(self._autopilot.history, path)

    def observe(self, metrics: Observation | Mapping[str, Any] | Any = None) -> None:
        """Offer what the ending epoch showed; the next `step()` decides on it.

        Later values replace earlier ones. A loss that is not finite is an exploded epoch.

        Args:
            metrics: The inner validation loss, or a mapping such as ``{"train_loss": 1.2, "val_loss": 1.4}``
                (`metalr.control.metrics.ALIASES`), or a whole `Observation`.

        Raises:
            TypeError: a metric that is not a number; nothing is changed then.
        """
        if metrics is not None:
            self._autopilot.observe(metrics)

    def step(  # type: ignore[override]  # a metric first, as in ReduceLROnPlateau
        self, metrics: Any = None, epoch: int | None = None
    ) -> None:
        """Decide, where something new was observed, and set the LR of the next unit."""
        self.observe(metrics)
        if not self._is_initial:
            self._autopilot.end_unit(self.last_epoch, self._lead_lr())
        super().step()

    def _update_lr(self, epoch: int | None = None) -> None:
        if epoch == 0:  # SequentialLR at its milestone
            self._autopilot.begin()
        super()._update_lr(epoch)

    def _is_at_own_lr(self) -> bool:
        # A SequentialLR whose turn has not come sets this back below 0: the LR is another schedule's then.
        return self.last_epoch >= 0 and self._autopilot.is_at_own_lr

    def _begin_again(self, factor: float, why: str) -> bool:
        if not self._autopilot.begin_again(factor, why):
            return False
        super()._update_lr(self.last_epoch)
        return True

    def close(self) -> None:
        """Take the hooks off the optimizer. The schedule goes on without what they measured."""
        if self._autopilot.around.statistics is not None:
            self._autopilot.around.statistics.close()

    def get_lr(self) -> list[float | Tensor]:
        """The LR of each parameter group for the present unit."""
        return [*self._group_lrs().of_groups(self._autopilot.lr(self.last_epoch))]

    def _lead_lr(self) -> float:
        return self._group_lrs().lead_lr(self._autopilot.lr(self.last_epoch))

    def _group_lrs(self) -> GroupLRs:
        groups = self.optimizer.param_groups
        initial = initial_lrs(groups, self.base_lrs)
        self.base_lrs = [*initial]
        return GroupLRs(initial, lr_scales(groups), self._lead, self._config.max_lr)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on exactly, as plain values that load with `weights_only=True`.

        Save it at an epoch's end. Within an epoch two things are not in it, which are as large as the model:
        the weights at the epoch's start (the update norm of that epoch is missing) and the snapshot for a
        rollback (it is taken anew from the model).
        """
        return {
            "version": STATE_VERSION,
            "controller_sha256": self._autopilot.law.controller.sha256,
            "total_epochs": self._total_epochs,
            "steps_per_epoch": self._steps_per_epoch,
            "last_epoch": self.last_epoch,
            "step_count": self._step_count,
            "last_lr": [float(lr) for lr in self._last_lr],
            "base_lrs": [float(lr) for lr in self.base_lrs],
            **self._autopilot.to_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict`. The optimizer's LRs are its own state: load that too, before or after.

        Raises:
            ValueError: a state of another version or controller, or a damaged one; nothing is changed then.
        """
        state = checked_state(state_dict, self._autopilot.law.controller.sha256)
        warn_of_other_budget(state, self._total_epochs, self._steps_per_epoch)
        self._autopilot.load(state)
        self.last_epoch, self._step_count = state["last_epoch"], state["step_count"]
        self._last_lr, self.base_lrs = list(state["last_lr"]), list(state["base_lrs"])
        if self._autopilot.around.statistics is not None and self.last_epoch >= 0:
            self._autopilot.around.statistics.before_next_step = self._go_on

    def _go_on(self) -> None:
        """Before the first optimizer step after a load, when model and optimizer have been loaded too."""
        self._autopilot.rollback.remember()
        warn_of_other_lrs(self.optimizer, [float(lr) for lr in self._last_lr])
