"""`MetaLROnPlateau` under skorch's own `LRScheduler`, which hands metrics to plateau schedulers only.

`Checkpoint` stands after it, so that what is saved is the LR of the next epoch.
"""

from pathlib import Path
from typing import Any

import torch
from problem import BATCH_SIZE, EPOCHS, IMAGES, LABELS, LR, TRAIN, VALID, Training, log_lrs, make_model, run
from skorch import NeuralNetClassifier
from skorch.callbacks import Checkpoint, LRScheduler
from skorch.dataset import Dataset
from skorch.helper import predefined_split

from metalr.integrations import MetaLROnPlateau, epoch_metrics


def train(folder: Path, controller: Any = "default", stop_after: int = EPOCHS) -> Training:
    """Train to epoch `stop_after`, from the checkpoint in `folder` where there is one."""
    schedule = LRScheduler(
        policy=MetaLROnPlateau, monitor=epoch_metrics, controller=controller, total_epochs=EPOCHS
    )
    checkpoint = Checkpoint(monitor=None, dirname=folder)
    net = NeuralNetClassifier(
        make_model,
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.SGD,
        optimizer__momentum=0.9,
        lr=LR,
        batch_size=BATCH_SIZE,
        train_split=predefined_split(Dataset(IMAGES[VALID], LABELS[VALID])),
        callbacks=[("schedule", schedule), ("checkpoint", checkpoint)],
        verbose=0,
    ).initialize()
    if (folder / "optimizer.pt").exists():
        net.load_params(checkpoint=checkpoint)
    first_epoch = len(net.history)
    lrs = log_lrs(net.optimizer_)
    net.set_params(max_epochs=stop_after - first_epoch)
    net.partial_fit(IMAGES[TRAIN], LABELS[TRAIN])
    scheduler = dict(net.callbacks_)["schedule"].lr_scheduler_
    weights = net.module_.state_dict()
    observations = stop_after - first_epoch
    return Training(
        scheduler.state_dict(), scheduler.meta_lr.explain(), weights, lrs, observations, first_epoch
    )


if __name__ == "__main__":
    run(train)
