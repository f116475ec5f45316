"""The README's commands exist, its example runs, and its numbers are those of the committed results."""

import json
import re
from pathlib import Path

import pytest
import torch

from metalr.cli import app
from metalr.config import load_config
from metalr.control import FEATURE_NAMES
from metalr.learning.controller import save_controller
from metalr.learning.learners import make_learner

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_it_opens_with_the_two_commands() -> None:
    first_block = README.split("```")[1]
    commands = [line.split("#")[0].strip() for line in first_block.strip().splitlines()]
    assert commands == ["make compare", "make test"]


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE))
    assert len(named) >= 5
    assert named <= targets


def test_every_recipe_is_a_file_that_loads() -> None:
    recipes = set(re.findall(r"RECIPE=([a-z0-9-]+)", README)) | {"smoke", "digits"}
    assert recipes == {path.stem for path in (ROOT / "experiments").glob("*.yaml")}
    for recipe in recipes:
        assert load_config(str(ROOT / "experiments" / f"{recipe}.yaml")).name == recipe


def test_every_verb_exists() -> None:
    verbs = {
        command.name or command.callback.__name__.replace("_", "-") for command in app.registered_commands
    }
    (listed,) = re.findall(r"`metalr ([a-z-]+\|[a-z|-]+)`", README)
    assert set(listed.split("|")) - {"config"} <= verbs
    assert "run-one" in verbs


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    offsets = [-1.0, 0.0, 1.0]
    torch.manual_seed(0)
    save_controller(
        tmp_path / "runs" / "controllers" / "digits",
        "mlp",
        [make_learner("mlp", len(FEATURE_NAMES), 3, 8, 2)],
        {"learner": "mlp", "hidden": 8, "window": 2, "log_offsets": offsets},
        {},
    )
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict = {}
    exec(compile(example, "README.md", "exec"), names)
    assert "peak LR" in names["scheduler"].explain()


def results_tables() -> list[tuple[str, list[list[str]]]]:
    (section,) = re.findall(r"<!-- results:begin -->(.*?)<!-- results:end -->", README, re.DOTALL)
    tables = []
    for recipe, body in re.findall(r"### `([a-z0-9-]+)`(.*?)(?=### |\Z)", section, re.DOTALL):
        lines = [line for line in body.splitlines() if line.startswith("|")]
        tables.append((recipe, [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]))
    return tables


def test_every_number_is_that_of_the_committed_summary() -> None:
    for recipe, (header, _, *rows) in results_tables():
        summary = json.loads((ROOT / "experiments" / "results" / recipe / "summary.json").read_text())
        lrs = [float(column.removeprefix("LR ")) for column in header[1:] if column.startswith("LR ")]
        assert lrs
        for name, *values in rows:
            for lr, value in zip(lrs, values, strict=False):
                (cell,) = [cell for cell in summary["cells"] if cell["initial_lr"] == lr]
                assert value == f"{cell['methods'][name]['test_accuracy_pct']['mean']:.1f}", (name, lr)
            regret = summary["overall"][name]["mean_regret_pp"]
            assert values[len(lrs)] == f"{regret:.2f}", name
