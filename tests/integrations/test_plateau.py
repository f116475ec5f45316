"""MetaLROnPlateau: a ReduceLROnPlateau by class, a MetaLR in all it does; its state travels."""

from __future__ import annotations

import io

import pytest
import torch
from integrations.loops import LOSSES, make_optimizer, one_step, reloaded
from integrations.rules import by_loss, controller
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from metalr import MetaLR
from metalr.integrations import MetaLROnPlateau, epoch_metrics


def lrs_of(scheduler: LRScheduler, losses: tuple[float, ...] = LOSSES) -> list[float]:
    lrs = []
    for loss in losses:
        lrs.append(one_step(scheduler.optimizer))
        scheduler.step(loss)
    return lrs


def test_it_has_the_class_and_the_lrs() -> None:
    scheduler = MetaLROnPlateau(make_optimizer(), controller(by_loss), total_epochs=6)
    assert isinstance(scheduler, ReduceLROnPlateau)
    plain = MetaLR(make_optimizer(), controller(by_loss), total_epochs=6)
    assert lrs_of(scheduler) == lrs_of(plain)
    assert scheduler.get_last_lr() == plain.get_last_lr()
    assert scheduler.last_epoch == plain.last_epoch == 6
    assert len(set(scheduler.state_dict()["trace"][3])) > 3


@pytest.mark.parametrize("is_loaded_first", [True, False])
def test_it_goes_on_from_the_optimizers_state(is_loaded_first: bool) -> None:
    whole = lrs_of(MetaLROnPlateau(make_optimizer(), controller(by_loss), total_epochs=6))
    begun = MetaLROnPlateau(make_optimizer(), controller(by_loss), total_epochs=6)
    lrs = lrs_of(begun, LOSSES[:3])
    file = io.BytesIO()
    torch.save(begun.optimizer.state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    optimizer = make_optimizer()
    if is_loaded_first:
        optimizer.load_state_dict(saved)
    with torch.no_grad():
        for group, other in zip(optimizer.param_groups, begun.optimizer.param_groups, strict=True):
            group["params"][0].copy_(other["params"][0])
    resumed = MetaLROnPlateau(optimizer, controller(by_loss), total_epochs=6, last_epoch=2)
    if not is_loaded_first:
        optimizer.load_state_dict(saved)
    assert lrs + lrs_of(resumed, LOSSES[3:]) == whole


def test_another_controllers_state_is_refused() -> None:
    begun = MetaLROnPlateau(make_optimizer(), controller(by_loss), total_epochs=6)
    with pytest.raises(ValueError, match="made by controller"):
        MetaLROnPlateau(reloaded(begun.optimizer), controller(), total_epochs=6)


def test_a_last_epoch_without_a_state_moves_along_the_anchor() -> None:
    stepped = MetaLR(make_optimizer(), controller(), total_epochs=6, gather=False)
    for _ in range(4):
        one_step(stepped.optimizer)
        stepped.step()
    optimizer = make_optimizer()
    one_step(optimizer)
    scheduler = MetaLROnPlateau(optimizer, controller(), total_epochs=6, last_epoch=3)
    assert scheduler.last_epoch == 4
    assert scheduler.get_last_lr() == stepped.get_last_lr()


def test_a_mapping_and_nothing_are_taken_too() -> None:
    scheduler = MetaLROnPlateau(make_optimizer(), controller(), total_epochs=6)
    one_step(scheduler.optimizer)
    scheduler.step({"train_loss": 1.0, "val_loss": 1.1})
    one_step(scheduler.optimizer)
    scheduler.step()
    trace = scheduler.state_dict()["trace"]
    assert (trace[1]["train_loss"], trace[1]["inner_valid_loss"], len(trace)) == (1.0, 1.1, 2)


def test_epoch_metrics_reads_the_last_epoch() -> None:
    class Net:
        history = ({"train_loss": 9.0}, {"train_loss": 1.0, "valid_loss": 1.5, "valid_acc": 0.25, "dur": 3.0})

    expected = {"train/loss": 1.0, "inner_valid/loss": 1.5, "inner_valid/accuracy": 0.25}
    assert epoch_metrics(Net()) == expected
