"""The study of frameworks and the examples it runs, importable; and what third parties warn of."""

from __future__ import annotations

import warnings
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from metalr.control import MetaLR

EXPERIMENTS = Path(__file__).parent.parent.parent / "experiments"


@pytest.fixture
def frameworks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The study: its loops, and how one is checked."""
    monkeypatch.syspath_prepend(str(EXPERIMENTS / "examples"))
    monkeypatch.syspath_prepend(str(EXPERIMENTS / "studies"))
    return import_module("frameworks")


@pytest.fixture
def without_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler that forgets what it should go on from."""
    monkeypatch.setattr(MetaLR, "load_state_dict", lambda self, state: None)


@pytest.fixture
def quiet_fastai() -> None:
    """fastai, imported; that import alone warns of several deprecations that are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in (
            "fastai.learner",
            "fastai.callback.tracker",
            "fastai.callback.schedule",
            "fastai.metrics",
        ):
            import_module(module)
