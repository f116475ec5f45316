from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from metalr.config import ConfigError, ExperimentConfig, apply_overrides, load_config
from metalr.config.loading import load_layers, recipe_names


def problems_of(recipe: str | Path | None, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(None if recipe is None else str(recipe), overrides)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "experiments").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_no_recipe_is_the_embedded_default(folder: Path) -> None:
    assert load_config(None) == load_config("digits") == ExperimentConfig()


def test_a_file_wins_over_the_embedded_digits(folder: Path) -> None:
    write(folder / "experiments/digits.yaml", "train: {epochs: 3}")
    assert load_config("digits").train.epochs == 3
    assert load_config(None).train.epochs == 12


def test_precedence_is_defaults_parent_file_override(folder: Path) -> None:
    write(folder / "experiments/base.yaml", "train: {epochs: 2, lr: 0.2, momentum: 0.2, batch_size: 2}\n")
    write(folder / "experiments/mine.yaml", "extends: base.yaml\ntrain: {lr: 0.3, momentum: 0.3}\n")
    train = load_config("mine", ["train.momentum=0.4"]).train
    assert (train.epochs, train.batch_size, train.lr, train.momentum) == (2, 2, 0.3, 0.4)
    assert train.weight_decay == 5e-4


def test_a_list_replaces_the_parents_list_whole(folder: Path) -> None:
    write(folder / "a.yaml", "compare: {seeds: [1, 2, 3]}\nharvest: {mixture: [{task.width: 8}]}\n")
    write(folder / "b.yaml", "extends: a.yaml\ncompare: {seeds: [9]}\nharvest: {mixture: [{}]}\n")
    config = load_config("b.yaml")
    assert config.compare.seeds == [9]
    assert config.harvest.mixture == [{}]


def test_extends_is_relative_to_the_file_and_may_chain(folder: Path) -> None:
    (folder / "sub").mkdir()
    write(folder / "sub/grandparent.yaml", "workers: 5\ntrain: {epochs: 7}\n")
    write(folder / "sub/parent.yaml", "extends: grandparent.yaml\ntrain: {lr: 0.5}\n")
    write(folder / "child.yaml", "extends: sub/parent.yaml\nname: child\n")
    config = load_config("child.yaml")
    assert (config.name, config.workers, config.train.epochs, config.train.lr) == ("child", 5, 7, 0.5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("extends: nowhere.yaml", "extends: nowhere.yaml does not exist"),
        ("extends: [a.yaml, b.yaml]", "extends: must be the name of one .yaml file"),
        ("name: x\nextends: recipe.yaml", "extends this file in turn"),
    ],
)
def test_a_wrong_parent_is_one_line(folder: Path, text: str, expected: str) -> None:
    (problem,) = problems_of(write(folder / "recipe.yaml", text).name)
    assert expected in problem
    assert "recipe.yaml" in problem


def test_an_unknown_recipe_names_the_nearest_and_all(folder: Path) -> None:
    write(folder / "experiments/cifar10.yaml", "")
    assert recipe_names() == ["cifar10", "digits"]
    (problem,) = problems_of("cifr10")
    assert "did you mean cifar10?" in problem
    assert "known: cifar10, digits" in problem


