"""`MetaLR` as a fastai callback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from fastai.callback.core import Callback
from fastai.callback.schedule import ParamScheduler
from fastai.learner import SkipToEpoch
from torch.optim import Optimizer

from metalr.control.decision import Controller
from metalr.control.scheduler import MetaLR
from metalr.integrations.carried_state import CarriedState

__all__ = ["FastaiMetaLR"]

METRICS = {"valid_loss": "inner_valid/loss", "accuracy": "inner_valid/accuracy"}


class FastaiMetaLR(Callback):  # type: ignore[misc]
    """Decides after each epoch, over fastai's optimizers and over torch's in an `OptimWrapper`.

    Under fastai's own optimizers it sees the losses alone, under torch's the gradients too. Its state travels
    in the optimizer's: `learn.save(file, with_opt=True)` holds it. To go on, call `learn.create_opt()`,
    `learn.load(file)`, then `learn.fit(n, start_epoch=k)`.

    >>> learn.fit(20, cbs=FastaiMetaLR())  # doctest: +SKIP

    Args:
        controller: As in `MetaLR`.
        total_epochs: Budget; the `n_epoch` of `fit` where not given.
        settings: The rest of `MetaLR`'s arguments.

    Raises:
        ValueError: in a fit whose LR a fastai schedule sets too, such as `fit_one_cycle`.
    """

    order = 55  # after the Recorder (50), whose values it reads; before SaveModelCallback (61)

    def __init__(
        self,
        controller: Controller | str | Path = "default",
        *,
        total_epochs: int | None = None,
        **settings: Any,
    ) -> None:
        self._controller = controller
        self._total_epochs = total_epochs
        self._settings = settings
        self.scheduler: MetaLR | None = None

    def before_fit(self) -> None:
        """Refuse a second hand on the LR; stand aside in an LR finder's run."""
        self.run = not hasattr(self, "lr_finder")
        for callback in self.learn.cbs if self.run else []:
            if isinstance(callback, ParamScheduler) and "lr" in callback.scheds:
                raise ValueError(
                    "FastaiMetaLR cannot share the LR with fit_one_cycle or another fastai schedule: "
                    "call learn.fit(n_epoch, cbs=FastaiMetaLR())"
                )
        self.scheduler = None
        self._is_trained = False

    def before_train(self) -> None:
        """Build the scheduler when the first epoch of this fit really trains."""
        self._is_trained = True
        self._losses: list[torch.Tensor] = []
        if self.scheduler is None:
            self._build()

    def after_batch(self) -> None:
        """Keep the training loss: the Recorder's is a lagging average, which a resume begins anew."""
        if self.training:
            self._losses.append(self.learn.loss.detach())

    def after_epoch(self) -> None:
        """Hand over what the Recorder has, decide, and set the LR."""
        if not self._is_trained or self.scheduler is None:  # an epoch that start_epoch skipped
            return
        self._is_trained = False
        names = self.recorder.metric_names[1:]
        values = dict(zip(names, self.recorder.values[-1], strict=False))  # the last name is the time's
        found = {ours: float(values[theirs]) for theirs, ours in METRICS.items() if theirs in values}
        found["train/loss"] = torch.stack(self._losses).mean().item()
        if self._is_stand_in:
            self.scheduler.optimizer.step()  # has no gradients: only tells torch that a step was made
        self.scheduler.step(found)
        self._finish()

    def _build(self) -> None:
        optimizer, self._is_stand_in = _torch_optimizer(self.learn.opt)
        self.scheduler = MetaLR(
            optimizer,
            self._controller,
            total_epochs=self._total_epochs or self.learn.n_epoch,
            **{"gather": not self._is_stand_in} | self._settings,
        )
        self._carried = CarriedState(self.scheduler, self._first_group)
        if any(isinstance(callback, SkipToEpoch) for callback in self.learn.cbs):
            self._carried.adopt()
        self._finish()

    def _first_group(self) -> dict[str, Any]:
        opt = self.learn.opt
        group: dict[str, Any] = opt.hypers[0] if self._is_stand_in else opt.opt.param_groups[0]
        return group

    def _finish(self) -> None:
        assert self.scheduler is not None
        self.learn.opt.set_hyper("lr", [float(lr) for lr in self.scheduler.get_last_lr()])
        self._carried.store()


def _torch_optimizer(opt: Any) -> tuple[Optimizer, bool]:
    """The torch optimizer behind `opt`; or, with True, one of its LRs in place of fastai's own."""
    inner = getattr(opt, "opt", None)
    if isinstance(inner, Optimizer):
        return inner, False
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": hyper["lr"]} for hyper in opt.hypers]
    return torch.optim.SGD(groups, lr=1.0), True
