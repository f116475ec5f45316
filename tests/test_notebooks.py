"""Every notebook runs from top to bottom as the script it is, and its .ipynb holds the same cells."""

import runpy
from pathlib import Path

import jupytext
import matplotlib
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.py"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    names = runpy.run_path(str(path))
    names["plt"].close("all")
    if path.stem == "1_one_decision":
        assert names["best"]["final_loss"] <= names["greedy"]["final_loss"]
    if path.stem == "4_results":
        assert set(names["tables"]) >= {"cifar10-small"}
        assert names["tables"]["cifar10-small"]["regret (pp)"].notna().all()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_twin_holds_the_same_cells_and_no_outputs(path: Path) -> None:
    script, twin = jupytext.read(path), jupytext.read(path.with_suffix(".ipynb"))
    assert [(c.cell_type, c.source) for c in script.cells] == [(c.cell_type, c.source) for c in twin.cells]
    assert not any(cell.get("outputs") for cell in twin.cells)