@pytest.mark.parametrize("recipe", ["missing.yaml", "some/where", "experiments/"])
def test_an_unreadable_recipe_is_one_line(folder: Path, recipe: str) -> None:
    (problem,) = problems_of(recipe)
    assert recipe.rstrip("/") in problem


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.epochs=0", "train.epochs: must be at least 1, not 0 (override train.epochs=0)"),
        ("train.epochs=true", "train.epochs: must be a valid integer, not true"),
        ("train.epochs=1.5", "train.epochs: must be a valid integer, not 1.5"),
        ('train.lr="0.1"', 'train.lr: must be a valid number, not "0.1"'),
        ("train.lr=0", "train.lr: must be greater than 0, not 0"),
        ("train.lr=.nan", "train.lr: must be a finite number, not NaN"),
        ("train.lr=-.inf", "train.lr: must be a finite number, not -Infinity"),
        ("train.lr=1e999", "train.lr: must be a finite number, not Infinity"),
        ("train.nesterov=yes", 'train.nesterov: must be a valid boolean, not "yes"'),
        ("train.lrr=0.1", "train.lrr: unknown key; did you mean train.lr? (allowed: epochs, batch_size, lr,"),
        ("epochs=3", "epochs: unknown key; did you mean train.epochs?"),
        ("control.prob.num_steps=9", "control.prob: unknown key; did you mean control.probe?"),
        ("control.probe.steps=9", "control.probe.steps: unknown key; did you mean control.probe.num_steps?"),
        ("task.dataset=cifr10", 'not "cifr10"; did you mean cifar10?'),
        ("task=digits", 'task: must be a mapping of settings, not "digits"'),
        ("train.epochs.x=3", 'train.epochs: must be a valid integer, not {"x": 3}'),
        ("name=2024", "name: must be a valid string, in quotes where it looks like a number, not 2024"),
        ("name=../x", "name: must match ^[A-Za-z0-9][A-Za-z0-9._-]*$, not"),
        ("compare.seeds=[]", "compare.seeds: "),
        ("compare.seeds=[0,-1]", "compare.seeds.1: must be at least 0, not -1"),
        ("compare.seeds=[0,1", "override compare.seeds=[0,1:1: not valid YAML"),
        ("control.probe={min_lr: 1, max_lr: 2}", "control.probe: max_lr=2.0 must be at least 10 x min_lr"),
        ("train.epochs", "override 'train.epochs': must look like train.epochs=5"),
        ("=5", "override '=5': must look like train.epochs=5"),
        ("train..epochs=5", "override 'train..epochs=5': must look like train.epochs=5"),
        ("data.dir=!!python/name:os.system", "python/name:os.system) are not supported"),
        ("train.lr=" + "9" * 5000, "override train.lr=999"),
        ("train.lr=" + "9" * 4000, "train.lr: must be a finite number, not 999"),
        ("train.lr=" + "[" * 3000, "nested too deeply"),
    ],
)  # fmt: skip
def test_a_wrong_override_is_one_clear_line(override: str, expected: str) -> None:
    (problem,) = problems_of(None, override)
    assert expected in problem


def test_overrides_set_values_of_every_kind() -> None:
    config = load_config(
        None,
        ["train.lr=1e-4", "compare.seeds=[0,1]", "control.probe=null", "train.nesterov=true",
         "data.dir=~/x y", "harvest.candidate_span=[0.5, 2]"],
    )  # fmt: skip
    assert config.train.lr == 1e-4
    assert config.compare.seeds == [0, 1]
    assert config.control.probe is None
    assert config.train.nesterov is True
    assert config.data.dir == "~/x y"
    assert config.harvest.candidate_span == (0.5, 2.0)


def test_the_last_of_equal_overrides_wins_and_a_null_section_can_be_set_again() -> None:
    config = load_config(
        None, ["train.epochs=1", "control.probe=null", "train.epochs=2", "control.probe.num_steps=9"]
    )
    assert config.train.epochs == 2
    assert config.control.probe is not None
    assert config.control.probe.num_steps == 9


def test_every_mistake_comes_at_once_with_its_line(folder: Path) -> None:
    recipe = write(
        folder / "bad.yaml",
        "train:\n  lrr: 0.1\n  epochs: 0\ntask: {network: cnnn}\ncontrl: {}\n"
        "compare:\n  seeds:\n    - 0\n    - -1\n"
        "harvest:\n  mixture:\n    - {task.netwrk: cnn}\n    - task.width: 16\n      train.batch_size: 1e-4\n"
        "    - meta.lr: 0.1\n    - {train.nesterov: true, train.momentum: 0.0}\n",
    )
    problems = problems_of(recipe.name, "workers=-1")
    expected = {
        "train.lrr": "(bad.yaml:2)",
        "train.epochs": "(bad.yaml:3)",
        "task.network": "(bad.yaml:4)",
        "contrl": "(bad.yaml:5)",
        "compare.seeds.1": "(bad.yaml:9)",
        "harvest.mixture.0.task.netwrk": "(bad.yaml:12)",
        "harvest.mixture.1.train.batch_size": "(bad.yaml:14)",
        "harvest.mixture.2.meta.lr": "(bad.yaml:15)",
        "workers": "(override workers=-1)",
    }
    found = {problem.split(": ")[0]: problem for problem in problems}
    assert set(found) == set(expected)
    for path, origin in expected.items():
        assert found[path].endswith(origin), found[path]
        assert "\n" not in found[path]


