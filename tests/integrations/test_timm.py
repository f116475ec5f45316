"""TimmMetaLR against MetaLR: by epochs, by updates, with layer-wise scales; its state travels."""

from __future__ import annotations

import pytest
from integrations.loops import LOSSES, make_optimizer, one_step, reloaded
from integrations.rules import by_loss, controller

from metalr import MetaLR

pytest.importorskip("timm", reason="timm is not installed")

from metalr.integrations import TimmMetaLR

STEPS = 3


def by_updates(scheduler: TimmMetaLR, epochs: range) -> list[float]:
    lrs = []
    for epoch in epochs:
        for step in range(STEPS):
            lrs.append(one_step(scheduler.optimizer))
            scheduler.step_update(epoch * STEPS + step + 1)
        scheduler.step(epoch + 1, LOSSES[epoch])
    return lrs


def plain_by_steps() -> list[float]:
    scheduler = MetaLR(make_optimizer(), controller(by_loss), total_epochs=6, steps_per_epoch=STEPS)
    lrs = []
    for loss in LOSSES:
        for step in range(STEPS):
            lrs.append(one_step(scheduler.optimizer))
            if step == STEPS - 1:
                scheduler.observe(loss)
            scheduler.step()
    return lrs


def test_by_updates_it_has_the_lrs_of_metalr_by_steps() -> None:
    scheduler = TimmMetaLR(make_optimizer(), controller(by_loss), total_epochs=6, updates_per_epoch=STEPS)
    assert by_updates(scheduler, range(6)) == plain_by_steps()


def test_by_updates_it_goes_on_from_the_optimizers_state() -> None:
    begun = TimmMetaLR(make_optimizer(), controller(by_loss), total_epochs=6, updates_per_epoch=STEPS)
    lrs = by_updates(begun, range(2))
    optimizer = reloaded(begun.optimizer)
    optimizer.param_groups[0]["params"][0].data.copy_(begun.optimizer.param_groups[0]["params"][0])
    resumed = TimmMetaLR(optimizer, controller(by_loss), total_epochs=6, updates_per_epoch=STEPS)
    resumed.step_update(2 * STEPS)  # as timm's training script does after a resume
    assert lrs + by_updates(resumed, range(2, 6)) == plain_by_steps()


def test_layerwise_scales_stay() -> None:
    optimizer = make_optimizer((0.1, 0.1))
    optimizer.param_groups[1]["lr_scale"] = 0.25
    scheduler = TimmMetaLR(optimizer, controller(), total_epochs=6)
    for epoch, loss in enumerate(LOSSES):
        assert optimizer.param_groups[1]["lr"] == pytest.approx(
            optimizer.param_groups[0]["lr"] / 4, rel=1e-12
        )
        one_step(optimizer)
        scheduler.step(epoch + 1, loss)


def test_the_same_epoch_twice_moves_nothing() -> None:
    scheduler = TimmMetaLR(make_optimizer(), controller(), total_epochs=6)
    scheduler.step(0)
    one_step(scheduler.optimizer)
    scheduler.step(1, LOSSES[0])
    before = scheduler.state_dict()
    scheduler.step(1)
    assert scheduler.state_dict() == before


def test_an_accuracy_in_percent_is_a_fraction_to_the_controller() -> None:
    scheduler = TimmMetaLR(make_optimizer(), controller(), total_epochs=6, metric="top1")
    one_step(scheduler.optimizer)
    scheduler.step(1, 25.0)
    assert scheduler.state_dict()["trace"][1]["inner_valid_accuracy"] == 0.25


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(ValueError, match="metric must be one of loss, top1, got 'top5'"):
        TimmMetaLR(make_optimizer(), controller(), total_epochs=6, metric="top5")
