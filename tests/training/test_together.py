"""Branches trained as one stacked network against training them one after another."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from training.repeat import repeat
from training.tiny import CONTROL as TINY_CONTROL
from training.tiny import TRAIN, exact_convolutions, tiny_task

from metalr.config import DepthGroup, TrainConfig
from metalr.control import Snapshot, anchor_for, anchored_schedule, make_schedule
from metalr.training import stack, together
from metalr.training.loop import Training, branched, evaluate, make_optimizer, train_epoch
from metalr.training.stack import Stack
from metalr.training.together import branches_together

PEAKS = [0.003, 0.02, 0.05]
LATE = 2e3
"""A peak whose loss is finite for one epoch and no longer."""

# A steadily falling LR: rounding grows fast where it stays high.
CONTROL = TINY_CONTROL.model_copy(update={"anchor": "linear"})


def state_of(network: str, dropout: float = 0.0, device: str = "cpu", **changes: Any) -> Training:
    """A run after one epoch: with momentum, and batch-norm statistics that have moved."""
    task = tiny_task(network=network, dropout=dropout)
    if device == "cuda":
        task = cuda_task(network)
    config = TrainConfig.model_validate(
        TRAIN.model_dump() | {"epochs": 4, "lr": 0.02, "device": device, "step": "eager"} | changes
    )
    model = task.make_model(3)
    optimizer = make_optimizer(model, config)
    training = Training(task, config, model, optimizer, make_schedule("constant", optimizer, 4, 3), 3, 3)
    train_epoch(training, observe=False)
    return training


def cuda_task(network: str) -> Any:
    from metalr.config import DataConfig
    from metalr.tasks import make_task

    config = tiny_task(network=network, dropout=0.0).config
    return make_task(config, DataConfig(), torch.device("cuda"))


def one_after_another(trunk: Training, peaks: list[float]) -> list[tuple[float | None, float | None]]:
    snapshot = Snapshot.take(trunk.model, trunk.optimizer)
    found: list[tuple[float | None, float | None]] = []
    for peak in peaks:
        snapshot.restore(trunk.model, trunk.optimizer)
        optimizer = make_optimizer(trunk.model, trunk.config)
        snapshot.restore(trunk.model, optimizer)
        for group, recipe in zip(
            optimizer.param_groups, make_optimizer(trunk.model, trunk.config).param_groups, strict=True
        ):
            group.update({key: value for key, value in recipe.items() if key != "params"})
            group.pop("initial_lr", None)
        schedule = anchored_schedule(optimizer, peak, trunk.epoch, 4, 3, anchor_for(optimizer, CONTROL))
        branch = branched(trunk, schedule, optimizer)
        losses: list[float | None] = [None, None]
        while branch.epoch < 4:
            if not train_epoch(branch, observe=False).observation.is_finite:
                losses[1] = None
                break
            loss = evaluate(branch.model, branch.task, "outer_valid", branch.config).loss
            if branch.epoch == trunk.epoch + 1:
                losses[0] = loss if math.isfinite(loss) else None
            losses[1] = loss if math.isfinite(loss) else None
        found.append((losses[0], losses[1]))
    snapshot.restore(trunk.model, trunk.optimizer)
    return found


def all_at_once(trunk: Training, peaks: list[float]) -> list[tuple[float | None, float | None]]:
    return branches_together(trunk, peaks, CONTROL, lambda epochs: None)


def assert_alike(found: Any, expected: Any, rel: float = 1e-5) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        for found_loss, loss in zip(mine, theirs, strict=True):
            assert found_loss == (None if loss is None else pytest.approx(loss, rel=rel))


GROUPS = [DepthGroup(lr_ratio=0.1, unfreeze_epoch=2), DepthGroup(lr_ratio=0.5), DepthGroup()]


@pytest.mark.parametrize(
    ("network", "dropout", "changes"),
    [
        ("mlp", 0.0, {}),
        ("mlp", 0.3, {"nesterov": True, "grad_clip": 0.3}),
        ("mlp", 0.0, {"momentum": 0.0}),
        ("mlp", 0.2, {"depth_groups": GROUPS, "decay_norms_and_biases": False, "weight_decay": 0.05}),
        ("cnn", 0.2, {"label_smoothing": 0.1}),
        ("cnn", 0.0, {"grad_clip": 0.1, "channels_last": True}),
        ("resnet18", 0.2, {}),
        ("resnet18", 0.0, {"nesterov": True, "grad_clip": 0.5}),
    ],
)
def test_together_equals_one_after_another(network: str, dropout: float, changes: dict[str, Any]) -> None:
    trunk = state_of(network, dropout, **changes)
    expected = one_after_another(trunk, PEAKS)
    found = all_at_once(trunk, PEAKS)
    # A stack's kernels round otherwise, on some CPUs more, and batch norm of small batches enlarges it.
    assert_alike(found, expected, rel=1e-4 if network == "resnet18" else 1e-5)
    assert len({loss for pair in found for loss in pair}) == 6


def test_bfloat16_is_alike_in_its_own_rounding() -> None:
    trunk = state_of("cnn", dtype="bfloat16")
    expected = one_after_another(trunk, PEAKS)
    assert_alike(all_at_once(trunk, PEAKS), expected, rel=0.002)


@pytest.mark.parametrize("broken", ["momentum", "clip", "buffers", "dropout", "lr"])
def test_each_part_of_the_update_matters(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative controls: with any part of a copy's state or update lost, the losses differ."""
    trunk = state_of("resnet18" if broken == "buffers" else "mlp", 0.3, grad_clip=0.3)
    expected = one_after_another(trunk, PEAKS)
    if broken == "momentum":
        for held in trunk.optimizer.state.values():
            held["momentum_buffer"].zero_()
    if broken == "clip":
        monkeypatch.setattr(stack, "_clip_factors", lambda gradients, clip: torch.ones(len(PEAKS)))
    if broken == "buffers":
        for buffer in trunk.model.buffers():
            buffer.zero_()
    if broken == "dropout":
        trunk.seed += 1
        monkeypatch.setattr(stack, "epoch_batches", lambda run: _batches_of_seed_3(run))
    if broken == "lr":
        trunk.steps_per_epoch = 3
        unit = together._unit_schedule
        monkeypatch.setattr(together, "_unit_schedule", lambda run, control: _late(unit(run, control)))
    with pytest.raises(AssertionError):
        assert_alike(all_at_once(trunk, PEAKS), expected)