def test_what_cannot_be_read_does_not_hide_what_is_wrong() -> None:
    problems = problems_of(None, "foo", "train.epochs=0", "train.lr=[1")
    assert [problem.split(":")[0] for problem in problems] == [
        "override 'foo'",
        "override train.lr=[1",
        "train.epochs",
    ]


def test_a_mixture_entry_that_breaks_a_rule_between_settings_is_caught() -> None:
    (problem,) = problems_of(None, "harvest.mixture=[{train.nesterov: true, train.momentum: 0.0}]")
    assert problem.startswith("harvest.mixture.0.train: nesterov=true needs momentum above 0")
    load_config(None, ["harvest.mixture=[{train.nesterov: true, train.momentum: 0.5}]"])


def test_a_rule_between_sections_names_its_key_and_where_it_was_set() -> None:
    rule = "train.label_smoothing: must be 0 where task.objective is regress, not 0.1"
    problems = problems_of(None, "task.objective=regress", "train.label_smoothing=0.1")
    assert problems == [f"{rule} (override train.label_smoothing=0.1)"]
    entry = "{task.objective: regress, train.label_smoothing: 0.1}"
    (problem,) = problems_of(None, f"harvest.mixture=[{entry}]")
    assert problem.startswith(f"harvest.mixture.0.{rule}")


def test_a_recipes_own_mistake_is_not_repeated_for_each_mixture_entry() -> None:
    (problem,) = problems_of(None, "train.epochs=0", "harvest.mixture=[{}, {task.width: 8}]")
    assert problem.startswith("train.epochs: ")


def test_the_winning_source_is_the_one_that_is_named(folder: Path) -> None:
    write(folder / "a.yaml", "train:\n  epochs: 4\ncontrol: {probe: {num_steps: 9}}\n")
    write(folder / "b.yaml", "extends: a.yaml\nname: b\ncontrol:\n  probe: null\n")
    layers = load_layers("b.yaml", ["name=c"])
    assert layers.origin_of(("train", "epochs")) == "a.yaml:2"
    assert layers.origin_of(("control", "probe")) == "b.yaml:4"
    assert ("control", "probe", "num_steps") not in layers.origins
    assert layers.origin_of(("name",)) == "override name=c"
    assert layers.origin_of(("workers",)) is None


def test_apply_overrides_changes_only_what_it_names() -> None:
    base = load_config(None, ["train.lr=0.5", "control.probe.num_steps=9"])
    changed = apply_overrides(base, {"task.network": "cnn", "train": {"epochs": 3}})
    assert changed.task.network == "cnn"
    assert (changed.train.epochs, changed.train.lr) == (3, 0.5)
    assert changed.model_copy(update={"task": base.task, "train": base.train}) == base
    assert base.task.network == "mlp"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"task.netwrk": "cnn"}, "task.netwrk: unknown key; did you mean task.network?"),
        ({"train.epochs": float("nan")}, "train.epochs: must be a valid integer, not NaN"),
        ({"train.lr": object()}, "train.lr: must be a valid number"),
        ({"": 1}, "unknown key"),
    ],
)
def test_apply_overrides_refuses_what_is_wrong(overrides: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigError, match=r".") as caught:
        apply_overrides(ExperimentConfig(), overrides)
    assert expected in str(caught.value)


def test_the_error_survives_a_process_boundary() -> None:
    error = pickle.loads(pickle.dumps(ConfigError(["one", "two"])))
    assert error.problems == ["one", "two"]
