"""`MetaLR` under accelerate: `keep_with` puts it into `save_state`; it stays out of `prepare`."""

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from problem import (
    BATCH_SIZE,
    EPOCHS,
    IMAGES,
    LABELS,
    LR,
    TRAIN,
    Training,
    log_lrs,
    make_model,
    run,
    validation_loss,
)
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from metalr import MetaLR
from metalr.integrations import keep_with


def train(folder: Path, controller: Any = "default", stop_after: int = EPOCHS) -> Training:
    """Train to epoch `stop_after`, from the checkpoint in `folder` where there is one."""
    accelerator = Accelerator(cpu=True)
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
    lrs = log_lrs(optimizer)
    scheduler = keep_with(accelerator, MetaLR(optimizer, controller, total_epochs=EPOCHS))
    loader = DataLoader(TensorDataset(IMAGES[TRAIN], LABELS[TRAIN]), batch_size=BATCH_SIZE)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    checkpoint, first_epoch = folder / "checkpoint", 0
    if checkpoint.exists():
        accelerator.load_state(str(checkpoint))
        first_epoch = scheduler.last_epoch
    for _ in range(first_epoch, stop_after):
        losses = []
        for images, labels in loader:
            loss = cross_entropy(model(images), labels)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            losses.append(loss.detach())
        train_loss = torch.stack(losses).mean().item()
        scheduler.step({"train/loss": train_loss, "inner_valid/loss": validation_loss(model)})
        accelerator.save_state(str(checkpoint))
    weights = accelerator.unwrap_model(model).state_dict()
    observations = stop_after - first_epoch
    return Training(scheduler.state_dict(), scheduler.explain(), weights, lrs, observations, first_epoch)


if __name__ == "__main__":
    run(train)
