"""MetaLRTrainerCallback: without it the Trainer hands nothing over; what it counts and refuses."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from integrations.loops import make_optimizer, one_step
from integrations.rules import controller

pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("accelerate", reason="accelerate is not installed")

from transformers import Trainer, TrainingArguments

from metalr import MetaLR
from metalr.integrations import MetaLROnPlateau, MetaLRTrainerCallback, WaitingMetaLR


class Line(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line = torch.nn.Linear(2, 1)

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs = self.line(inputs)
        return {"loss": (outputs[:, 0] - labels).square().mean(), "logits": outputs}


def fit(folder: Path, make: Any, callbacks: list[Any], **settings: Any) -> Any:
    model = Line()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scheduler = make(optimizer)
    rows = [{"inputs": torch.ones(2), "labels": torch.ones(())} for _ in range(16)]
    arguments = TrainingArguments(
        output_dir=str(folder), num_train_epochs=3, per_device_train_batch_size=4, use_cpu=True,
        save_strategy="no", report_to=[], disable_tqdm=True, **{"eval_strategy": "epoch"} | settings,
    )  # fmt: skip
    Trainer(
        model, arguments, train_dataset=rows, eval_dataset=rows, optimizers=(optimizer, scheduler),
        callbacks=callbacks,
    ).train()  # fmt: skip
    return scheduler


def by_steps(optimizer: torch.optim.Optimizer) -> WaitingMetaLR:
    return WaitingMetaLR(optimizer, controller(), total_epochs=3, steps_per_epoch=4)


def num_decisions(scheduler: Any) -> int:
    return len(scheduler.state_dict()["trace"]) - 1


def test_without_the_callback_no_metric_arrives(tmp_path: Path) -> None:
    assert num_decisions(fit(tmp_path, by_steps, [])) == 0


def test_with_it_each_evaluation_is_decided_on_and_gradients_are_seen(tmp_path: Path) -> None:
    scheduler = fit(tmp_path, by_steps, [MetaLRTrainerCallback()], logging_strategy="epoch")
    trace = scheduler.state_dict()["trace"][1:]
    assert len(trace) == 3
    assert all(row.keys() >= {"inner_valid_loss", "train_loss", "grad_norm", "update_norm"} for row in trace)
    assert [row["epoch"] for row in trace] == [1, 2, 3]
    assert scheduler.last_epoch == 12


def test_evaluations_within_epochs_are_decided_on_too(tmp_path: Path) -> None:
    callbacks = [MetaLRTrainerCallback()]
    scheduler = fit(tmp_path, by_steps, callbacks, eval_strategy="steps", eval_steps=2)
    assert num_decisions(scheduler) == 6
    assert scheduler.num_units == 12


def test_epochs_without_evaluation_end_all_the_same(tmp_path: Path) -> None:
    scheduler = fit(tmp_path, by_steps, [MetaLRTrainerCallback()], eval_strategy="no")
    assert num_decisions(scheduler) == 0
    assert scheduler.num_units == 12


def test_a_plateau_scheduler_needs_no_callback(tmp_path: Path) -> None:
    scheduler = fit(
        tmp_path,
        lambda optimizer: MetaLROnPlateau(optimizer, controller(), total_epochs=3),
        [],
        metric_for_best_model="eval_loss",
    )
    assert num_decisions(scheduler) == 3


def test_another_scheduler_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs a WaitingMetaLR .*, got MetaLR: pass optimizers="):
        fit(
            tmp_path,
            lambda optimizer: MetaLR(optimizer, controller(), total_epochs=3, steps_per_epoch=4),
            [MetaLRTrainerCallback()],
        )


def test_steps_that_overflowed_are_counted() -> None:
    scheduler = by_steps(make_optimizer())
    callback, seen = MetaLRTrainerCallback(), []
    for step in range(1, 9):
        overflowed = step in (1, 4, 6)  # the Trainer then steps neither the optimizer nor the scheduler
        if not overflowed:
            one_step(scheduler.optimizer)
            scheduler.step()
        callback.on_step_end(None, SimpleNamespace(global_step=step), None, lr_scheduler=scheduler)
        seen.append(scheduler.num_units)
        callback.on_step_begin(None, SimpleNamespace(global_step=step), None, lr_scheduler=scheduler)
    assert seen == [0, 2, 3, 4, 5, 6, 7, 8]
