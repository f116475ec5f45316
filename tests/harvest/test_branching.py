"""Forks: common random numbers, the trunk undisturbed, nothing trained twice."""

from pathlib import Path

import pytest
import torch
from training.tiny import (
    CONTROL,
    TASK,
    TRAIN,
    job_of,
    rule_controller,
    tiny_spec,
    tiny_task,
    trunk_spec,
    without_times,
)

from metalr.config import DepthGroup, TrainConfig
from metalr.control import Snapshot, anchor_for, anchored_schedule
from metalr.harvest import branching
from metalr.harvest.branching import branch_losses, run_trunk
from metalr.training import ForkPlan, Job, LiveRun, RunStore, train_run
from metalr.training.loop import Training, evaluate_splits, make_optimizer, train_epoch

GROUPS = [DepthGroup(lr_ratio=0.1, unfreeze_epoch=3), DepthGroup(lr_ratio=0.5), DepthGroup()]
RECIPE = TRAIN.model_copy(
    update={"optimizer": "adamw", "lr": 0.01, "depth_groups": GROUPS, "decay_norms_and_biases": False}
)

AVERAGED = TRAIN.model_copy(update={"optimizer": "schedule_free_adamw", "lr": 0.01})
SCHEDULE_FREE_SGD = TRAIN.model_copy(update={"optimizer": "schedule_free_sgd", "lr": 1.0})


@pytest.mark.parametrize(
    ("method", "train"),
    [("cosine", TRAIN), ("one_cycle", RECIPE), ("plateau", RECIPE), ("one_cycle", AVERAGED)],
)  # fmt: skip
def test_a_trunk_is_not_disturbed_by_its_forks(method: str, train: TrainConfig, tmp_path: Path) -> None:
    forked = run_trunk(job_of(trunk_spec(method, train=train), tmp_path / "forked"), tiny_task())
    without = trunk_spec(method, train=train, forks=ForkPlan(epochs=[], peak_factors=[1.0]))
    plain = run_trunk(job_of(without, tmp_path / "plain"), tiny_task())
    assert without_times(forked.rows) == without_times(plain.rows)
    assert forked.result["final"] == plain.result["final"]
    assert plain.forks == []


@pytest.mark.parametrize("train", [TRAIN, AVERAGED])
def test_a_trunk_under_a_controller_goes_its_own_way_and_its_branches_theirs(
    train: TrainConfig, tmp_path: Path
) -> None:
    """The forks lie at states of the very run that the controller makes without them."""
    spec = trunk_spec("metalr-mlp", train=train)
    forked = run_trunk(job_of(spec, tmp_path / "forked"), tiny_task(), None, rule_controller())
    plain = tiny_spec("metalr-mlp", train=train, evaluate_test=False)
    alone = train_run(job_of(plain, tmp_path / "plain"), tiny_task(), rule_controller())
    assert [row["decision"] for row in forked.rows] == [row["decision"] for row in alone.rows]
    assert [row["train/loss"] for row in forked.epochs] == [row["train/loss"] for row in alone.epochs]
    assert forked.result["final"] == alone.result["final"]
    assert len(forked.forks) == 6
    assert forked.forks[0]["final_loss"] != forked.forks[3]["final_loss"]
    with pytest.raises(ValueError, match="wants controller"):
        run_trunk(job_of(spec, tmp_path / "other"), tiny_task())


def test_every_candidate_of_every_fork_is_there_once(tmp_path: Path) -> None:
    told: list[int] = []
    record = run_trunk(job_of(trunk_spec(), tmp_path), tiny_task(), told.append)
    assert [(row["epoch"], row["candidate"]) for row in record.forks] == [
        (0, 0), (0, 1), (0, 2), (2, 0), (2, 1), (2, 2),
    ]  # fmt: skip
    reference = record.rows[0]["probe"]["reference_lr"]
    assert [row["peak_lr"] / reference for row in record.forks[:3]] == pytest.approx([0.25, 1.0, 4.0])
    assert sum(told) == 4 + 3 * 4 + 3 * 2


