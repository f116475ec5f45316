"""`train.channels_last: auto` is yes or no before a run has an id."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training.tiny import tiny_spec, tiny_task

from metalr.config import TaskConfig, TrainConfig
from metalr.training.layout import resolved_layout
from metalr.training.live_run import start_or_resume


@pytest.mark.parametrize(
    ("network", "width", "device", "threads", "expected"),
    [
        ("resnet18", 8, "cpu", 1, True),
        ("resnet18", 16, "cpu", 1, True),
        ("resnet18", 8, "cpu", 2, False),
        ("resnet18", 16, "cpu", 2, True),
        ("cnn", 8, "cpu", 1, True),
        ("mlp", 64, "cpu", 1, False),
        ("resnet18", 64, "cuda", 1, False),
    ],
)
def test_auto_is_what_was_measured(
    network: str, width: int, device: str, threads: int, expected: bool
) -> None:
    task = TaskConfig.model_validate({"network": network, "width": width})
    assert resolved_layout("auto", task, device, threads) is expected


@pytest.mark.parametrize("setting", [True, False])
def test_what_the_recipe_says_stands(setting: bool) -> None:
    assert resolved_layout(setting, TaskConfig(network="resnet18", width=8), "cpu", 1) is setting


def test_a_spec_knows_its_layout_and_auto_is_no_part_of_its_id() -> None:
    by_name = {
        setting: tiny_spec(train=TrainConfig(channels_last=setting, device="cpu"))
        for setting in (True, False, "auto")
    }
    assert {type(spec.train.channels_last) for spec in by_name.values()} == {bool}
    resolved = by_name["auto"].train.channels_last
    assert by_name["auto"].run_id == by_name[bool(resolved)].run_id
    assert by_name[True].run_id != by_name[False].run_id


@pytest.mark.parametrize(("setting", "expected"), [(False, False), ("auto", True)])
def test_the_weights_lie_as_the_spec_says(setting: bool, expected: bool, tmp_path: Path) -> None:
    task = tiny_task(network="cnn")
    train = TrainConfig(channels_last=setting, device="cpu", epochs=2, batch_size=8)
    live, _ = start_or_resume(tiny_spec(task=task.config, train=train), task, None, tmp_path)
    weights = [p for p in live.training.model.parameters() if p.dim() == 4 and p.shape[1] > 1]
    assert {p.is_contiguous(memory_format=torch.channels_last) for p in weights} == {expected}
