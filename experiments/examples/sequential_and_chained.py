"""`MetaLR` inside torch's `SequentialLR`, after a warm-up, and inside a `ChainedScheduler`.

Both step without arguments: hand the metrics to `observe`, then step the outer one. In a chain the last
scheduler has the last word, so `MetaLR` stands last.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from problem import EPOCHS, LR, Training, batches, log_lrs, make_model, run, validation_loss
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import ChainedScheduler, LinearLR, SequentialLR

from metalr import MetaLR

WARMUP_EPOCHS = 2


def train(
    folder: Path, controller: Any = "default", stop_after: int = EPOCHS, outer_kind: str = "sequential"
) -> Training:
    """Train to epoch `stop_after`, from the checkpoint in `folder` where there is one."""
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
    if outer_kind == "sequential":
        starts = WARMUP_EPOCHS
        warmup = LinearLR(optimizer, start_factor=0.1, total_iters=WARMUP_EPOCHS)
        scheduler = MetaLR(optimizer, controller, total_epochs=EPOCHS - WARMUP_EPOCHS)
        outer: Any = SequentialLR(optimizer, [warmup, scheduler], milestones=[WARMUP_EPOCHS])
    else:
        starts = 0
        scheduler = MetaLR(optimizer, controller, total_epochs=EPOCHS)
        outer = ChainedScheduler([scheduler], optimizer)
    lrs = log_lrs(optimizer)
    parts = {"model": model, "optimizer": optimizer, "scheduler": outer}
    first_epoch, observations = 0, 0
    if (folder / "checkpoint.pt").exists():
        saved = torch.load(folder / "checkpoint.pt", weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        first_epoch = saved["epoch"]
    for epoch in range(first_epoch, stop_after):
        for images, labels in batches():
            optimizer.zero_grad()
            cross_entropy(model(images), labels).backward()
            optimizer.step()
        if epoch >= starts:  # before that another scheduler set the LR
            scheduler.observe(validation_loss(model))
            observations += 1
        outer.step()
        states = {name: part.state_dict() for name, part in parts.items()}
        torch.save({"epoch": epoch + 1} | states, folder / "checkpoint.pt")
    return Training(
        scheduler.state_dict(), scheduler.explain(), model.state_dict(), lrs, observations, first_epoch
    )


if __name__ == "__main__":
    for kind in ("sequential", "chained"):
        print(kind)
        run(partial(train, outer_kind=kind))
