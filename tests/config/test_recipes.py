from __future__ import annotations

from pathlib import Path

import pytest

import metalr
from metalr.config import ExperimentConfig, load_config
from metalr.config.loading import recipe_names

RECIPES = sorted((Path(metalr.__file__).parent.parent / "experiments").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_loads_under_its_own_name(path: Path) -> None:
    if path.stem != "wandb_sweep":
        assert load_config(str(path)).name == path.stem


def test_a_sweep_for_wandb_is_no_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(RECIPES[0].parents[1])
    assert set(recipe_names()) == {path.stem for path in RECIPES} - {"wandb_sweep"}


def test_the_digits_recipe_is_the_embedded_default() -> None:
    (digits,) = [path for path in RECIPES if path.stem == "digits"]
    assert load_config(str(digits)) == ExperimentConfig()
