"""A run: the same bits however often it is stopped, divergence as a result, identity by content."""

from pathlib import Path
from typing import Any

import pytest
import torch
from training.tiny import (
    TASK,
    TRAIN,
    exact_convolutions,
    job_of,
    rule_controller,
    tiny_spec,
    tiny_task,
    without_times,
)

import metalr
from metalr.training import ArtifactError, LiveRun, RunRecord, RunSpec, RunStore, train_run
from metalr.training.checkpoint import load_latest_checkpoint, save_checkpoint

METHODS = ["constant", "step", "cosine", "linear", "metalr-mlp"]


class Killed(BaseException):
    """Stands for a SIGKILL: nothing of ours catches it."""


def controller_of(spec: RunSpec) -> Any:
    return rule_controller() if spec.controller_sha256 else None


def straight(spec: RunSpec, store: Path) -> RunRecord:
    return train_run(job_of(spec, store), tiny_task(**spec.task.model_dump()), controller_of(spec))


def killed_after(spec: RunSpec, store: Path, epoch: int, interval_s: float = 0.0) -> None:
    def kill(live: LiveRun) -> None:
        if live.training.epoch == epoch:
            raise Killed

    with pytest.raises(Killed):
        train_run(job_of(spec, store, interval_s), tiny_task(), controller_of(spec), kill)


def assert_same(first: RunRecord, second: RunRecord) -> None:
    assert without_times(first.rows) == without_times(second.rows)
    assert first.result["final"] == second.result["final"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("epoch", [0, 1, 3])
def test_a_killed_run_goes_on_to_the_same_bits(method: str, epoch: int, tmp_path: Path) -> None:
    spec = tiny_spec(method)
    expected = straight(spec, tmp_path / "straight")
    killed_after(spec, tmp_path / "killed", epoch)
    assert not RunStore(tmp_path / "killed").is_finished(spec.run_id)
    assert_same(straight(spec, tmp_path / "killed"), expected)


def test_rows_newer_than_the_checkpoint_are_made_again(tmp_path: Path) -> None:
    spec = tiny_spec()
    expected = straight(spec, tmp_path / "straight")
    killed_after(spec, tmp_path / "killed", 3, interval_s=1000.0)  # no checkpoint was ever written
    rows = (tmp_path / "killed" / spec.run_id / "metrics.jsonl").read_bytes().splitlines()
    assert len(rows) == 4
    assert_same(straight(spec, tmp_path / "killed"), expected)


def test_a_damaged_checkpoint_is_left_for_the_one_before(tmp_path: Path) -> None:
    spec = tiny_spec()
    expected = straight(spec, tmp_path / "straight")
    killed_after(spec, tmp_path / "killed", 3)
    newest = tmp_path / "killed" / spec.run_id / "ckpt-2.pt"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    assert_same(straight(spec, tmp_path / "killed"), expected)


def test_a_finished_run_is_read_and_not_trained_again(tmp_path: Path) -> None:
    spec = tiny_spec()
    expected = straight(spec, tmp_path)

    def never(live: LiveRun) -> None:
        raise AssertionError("trained again")

    assert train_run(job_of(spec, tmp_path), tiny_task(), None, never) == expected
    assert not list((tmp_path / spec.run_id).glob("ckpt-*"))


def test_another_seed_gives_other_bits(tmp_path: Path) -> None:
    """The negative control of every equality above."""
    first, second = straight(tiny_spec(), tmp_path), straight(tiny_spec(seed=4), tmp_path)
    assert first.run_id != second.run_id
    assert first.result["final"]["test/loss"] != second.result["final"]["test/loss"]


@pytest.mark.parametrize("method", ["cosine", "metalr-mlp"])
def test_the_global_random_state_neither_matters_nor_changes(method: str, tmp_path: Path) -> None:
    torch.manual_seed(98)
    first = straight(tiny_spec(method), tmp_path / "first")
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert_same(straight(tiny_spec(method), tmp_path / "second"), first)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 4},
        {"data_digest": "0" * 64},
        {"evaluate_test": False},
        {"train": TRAIN.model_copy(update={"threads": 2})},
        {"train": TRAIN.model_copy(update={"lr": 0.051})},
        {"task": TASK.model_copy(update={"width": 16})},
    ],
)
def test_whatever_can_change_the_result_changes_the_run_id(changes: dict[str, Any]) -> None:
    assert tiny_spec(**changes).run_id != tiny_spec().run_id
    assert tiny_spec().run_id == tiny_spec().run_id


