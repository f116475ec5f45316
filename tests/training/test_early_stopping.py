"""When a run stops, by hand; and which weights it keeps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from metalr.config import EarlyStoppingConfig
from metalr.control import Observation
from metalr.training.early_stopping import EarlyStopping


def stopping(patience: int, restore_best: bool = True) -> EarlyStopping:
    return EarlyStopping(EarlyStoppingConfig(patience=patience, restore_best=restore_best))


def model_at(value: float) -> nn.Module:
    model = nn.BatchNorm1d(1)
    for tensor in (model.weight, model.running_mean):
        nn.init.constant_(tensor, value)
    return model


def observed(epoch: int, accuracy: float | None, *, is_finite: bool = True) -> Observation:
    return Observation(epoch=epoch, inner_valid_accuracy=accuracy, is_finite=is_finite)


@pytest.mark.parametrize(
    ("patience", "accuracies", "stopped", "best"),
    [
        (1, [0.5, 0.4], 2, 1),
        (1, [0.5, 0.6, 0.7], None, 3),
        (2, [0.5, 0.4, 0.4], 3, 1),
        (2, [0.5, 0.5, 0.5], 3, 1),  # ties are no new bests
        (2, [0.5, 0.4, 0.6, 0.5, 0.6], 5, 3),  # a rise but no new best does not count
        (3, [0.1, 0.2, 0.2, 0.2, 0.3, 0.2, 0.2, 0.2], 8, 5),
        (2, [0.0, 0.0, 0.0], 3, 1),  # the first epoch is always a best, however bad
        (3, [0.5, 0.4, 0.4], None, 1),
    ],
)
def test_a_run_stops_after_so_many_epochs_without_a_new_best(
    patience: int, accuracies: list[float], stopped: int | None, best: int
) -> None:
    found = None
    state = stopping(patience)
    for epoch, accuracy in enumerate(accuracies, start=1):
        assert found is None
        state.observe(observed(epoch, accuracy), model_at(epoch))
        found = epoch if state.is_over(epoch) else None
    assert (found, state.best_epoch) == (stopped, best)
    assert not stopping(1).is_over(0)


def test_the_best_epochs_weights_and_buffers_come_back() -> None:
    state, model = stopping(5), model_at(0.0)
    for epoch, accuracy in enumerate([0.1, 0.3, 0.2], start=1):
        model.load_state_dict(model_at(float(epoch)).state_dict())
        state.observe(observed(epoch, accuracy), model)
    state.restore(model)
    assert (model.weight.item(), model.running_mean.item()) == (2.0, 2.0)
    last, kept = stopping(5, restore_best=False), model_at(3.0)
    last.observe(observed(1, 0.9), model_at(1.0))
    last.restore(kept)
    assert kept.weight.item() == 3.0
    assert last.best_model is None


def test_an_epoch_that_is_not_sound_is_no_best() -> None:
    state = stopping(2)
    state.observe(observed(1, 0.2), model_at(1.0))
    state.observe(observed(2, 0.9, is_finite=False), model_at(2.0))
    state.observe(observed(3, None), model_at(3.0))
    assert (state.best_epoch, state.best_accuracy) == (1, 0.2)
    assert state.is_over(3)


def test_the_state_goes_through_a_file(tmp_path: object) -> None:
    import io

    state = stopping(3)
    state.observe(observed(4, 0.5), model_at(7.0))
    buffer = io.BytesIO()
    torch.save(state.state_dict(), buffer)
    buffer.seek(0)
    other = stopping(3)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    model = model_at(0.0)
    other.restore(model)
    assert (other.best_epoch, other.best_accuracy, model.weight.item()) == (4, 0.5, 7.0)
    other.observe(observed(5, 0.5), model)
    assert other.best_epoch == 4
