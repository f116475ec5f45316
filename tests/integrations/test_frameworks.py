"""In every loop people train with: one decision an observation, and a resume that changes no bit."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
import torch
from integrations.rules import by_loss, controller

LOOPS = {
    "plain torch": "torch",
    "SequentialLR": "torch",
    "ChainedScheduler": "torch",
    "GradScaler, skipped steps": "torch",
    "gradient accumulation": "torch",
    "DDP, 2 processes (gloo)": "torch",
    "Lightning": "lightning",
    "Hugging Face Trainer": "transformers",
    "accelerate": "accelerate",
    "timm": "timm",
    "skorch": "skorch",
    "fastai, its own optimizer": "fastai",
    "fastai, torch's optimizer": "fastai",
}
SLOW = ("DDP", "fastai")
WARNINGS = {
    "fastai": ("ignore:numpy.core is deprecated:DeprecationWarning",),
    "lightning": (
        "ignore:.*LeafSpec:FutureWarning",
        "ignore:Checkpoint directory .* is not empty:UserWarning",
    ),
}
"""What a framework warns of by itself."""
STEPPED_PER_EPOCH = ("ChainedScheduler", "Lightning", "accelerate", "timm", "skorch")


def cases(*names: str) -> list:
    """The loops, slow ones marked, those of a framework that is missing skipped with the reason."""
    found = []
    for name in names:
        marks = [pytest.mark.slow, pytest.mark.timeout(600)] if name.startswith(SLOW) else []
        if find_spec(LOOPS[name]) is None:
            marks.append(pytest.mark.skip(reason=f"{LOOPS[name]} is not installed"))
        marks += [pytest.mark.filterwarnings(warning) for warning in WARNINGS.get(LOOPS[name], ())]
        found.append(pytest.param(name, marks=marks))
    return found


@pytest.fixture(autouse=True)
def quiet(request: pytest.FixtureRequest) -> None:
    if "fastai" in request.node.name and find_spec("fastai"):
        request.getfixturevalue("quiet_fastai")


def loop_of(frameworks: ModuleType, name: str):
    return next(loop for loop in frameworks.LOOPS if loop.name == name)


def test_every_loop_of_the_study_is_tested(frameworks: ModuleType) -> None:
    assert {loop.name: loop.package for loop in frameworks.LOOPS} == LOOPS


@pytest.mark.parametrize("name", cases(*LOOPS))
def test_it_decides_once_an_observation_and_resumes_exactly(frameworks: ModuleType, name: str) -> None:
    row = frameworks.check(loop_of(frameworks, name), controller(by_loss))
    assert row.decisions == row.observations > 0
    assert row.resume_equal


@pytest.mark.parametrize("name", cases(*STEPPED_PER_EPOCH))
def test_each_step_has_the_lr_of_the_plain_loop(frameworks: ModuleType, name: str, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "other").mkdir()
    plain = loop_of(frameworks, "plain torch").load()(tmp_path / "plain", controller())
    other = loop_of(frameworks, name).load()(tmp_path / "other", controller())
    assert other.lrs == plain.lrs
    assert len(set(plain.lrs)) > 3


@pytest.mark.usefixtures("without_load")
def test_a_scheduler_that_forgets_is_seen(frameworks: ModuleType) -> None:
    assert not frameworks.check(loop_of(frameworks, "plain torch"), controller()).resume_equal


def test_a_skipped_step_is_no_step(frameworks: ModuleType, tmp_path: Path) -> None:
    training = loop_of(frameworks, "GradScaler, skipped steps").load()(tmp_path, controller())
    assert len(training.lrs) == 6 * 44 - 2
    assert all(torch.isfinite(weight).all() for weight in training.weights.values())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_both_processes_have_the_lrs_that_the_first_decided(frameworks: ModuleType, tmp_path: Path) -> None:
    train = loop_of(frameworks, "DDP, 2 processes (gloo)").load()
    train(tmp_path, controller(by_loss), stop_after=3)
    first, second = __import__("two_processes").trainings(tmp_path)
    assert first.lrs == second.lrs
    assert first.state["trace"] == second.state["trace"]
    assert all(torch.equal(weight, second.weights[name]) for name, weight in first.weights.items())
    assert len(set(first.lrs)) > 1