_batches = stack.epoch_batches


def _batches_of_seed_3(run: Training) -> Any:
    run.seed = 3
    yield from _batches(run)
    run.seed = 4


def _late(schedule: Any) -> Any:
    schedule.scheduler.step()
    return schedule


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_a_copy_that_diverges_leaves_and_disturbs_no_other(network: str) -> None:
    trunk = state_of(network)
    told: list[int] = []
    peaks = [LATE, PEAKS[0], 1e30, PEAKS[2]]
    expected = one_after_another(trunk, peaks)
    found = branches_together(trunk, peaks, CONTROL, told.append)
    assert_alike(found, expected)
    assert found[0][0] is not None  # in its second epoch
    assert found[2] == (None, None)
    assert [losses[1] is None for losses in found] == [True, False, True, False]
    assert sum(told) == 4 * 3


def test_all_diverge() -> None:
    trunk, told = state_of("mlp"), list[int]()
    assert branches_together(trunk, [1e30, 1e30], CONTROL, told.append) == [(None, None)] * 2
    assert sum(told) == 2 * 3


def test_the_fork_stays_as_it_was_but_for_its_weights() -> None:
    trunk = state_of("mlp")
    before = Snapshot.take(trunk.model, trunk.optimizer)
    rng = torch.get_rng_state()
    all_at_once(trunk, PEAKS)
    after = trunk.optimizer.state_dict()
    assert after["param_groups"] == before.optimizer_state["param_groups"]
    for index, held in before.optimizer_state["state"].items():
        assert torch.equal(after["state"][index]["momentum_buffer"], held["momentum_buffer"])
    assert trunk.epoch == 1
    assert torch.equal(torch.get_rng_state(), rng)


def test_a_recording_gives_the_same_and_is_made_anew_where_copies_leave() -> None:
    trunk = state_of("mlp", 0.3)
    recorded = [0]

    def counting(work: Any) -> Any:
        recorded[0] += 1
        return repeat(work)

    schedule = together._unit_schedule(trunk, CONTROL)
    plain, replayed = Stack(trunk, [*PEAKS, 1e30]), Stack(trunk, [*PEAKS, 1e30], counting)
    assert plain.train_epoch(schedule) == [True, True, True, False]
    schedule = together._unit_schedule(trunk, CONTROL)
    assert replayed.train_epoch(schedule) == [True, True, True, False]
    assert recorded == [1]
    for each in (plain, replayed):
        each.keep([0, 2])
        assert each.candidates == [0, 2]
        trunk.epoch = 2
        assert each.train_epoch(together._unit_schedule(trunk, CONTROL)) == [True, True]
        trunk.epoch = 1
    assert recorded == [2]
    assert replayed.outer_loss(0) == plain.outer_loss(0)
    assert replayed.outer_loss(1) == plain.outer_loss(1) != plain.outer_loss(0)


def test_where_no_recording_can_be_made_it_says_so_and_trains() -> None:
    trunk = state_of("mlp")

    def refuse(work: Any) -> Any:
        work()
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    plain, failing = Stack(trunk, PEAKS), Stack(trunk, PEAKS, refuse)
    plain.train_epoch(together._unit_schedule(trunk, CONTROL))
    with pytest.warns(UserWarning, match="not permitted when stream is capturing"):
        failing.train_epoch(together._unit_schedule(trunk, CONTROL))
    assert failing.outer_loss(1) == plain.outer_loss(1)


def test_what_cannot_be_stacked_is_refused() -> None:
    trunk = state_of("mlp", optimizer="adamw", lr=0.001)
    with pytest.raises(ValueError, match=r"train\.optimizer=adamw"):
        all_at_once(trunk, PEAKS)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of torch's vmap, in pooling
@pytest.mark.parametrize("network", ["mlp", "cnn", "resnet18"])
def test_together_equals_one_after_another_on_a_gpu(network: str) -> None:
    # At 0.05 the ResNet's loss climbs, and a rounding with it to a hundredth: nothing could be equal there.
    peaks = [0.003, 0.01, 0.02] if network == "resnet18" else PEAKS
    with exact_convolutions():
        trunk = state_of(network, device="cuda")
        expected = one_after_another(trunk, peaks)
        assert_alike(all_at_once(trunk, peaks), expected, rel=1e-4)