def test_the_store_and_the_checkpoint_interval_do_not_change_the_result(tmp_path: Path) -> None:
    spec = tiny_spec("metalr-mlp")
    record = train_run(job_of(spec, tmp_path / "a b é", 1000.0), tiny_task(), rule_controller())
    assert_same(record, straight(spec, tmp_path / "other"))


def test_divergence_is_a_result_with_its_epoch(tmp_path: Path) -> None:
    spec = tiny_spec("constant", train=TRAIN.model_copy(update={"lr": 1000.0}))
    record = straight(spec, tmp_path)
    assert record.diverged
    assert record.result["diverged_epoch"] == len(record.epochs)
    assert record.result["final"] == {}
    assert record.epochs[-1]["train/loss"] is None


def test_under_metalr_an_explosion_is_rolled_back_and_training_goes_on(tmp_path: Path) -> None:
    """The same LR destroys a constant run (above); the envelope brings the learned one home."""
    control = {"probe": None, "correction_bound": 1.0, "max_lr": 1000.0, "backoff": 1e-4}
    spec = tiny_spec("metalr-mlp", train=TRAIN.model_copy(update={"lr": 1000.0}), control=control)
    record = straight(spec, tmp_path)
    assert not record.diverged
    assert record.result["num_rollbacks"] >= 1
    assert record.result["final"]["test/loss"] < 5.0


@pytest.mark.parametrize("learner", ["mlp", "lstm"])
def test_under_a_probe_the_initial_lr_changes_no_bit_of_a_run(learner: str, tmp_path: Path) -> None:
    """So the sensitivity to it is zero, whatever a comparison measures."""
    controller = metalr.load_controller(learner)

    def trained(lr: float, probe: dict[str, Any] | None) -> RunRecord:
        spec = tiny_spec(
            "metalr-mlp",
            train=TRAIN.model_copy(update={"lr": lr}),
            control={"probe": probe},
            controller_sha256=controller.sha256,
        )
        return train_run(job_of(spec, tmp_path), tiny_task(), controller)

    low, high = trained(0.001, {"num_steps": 8}), trained(1.0, {"num_steps": 8})
    assert low.run_id != high.run_id
    assert without_times(low.rows) == without_times(high.rows)
    assert low.result["final"] == high.result["final"]
    blind, other = trained(0.001, None), trained(1.0, None)  # negative control
    assert without_times(blind.rows) != without_times(other.rows)


def test_the_probe_is_paid_for_out_of_the_budget(tmp_path: Path) -> None:
    plain, probed = straight(tiny_spec(), tmp_path), straight(tiny_spec("metalr-mlp"), tmp_path)
    spent = probed.rows[0]["probe"]["num_steps"]
    assert plain.result["num_samples"] == 4 * 8 * 16
    assert probed.result["num_samples"] == (4 * 5 + spent) * 16  # 8 steps and their measuring: 11 of 32
    assert spent <= 8
    assert plain.rows[0]["probe"] is None


def test_a_probe_longer_than_the_budget_is_refused(tmp_path: Path) -> None:
    control = {"probe": {"num_steps": 40}}
    with pytest.raises(ValueError, match=r"num_steps: 40 steps leave none to train in 4 epochs of 8"):
        straight(tiny_spec("metalr-mlp", control=control), tmp_path)


