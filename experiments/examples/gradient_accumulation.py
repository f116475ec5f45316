"""Gradients gathered over several batches: `steps_per_epoch` counts the optimizer's steps, not the batches.

With `steps_per_epoch` the LR moves at every step; `observe` comes before the last step of an epoch.
"""

from pathlib import Path
from typing import Any

import torch
from problem import EPOCHS, LR, STEPS_PER_EPOCH, Training, batches, log_lrs, make_model, run, validation_loss
from torch.nn.functional import cross_entropy

from metalr import MetaLR

BATCHES_A_STEP = 4


def train(folder: Path, controller: Any = "default", stop_after: int = EPOCHS) -> Training:
    """Train to epoch `stop_after`, from the checkpoint in `folder` where there is one."""
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
    steps = STEPS_PER_EPOCH // BATCHES_A_STEP
    scheduler = MetaLR(optimizer, controller, total_epochs=EPOCHS, steps_per_epoch=steps)
    lrs = log_lrs(optimizer)
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    first_epoch = 0
    if (folder / "checkpoint.pt").exists():
        saved = torch.load(folder / "checkpoint.pt", weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        first_epoch = saved["epoch"]
    for epoch in range(first_epoch, stop_after):
        for index, (images, labels) in enumerate(batches(), start=1):
            (cross_entropy(model(images), labels) / BATCHES_A_STEP).backward()
            if index % BATCHES_A_STEP:
                continue
            optimizer.step()
            optimizer.zero_grad()
            if index == STEPS_PER_EPOCH:
                scheduler.observe(validation_loss(model))
            scheduler.step()
        states = {name: part.state_dict() for name, part in parts.items()}
        torch.save({"epoch": epoch + 1} | states, folder / "checkpoint.pt")
    observations = stop_after - first_epoch
    return Training(
        scheduler.state_dict(), scheduler.explain(), model.state_dict(), lrs, observations, first_epoch
    )


if __name__ == "__main__":
    run(train)
