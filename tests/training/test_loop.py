"""The fast loop against a slow, obvious one."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from training.tiny import TRAIN, tiny_task

from metalr.control import make_schedule
from metalr.training.loop import (
    Training,
    epoch_generator,
    evaluate,
    make_optimizer,
    train_epoch,
    training_loss,
)


def training_of(**changes: object) -> Training:
    task = tiny_task(dropout=0.0)
    config = TRAIN.model_copy(update=changes)
    model = task.make_model(3)
    optimizer = make_optimizer(model, config)
    schedule = make_schedule("cosine", optimizer, config.epochs, 8)
    return Training(task, config, model, optimizer, schedule, 3, 8)


@pytest.mark.parametrize(
    "changes",
    [{}, {"nesterov": True}, {"label_smoothing": 0.1}, {"grad_clip": 0.05}, {"channels_last": True}],
)
def test_an_epoch_equals_the_plain_loop(changes: dict[str, object]) -> None:
    training, plain = training_of(**changes), training_of(**changes)
    result = train_epoch(training)
    generator = epoch_generator(3, 0, torch.device("cpu"))
    order = torch.randperm(128, generator=generator)
    losses, lrs = [], []
    before = torch.cat([p.detach().flatten() for p in plain.model.parameters()]).clone()
    for step in range(8):
        images, labels = plain.task.train_batch(order[step * 16 : step * 16 + 16], generator)
        loss = functional.cross_entropy(
            plain.model(images), labels, label_smoothing=plain.config.label_smoothing
        )
        plain.optimizer.zero_grad()
        loss.backward()
        if plain.config.grad_clip:
            torch.nn.utils.clip_grad_norm_(plain.model.parameters(), plain.config.grad_clip)
        lrs.append(plain.optimizer.param_groups[0]["lr"])
        plain.optimizer.step()
        plain.schedule.scheduler.step()
        losses.append(loss.item())
    after = torch.cat([p.detach().flatten() for p in plain.model.parameters()])
    assert result.lrs == lrs
    seen = result.observation
    assert seen.train_loss == pytest.approx(sum(losses) / 8, rel=1e-6)
    assert seen.train_loss_first == pytest.approx(sum(losses[:2]) / 2, rel=1e-6)
    assert seen.train_loss_last == pytest.approx(sum(losses[-2:]) / 2, rel=1e-6)
    assert seen.update_norm == pytest.approx((after - before).norm().item(), rel=1e-5)
    assert seen.weight_norm == pytest.approx(after.norm().item(), rel=1e-6)
    for mine, theirs in zip(training.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_label_smoothing_by_hand(smoothing: float) -> None:
    """Probabilities 3/6, 2/6, 1/6, true class first: a share of the mass goes to all three alike."""
    logits = torch.tensor([[math.log(3.0), math.log(2.0), 0.0]])
    config = TRAIN.model_copy(update={"label_smoothing": smoothing})
    loss = training_loss(nn.Identity(), logits, torch.tensor([0]), config)
    targets = [1 - smoothing + smoothing / 3, smoothing / 3, smoothing / 3]
    expected = -sum(t * math.log(p) for t, p in zip(targets, (3 / 6, 2 / 6, 1 / 6), strict=True))
    assert loss.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("clip", [None, 1e-3, 1e3])
def test_clipping_by_hand(clip: float | None) -> None:
    """A step of plain SGD moves the weights by lr times the gradient, cut to length `clip`."""
    changes = {"grad_clip": clip, "momentum": 0.0, "weight_decay": 0.0, "lr": 0.5}
    training = training_of(**changes)
    training.steps_per_epoch = 1
    seen = train_epoch(training).observation
    assert seen.grad_norm is not None
    assert 1e-3 < seen.grad_norm < 1e3
    expected = seen.grad_norm if clip is None else min(seen.grad_norm, clip)  # the norm seen is unclipped
    assert seen.update_norm == pytest.approx(0.5 * expected, rel=1e-3)


def test_evaluation_against_one_whole_batch() -> None:
    training = training_of()
    train_epoch(training)
    found = evaluate(training.model, training.task, "outer_valid", training.config)
    images, labels = training.task.eval_batch("outer_valid", 0, 32)
    training.model.eval()
    logits = training.model(images)
    assert found.loss == pytest.approx(functional.cross_entropy(logits, labels).item(), rel=1e-6)
    assert found.accuracy == pytest.approx((logits.argmax(1) == labels).double().mean().item())


def test_training_mode_returns_after_evaluation_and_test_is_not_touched() -> None:
    training = training_of()
    training.task.splits["test"].images_BCHW  # noqa: B018  # it is there, and yet:
    reads: list[str] = []
    original = type(training.task).eval_batch
    type(training.task).eval_batch = lambda self, split, *a: (reads.append(split), original(self, split, *a))[
        1
    ]  # type: ignore[method-assign,assignment]
    try:
        train_epoch(training)
    finally:
        type(training.task).eval_batch = original  # type: ignore[method-assign]
    assert training.model.training
    assert set(reads) == {"inner_valid"}


def test_gradient_norms_are_sampled_from_the_batches_gradients() -> None:
    training = training_of()
    result = train_epoch(training)
    assert result.observation.grad_norm is not None
    assert result.observation.grad_norm > 0.0
    blind = train_epoch(training_of(), observe=False).observation
    assert blind.grad_norm is None
    assert blind.inner_valid_loss is None
    assert blind.train_loss == result.observation.train_loss
