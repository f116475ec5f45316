"""The ids of runs made before a setting existed: they stay, and whatever differs from then gets another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from metalr.config import (
    ControlConfig,
    DepthGroup,
    EarlyStoppingConfig,
    ProbeConfig,
    SchedulesConfig,
    TrainConfig,
)
from metalr.training.specs import ADDED_SETTINGS, RunSpec, control_of, schedules_of

FIRST_SPECS = sorted((Path(__file__).parent / "first_specs").glob("*.json"))


def spec_of(path: Path) -> RunSpec:
    return RunSpec.model_validate(json.loads(path.read_text()))


@pytest.mark.parametrize("path", FIRST_SPECS, ids=lambda path: path.stem)
def test_a_spec_of_the_first_release_keeps_its_id(path: Path) -> None:
    spec = spec_of(path)
    assert spec.run_id == path.stem
    again = RunSpec.model_validate_json(spec.model_dump_json())
    assert (again, again.run_id) == (spec, path.stem)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "adamw"},
        {"optimizer": "adam"},
        {"beta2": 0.99},
        {"decay_norms_and_biases": False},
        {"depth_groups": [DepthGroup()]},
        {"early_stopping": EarlyStoppingConfig()},
        {"step": "cuda_graph"},
        {"step": "compile"},
        {"evaluate_every": 2},
    ],
)
def test_a_later_setting_that_differs_from_then_changes_the_id(changes: dict[str, Any]) -> None:
    spec = spec_of(FIRST_SPECS[0])
    train = TrainConfig.model_validate(spec.train.model_dump() | changes)
    assert spec.model_copy(update={"train": train}).run_id != spec.run_id


@pytest.mark.parametrize(
    ("step", "resolved"), [("auto", "cuda_graph"), ("cuda_graph", "cuda_graph"), ("eager", "eager")]
)
def test_a_spec_holds_how_its_batches_are_trained(step: str, resolved: str) -> None:
    """`auto` is resolved; a record from before the setting was made by plain steps."""
    values = json.loads(FIRST_SPECS[0].read_text())
    values["train"] |= {"device": "cuda"}
    before = RunSpec.model_validate(values)
    assert before.train.step == "eager"
    now = RunSpec.model_validate(values | {"train": values["train"] | {"step": step}})
    made = RunSpec(**(dict(before) | {"train": before.train.model_copy(update={"step": step})}))
    assert (now.train.step, made.train.step) == (resolved, resolved)
    assert (now.run_id == before.run_id) == (resolved == "eager")
    assert made == now


def test_every_later_setting_is_a_setting() -> None:
    settings = spec_of(FIRST_SPECS[0]).model_dump() | {"control": ControlConfig().model_dump()}
    for (*sections, name), _value in ADDED_SETTINGS.items():
        section = settings
        for key in sections:
            section = section[key]
        assert name in section


def schedules(**changes: Any) -> SchedulesConfig:
    return SchedulesConfig.model_validate(changes)


@pytest.mark.parametrize("method", ["constant", "step", "cosine", "linear", "metalr-mlp"])
def test_the_first_methods_have_no_schedule_settings_at_their_first_form(method: str) -> None:
    assert schedules_of(method, schedules()) is None
    assert schedules_of(method, schedules(rex={"interval": "epoch"})) is None  # another schedule's
    if method in ("step", "cosine", "linear"):
        assert schedules_of(method, schedules(**{method: {"interval": "step"}})) != schedules_of(
            method, schedules(**{method: {"interval": "epoch"}})
        )
    warm = schedules_of(method, schedules(warmup={"epochs": 1.0}))
    assert (warm is None) == (method == "metalr-mlp")


def with_schedules(method: str, settings: SchedulesConfig) -> RunSpec:
    update = {"method": method, "schedules": schedules_of(method, settings), "control": None}
    return spec_of(FIRST_SPECS[0]).model_copy(update=update)


def test_only_what_a_schedule_uses_is_part_of_its_id() -> None:
    plain = with_schedules("restarts", schedules())
    assert with_schedules("restarts", schedules(one_cycle={"rise_fraction": 0.1})).run_id == plain.run_id
    assert with_schedules("restarts", schedules(restarts={"first_cycle": 4})).run_id != plain.run_id
    assert with_schedules("restarts", schedules(warmup={"epochs": 1.0})).run_id != plain.run_id
    found = with_schedules("find", schedules())
    assert with_schedules("find", schedules(find={"rule": "minimum"})).run_id != found.run_id
    assert with_schedules("find", schedules(cosine={"min_lr": 0.1})).run_id != found.run_id


def test_a_spec_reads_back_as_the_run_it_was() -> None:
    spec = with_schedules("restarts", schedules(restarts={"first_cycle": 4}, rex={"interval": "epoch"}))
    again = RunSpec.model_validate_json(spec.model_dump_json())
    assert again.schedules is not None
    assert again.schedules.restarts.first_cycle == 4
    assert again.run_id == spec.run_id


def test_the_lr_finder_pays_for_its_probe_and_a_schedule_has_none() -> None:
    control = ControlConfig(probe=ProbeConfig(num_steps=12), warmup_fraction=0.2)
    assert control_of("metalr-lstm", control) == control
    probe = ProbeConfig(paid="every_epoch")
    first = ControlConfig(
        probe=probe,
        anchor="linear",
        warmup_fraction=0.05,
        stall_factor=None,
        least_gain=0.0,
        correction_bound=3.7,
        rise=1.0,
    )
    other = {"probe": probe.model_copy(update={"num_steps": 12})}
    assert control_of("find", control) == first.model_copy(update=other)
    assert control_of("find", ControlConfig(probe=None)) == first
    assert control_of("cosine", control) is None


@pytest.mark.parametrize(
    ("method", "name"), [("cosine", "cosine"), ("find", "cosine"), ("rex", "rex"), ("metalr-mlp", None)]
)
def test_the_schedule_a_method_moves_along(method: str, name: str | None) -> None:
    assert spec_of(FIRST_SPECS[0]).model_copy(update={"method": method}).schedule_name == name


@pytest.mark.parametrize(
    ("optimizer", "anchor", "ramp"),
    [
        ("sgd", "hold", (1e-3, 10.0)),
        ("adamw", "hold", (3e-5, 0.3)),
        ("schedule_free_sgd", "constant", (1e-3, 10.0)),
        ("schedule_free_adamw", "constant", (3e-5, 0.3)),
    ],
)
def test_the_control_law_of_a_run_is_what_its_optimizer_wants(
    optimizer: str, anchor: str, ramp: tuple[float, float]
) -> None:
    first = spec_of(FIRST_SPECS[0]).model_dump()
    values = first | {"train": first["train"] | {"optimizer": optimizer}, "control": ControlConfig()}
    control = RunSpec.model_validate(values).control
    assert control is not None
    assert control.probe is not None
    assert (control.anchor, control.probe.min_lr, control.probe.max_lr) == (anchor, *ramp)
    probe = ProbeConfig(min_lr=1e-4, max_lr=1.0)
    chosen = ControlConfig(anchor="cosine", warmup_fraction=0.1, rise=1.5, probe=probe)
    assert RunSpec.model_validate(values | {"control": chosen}).control == chosen


@pytest.mark.parametrize(
    ("network", "optimizer", "fraction", "rise"),
    [
        ("resnet18", "sgd", 0.0, 1.5),
        ("cnn_gn", "schedule_free_sgd", 0.0, 2.0),
        ("cnn_gn", "schedule_free_adamw", 0.05, 2.0),
        ("cnn", "sgd", 0.05, 1.0),
        ("cnn_bn", "adamw", 0.05, 1.0),
    ],
)
def test_the_warm_up_and_the_rise_of_a_run_are_what_its_network_wants(
    network: str, optimizer: str, fraction: float, rise: float
) -> None:
    first = spec_of(FIRST_SPECS[0]).model_dump()
    task = first["task"] | {"network": network, "width": 8}
    train = first["train"] | {"optimizer": optimizer, "epochs": 12}
    spec = RunSpec.model_validate(first | {"task": task, "train": train, "control": ControlConfig()})
    assert spec.control is not None
    assert (spec.control.warmup_fraction, spec.control.rise) == (fraction, rise)
