"""`MetaLR` in a loop of one's own: three lines more, and one in the checkpoint."""

from pathlib import Path
from typing import Any

import torch
from problem import EPOCHS, LR, Training, batches, log_lrs, make_model, run, validation_loss
from torch.nn.functional import cross_entropy

from metalr import MetaLR


def train(folder: Path, controller: Any = "default", stop_after: int = EPOCHS) -> Training:
    """Train to epoch `stop_after`, from the checkpoint in `folder` where there is one."""
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
    scheduler = MetaLR(optimizer, controller, total_epochs=EPOCHS)
    lrs = log_lrs(optimizer)
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    first_epoch = 0
    if (folder / "checkpoint.pt").exists():
        saved = torch.load(folder / "checkpoint.pt", weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        first_epoch = saved["epoch"]
    for epoch in range(first_epoch, stop_after):
        losses = []
        for images, labels in batches():
            loss = cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        train_loss = torch.stack(losses).mean().item()
        scheduler.step({"train/loss": train_loss, "inner_valid/loss": validation_loss(model)})
        states = {name: part.state_dict() for name, part in parts.items()}
        torch.save({"epoch": epoch + 1} | states, folder / "checkpoint.pt")
    observations = stop_after - first_epoch
    return Training(
        scheduler.state_dict(), scheduler.explain(), model.state_dict(), lrs, observations, first_epoch
    )


if __name__ == "__main__":
    run(train)
