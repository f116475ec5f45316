"""The peers train, resume and are evaluated at the weights that are theirs to use."""

from __future__ import annotations

import builtins
import copy
import math
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from training.tiny import TRAIN, job_of, rule_controller, tiny_spec, tiny_task, without_times

from metalr.config import ConfigError, TrainConfig
from metalr.config.peers import PEERS
from metalr.control.snapshot import Snapshot
from metalr.training import RunSpec, train_run
from metalr.training.averaging import is_averaged
from metalr.training.checkpoint import load_latest_checkpoint
from metalr.training.hypergradient import HypergradientSGD
from metalr.training.live_run import start_or_resume
from metalr.training.loop import evaluate, evaluate_splits, make_optimizer, train_epoch
from metalr.training.peer_optimizers import effective_lr, make_peer_optimizer

NAMES = sorted(PEERS)
AVERAGED = ["schedule-free-sgd", "schedule-free-adamw", "dog"]


def peer_spec(method: str, network: str = "cnn", **train: Any) -> RunSpec:
    peer = PEERS[method]
    lr = 0.02 if peer.lr_factor else peer.lr
    settings = TRAIN.model_copy(update={"optimizer": peer.optimizer, "lr": lr, **train})
    return tiny_spec(method, task=tiny_task(network=network).config, train=settings)


def live_of(spec: RunSpec, folder: Path) -> Any:
    folder.mkdir(exist_ok=True)
    return start_or_resume(spec, tiny_task(**spec.task.model_dump()), None, folder)[0]


@pytest.mark.parametrize("method", NAMES)
def test_a_killed_run_goes_on_with_the_same_bits(method: str, tmp_path: Path) -> None:
    straight_and_killed(peer_spec(method, "resnet18"), None, tmp_path)


def test_a_killed_run_under_a_controller_goes_on_with_the_same_average(tmp_path: Path) -> None:
    train = TRAIN.model_copy(update={"optimizer": "schedule_free_adamw"})
    task = tiny_task(network="resnet18").config
    straight = straight_and_killed(
        tiny_spec("metalr-mlp-sf", task=task, train=train), rule_controller(), tmp_path
    )
    assert straight.rows[0]["probe"]["scales_gradients"]
    peaks = [row["decision"]["peak_lr"] for row in straight.rows[:-1]]
    steps = [row["observation"]["lr"] for row in straight.epochs]
    assert steps[1:] == pytest.approx(peaks[1:], rel=1e-6)  # no fall: the iterates are averaged


def straight_and_killed(spec: RunSpec, controller: Any, tmp_path: Path) -> Any:
    """The run's record, after it was found to have the same bits where it was killed on its way."""
    task = tiny_task(**spec.task.model_dump())
    straight = train_run(job_of(spec, tmp_path / "straight"), task, controller)

    class Killed(Exception):
        pass

    def kill(live: Any) -> None:
        if live.training.epoch == 3:
            raise Killed

    with pytest.raises(Killed):
        train_run(job_of(spec, tmp_path / "killed"), task, controller, kill)
    folder = tmp_path / "killed" / spec.run_id
    assert load_latest_checkpoint(folder, torch.device("cpu")) is not None
    resumed = train_run(job_of(spec, tmp_path / "killed"), task, controller)
    assert without_times(resumed.rows) == without_times(straight.rows)
    assert resumed.result["final"] == straight.result["final"]
    assert all(row["lr"] > 0.0 for row in straight.epochs)
    return straight


@pytest.mark.parametrize("method", NAMES)
def test_a_snapshot_puts_everything_back(method: str, tmp_path: Path) -> None:
    training = live_of(peer_spec(method), tmp_path).training
    train_epoch(training)
    snapshot = Snapshot.take(training.model, training.optimizer)
    before = copy.deepcopy(training.model.state_dict())
    scheduler = training.schedule.scheduler
    schedule = copy.deepcopy(scheduler.state_dict())
    weights = []
    for _ in range(2):
        snapshot.restore(training.model, training.optimizer)
        assert all(torch.equal(before[k], v) for k, v in training.model.state_dict().items())
        scheduler.load_state_dict(copy.deepcopy(schedule))
        training.epoch = 1
        train_epoch(training, observe=False)
        weights.append(copy.deepcopy(training.model.state_dict()))
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in before)
    assert any(not torch.equal(weights[0][k], before[k]) for k in before)


