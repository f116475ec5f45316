"""The pages under `docs/` as a new user would try them: every Python block runs, in order, as it stands."""

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from metalr.control import FEATURE_NAMES
from metalr.learning import controller as controllers
from metalr.learning.controller import ArtifactError, LearnedController
from metalr.learning.learners import make_learner

DOCS = Path(__file__).parents[1] / "docs"


def blocks_of(page: Path) -> list[tuple[int, str]]:
    """The Python blocks of a page with the lines they begin at."""
    text = page.read_text()
    return [
        (text[: match.start(1)].count("\n"), match[1])
        for match in re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    ]


@pytest.fixture
def some_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no controller is shipped under the name, an untrained one stands in: the page is about use."""
    shipped = controllers.load_controller

    def load(source: str | Path) -> LearnedController:
        try:
            return shipped(source)
        except ArtifactError:
            torch.manual_seed(0)
            learner = make_learner("mlp", len(FEATURE_NAMES), 5, 8, 2)
            return LearnedController([learner], [-1.4, -0.7, 0.0, 0.7, 1.4])

    monkeypatch.setattr(controllers, "load_controller", load)


def test_use_it_in_your_loop(
    some_default: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = DOCS / "use-it-in-your-loop.md"
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "page"}
    blocks = blocks_of(page)
    assert len(blocks) >= 10
    with warnings.catch_warnings():
        # torch's own, about what SequentialLR does at its milestone
        warnings.filterwarnings("ignore", message="The epoch parameter")
        for line, block in blocks:
            exec(compile("\n" * line + block, str(page), "exec"), namespace)
    printed = capsys.readouterr().out
    assert "peak decided after epoch 6" in printed
    assert (tmp_path / "run.svg").stat().st_size > 1000
    assert namespace["learned"].last_epoch == 4


def test_a_block_that_fails_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("text\n\n```python\nx = 1\n```\n\n```sh\nno\n```\n\n```python\nassert x == 2\n```\n")
    assert blocks_of(page) == [(3, "x = 1\n"), (11, "assert x == 2\n")]
