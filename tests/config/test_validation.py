"""Settings inside lists: one clear line with path, value and what is allowed."""

from __future__ import annotations

import pytest

from metalr.config import ConfigError, load_config
from metalr.config.validation import allowed_keys


def problem_of(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(None, overrides)
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (
            "[{lr_ratioo: 0.1}, {}]",
            ".0.lr_ratioo: unknown key; did you mean train.depth_groups.0.lr_ratio? "
            "(allowed: lr_ratio, unfreeze_epoch)",
        ),
        ("[{}, {x: 1}]", ".1.x: unknown key (allowed: lr_ratio, unfreeze_epoch)"),
        ("[{lr_ratio: hi}, {}]", '.0.lr_ratio: must be a valid number, not "hi"'),
        ("[{lr_ratio: 2}, {}]", ".0.lr_ratio: must be at most 1, not 2"),
        ("[{lr_ratio: 0}, {}]", ".0.lr_ratio: must be greater than 0, not 0"),
        ("[{unfreeze_epoch: -1}, {}]", ".0.unfreeze_epoch: must be at least 0, not -1"),
        ("[{unfreeze_epoch: 1.5}, {}]", ".0.unfreeze_epoch: must be a valid integer, not 1.5"),
        ("[0.1, {}]", ".0: must be a mapping of settings, not 0.1 (allowed: lr_ratio, unfreeze_epoch)"),
        ("[]", ": must have at least 1 entry, not []"),
        ("0.1", ": must be a valid array, not 0.1"),
    ],
)  # fmt: skip
def test_a_wrong_setting_inside_a_list_is_one_clear_line(groups: str, expected: str) -> None:
    override = f"train.depth_groups={groups}"
    assert problem_of(override) == f"train.depth_groups{expected} (override {override})"
    entry = problem_of(f"harvest.mixture=[{{train.depth_groups: {groups}}}]")
    assert entry.startswith(f"harvest.mixture.0.train.depth_groups{expected} (")


@pytest.mark.parametrize("last", ["{lr_ratio: 0.5}", "{unfreeze_epoch: 2}", "{unfreeze_epoch: null}"])
def test_a_wrong_last_group_is_named_with_its_value(last: str) -> None:
    problem = problem_of(f"train.depth_groups=[{{lr_ratio: 0.1}}, {last}]")
    assert problem.startswith("train.depth_groups")
    assert "the last group is the head" in problem
    key, value = last.strip("{}").split(": ")
    assert f'"{key}": {value}' in problem
    load_config(None, ["train.depth_groups=[{lr_ratio: 0.1}, {lr_ratio: 1.0}]"])  # negative control


def test_a_rule_between_settings_keeps_its_sections_path() -> None:
    problem = problem_of("train.nesterov=true", "train.momentum=0.0")
    assert problem.startswith("train: nesterov=true needs momentum above 0")


def test_the_keys_of_sections_and_of_list_entries() -> None:
    assert allowed_keys(("train", "depth_groups", 3)) == ["lr_ratio", "unfreeze_epoch"]
    assert allowed_keys(("train", "early_stopping")) == ["patience", "restore_best"]
    assert allowed_keys(("train",))[:3] == ["epochs", "batch_size", "lr"]
    assert "train" in allowed_keys(())
    for path in (("train", "lr"), ("harvest", "mixture", 0), ("nothing",), ("train", "nothing")):
        assert allowed_keys(path) == []