@pytest.mark.parametrize("train", [TRAIN, RECIPE, AVERAGED, SCHEDULE_FREE_SGD])
def test_a_branch_against_training_it_by_hand(train: TrainConfig, tmp_path: Path) -> None:
    """The middle candidate of the fork at epoch 2, trained from a copy of the trunk's state.

    Under the recipe of groups, a part that is frozen in the trunk wakes in the branch, at epoch 3.
    """
    spec = trunk_spec(train=train)
    record = run_trunk(job_of(spec, tmp_path / "forked"), tiny_task())
    kept: list[Training] = []

    def keep(live: LiveRun) -> None:
        if live.training.epoch == 2:
            state = {"m": live.training.model.state_dict(), "o": live.training.optimizer.state_dict()}
            torch.save(state, tmp_path / "state.pt")
            kept.append(live.training)

    train_run(Job(spec=spec, store=str(tmp_path / "copy")), tiny_task(), None, keep)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    model = tiny_task().make_model(0)
    model.load_state_dict(state["m"])
    optimizer = make_optimizer(model, spec.train)
    optimizer.load_state_dict(state["o"])
    peak = record.forks[4]["peak_lr"]
    steps = kept[0].steps_per_epoch
    schedule = anchored_schedule(optimizer, peak, 2, 4, steps, anchor_for(optimizer, CONTROL))
    branch = Training(tiny_task(), spec.train, model, optimizer, schedule, spec.seed, steps, epoch=2)
    losses = []
    for _ in range(2):
        train_epoch(branch)
        losses.append(evaluate_splits(branch, ["outer_valid"])[0].loss)
    assert [record.forks[4]["next_loss"], record.forks[4]["final_loss"]] == losses


@pytest.mark.parametrize(("train", "name"), [(TRAIN, "momentum"), (RECIPE, "betas")])
def test_a_fork_goes_back_to_the_recipes_settings_and_keeps_the_optimizers_state(
    train: TrainConfig, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One-cycle moves the momentum away from the recipe's 0.9; its branches must not inherit that."""
    trunk: list[torch.optim.Optimizer] = []
    starts: list[tuple[list[dict[str, object]], list[torch.Tensor], int]] = []
    original = branching.train_epoch

    def spy(training: Training, *, observe: bool = True) -> object:
        groups, state = training.optimizer.param_groups, training.optimizer.state
        key = "momentum_buffer" if name == "momentum" else "exp_avg"
        starts.append(
            (
                [{k: v for k, v in group.items() if k != "params"} for group in groups],
                [entry[key].clone() for entry in state.values()],
                training.epoch,
            )
        )
        return original(training, observe=observe)

    def at_the_fork(live: LiveRun) -> None:
        if live.training.epoch == 2:
            trunk.append(live.training.optimizer)
            cycled = live.training.optimizer.param_groups[0][name]
            assert cycled != (train.momentum if name == "momentum" else (0.9, 0.999))
            branching.fork(live, [1.0], CONTROL, lambda epochs: None)
            assert live.training.optimizer.param_groups[0][name] == cycled

    monkeypatch.setattr(branching, "train_epoch", spy)
    spec = trunk_spec("one_cycle", train=train, forks=ForkPlan(epochs=[], peak_factors=[1.0]))
    train_run(job_of(spec, tmp_path), tiny_task(), None, at_the_fork)
    groups, state, epoch = starts[0]
    assert epoch == 2
    assert len(state) == (4 if train is RECIPE else 6)  # the first layer's weight and bias still rest
    assert all(tensor.abs().sum() > 0 for tensor in state)
    fresh = make_optimizer(tiny_task().make_model(0), train).param_groups
    for group, expected in zip(groups, fresh, strict=True):
        assert group[name] == expected[name]
        assert set(group) == set(expected) - {"params"} | {"initial_lr"}
        assert group["lr"] / groups[0]["lr"] == pytest.approx(expected["lr"] / train.lr)  # type: ignore[operator]
    assert trunk


def test_candidates_meet_the_same_batches(tmp_path: Path) -> None:
    """Common random numbers: two candidates at the same LR end alike to the last bit."""
    twins = trunk_spec(forks=ForkPlan(epochs=[1], peak_factors=[1.0, 1.0, 1.01]))
    first, second, other = run_trunk(job_of(twins, tmp_path), tiny_task()).forks
    assert first["final_loss"] == second["final_loss"]
    assert first["final_loss"] != other["final_loss"]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [2, 7, 17, 20])
