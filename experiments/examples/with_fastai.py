"""`FastaiMetaLR` over fastai's own optimizer, and over torch's in an `OptimWrapper`; not with one-cycle."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.callback.tracker import SaveModelCallback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.optimizer import SGD, OptimWrapper
from problem import (
    BATCH_SIZE,
    EPOCHS,
    IMAGES,
    LABELS,
    LR,
    STEPS_PER_EPOCH,
    TRAIN,
    VALID,
    Training,
    make_model,
    run,
)

from metalr.integrations import FastaiMetaLR


class StopAfter(Callback):
    """Ends the training early, as a lost machine would."""

    order = 100

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs

    def after_epoch(self) -> None:
        """Stop once the epochs are done."""
        if self.epoch + 1 >= self._epochs:
            raise CancelFitException


def train(
    folder: Path, controller: Any = "default", stop_after: int = EPOCHS, optimizer_kind: str = "fastai"
) -> Training:
    """Train to epoch `stop_after`, from the last model in `folder` where there is one."""
    kinds = {
        "fastai": partial(SGD, mom=0.9),
        "torch": partial(OptimWrapper, opt=torch.optim.SGD, momentum=0.9),
    }
    parts = [list(zip(IMAGES[part], LABELS[part], strict=True)) for part in (TRAIN, VALID)]
    learn = Learner(
        DataLoaders(*(DataLoader(part, bs=BATCH_SIZE) for part in parts), device="cpu"),
        make_model(),
        CrossEntropyLossFlat(),
        kinds[optimizer_kind],
        lr=LR,
        metrics=accuracy,
        path=folder,
        model_dir=".",
    )
    first_epoch = len(list(folder.glob("model_*.pth")))
    learn.create_opt()
    if first_epoch:
        learn.load(f"model_{first_epoch - 1}")
    callback = FastaiMetaLR(controller)
    save = SaveModelCallback(every_epoch=True, with_opt=True)
    with learn.no_bar(), learn.no_logging():
        learn.fit(EPOCHS, cbs=[callback, save, StopAfter(stop_after)], start_epoch=first_epoch)
    lrs = [float(lr) for lr in learn.recorder.lrs]
    observations = len(lrs) // STEPS_PER_EPOCH
    scheduler = callback.scheduler
    weights = learn.model.state_dict()
    return Training(scheduler.state_dict(), scheduler.explain(), weights, lrs, observations, first_epoch)


if __name__ == "__main__":
    for kind in ("fastai", "torch"):
        print(kind)
        run(partial(train, optimizer_kind=kind))
