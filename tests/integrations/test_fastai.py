"""FastaiMetaLR: what it refuses, and what it sees of either kind of optimizer."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from integrations.rules import controller

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("fastai") is None, reason="fastai is not installed"),
    pytest.mark.usefixtures("quiet_fastai"),
]


def make_callback() -> Any:
    from metalr.integrations import FastaiMetaLR  # here: fastai takes seconds to import

    return FastaiMetaLR(controller())


def make_learner(folder: Path, optimizer_kind: str = "fastai") -> Any:
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader
    from fastai.learner import Learner
    from fastai.optimizer import SGD, OptimWrapper

    rows = [(torch.ones(2), torch.ones(1)) for _ in range(8)]
    loaders = DataLoaders(*(DataLoader(rows, bs=2) for _ in range(2)), device="cpu")
    opt_func = SGD if optimizer_kind == "fastai" else partial(OptimWrapper, opt=torch.optim.SGD)
    model = torch.nn.Linear(2, 1)
    return Learner(loaders, model, torch.nn.MSELoss(), opt_func, lr=0.01, path=folder)


def fit(learn: Any, epochs: int, callback: Any, **settings: Any) -> list[dict[str, Any]]:
    with learn.no_bar(), learn.no_logging():
        learn.fit(epochs, cbs=callback, **settings)
    return callback.scheduler.state_dict()["trace"][1:]


def test_one_cycle_is_refused(tmp_path: Path) -> None:
    learn = make_learner(tmp_path)
    with learn.no_bar(), learn.no_logging(), pytest.raises(ValueError, match="cannot share the LR"):
        learn.fit_one_cycle(2, cbs=make_callback())


@pytest.mark.parametrize(("optimizer_kind", "has_gradients"), [("fastai", False), ("torch", True)])
def test_both_kinds_of_optimizer(tmp_path: Path, optimizer_kind: str, has_gradients: bool) -> None:
    learn = make_learner(tmp_path, optimizer_kind)
    callback = make_callback()
    trace = fit(learn, 3, callback)
    assert len(trace) == 3
    assert all(("grad_norm" in row) is has_gradients for row in trace)
    assert all(row.keys() >= {"train_loss", "inner_valid_loss"} for row in trace)
    assert learn.opt.hypers[0]["lr"] == callback.scheduler.get_last_lr()[0]


def test_a_new_fit_begins_anew(tmp_path: Path) -> None:
    learn = make_learner(tmp_path)
    assert len(fit(learn, 2, make_callback())) == 2
    assert len(fit(learn, 3, make_callback())) == 3


def test_validating_touches_nothing(tmp_path: Path) -> None:
    learn = make_learner(tmp_path)
    fit(learn, 2, make_callback())
    before = learn.opt.hypers[0]["lr"]
    with learn.no_bar(), learn.no_logging():
        learn.validate(cbs=make_callback())
    assert learn.opt.hypers[0]["lr"] == before
