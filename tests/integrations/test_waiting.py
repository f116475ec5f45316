"""WaitingMetaLR: stepped before its metrics come, it does what MetaLR does when told in time."""

from __future__ import annotations

import pytest
from integrations.loops import LOSSES, make_optimizer, one_step
from integrations.rules import by_loss, controller

from metalr import MetaLR
from metalr.integrations import WaitingMetaLR

STEPS = 4


def told_in_time() -> tuple[list[float], MetaLR]:
    scheduler = MetaLR(make_optimizer(), controller(by_loss), total_epochs=6, steps_per_epoch=STEPS)
    lrs = []
    for loss in LOSSES:
        for step in range(STEPS):
            lrs.append(one_step(scheduler.optimizer))
            if step == STEPS - 1:
                scheduler.observe(loss)
            scheduler.step()
    return lrs, scheduler


def told_late(scheduler: WaitingMetaLR, losses: tuple[float | None, ...]) -> list[float]:
    lrs = []
    for loss in losses:
        for _ in range(STEPS):
            lrs.append(one_step(scheduler.optimizer))
            scheduler.step()
        assert scheduler.is_waiting
        scheduler.end_epoch(loss)
    return lrs


def waiting(optimizer=None) -> WaitingMetaLR:
    return WaitingMetaLR(
        optimizer or make_optimizer(), controller(by_loss), total_epochs=6, steps_per_epoch=STEPS
    )


def test_late_metrics_give_the_lrs_and_the_statistics_of_timely_ones() -> None:
    lrs, plain = told_in_time()
    scheduler = waiting()
    assert told_late(scheduler, LOSSES) == lrs
    assert scheduler.state_dict() == plain.state_dict() | {"is_waiting": False}
    assert all("grad_norm" in row for row in plain.state_dict()["trace"][1:])


def test_units_count_the_one_that_waits() -> None:
    scheduler = waiting()
    counts = []
    for _ in range(STEPS + 1):
        counts.append(scheduler.num_units)
        one_step(scheduler.optimizer)
        scheduler.step()
    assert counts == list(range(STEPS + 1))
    assert not scheduler.is_waiting


def test_without_metrics_the_next_step_ends_the_epoch() -> None:
    scheduler = waiting()
    told_late(scheduler, (None,))
    other = waiting()
    for _ in range(STEPS):
        one_step(other.optimizer)
        other.step()
    assert other.last_epoch == STEPS - 1
    one_step(other.optimizer)
    other.step()
    assert other.last_epoch == scheduler.last_epoch + 1 == STEPS + 1
    assert len(other.state_dict()["trace"]) == 1


def test_a_state_that_waits_goes_on_waiting() -> None:
    lrs, _ = told_in_time()
    first = waiting()
    for _ in range(STEPS):
        one_step(first.optimizer)
        first.step()
    state = first.state_dict()
    second = waiting(first.optimizer)
    second.load_state_dict(state)
    assert second.is_waiting
    second.end_epoch(LOSSES[0])
    assert one_step(second.optimizer) == pytest.approx(lrs[STEPS], rel=1e-12)


def test_end_epoch_within_an_epoch_does_nothing() -> None:
    scheduler = waiting()
    one_step(scheduler.optimizer)
    scheduler.step()
    before = scheduler.state_dict()
    scheduler.end_epoch(1.0)
    assert scheduler.state_dict() == before