def test_a_trunk_killed_in_a_fork_goes_on_without_repeating_it(after: int, tmp_path: Path) -> None:
    spec = trunk_spec()
    expected = run_trunk(job_of(spec, tmp_path / "straight"), tiny_task())
    count = 0

    def kill(epochs: int) -> None:
        nonlocal count
        count += epochs
        if count >= after:
            raise Killed

    with pytest.raises(Killed):
        run_trunk(job_of(spec, tmp_path / "killed"), tiny_task(), kill)
    path = tmp_path / "killed" / spec.run_id / "forks.jsonl"
    with path.open("ab") as handle:
        handle.write(b'{"epoch": 0, "cand')  # torn by the kill
    record = run_trunk(job_of(spec, tmp_path / "killed"), tiny_task())
    assert without_times(record.forks) == without_times(expected.forks)
    assert without_times(record.rows) == without_times(expected.rows)


def test_a_candidate_that_diverges_is_recorded_as_such(tmp_path: Path) -> None:
    plan = ForkPlan(epochs=[0], peak_factors=[1.0, 1e6])
    fine, diverged = run_trunk(job_of(trunk_spec(forks=plan), tmp_path), tiny_task()).forks
    assert fine["final_loss"] is not None
    assert diverged["final_loss"] is None


def test_a_branch_is_read_after_any_epoch(tmp_path: Path) -> None:
    spec = trunk_spec()
    record = run_trunk(job_of(spec, tmp_path / "forked"), tiny_task())
    reference = record.rows[0]["probe"]["reference_lr"]
    peaks = [factor * reference for factor in (0.25, 1.0, 4.0, 1e6)]
    found: list[list[float | None]] = []

    def fork(live: LiveRun) -> None:
        if live.training.epoch == 0:
            taken = Snapshot.take(live.training.model, live.training.optimizer)
            found.extend(branch_losses(live.training, taken, peak, CONTROL, {1, 2, 3}) for peak in peaks)
            taken.restore(live.training.model, live.training.optimizer)

    train_run(job_of(spec, tmp_path / "read"), tiny_task(), None, fork)
    assert [(losses[0], losses[3]) for losses in found[:3]] == [
        (row["next_loss"], row["final_loss"]) for row in record.forks[:3]
    ]
    assert all(len(losses) == 4 for losses in found)
    assert found[3][-1] is None


def test_labels_come_from_outer_valid_and_test_is_never_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = tiny_task()
    reads: set[str] = set()
    original = type(task).eval_batch
    monkeypatch.setattr(
        type(task), "eval_batch", lambda self, split, *a: (reads.add(split), original(self, split, *a))[1]
    )
    run_trunk(job_of(trunk_spec(), tmp_path / "trunk"), task)
    assert reads == {"inner_valid", "outer_valid"}
    train_run(job_of(tiny_spec(), tmp_path / "plain"), task)  # negative control: compare's runs do read it
    assert "test" in reads


def test_a_squared_error_is_harvested_in_units_of_guessing(tmp_path: Path) -> None:
    task = TASK.model_copy(update={"objective": "regress", "augmentation": "none", "dropout": 0.0})
    found = tiny_task(**task.model_dump())
    seen: list[tuple[float, float]] = []

    def branch_and_read(live: LiveRun) -> None:
        assert live.setting.num_classes is None
        if live.training.epoch == 2:
            snapshot = Snapshot.take(live.training.model, live.training.optimizer)
            (told,) = branch_losses(live.training, snapshot, 0.05, CONTROL, ())
            assert told is not None
            (read,) = evaluate_splits(live.training, ["outer_valid"])
            seen.append((told, read.loss))
            snapshot.restore(live.training.model, live.training.optimizer)

    spec = trunk_spec(task=task)
    trunk = train_run(Job(spec=spec, store=str(tmp_path / "copy")), found, None, branch_and_read)
    ((told, read),) = seen
    assert told == pytest.approx(read / found.loss_of_guessing * 2.302585)
    assert trunk.result["final"]["outer_valid/loss"] < 0.3  # the run's own record tells it as it is
    alone = run_trunk(job_of(spec, tmp_path / "alone"), found)
    together = run_trunk(job_of(trunk_spec(task=task, forks_together=True), tmp_path / "together"), found)
    for one, other in zip(alone.forks, together.forks, strict=True):
        assert one["final_loss"] == pytest.approx(other["final_loss"], rel=1e-3)


def test_an_ordinary_run_is_refused_as_a_trunk(tmp_path: Path) -> None:
    spec = tiny_spec(task=TASK, train=TRAIN)
    with pytest.raises(ValueError, match="is no trunk"):
        run_trunk(job_of(spec, tmp_path), tiny_task())
    assert not RunStore(tmp_path).is_finished(spec.run_id)