def test_a_batch_larger_than_the_data_is_refused(tmp_path: Path) -> None:
    spec = tiny_spec(train=TRAIN.model_copy(update={"batch_size": 129}))
    with pytest.raises(ValueError, match=r"train\.batch_size: 129 is larger than the 128"):
        straight(spec, tmp_path)


def test_the_wrong_data_or_controller_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the data changed"):
        train_run(job_of(tiny_spec(data_digest="0" * 64), tmp_path), tiny_task())
    with pytest.raises(ValueError, match="wants controller"):
        train_run(job_of(tiny_spec("metalr-mlp"), tmp_path), tiny_task())


def test_the_lr_logged_is_the_lr_used(tmp_path: Path) -> None:
    record = straight(tiny_spec("linear"), tmp_path)
    expected = [0.05 * (1 - (8 * epoch + 3.5) / 32) for epoch in range(4)]  # the mean over 8 steps
    assert [row["lr"] for row in record.epochs] == pytest.approx(expected, rel=1e-9)
    assert record.epochs[-1]["lr_last"] == pytest.approx(0.05 / 32)


def test_an_unfinished_or_damaged_record_is_named(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    with pytest.raises(ArtifactError, match=r"result\.json: no such file"):
        store.load("0123456789abcdef")
    record = straight(tiny_spec(), tmp_path)
    spec_file = tmp_path / record.run_id / "spec.json"
    spec_file.write_text(spec_file.read_text().replace("cosine", "cosinus"))
    with pytest.raises(ArtifactError, match=r"spec\.json"):
        store.load(record.run_id)


def test_two_checkpoints_are_kept_and_all_bit_flips_are_found(tmp_path: Path) -> None:
    for epoch in range(1, 5):
        save_checkpoint(tmp_path, epoch, {"epoch": epoch, "weights": torch.ones(100)})
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == ["ckpt-3.pt", "ckpt-4.pt"]
    newest = tmp_path / "ckpt-4.pt"
    content = newest.read_bytes()
    for position in range(0, len(content), max(1, len(content) // 20)):
        save_checkpoint(tmp_path, 3, {"epoch": 3})
        save_checkpoint(tmp_path, 4, {"epoch": 4, "weights": torch.ones(100)})
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        newest.write_bytes(flipped)
        state = load_latest_checkpoint(tmp_path, torch.device("cpu"))
        assert state is not None
        assert state["epoch"] == 3
    assert load_latest_checkpoint(tmp_path / "empty", torch.device("cpu")) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("method", ["cosine", "metalr-mlp"])
def test_on_a_gpu_a_killed_run_goes_on_and_learns(method: str, tmp_path: Path) -> None:
    from metalr.config import DataConfig
    from metalr.tasks import make_task

    changes = {"device": "cuda", "dtype": "bfloat16", "channels_last": True, "epochs": 10}
    train = TRAIN.model_copy(update=changes)
    network = TASK.model_copy(update={"network": "resnet18", "num_train": 512, "num_test": 128})
    task = make_task(network, DataConfig(), torch.device("cuda"))
    spec = tiny_spec(method, train=train, task=network)

    def kill(live: LiveRun) -> None:
        if live.training.epoch == 2:
            raise Killed

    with exact_convolutions():
        expected = train_run(job_of(spec, tmp_path / "straight"), task, controller_of(spec))
        with pytest.raises(Killed):
            train_run(job_of(spec, tmp_path / "killed"), task, controller_of(spec), kill)
        resumed = train_run(job_of(spec, tmp_path / "killed"), task, controller_of(spec))
    assert [row["lr"] for row in resumed.epochs] == [row["lr"] for row in expected.epochs]
    final = resumed.result["final"]
    assert final["test/loss"] == pytest.approx(expected.result["final"]["test/loss"], rel=0.05)
    assert final["test/accuracy"] > 0.25
