"""`MetaLR` under the Hugging Face Trainer, and a callback that hands it the evaluations."""

from pathlib import Path
from typing import Any

import torch
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
    log_lrs,
    make_model,
    run,
)
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainerCallback, TrainingArguments

from metalr.integrations import MetaLRTrainerCallback, WaitingMetaLR


class Digits(nn.Module):
    """The network as the Trainer wants it: a loss where there are labels."""

    def __init__(self) -> None:
        super().__init__()
        self.model = make_model()

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Loss and logits."""
        logits = self.model(images)
        return {"loss": cross_entropy(logits, labels), "logits": logits}


class StopAfter(TrainerCallback):
    """Ends the training early, as a lost machine would."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop once the epochs are done; the Trainer still evaluates and saves."""
        control.should_training_stop = round(state.epoch) >= self._epochs


def rows(part: slice) -> list[dict[str, Tensor]]:
    """A data set of dictionaries."""
    return [
        {"images": image, "labels": label} for image, label in zip(IMAGES[part], LABELS[part], strict=True)
    ]


def train(folder: Path, controller: Any = "default", stop_after: int = EPOCHS) -> Training:
    """Train to epoch `stop_after`, from the checkpoint in `folder` where there is one."""
    model = Digits()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
    lrs = log_lrs(optimizer)
    scheduler = WaitingMetaLR(optimizer, controller, total_epochs=EPOCHS, steps_per_epoch=STEPS_PER_EPOCH)
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH_SIZE,
        per_device_eval_batch_size=len(LABELS[VALID]),
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=rows(TRAIN),
        eval_dataset=rows(VALID),
        optimizers=(optimizer, scheduler),
        callbacks=[MetaLRTrainerCallback(), StopAfter(stop_after)],
    )
    trainer.train(resume_from_checkpoint=any(folder.glob("checkpoint-*")))
    observations = len(lrs) // STEPS_PER_EPOCH
    weights = model.model.state_dict()
    return Training(
        scheduler.state_dict(), scheduler.explain(), weights, lrs, observations, stop_after - observations
    )


if __name__ == "__main__":
    run(train)
