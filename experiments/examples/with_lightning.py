"""`MetaLR` under Lightning: a callback. The module returns an optimizer alone and logs `val_loss`."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from problem import BATCH_SIZE, EPOCHS, IMAGES, LABELS, LR, TRAIN, VALID, Training, log_lrs, make_model, run
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from metalr.integrations import MetaLRCallback


class Digits(LightningModule):
    """The network, and what is trained and logged."""

    def __init__(self) -> None:
        super().__init__()
        self.model = make_model()

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        """The loss to train on."""
        return cross_entropy(self.model(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        """Log what the callback hands to the controller."""
        self.log("val_loss", cross_entropy(self.model(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One optimizer; the callback sets its LR."""
        optimizer = torch.optim.SGD(self.model.parameters(), lr=LR, momentum=0.9)
        self.lrs = log_lrs(optimizer)
        return optimizer


def train(folder: Path, controller: Any = "default", stop_after: int = EPOCHS) -> Training:
    """Train to epoch `stop_after`, from the checkpoint in `folder` where there is one."""
    module = Digits()
    callback = MetaLRCallback(controller, total_epochs=EPOCHS)
    trainer = Trainer(
        max_epochs=stop_after,
        callbacks=[callback, ModelCheckpoint(dirpath=folder, save_last=True)],
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    checkpoint = folder / "last.ckpt"
    trainer.fit(
        module,
        DataLoader(TensorDataset(IMAGES[TRAIN], LABELS[TRAIN]), batch_size=BATCH_SIZE),
        DataLoader(TensorDataset(IMAGES[VALID], LABELS[VALID]), batch_size=len(LABELS[VALID])),
        ckpt_path=checkpoint if checkpoint.exists() else None,
    )
    scheduler = callback.scheduler
    observations = len(module.lrs) // trainer.num_training_batches
    weights = module.model.state_dict()
    return Training(
        scheduler.state_dict(),
        scheduler.explain(),
        weights,
        module.lrs,
        observations,
        stop_after - observations,
    )


if __name__ == "__main__":
    run(train)
