"""Every notebook runs as the script it is, on public names, and its .ipynb holds the same cells."""

import ast
import importlib
import runpy
from collections.abc import Iterator
from pathlib import Path

import jupytext
import matplotlib
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.py"))


def test_there_are_four() -> None:
    assert [path.stem for path in NOTEBOOKS] == [
        "1_schedules",
        "2_meta_dataset",
        "3_anatomy_of_a_controller",
        "4_results",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METALR_FAST", "1")
    matplotlib.use("Agg")
    names = runpy.run_path(str(path))
    names["plt"].close("all")
    assert list(tmp_path.iterdir()) == []
    if path.stem == "1_schedules":
        accuracies = names["accuracies"]
        assert accuracies[1.0] == max(accuracies.values())
    if path.stem == "2_meta_dataset":
        assert len(names["best"]) == names["num_forks"]
        assert (names["best"]["regret of greedy"] >= 0).all()
    if path.stem == "3_anatomy_of_a_controller":
        assert names["best"]["final_loss"] <= names["greedy"]["final_loss"]
        assert (names["swings"] >= 1).all()
        # What the notebook predicts again from the observations is what the run was decided on.
        again = [names["best_offset"](names["controller"].log_offsets, row) for row in names["expected_TK"]]
        wishes = names["watched"]["wish"].to_numpy()
        if names["watched"]["wish"].notna().all():  # nothing was rolled back
            assert names["np"].exp(again) == pytest.approx(wishes, rel=1e-4)
    if path.stem == "4_results":
        assert set(names["tables"]) >= {"cifar10-small"}
        assert names["tables"]["cifar10-small"]["regret (pp)"].notna().all()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_twin_holds_the_same_cells_and_no_outputs(path: Path) -> None:
    script, twin = jupytext.read(path), jupytext.read(path.with_suffix(".ipynb"))
    assert [(c.cell_type, c.source) for c in script.cells] == [(c.cell_type, c.source) for c in twin.cells]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in twin.cells)


def private_names(source: str) -> Iterator[str]:
    """What a source takes of ours that no `__all__` names, and every underscore it reaches behind."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "metalr":
            public = importlib.import_module(node.module or "").__all__
            yield from (f"{node.module}.{name.name}" for name in node.names if name.name not in public)
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.startswith("metalr."))
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and node.attr != "__file__":
            yield node.attr


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_takes_public_names_only(path: Path) -> None:
    assert list(private_names(path.read_text())) == []


@pytest.mark.parametrize(
    "source",
    [
        "from metalr.control.scheduler import STATE_VERSION",
        "from metalr.control import scheduler",
        "import metalr.control.scheduler",
        "metalr.control.scheduler._resolve",
    ],
)
def test_a_private_name_is_caught(source: str) -> None:
    assert len(list(private_names(source))) == 1
