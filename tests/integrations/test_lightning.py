"""MetaLRCallback: what it counts, what it refuses, and what Lightning's own way loses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from integrations.rules import controller

pytest.importorskip("lightning", reason="lightning is not installed")

from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

from metalr import MetaLR
from metalr.integrations import MetaLRCallback

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]


class Line(LightningModule):
    def __init__(self, scheduler: Any = None) -> None:
        super().__init__()
        self.line = torch.nn.Linear(2, 1)
        self._make_scheduler = scheduler

    def loss(self, batch: list[torch.Tensor]) -> torch.Tensor:
        return (self.line(batch[0]) - 1.0).square().mean()

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        return self.loss(batch)

    def validation_step(self, batch: list[torch.Tensor], index: int) -> None:
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.01)
        if self._make_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self._make_scheduler(optimizer)}


def fit(module: Line, folder: Path, callbacks: list[Any], **settings: Any) -> Trainer:
    trainer = Trainer(
        accelerator="cpu", callbacks=callbacks, default_root_dir=folder, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, **settings,
    )  # fmt: skip
    data = DataLoader(TensorDataset(torch.ones(16, 2)), batch_size=2)
    trainer.fit(module, data, data)
    return trainer


def num_decisions(scheduler: MetaLR) -> int:
    return len(scheduler.state_dict()["trace"]) - 1


@pytest.mark.parametrize(
    ("settings", "validations"),
    [
        ({"max_epochs": 3}, 3),
        ({"max_epochs": 2, "val_check_interval": 0.5}, 4),
        ({"max_epochs": 4, "check_val_every_n_epoch": 2}, 2),
        ({"max_epochs": 9, "max_steps": 12, "accumulate_grad_batches": 2}, 3),
    ],
)
def test_it_works_out_how_many_validations_there_will_be(
    tmp_path: Path, settings: dict[str, Any], validations: int
) -> None:
    callback = MetaLRCallback(controller())
    fit(Line(), tmp_path, [callback], **settings)
    assert callback.scheduler.state_dict()["total_epochs"] == validations
    assert num_decisions(callback.scheduler) == validations


def test_a_length_that_cannot_be_told_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give it total_epochs"):
        fit(Line(), tmp_path, [MetaLRCallback(controller())], max_epochs=-1, max_steps=4)


def test_a_second_scheduler_is_refused(tmp_path: Path) -> None:
    def constant(optimizer: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.ConstantLR(optimizer)

    with pytest.raises(ValueError, match="returned 1 and 1 LR schedulers: return one optimizer alone"):
        fit(Line(constant), tmp_path, [MetaLRCallback(controller())], max_epochs=1)


@pytest.mark.filterwarnings("ignore:MetaLR was stepped past its budget")
def test_without_the_callback_no_metric_arrives(tmp_path: Path) -> None:
    made: list[MetaLR] = []

    def monitored(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        made.append(MetaLR(optimizer, controller(), total_epochs=3))
        return {"scheduler": made[0], "monitor": "val_loss"}

    fit(Line(monitored), tmp_path, [], max_epochs=3)
    assert made[0].last_epoch == 3
    assert num_decisions(made[0]) == 0