@pytest.mark.parametrize("method", NAMES)
def test_looking_at_the_network_does_not_change_its_training(method: str, tmp_path: Path) -> None:
    finals = []
    for looks in (0, 3):
        training = live_of(peer_spec(method, "resnet18"), tmp_path / str(looks)).training
        for _ in range(2):
            train_epoch(training, observe=False)
            for _ in range(looks):
                evaluate_splits(training, ["outer_valid"])
        finals.append(training.model.state_dict())
    assert all(torch.equal(finals[0][k], finals[1][k]) for k in finals[0])


@pytest.mark.parametrize("method", AVERAGED)
def test_without_recalibration_batch_norm_belongs_to_other_weights(method: str, tmp_path: Path) -> None:
    training = live_of(peer_spec(method, "resnet18"), tmp_path).training
    for _ in range(2):
        train_epoch(training)
    assert is_averaged(training.optimizer)
    (used,) = evaluate_splits(training, ["outer_valid"])
    kept = copy.deepcopy(training.model.state_dict())
    training.optimizer.put_average()
    stale = evaluate(training.model, training.task, "outer_valid", training.config)
    training.model.load_state_dict(kept)
    assert math.isfinite(used.loss)
    assert abs(used.loss - stale.loss) > 1e-3


def test_plain_optimizers_are_used_as_they_are(tmp_path: Path) -> None:
    training = live_of(tiny_spec(), tmp_path).training
    train_epoch(training)
    plain = evaluate(training.model, training.task, "outer_valid", training.config)
    assert not is_averaged(training.optimizer)
    assert evaluate_splits(training, ["outer_valid"]) == [plain]


def quadratic(optimizer_of: Any, num_steps: int) -> tuple[list[float], Any, torch.Tensor]:
    """Steps on w^2 / 2 from w = 2; the weights after each."""
    w = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = optimizer_of([{"params": [w]}])
    seen = []
    for _ in range(num_steps):
        optimizer.zero_grad()
        (w**2 / 2).sum().backward()
        optimizer.step()
        seen.append(float(w.detach()))
    return seen, optimizer, w


def test_schedule_free_uses_the_average_of_the_plain_iterates() -> None:
    config = TrainConfig(optimizer="schedule_free_sgd", lr=0.1, momentum=0.9, weight_decay=0.0)
    _, optimizer, w = quadratic(lambda groups: make_peer_optimizer(groups, config, 0, False), 3)
    x = z = y = 2.0
    for t in range(1, 4):  # arXiv 2405.15682, equations 3 to 5, at a constant LR
        z -= 0.1 * y
        x += (z - x) / t
        y = 0.1 * z + 0.9 * x
    assert float(w.detach()) == pytest.approx(y, rel=1e-5)
    optimizer.put_average()
    assert float(w.detach()) == pytest.approx(x, rel=1e-5)
    assert effective_lr(optimizer) == pytest.approx(0.1)


def test_schedule_free_warms_up_over_a_twentieth_of_the_budget() -> None:
    config = TrainConfig(optimizer="schedule_free_sgd", lr=0.1, weight_decay=0.0)
    for steps, expected in ((1, 0.02), (5, 0.1), (7, 0.1)):
        _, optimizer, _ = quadratic(lambda groups: make_peer_optimizer(groups, config, 100, False), steps)
        assert effective_lr(optimizer) == pytest.approx(expected)


def test_dog_steps_by_distance_over_gradients_and_is_used_at_its_average() -> None:
    config = TrainConfig(optimizer="dog", lr=1.0, weight_decay=0.0)
    seen, optimizer, w = quadratic(lambda groups: make_peer_optimizer(groups, config, 0, True), 3)
    start = x = average = 2.0
    distance, squares = 1e-4 * 3.0, 1e-8
    for t in range(1, 4):
        squares += x * x
        distance = max(distance, abs(x - start)) if t > 1 else distance
        x -= distance / math.sqrt(squares) * x
        average += 9.0 / (8.0 + t) * (x - average)
        assert seen[t - 1] == pytest.approx(x, rel=1e-6)
    assert float(effective_lr(optimizer)) == pytest.approx(distance / math.sqrt(squares), rel=1e-3)
    optimizer.put_average()
    assert float(w.detach()) == pytest.approx(average, rel=1e-6)


