"""`TimmMetaLR` in a loop in timm's manner, with timm's checkpoints, which hold no scheduler."""

from pathlib import Path
from typing import Any

from problem import EPOCHS, LR, Training, batches, log_lrs, make_model, run, validation_loss
from timm.models import resume_checkpoint
from timm.optim import create_optimizer_v2
from timm.utils import CheckpointSaver
from torch.nn.functional import cross_entropy

from metalr.integrations import TimmMetaLR


def train(folder: Path, controller: Any = "default", stop_after: int = EPOCHS) -> Training:
    """Train to epoch `stop_after`, from the checkpoint in `folder` where there is one."""
    model = make_model()
    optimizer = create_optimizer_v2(model, opt="momentum", lr=LR, momentum=0.9)
    lrs = log_lrs(optimizer)
    checkpoint = folder / "last.pth.tar"
    first_epoch = (
        resume_checkpoint(model, str(checkpoint), optimizer, log_info=False) if checkpoint.exists() else 0
    )
    scheduler = TimmMetaLR(optimizer, controller, total_epochs=EPOCHS, metric="loss")
    scheduler.step(first_epoch)
    saver = CheckpointSaver(model, optimizer, checkpoint_dir=str(folder), decreasing=True)
    for epoch in range(first_epoch, stop_after):
        for images, labels in batches():
            optimizer.zero_grad()
            cross_entropy(model(images), labels).backward()
            optimizer.step()
        loss = validation_loss(model)
        scheduler.step(epoch + 1, loss)
        saver.save_checkpoint(epoch, metric=loss)
    observations = stop_after - first_epoch
    return Training(
        scheduler.state_dict(),
        scheduler.meta_lr.explain(),
        model.state_dict(),
        lrs,
        observations,
        first_epoch,
    )


if __name__ == "__main__":
    run(train)
