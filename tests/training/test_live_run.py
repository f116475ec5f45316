"""The whole training recipe in real runs: resumed exactly, ratios kept, LRs logged, stopped early."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from training.tiny import CONTROL, TASK, TRAIN, job_of, rule_controller, tiny_spec, tiny_task, without_times

from metalr.config import ControlConfig, DepthGroup, EarlyStoppingConfig, ProbeConfig
from metalr.control import SCHEDULE_NAMES, Anchor, Observation
from metalr.training import (
    ArtifactError,
    LiveRun,
    RunRecord,
    RunSpec,
    RunStore,
    probing,
    run,
    steps_per_epoch,
    train_run,
)
from metalr.training.checkpoint import load_latest_checkpoint
from metalr.training.loop import evaluate
from metalr.training.run import OnEpoch

GROUPS = [DepthGroup(lr_ratio=0.1, unfreeze_epoch=2), DepthGroup(lr_ratio=0.5), DepthGroup()]
RECIPE = TRAIN.model_copy(
    update={
        "epochs": 6,
        "lr": 0.01,
        "optimizer": "adamw",
        "weight_decay": 0.1,
        "decay_norms_and_biases": False,
        "depth_groups": GROUPS,
        "early_stopping": EarlyStoppingConfig(patience=3),
        "label_smoothing": 0.1,
        "grad_clip": 1.0,
    }
)
STRONG = TASK.model_copy(update={"augmentation": "strong"})


class Killed(BaseException):
    """Stands for a SIGKILL: nothing of ours catches it."""


def spec_of(method: str = "one_cycle", **changes: Any) -> RunSpec:
    return tiny_spec(method, **({"train": RECIPE} | changes))


def trained(
    spec: RunSpec, store: Path, on_epoch: OnEpoch | None = None, interval_s: float = 0.0
) -> RunRecord:
    controller = rule_controller() if spec.controller_sha256 else None
    task = tiny_task(**spec.task.model_dump())
    return train_run(job_of(spec, store, interval_s), task, controller, on_epoch)


def killed_after(spec: RunSpec, store: Path, epoch: int, interval_s: float = 0.0) -> None:
    def kill(live: LiveRun) -> None:
        if live.training.epoch == epoch:
            raise Killed

    with pytest.raises(Killed):
        trained(spec, store, kill, interval_s)


def assert_same(first: RunRecord, second: RunRecord, *stores: Path) -> None:
    assert without_times(first.rows) == without_times(second.rows)
    for key in ("final", "stopped_epoch", "best_epoch", "num_samples"):
        assert first.result[key] == second.result[key]
    one, other = (RunStore(store).load_lrs(first.run_id) for store in stores)
    assert one == other
    assert [line["epoch"] for line in one] == [row["epoch"] for row in first.epochs]


@pytest.mark.parametrize("method", ["one_cycle", "plateau", "metalr-mlp"])
def test_a_killed_run_of_the_whole_recipe_goes_on_to_the_same_bits(method: str, tmp_path: Path) -> None:
    """Killed three times: before, at and after the epoch of the unfreeze."""
    patient = RECIPE.model_copy(update={"early_stopping": EarlyStoppingConfig(patience=5)})
    spec = spec_of(method, task=STRONG, train=patient)
    expected = trained(spec, tmp_path / "straight")
    for epoch in (1, 2, 4):
        killed_after(spec, tmp_path / "killed", epoch)
    resumed = trained(spec, tmp_path / "killed")
    assert_same(resumed, expected, tmp_path / "killed", tmp_path / "straight")
    assert len(expected.epochs) >= 4


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": "adam"}, {"beta2": 0.99}, {"decay_norms_and_biases": True}, {"label_smoothing": 0.0},
        {"grad_clip": 0.5}, {"depth_groups": [DepthGroup(lr_ratio=0.1, unfreeze_epoch=3), *GROUPS[1:]]},
    ],
)  # fmt: skip
def test_every_setting_of_the_recipe_changes_the_bits(change: dict[str, Any], tmp_path: Path) -> None:
    """Negative control of the equalities above; the setting is part of the run's identity too."""
    first, second = (
        spec_of(train=RECIPE.model_copy(update={"early_stopping": None} | update)) for update in ({}, change)
    )
    assert first.run_id != second.run_id
    assert trained(first, tmp_path).result["final"] != trained(second, tmp_path).result["final"]