def test_the_hypergradient_moves_the_lr_along_the_last_direction() -> None:
    seen, optimizer, _ = quadratic(
        lambda groups: HypergradientSGD(groups, lr=0.1, momentum=0.5, hyper_lr=0.01), 4
    )
    w, lr, direction = 2.0, 0.1, None
    for t in range(4):
        gradient = w
        if direction is not None:
            lr = max(0.0, lr + 0.01 * gradient * direction)
        direction = gradient + (0.5 * direction if direction is not None else 0.0)
        w -= lr * direction
        assert seen[t] == pytest.approx(w, rel=1e-6)
    assert effective_lr(optimizer) == pytest.approx(lr, rel=1e-6)
    assert lr > 0.1


def test_the_hypergradients_lr_never_falls_below_zero() -> None:
    seen, optimizer, _ = quadratic(
        lambda groups: HypergradientSGD(groups, lr=1.9, momentum=0.0, hyper_lr=10.0), 2
    )
    assert effective_lr(optimizer) == 0.0  # the second gradient points the other way: 1.9 - 36 < 0
    assert seen[0] == seen[1]


def test_a_schedule_does_not_undo_the_hypergradient(tmp_path: Path) -> None:
    training = live_of(peer_spec("hypergradient-sgd"), tmp_path).training
    lrs = [train_epoch(training).lrs for _ in range(2)]
    assert len({lr for epoch in lrs for lr in epoch}) > 4


@pytest.mark.parametrize("method", NAMES)
def test_what_is_recorded_is_the_lr_in_effect(method: str, tmp_path: Path) -> None:
    """The step's length over the gradient's: the first step of SGD-like ones without averaging shows it."""
    training = live_of(peer_spec(method), tmp_path).training
    lrs = train_epoch(training).lrs
    assert all(math.isfinite(lr) and lr > 0.0 for lr in lrs)
    if PEERS[method].lr_factor is None:
        assert lrs[0] < 0.1 and len(set(lrs)) > 1  # not the 1.0 that the schedule starts from


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from metalr.training import peer_optimizers

    real = builtins.__import__
    peer_optimizers._prodigy.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "prodigyopt", None)
    assert real is builtins.__import__
    model = torch.nn.Linear(2, 2)
    with pytest.raises(ConfigError, match=r"package prodigyopt.*metalr\[peers\]"):
        make_optimizer(model, TrainConfig(optimizer="prodigy", lr=1.0))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"optimizer": "dog", "depth_groups": [{"lr_ratio": 0.1}, {}]}, "depth_groups is for sgd"),
        ({"optimizer": "prodigy", "step": "cuda_graph"}, "cuda_graph is for sgd"),
        ({"optimizer": "schedule_free_sgd", "momentum": 0.0}, "needs momentum"),
        ({"optimizer": "prodigy", "nesterov": True}, "nesterov"),
        ({"optimizer": "dog", "early_stopping": {}}, "restore_best=false"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        TrainConfig.model_validate(changes)


def test_a_peer_without_its_optimizer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"method prodigy is train\.optimizer=prodigy, not sgd"):
        tiny_spec("prodigy")


@pytest.mark.parametrize("optimizer", ["schedule_free_sgd", "schedule_free_adamw", "prodigy"])
def test_the_controller_takes_them_too(optimizer: str, tmp_path: Path) -> None:
    from training.tiny import rule_controller

    train = TRAIN.model_copy(update={"optimizer": optimizer})
    record = train_run(job_of(tiny_spec("metalr-mlp", train=train), tmp_path), tiny_task(), rule_controller())
    assert record.result["status"] == "done"
    assert len(list(islice(record.epochs, 10))) == train.epochs