@pytest.mark.parametrize("method", [*SCHEDULE_NAMES, "metalr-mlp"])
def test_every_schedule_keeps_the_groups_ratios(method: str, tmp_path: Path) -> None:
    seen: list[list[float]] = []

    def listen(live: LiveRun) -> None:
        def record(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            seen.append([float(group["lr"]) for group in optimizer.param_groups])

        if live.training.epoch == 0:
            live.training.optimizer.register_step_pre_hook(record)

    spec = spec_of(method, train=RECIPE.model_copy(update={"early_stopping": None}))
    record = trained(spec, tmp_path, listen)
    steps = 6 * (6 if method.startswith("metalr") else 8)  # the probe takes 8 of 48
    assert len(seen) == steps
    expected = [1.0, 1.0, 0.5, 0.5, 0.1, 0.1]
    for lrs in seen:
        assert [lr / lrs[0] for lr in lrs] == pytest.approx(expected, rel=1e-6)
    logged = [lr for line in RunStore(tmp_path).load_lrs(record.run_id) for lr in line["lrs"]]
    assert logged == pytest.approx([lrs[0] for lrs in seen], rel=1e-6)


def test_the_lr_log_by_hand(tmp_path: Path) -> None:
    record = trained(tiny_spec("linear"), tmp_path)
    lines = RunStore(tmp_path).load_lrs(record.run_id)
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    steps = [lr for line in lines for lr in line["lrs"]]
    assert steps == pytest.approx([0.05 * (1 - step / 32) for step in range(32)], rel=5e-7)
    assert all(lr == float(f"{lr:.7g}") for lr in steps)


def test_the_lr_log_is_written_with_a_checkpoint_and_no_sooner(tmp_path: Path) -> None:
    spec, path = tiny_spec(), tmp_path / tiny_spec().run_id / "lrs.jsonl"
    killed_after(spec, tmp_path, 3, interval_s=1000.0)
    assert not path.exists()
    killed_after(spec, tmp_path, 3)
    assert len(path.read_text().splitlines()) == 2  # the checkpoint of epoch 3 was never saved


def test_lrs_newer_than_the_checkpoint_are_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tiny_spec()
    expected = trained(spec, tmp_path / "straight")
    save = run.save_checkpoint

    def killed_before_the_third(folder: Path, epoch: int, state: dict[str, Any]) -> None:
        if epoch == 3:
            raise Killed
        save(folder, epoch, state)

    monkeypatch.setattr(run, "save_checkpoint", killed_before_the_third)
    with pytest.raises(Killed):
        trained(spec, tmp_path / "killed")
    monkeypatch.undo()
    path = tmp_path / "killed" / spec.run_id / "lrs.jsonl"
    assert len(path.read_text().splitlines()) == 3
    with path.open("ab") as handle:
        handle.write(b'{"epoch": 4, "lr')  # torn by the kill
    resumed = trained(spec, tmp_path / "killed")
    assert_same(resumed, expected, tmp_path / "killed", tmp_path / "straight")


def test_an_older_run_has_no_lr_log_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    record = trained(tiny_spec(), tmp_path)
    path = tmp_path / record.run_id / "lrs.jsonl"
    path.write_text('{"epoch": 1, "lrs": [NaN]}\n{}\n')
    with pytest.raises(ArtifactError, match=r"lrs\.jsonl: line 1 is damaged"):
        RunStore(tmp_path).load_lrs(record.run_id)
    path.unlink()
    assert RunStore(tmp_path).load_lrs(record.run_id) == []


ACCURACIES = [0.25, 0.5, 0.25, 0.5, 0.125, 0.75]


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inner validation accuracies of our own choice."""
    original = run.train_epoch

    def plant(training: Any) -> Any:
        result = original(training)
        values = result.observation.to_dict()
        values["inner_valid_accuracy"] = ACCURACIES[training.epoch - 1]
        return type(result)(**(vars(result) | {"observation": Observation(**values)}))

    monkeypatch.setattr(run, "train_epoch", plant)


def stopping_spec(patience: int, restore_best: bool = True) -> RunSpec:
    stopping = EarlyStoppingConfig(patience=patience, restore_best=restore_best)
    return tiny_spec(train=TRAIN.model_copy(update={"epochs": 6, "early_stopping": stopping}))


@pytest.mark.parametrize(("patience", "stopped", "best"), [(1, 3, 2), (2, 4, 2), (3, 5, 2), (4, None, 6)])
@pytest.mark.parametrize("restore", [True, False])
@pytest.mark.usefixtures("planted")
def test_a_run_stops_early_and_ends_with_the_weights_it_says(
    patience: int, stopped: int | None, best: int, restore: bool, tmp_path: Path
) -> None:
    finals: dict[int, float] = {}

    def keep(live: LiveRun) -> None:
        finals[live.training.epoch] = float(
            evaluate(live.training.model, live.training.task, "test", live.spec.train).loss
        )

    record = trained(stopping_spec(patience, restore), tmp_path, keep)
    end = stopped or 6
    assert [row["epoch"] for row in record.epochs] == list(range(1, end + 1))
    assert (record.result["stopped_epoch"], record.result["best_epoch"]) == (stopped, best)
    assert record.result["final"]["test/loss"] == finals[best if restore else end]
    assert len(set(finals.values())) == len(finals)
    assert record.result["num_samples"] == end * 128


@pytest.mark.parametrize("epoch", [1, 2, 3, 4])
@pytest.mark.usefixtures("planted")
def test_a_run_killed_before_it_stopped_early_stops_at_the_same_epoch(epoch: int, tmp_path: Path) -> None:
    spec = stopping_spec(2)
    expected = trained(spec, tmp_path / "straight")
    killed_after(spec, tmp_path / "killed", epoch)
    resumed = trained(spec, tmp_path / "killed")
    assert_same(resumed, expected, tmp_path / "killed", tmp_path / "straight")
    assert expected.result["stopped_epoch"] == 4


@pytest.mark.usefixtures("planted")
def test_a_run_killed_after_it_stopped_early_trains_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, trainer = stopping_spec(2), run.train_epoch
    expected = trained(spec, tmp_path / "straight")
    monkeypatch.setattr(run, "_result", _killed)
    with pytest.raises(Killed):
        trained(spec, tmp_path / "killed")
    monkeypatch.undo()
    monkeypatch.setattr(run, "train_epoch", _killed)
    resumed = trained(spec, tmp_path / "killed")
    assert_same(resumed, expected, tmp_path / "killed", tmp_path / "straight")
    assert trainer is not _killed


def _killed(*_: Any) -> Any:
    raise Killed


def test_without_early_stopping_nothing_of_it_is_kept(tmp_path: Path) -> None:
    killed_after(tiny_spec(), tmp_path, 2)
    folder = tmp_path / tiny_spec().run_id
    state = load_latest_checkpoint(folder, torch.device("cpu"))
    assert state is not None
    assert set(state) == {"epoch", "model", "optimizer", "scheduler", "probe", "trace"}
    result = trained(tiny_spec(), tmp_path).result
    assert result["stopped_epoch"] is None
    assert result["best_epoch"] is None
    killed_after(stopping_spec(2), tmp_path, 2)  # negative control
    state = load_latest_checkpoint(tmp_path / stopping_spec(2).run_id, torch.device("cpu"))
    assert state is not None
    assert state["early_stopping"]["best_epoch"] == 1


def test_an_epoch_that_was_undone_is_never_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its accuracy was measured on weights that the rollback has thrown away."""
    original = run.train_epoch

    def plant(training: Any) -> Any:
        result = original(training)
        accuracy = 0.99 if training.epoch == 1 else 0.1 * training.epoch
        observation = Observation(epoch=training.epoch, inner_valid_accuracy=accuracy)
        return type(result)(**(vars(result) | {"observation": observation}))

    monkeypatch.setattr(run, "train_epoch", plant)
    train = TRAIN.model_copy(update={"lr": 1000.0, "early_stopping": EarlyStoppingConfig(patience=4)})
    changes = {"probe": None, "correction_bound": 1.0, "max_lr": 1000.0, "backoff": 1e-4}
    control = CONTROL.model_copy(update=changes)
    record = trained(tiny_spec("metalr-mlp", train=train, control=control), tmp_path)
    undone = [row["epoch"] for row in record.epochs if "exploded" in row["decision"]["reason"]]
    assert undone == [1]
    assert record.result["best_epoch"] == 4


def test_the_probe_sees_the_network_that_the_first_epoch_trains(tmp_path: Path) -> None:
    spec = spec_of("metalr-mlp")
    frozen = [DepthGroup(lr_ratio=0.1, unfreeze_epoch=5), *GROUPS[1:]]
    open_ = [DepthGroup(lr_ratio=0.1), *GROUPS[1:]]
    curves = [
        trained(
            spec.model_copy(update={"train": RECIPE.model_copy(update={"depth_groups": groups})}), tmp_path
        ).rows[0]["probe"]["losses"]
        for groups in (GROUPS, frozen, open_)
    ]
    assert curves[0] == curves[1]
    assert curves[0] != curves[2]


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize(("batch_size", "images"), [(None, 16), (4, 4), (64, 16)])
def test_the_probe_trains_on_batches_of_its_own_and_pays_for_them(
    batch_size: int | None, images: int, fresh: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    original = probing.training_loss

    def spy(model: Any, images_BCHW: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append(len(images_BCHW))
        return original(model, images_BCHW, *rest)

    monkeypatch.setattr(probing, "training_loss", spy)
    probe = ProbeConfig(num_steps=8, batch_size=batch_size, fresh_batches=fresh, paid="every_epoch")
    control = ControlConfig(probe=probe)
    spec = tiny_spec("metalr-mlp", control=control)
    record = train_run(job_of(spec, tmp_path), tiny_task(), rule_controller())
    assert set(seen) == {images}
    per_epoch = len(tiny_task().splits["train"].labels_B) // 16
    spent = math.ceil(8 * images * (4 / 3 if fresh else 1) / 16)
    steps = (per_epoch * 4 - spent) // 4
    assert steps_per_epoch(spec, tiny_task()) == steps
    tried = record.rows[0]["probe"]["num_steps"]
    assert record.result["num_samples"] == 4 * steps * 16 + tried * images


@pytest.mark.parametrize("anchor", ["hold", "linear"])
def test_the_first_epoch_ends_earlier_by_the_steps_of_the_probe(anchor: str, tmp_path: Path) -> None:
    """Nothing else gives way: the LR of every other step is that of a run that was not probed."""
    probe = ProbeConfig(num_steps=8, batch_size=4)  # 8 steps of 4 images and a third more: 3 of 16
    control = ControlConfig(probe=probe, anchor=anchor, warmup_fraction=0.1)
    spec = tiny_spec("metalr-mlp", control=control)
    record = train_run(job_of(spec, tmp_path), tiny_task(), rule_controller())
    lines = RunStore(tmp_path).load_lrs(record.run_id)
    assert [len(line["lrs"]) for line in lines] == [5, 8, 8, 8]
    assert record.result["num_samples"] == 29 * 16 + record.rows[0]["probe"]["num_steps"] * 4
    shape = Anchor(anchor, 0.1)
    for line, row in zip(lines, record.rows, strict=False):
        first = 8 * row["epoch"]
        expected = [row["decision"]["peak_lr"] * shape.height((first + step + 0.5) / 32) for step in range(8)]
        assert line["lrs"] == pytest.approx(expected[: len(line["lrs"])], rel=1e-6)
    for row, decided in zip(record.epochs, record.rows, strict=False):
        assert row["observation"]["peak_lr"] == pytest.approx(decided["decision"]["peak_lr"], rel=1e-6)


def test_a_probe_that_would_fill_the_first_epoch_is_paid_by_all(tmp_path: Path) -> None:
    spec = tiny_spec("metalr-mlp", control=ControlConfig(probe=ProbeConfig(num_steps=8, batch_size=16)))
    record = train_run(job_of(spec, tmp_path), tiny_task(), rule_controller())
    assert [len(line["lrs"]) for line in RunStore(tmp_path).load_lrs(record.run_id)] == [5, 5, 5, 5]
